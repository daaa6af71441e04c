r"""Groups: which images show the same part, patient, track or moment and must stay on one side of the split.

level:N           the N-th folder below the class folder; level:-1 is the folder that holds the image
column:NAME       a column of the table of labels
FILE.csv:COLUMN   a column of another table, whose column `path` names the images
anything else     a regular expression searched in the path; its first group that matched something is the name
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cvtune.data.cells import TABLE_SUFFIXES, read_cells
from cvtune.data.filenames import SECONDS, depths, numbered, series
from cvtune.data.folder import SIDE_NAMES
from cvtune.data.units import FEW
from cvtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cvtune.data.index import DatasetIndex

_HINT: Final = r"for files like ok/part12_view3.png: --group-by '(part\d+)_'; for ok/part12/view3.png: level:1"
_SUFFIXES: Final = "|".join(sorted(suffix[1:] for suffix in TABLE_SUFFIXES))
_FILE: Final = re.compile(rf"(?P<file>.+\.(?:{_SUFFIXES})):(?P<column>[^:/\\]+)", re.IGNORECASE)

_LEAST_GROUPS: Final = 5  # of two and more images; fewer are chance, cameras or classes
_LEAST_SHARE: Final = 0.25  # of the images that are in such groups
_LARGE: Final = 20  # images a group in the median; beyond that only when the counters begin anew in each
_COLLISIONS: Final = 0.1  # of the names of shared numbers that are in two folders: then the numbers begin anew there
_TORN: Final = 0.25  # of the series that a full minute may cut
_VIEWS: Final = re.compile(  # numbers of these tell no parts apart
    r"(?:^|[^a-z])(?:cam|camera|kamera|view|angle|light|exposure|channel|lens|pos|position|zoom|fold|batch|set|split"
    r"|class|label)[-_ ]?\d+$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Proposal:
    """A grouping that the file names suggest.

    Args:
        spec: what to give to `--group-by`.
        groups: groups of two and more images.
        images: images in them.
        example: two paths of one group.
        reason: what was noticed, a clause without a full stop.
    """

    spec: str
    groups: int
    images: int
    example: str
    reason: str


def name_groups(
    spec: str, root: Path, paths: Sequence[str], *, columns: Mapping[str, Sequence[str]] | None = None
) -> list[str | None]:
    """The group of each image; None where the image stands for itself.

    Args:
        spec: see the module. Levels of the same name below two classes are one group.
        root: the folder that the paths start from.
        paths: with `/`, below `root`.
        columns: of the table of labels, cells aligned with `paths`.

    Raises:
        ConfigError: not understood, a missing file or column, or no image has a group.
    """
    names = _namer(spec, root, columns or {})(paths)
    if paths and not any(names):
        raise ConfigError(
            f"--group-by '{spec}' matches none of the {len(paths)} paths, for example '{paths[0]}'", hint=_HINT
        )
    return names


def propose_grouping(index: DatasetIndex) -> Proposal | None:
    """What `--group-by` would keep together, when the names of folders or files look like several images a part.

    A proposal and never done unasked: names prove nothing. It is rather missed than made in vain, so numbers that
    hardly repeat, cameras, days, and names that only say the class give None.

    Args:
        index: the images; None when they have groups already.
    """
    paths = [image.path for image in index.images]
    if len(paths) < 2 * _LEAST_GROUPS or any(image.group != image.path for image in index.images):
        return None
    return next((proposal for proposal in _candidates(index, paths) if proposal), None)


Namer = Callable[[Sequence[str]], list[str | None]]


def _namer(spec: str, root: Path, columns: Mapping[str, Sequence[str]]) -> Namer:
    if spec.startswith("level:"):
        return _by_level(spec)
    if spec.startswith("column:"):
        return _by_column(spec, columns)
    if match := _FILE.fullmatch(spec):
        return _by_file(spec, root, match["file"], match["column"])
    return _by_regex(spec)


def _by_regex(spec: str) -> Namer:
    try:
        pattern = re.compile(spec)
    except re.error as error:
        raise ConfigError(f"--group-by '{spec}' is no regular expression: {error}", hint=_HINT) from None
    if not pattern.groups:
        raise ConfigError(f"--group-by '{spec}' has no group in parentheses to take the name from", hint=_HINT)

    def name(path: str) -> str | None:
        match = pattern.search(path)
        return next((text for text in match.groups() if text), None) if match else None

    return lambda paths: [name(path) for path in paths]


def _by_level(spec: str) -> Namer:
    text = spec.removeprefix("level:")
    if not re.fullmatch(r"-?[1-9]\d?", text):
        raise ConfigError(
            f"--group-by '{spec}': level is a number that counts folders below the class folder, 1 and up, or -1 and "
            "down from the folder that holds the image",
            hint=_HINT,
        )
    level = int(text)

    def name(folders: list[str]) -> str | None:
        end = level if level > 0 else len(folders) + level + 1
        return "/".join(folders[:end]) if 0 < end <= len(folders) else None

    return lambda paths: [name(folders) for folders in _below_class(paths)]


def _below_class(paths: Sequence[str]) -> list[list[str]]:
    """The folders between the class folder and the image; train/, val/ and test/ lie above the class folders."""
    folders = [path.split("/")[:-1] for path in paths]
    sides = all(len(parts) > 1 and parts[0].lower() in SIDE_NAMES for parts in folders)
    return [parts[2 if sides else 1 :] for parts in folders]


def _by_column(spec: str, columns: Mapping[str, Sequence[str]]) -> Namer:
    wanted = spec.removeprefix("column:").strip()
    found = {name.casefold(): cells for name, cells in columns.items()}.get(wanted.casefold())
    if found is None:
        there = (
            f"its columns are: {', '.join(columns)}" if columns else "the images come from no table with more columns"
        )
        raise ConfigError(
            f"--group-by '{spec}': no column '{wanted}' in the table of labels; {there}",
            hint="for a column of another table: --group-by FILE.csv:COLUMN",
        )
    return lambda paths: [cell.strip() or None for cell, _ in zip(found, paths, strict=True)]


def _by_file(spec: str, root: Path, file: str, column: str) -> Namer:
    named = Path(file).expanduser()
    path = named if named.is_file() or not (root / named).is_file() else root / named
    try:
        cells = read_cells(path)
    except DataError as error:
        raise ConfigError(f"--group-by '{spec}': {error.message}", hint=error.hint) from error
    places, names = cells.column("path") or (), cells.column(column.strip().casefold())
    if names is None:
        raise ConfigError(
            f"--group-by '{spec}': {path} has no column '{column}'; its columns are: {', '.join(cells.header)}",
            hint="name one of them after the colon",
        )
    groups: dict[str, str] = {}
    for place, name in zip(places, names, strict=True):
        for key in {_key(root, place), _key(path.parent, place)}:
            if groups.setdefault(key, name.strip()) != name.strip():
                raise ConfigError(
                    f"--group-by '{spec}': {path} names two groups for '{place}': '{groups[key]}' and '{name.strip()}'",
                    hint="an image is in one group: remove one of the rows",
                )
    return lambda paths: [groups.get(_key(root, path)) or None for path in paths]


def _key(folder: Path, place: str) -> str:
    """A path as it is compared: absolute, in the system's case, in Unicode's composed form."""
    plain = place.strip().replace("\\", "/")
    return unicodedata.normalize("NFC", os.path.normcase(os.path.abspath(folder / plain)))  # noqa: PTH100  no links


def _candidates(index: DatasetIndex, paths: Sequence[str]) -> Iterator[Proposal | None]:
    deepest = max(len(folders) for folders in _below_class(paths))
    for level in range(1, min(deepest, 3) + 1):
        yield _judged(index, paths, _scoped_level(index, paths, level))
    for depth in depths():
        yield _judged(index, paths, _scoped_number(paths, depth))
    yield _burst(index, paths)


def _scoped_level(index: DatasetIndex, paths: Sequence[str], level: int) -> str:
    """The level alone, or with the class folder where the same names come again below each class."""
    below = _below_class(paths)
    keys = ["/".join(folders[:level]) for folders in below]
    if not _begins_anew(keys, [path.rpartition("/")[2] for path in paths], paths):
        return f"level:{level}"
    above = len(paths[0].split("/")) - 1 - len(below[0]) + level
    return "^(" + "/".join(["[^/]+"] * above) + ")/"


def _scoped_number(paths: Sequence[str], depth: int) -> str | None:
    """A pattern of the file name with as many folders as it takes for the names to be different."""
    for folders in range(3):
        spec = numbered(paths, depth, folders)
        if spec is None or min(path.count("/") for path in paths) < folders:
            return None
        names = _by_regex(spec)(paths)
        if not _begins_anew(names, [path.rpartition("/")[2] for path in paths], paths):
            return spec
    return None


def _begins_anew(keys: Sequence[str | None], names: Sequence[str], paths: Sequence[str]) -> bool:
    """Whether the same key and the same file name are in two folders: numbers that begin anew in each of them."""
    folders: dict[str, set[str]] = defaultdict(set)
    places: dict[tuple[str, str], int] = Counter()
    for key, name, path in zip(keys, names, paths, strict=True):
        if key:
            folders[key].add(path.rpartition("/")[0])
            places[key, name] += 1
    shared = [count for (key, _), count in places.items() if len(folders[key]) > 1]
    return sum(count > 1 for count in shared) > _COLLISIONS * len(shared)


def _judged(index: DatasetIndex, paths: Sequence[str], spec: str | None) -> Proposal | None:
    """The proposal, if the groups look like parts: many, of several images, none of them most of a class."""
    if spec is None:
        return None
    groups: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(_namer(spec, index.root, {})(paths)):
        if name:
            groups[name].append(row)
    several = {name: rows for name, rows in groups.items() if len(rows) > 1}
    images = sum(map(len, several.values()))
    if len(several) < _LEAST_GROUPS or images < _LEAST_SHARE * len(paths):
        return None
    if _says_the_class(index, several) or _are_views(several) or _are_large(several, paths):
        return None
    first = min(several.values(), key=lambda rows: (-min(len(rows), 3), paths[rows[0]]))
    example = f"{paths[first[0]]} and {paths[first[1]]}"
    what = (
        "lie in a folder with others, below the class folder"
        if spec.startswith(("level", "^"))
        else "share a number in their names with others"
    )
    reason = f"{images} of {len(paths)} images {what}, {len(several)} groups, for example {example}"
    return Proposal(spec, len(several), images, example, reason)


def _says_the_class(index: DatasetIndex, groups: Mapping[str, Sequence[int]]) -> bool:
    """Whether a group holds more than half of a class."""
    sets, total = index.label_sets, index.counts()
    held = (Counter(label for row in rows for label in sets[row]) for rows in groups.values())
    return any(2 * count > total[label] >= FEW for counts in held for label, count in counts.items())


def _are_views(groups: Mapping[str, Sequence[int]]) -> bool:
    return 2 * sum(bool(_VIEWS.search(name.rpartition("/")[2])) for name in groups) > len(groups)


def _are_large(groups: Mapping[str, Sequence[int]], paths: Sequence[str]) -> bool:
    """Large groups are parts only when their images are counted anew in each: video3_frame000120."""
    sizes = sorted(map(len, groups.values()))
    if sizes[len(sizes) // 2] <= _LARGE:
        return False
    rests = {
        paths[row].rpartition("/")[2].partition(name.rpartition("/")[2])[2] or paths[row].rpartition("/")[2]
        for name, rows in groups.items()
        for row in rows
    }
    return 2 * len(rests) > sum(sizes)


def _burst(index: DatasetIndex, paths: Sequence[str]) -> Proposal | None:
    found = series(paths)
    if found is None:
        return None
    proposal = _judged(index, paths, found.pattern)
    names = _by_regex(found.pattern)(paths)
    torn = sum(len({names[row] for row in burst}) > 1 for burst in found.bursts)
    images = sum(map(len, found.bursts))
    if proposal is None or torn > _TORN * len(found.bursts) or 2 * images < len(paths):
        return None
    cuts = f", which cuts {torn} of the series (a table with FILE.csv:COLUMN would keep them whole)" if torn else ""
    reason = (
        f"{images} of {len(paths)} images were taken within {SECONDS:.0f} s of another one, in {len(found.bursts)} "
        f"series, by the times in their names, for example {proposal.example}; a pattern can only group by minute{cuts}"
    )
    return Proposal(proposal.spec, proposal.groups, proposal.images, proposal.example, reason)
