"""Tables of labels: CSV and Parquet files that name images, instead of a folder a class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvtune_edge.files import natural_key
from cvtune_edge.manifest import LABEL_SEPARATOR

from cvtune.data.cells import LAYOUT, TABLE_SUFFIXES, Cells, Problem, read_cells
from cvtune.data.folder import SIDE_NAMES, Found, Skipped, not_an_image, printable
from cvtune.errors import DataError


@dataclass(frozen=True)
class Table:
    """What a table says about images.

    Args:
        found: files that look like images, in natural order of their paths.
        skipped: files that are missing or no images, each with its reason.
        columns: the further columns by name, and group and side; cells aligned with `found`.
        multi: whether an image may have any number of labels.
    """

    found: tuple[Found, ...]
    skipped: tuple[Skipped, ...]
    columns: Mapping[str, tuple[str, ...]]
    multi: bool


def is_table(path: Path) -> bool:
    """Whether a path names a table of labels, by its suffix; it need not exist."""
    return path.suffix.lower() in TABLE_SUFFIXES and not path.is_dir()


def read_table(path: Path) -> Table:
    """Read `path,label[,group][,side]`, the columns in any order and case; more columns serve `column:NAME` groups.

    Paths are absolute or start from the folder of the table. An image may have several labels, or none, where the
    column is called `labels`, where a `;` is in any of its cells, and where a Parquet file holds lists. Class names
    are text, whatever they look like: `no`, `1e3` and `007` stay as they are.

    Raises:
        DataError: the file cannot be read, lacks a column, or has rows that cannot be meant: no path, a path twice,
            no label (unless there may be several), an unknown side; all of them in one message.
    """
    path = path.absolute()
    cells = read_cells(path)
    texts, multi = _labels(cells)
    labels = [split_labels(text) if multi else tuple(filter(None, (_composed(text),))) for text in texts]
    sides = [text.strip().casefold() for text in cells.column("side") or ("",) * len(labels)]
    groups = [text.strip() for text in cells.column("group") or ("",) * len(labels)]
    places = [_place(path.parent, text) for text in cells.column("path") or ()]
    cells.raise_problems(_problems(cells.numbers, places, labels, sides, multi), hint=LAYOUT)

    reasons = [_reason(path.parent / place) for place in places]
    usable = sorted((i for i, reason in enumerate(reasons) if not reason), key=lambda i: natural_key(places[i]))
    missing = sorted((i for i, reason in enumerate(reasons) if reason), key=lambda i: natural_key(places[i]))
    return Table(
        tuple(Found(places[i], labels[i], SIDE_NAMES.get(sides[i]), groups[i]) for i in usable),
        tuple(Skipped(printable(places[i]), reasons[i] or "") for i in missing),
        {name: tuple(cells.rows[i][at] for i in usable) for at, name in enumerate(cells.header) if _is_further(name)},
        multi,
    )


def split_labels(text: str) -> tuple[str, ...]:
    """The labels of one cell, each once; none in an empty cell."""
    return tuple(dict.fromkeys(filter(None, map(_composed, text.split(LABEL_SEPARATOR)))))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip())  # as the names of class folders


def _is_further(name: str) -> bool:
    return name.casefold() not in ("", "path", "label", "labels")


def _labels(cells: Cells) -> tuple[tuple[str, ...], bool]:
    """The cells of the column of labels, and whether there may be several in one."""
    one, several = cells.column("label"), cells.column("labels")
    if one is not None and several is not None:
        raise DataError(f"{cells.path}: has a column 'label' and a column 'labels'", hint="rename one of them")
    if several is not None:
        return several, True
    if one is not None:
        return one, any(LABEL_SEPARATOR in text for text in one)
    raise DataError(
        f"{cells.path}: there is no column 'label'; the columns are: {', '.join(cells.header)}", hint=LAYOUT
    )


def _problems(
    numbers: Sequence[int],
    places: Sequence[str],
    labels: Sequence[tuple[str, ...]],
    sides: Sequence[str],
    multi: bool,
) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for number, place, names, side in zip(numbers, places, labels, sides, strict=True):
        if place == ".":  # what an empty cell comes to
            yield number, "no path"
        elif first.setdefault(os.path.normcase(place), number) != number:
            yield number, f"{place} is in row {first[os.path.normcase(place)]} already"
        if not names and not multi:
            yield number, f"{place}: no label"
        if side and side not in SIDE_NAMES:
            yield number, f"{place}: side '{side}', expected train, val, test or an empty cell"


def _place(root: Path, text: str) -> str:
    """The path of the index for a cell: relative to `root` with `/`, or absolute outside of it.

    Spaces around it, backslashes and the other form of Unicode are forgiven where only so a file is there.
    """
    bare = text.strip()
    spelled = (text, bare, bare.replace("\\", "/"), *(unicodedata.normalize(form, bare) for form in ("NFC", "NFD")))
    name = next((one for one in spelled if os.path.lexists(root / one)), bare)
    plain = os.path.normpath(name)
    if ".." in Path(name).parts and _other_file(root / name, root / plain):
        plain = os.path.realpath(root / name)  # a link before `..`: only the file system knows where that leads
    full, base = Path(os.path.normpath(root / plain)), Path(os.path.normpath(root))
    return (full.relative_to(base) if full.is_relative_to(base) else full).as_posix()


def _other_file(named: Path, plain: Path) -> bool:
    try:
        return not named.samefile(plain)
    except (OSError, ValueError):
        return named.exists()


def _reason(file: Path) -> str | None:
    """Why a file of the table is left out, or None."""
    if printable(str(file)) != str(file):
        return "the name is not valid UTF-8"
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        return "no such file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return not_an_image(file)
