"""Corrections: labels changed by a table, as `cvtune check` proposes them, while the folder stays as it is."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cvtune.data.cells import Cells, Problem, read_cells
from cvtune.data.classmap import ClassMap, did_you_mean
from cvtune.data.folder import Skipped, in_order
from cvtune.data.index import DatasetIndex, check_usable, labelled
from cvtune.data.table import split_labels
from cvtune.errors import DataError

LEAVE_OUT: Final = "-"  # as a new label: the image is not used
_NONE: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})
_HINT: Final = (
    "the file is as `cvtune check` writes it: columns path,label,new_label; an empty new_label changes nothing"
)


@dataclass(frozen=True)
class _Row:
    """One line of the file; names are those of the folder or already merged ones."""

    number: int
    path: str
    label: str
    new: str


def apply_corrections(
    index: DatasetIndex, file: Path | str, *, merge: Mapping[str, Sequence[str]] = _NONE
) -> tuple[DatasetIndex, int, int]:
    """Change labels and leave images out as a CSV or Parquet file with the columns `path,label,new_label` says.

    `label` repeats what the image is labelled now, so that a file for another state of the folder is noticed.
    `new_label` is a class of the index, `-` to leave the image out, or empty for no change; where an image may have
    several labels `dent;scratch`, and `;` for none of them. Further columns are ignored.

    Args:
        index: from `build_index`; its order stays.
        file: the corrections; never written to.
        merge: the class map that made the index: labels may also be the names before it.

    Returns:
        The corrected index, how many images have another label, and how many were left out.

    Raises:
        DataError: the file is unreadable, or speaks of images, labels and classes that are not there, all of them in
            one message; or too few images are left to train from.
    """
    file = Path(file).absolute()
    cells = read_cells(file)
    rows = _rows(cells)
    names = _Names(index, merge)
    cells.raise_problems(_problems(index, rows, names), hint=_HINT)

    new = {row.path: row.new for row in rows if row.new}
    kept = [image for image in index.images if new.get(image.path) != LEAVE_OUT]
    images = [
        labelled(image, names.positions(new[image.path]), index.multi) if image.path in new else image for image in kept
    ]
    gone = [Skipped(path, f"left out by corrections {file.name}") for path in new if new[path] == LEAVE_OUT]
    corrected = replace(index, images=tuple(images), skipped=in_order((*index.skipped, *gone)))
    check_usable(corrected)
    return corrected, sum(old != now for old, now in zip(kept, images, strict=True)), len(gone)


def _rows(cells: Cells) -> list[_Row]:
    label, new = cells.column("label"), cells.column("new_label")
    if label is None or new is None:
        missing = " and ".join(f"'{name}'" for name, column in (("label", label), ("new_label", new)) if column is None)
        raise DataError(f"{cells.path}: no column {missing}; the columns are: {', '.join(cells.header)}", hint=_HINT)
    paths = cells.column("path") or ()
    return [_Row(*row) for row in zip(cells.numbers, paths, map(_composed, label), map(_composed, new), strict=True)]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


class _Names:
    """What a cell of labels stands for, after merging; spaces around names do not count."""

    def __init__(self, index: DatasetIndex, merge: Mapping[str, Sequence[str]]) -> None:
        self.multi = index.multi
        self.known = {_composed(name): position for position, name in enumerate(index.classes)}
        self.renamed = {_composed(old): _composed(new) for old, new in ClassMap(merge).renamed.items()}

    def of(self, text: str) -> tuple[str, ...]:
        names = split_labels(text) if self.multi else (_composed(text),)
        return tuple(dict.fromkeys(self.renamed.get(name, name) for name in names))

    def positions(self, text: str) -> list[int]:
        return [self.known[name] for name in self.of(text)]

    def unknown(self, text: str) -> list[str]:
        return [name for name in self.of(text) if name not in self.known]


def _problems(index: DatasetIndex, rows: Sequence[_Row], names: _Names) -> Iterator[Problem]:
    present = dict(zip((image.path for image in index.images), index.label_sets, strict=True))
    texts = dict(zip((image.path for image in index.images), index.label_names, strict=True))
    skipped = {item.path: item.reason for item in index.skipped}
    first: dict[str, _Row] = {}
    for row in rows:
        if row.path not in present:
            why = skipped.get(row.path) or ("left out by --ignore" if (index.root / row.path).is_file() else "")
            yield row.number, f"{row.path} is not among the images" + (f": {why}" if why else "")
            continue
        if names.unknown(row.label) or set(names.positions(row.label)) != set(present[row.path]):
            yield row.number, f"{row.path} is labelled '{texts[row.path]}', not '{row.label}'"
        if row.new != LEAVE_OUT and row.new:
            for name in names.unknown(row.new):
                yield row.number, f"{row.path}: there is no class '{name}'{did_you_mean(name, names.known)}"
        if first.setdefault(row.path, row).new != row.new:
            yield row.number, f"{row.path}: '{first[row.path].new}' in row {first[row.path].number}, then '{row.new}'"
