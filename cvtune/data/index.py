"""The index: which images there are, of which class, on which given side, and what was left out and why."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from cvtune_edge.files import natural_key
from cvtune_edge.manifest import LABEL_SEPARATOR

from cvtune.data.classmap import ClassMap, apply_map
from cvtune.data.folder import Found, Skipped, in_order, walk
from cvtune.data.table import Table, is_table, read_table, split_labels
from cvtune.errors import DataError
from cvtune.rundir import write_text

GIVEN_SIDES: Final = ("train", "val", "test")
_NONE: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})
_REST: Final = ("side", "group", "width", "height", "sha256")
_SINGLE: Final = ("path", "label", *_REST)
_MULTI: Final = ("path", "labels", *_REST)


@dataclass(frozen=True)
class Image:
    """One image file.

    Args:
        path: relative to the index's root, with `/`; absolute where a table names a file outside of it.
        label: position in the index's classes; in a multi-label index the first of `labels`, or -1 without any.
        side: train, val or test where the folder says so, else None.
        group: the part, track or patient it belongs to; its own path when it stands for itself.
        width: pixels as read (after EXIF orientation), 0 until the file was read.
        height: likewise.
        sha256: of the file's bytes, empty until the file was read.
        labels: positions in the index's classes, ascending; only in a multi-label index, else always empty.
    """

    path: str
    label: int
    side: str | None
    group: str
    width: int = 0
    height: int = 0
    sha256: str = ""
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class DatasetIndex:
    """N images of K classes.

    Args:
        root: the folder that the paths start from.
        classes: names in natural order.
        images: in natural order of their paths, whatever the file system's order.
        skipped: files that are no usable images, each with its reason.
        notes: what was done to images when they were read, with counts.
        ungrouped: images that `--group-by` did not match.
        multi: whether an image may have any number of labels, none included.
        merged: class maps that were applied: from, to, and how many images.

    Raises:
        ValueError: a class position or a side that does not exist, or a path twice.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[Image, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[tuple[str, int], ...] = ()
    ungrouped: int = 0
    multi: bool = False
    merged: tuple[tuple[str, str, int], ...] = ()

    def __post_init__(self) -> None:
        for image in self.images:
            self._check_labels(image)
            if image.side not in (None, *GIVEN_SIDES):
                raise ValueError(f"{image.path}: side {image.side!r}, expected one of {GIVEN_SIDES} or None")
        twice = [path for path, count in Counter(image.path for image in self.images).items() if count > 1]
        if twice:
            raise ValueError(f"paths listed twice: {twice[:3]}")

    def _check_labels(self, image: Image) -> None:
        labels = image.labels if self.multi else (image.label,)
        if not all(0 <= label < len(self.classes) for label in labels):
            raise ValueError(f"{image.path}: class {labels}, expected 0 to {len(self.classes) - 1}")
        if not self.multi and image.labels:
            raise ValueError(f"{image.path}: several labels, expected one in an index that is not multi-label")
        if self.multi and (tuple(sorted(set(labels))) != labels or image.label != (*labels, -1)[0]):
            raise ValueError(f"{image.path}: labels {labels}, expected ascending, and the first of them as label")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class indices of the images, int64 [N].

        Raises:
            ValueError: the index is multi-label; see `label_sets` and `targets`.
        """
        if self.multi:
            raise ValueError("a multi-label index has no single label an image, expected label_sets or targets")
        return np.array([image.label for image in self.images], np.int64)

    @property
    def label_sets(self) -> tuple[tuple[int, ...], ...]:
        """Class indices of each image, ascending; exactly one unless the index is multi-label."""
        return tuple(image.labels if self.multi else (image.label,) for image in self.images)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The label of each image as text; `dent;scratch` for several, an empty text for none."""
        return tuple(LABEL_SEPARATOR.join(self.classes[label] for label in labels) for labels in self.label_sets)

    @property
    def targets(self) -> npt.NDArray[np.float32]:
        """What a network should answer, float32 [N, K]: 1 where the image has the label, else 0."""
        targets = np.zeros((len(self.images), len(self.classes)), np.float32)
        for row, labels in enumerate(self.label_sets):
            targets[row, list(labels)] = 1
        return targets

    def counts(self, side: str | None = None) -> tuple[int, ...]:
        """Images a class, in class order; all of them or those of one given side.

        In a multi-label index an image counts for each of its labels, so that the sum is not the number of images.
        """
        found: Counter[int] = Counter()
        for image, labels in zip(self.images, self.label_sets, strict=True):
            if side is None or image.side == side:
                found.update(labels)
        return tuple(found[label] for label in range(len(self.classes)))

    def with_classes(self, classes: Sequence[str]) -> DatasetIndex:
        """The same images under another list of class names, matched by name; it must hold all that are in use.

        Raises:
            ValueError: a class in use is not among them.
        """
        known = {name: position for position, name in enumerate(classes)}
        unknown = [name for name, count in zip(self.classes, self.counts(), strict=True) if count and name not in known]
        if unknown:
            raise ValueError(f"classes {unknown} are not among {list(classes)}")
        images = tuple(
            labelled(image, [known[self.classes[label]] for label in labels], self.multi)
            for image, labels in zip(self.images, self.label_sets, strict=True)
        )
        return replace(self, classes=tuple(classes), images=images)

    def save(self, path: Path) -> None:
        """Write index.csv; `skipped` and `notes` go to audit.json.

        The second column is `label`, or `labels` joined by `;` in a multi-label index.
        """
        rows = (
            (i.path, text, i.side or "", i.group, i.width, i.height, i.sha256)
            for i, text in zip(self.images, self.label_names, strict=True)
        )
        write_rows(path, _MULTI if self.multi else _SINGLE, rows)

    @classmethod
    def load(cls, path: Path, *, root: Path) -> DatasetIndex:
        """Read index.csv; paths start from `root`.

        Raises:
            DataError: the file is missing or not an index.
        """
        multi = "labels" in read_header(path)
        rows = read_rows(path, _MULTI if multi else _SINGLE)
        names = [split_labels(row["labels"]) if multi else (row["label"],) for row in rows]
        classes = natural_order({name for some in names for name in some})
        positions = {name: position for position, name in enumerate(classes)}
        try:
            images = [
                labelled(_image(row), [positions[name] for name in some], multi)
                for row, some in zip(rows, names, strict=True)
            ]
            return cls(root, classes, tuple(images), multi=multi)
        except ValueError as error:
            raise DataError(f"{path}: damaged ({error})", hint="fit the run again") from error


def build_index(
    source: Path | str,
    *,
    group_by: str | None = None,
    merge: Mapping[str, Sequence[str]] = _NONE,
    ignore: Sequence[str] = (),
    trainable: bool = True,
) -> DatasetIndex:
    """List the images of a labelled folder or a table; their contents are read later, by `fill_pixels`.

    Layouts: `folder/class/**/image`, or `train/`, `val/` (or valid, validation) and `test/` above the classes, or a
    CSV or Parquet table as in :func:`cvtune.data.table.read_table`, whose folder is the root of the index.

    Args:
        source: the folder or table; never written to.
        group_by: what names the part, track or patient; see :func:`cvtune.data.groups.name_groups`. An image without
            such a name stands for itself and is counted in `ungrouped`. When unset, a table's column `group` does.
        merge: new class name -> the names it stands for.
        ignore: classes that are left out, and counted in `skipped`.
        trainable: False accepts a single class or single images, and a class map that speaks of classes which are not
            there: for scoring a folder with a model that exists.

    Raises:
        DataError: the source is missing, unreadable, empty, or too small to train from.
        ConfigError: `group_by` or the class map cannot be used.
    """
    source = Path(source).absolute()
    from_table = is_table(source)
    table = read_table(source) if from_table else _read_folder(source)
    root = source.parent if from_table else source
    grouped = group_by is not None and bool(table.found)
    found = _grouped(table, root, group_by or "") if grouped else table.found
    mapping = ClassMap(merge, ignore)
    mapping.check({name for item in found for name in item.labels}, strict=trainable and bool(found))
    kept, ignored, merged = apply_map(found, mapping, multi=table.multi)
    index = _index(root, kept, table.multi)
    ungrouped = sum(not item.group for item in kept) if grouped else 0
    index = replace(index, skipped=in_order((*ignored, *table.skipped)), ungrouped=ungrouped, merged=merged)
    if trainable:
        check_usable(index)
    elif not index.images:
        raise _nothing(index)
    return index


def _read_folder(root: Path) -> Table:
    found, skipped = walk(root)
    return Table(tuple(sorted(found, key=lambda item: natural_key(item.path))), tuple(skipped), {}, False)


def _grouped(table: Table, root: Path, group_by: str) -> tuple[Found, ...]:
    from cvtune.data.groups import name_groups  # proposes groups for an index: the other way round

    groups = name_groups(group_by, root, [item.path for item in table.found], columns=table.columns)
    return tuple(replace(item, group=group or "") for item, group in zip(table.found, groups, strict=True))


def _index(root: Path, found: Sequence[Found], multi: bool) -> DatasetIndex:
    classes = natural_order({name for item in found for name in item.labels})
    positions = {name: position for position, name in enumerate(classes)}
    images = [
        labelled(Image(item.path, -1, item.side, item.group or item.path), [positions[n] for n in item.labels], multi)
        for item in found
    ]
    return DatasetIndex(root, classes, tuple(images), multi=multi)


def labelled(image: Image, labels: Iterable[int], multi: bool) -> Image:
    """The image with these classes, by their positions.

    Raises:
        ValueError: not exactly one, unless the index is multi-label.
    """
    ordered = tuple(sorted(labels))
    if not multi and len(ordered) != 1:
        raise ValueError(f"{image.path}: {len(ordered)} classes, expected one")
    return replace(image, label=(*ordered, -1)[0], labels=ordered if multi else ())


def check_usable(index: DatasetIndex) -> None:
    """Refuse an index that nothing can be learned from.

    With several labels an image each label is a question of its own, so it needs images with and without it.

    Raises:
        DataError: no image, one class only, or classes with fewer than 2 images; all classes in one message.
    """
    if not index.images:
        raise _nothing(index)
    counts = dict(zip(index.classes, index.counts(), strict=True))
    if len(counts) < 2:
        only = f"only one {_word(index)}, " + ", ".join(f"'{name}' ({count} images)" for name, count in counts.items())
        raise DataError(
            f"{index.root}: {only if counts else 'no label at all'}; expected at least two",
            hint="put the images of each class into its own folder: parts/ok, parts/scratch",
        )
    if index.multi:
        _check_answers(index, counts)
        return
    small = [f"'{name}' has {count}" for name, count in counts.items() if count < 2]
    if small:
        raise DataError(
            f"{index.root}: every class needs at least 2 images, one to learn from and one to check: {', '.join(small)}"
            + _left_out(index),
            hint="add images of these classes, or leave them out: --ignore",
        )


def _check_answers(index: DatasetIndex, counts: Mapping[str, int]) -> None:
    total = len(index)
    small = [f"'{name}' is on {count} of {total}" for name, count in counts.items() if not 2 <= count <= total - 2]
    if small:
        raise DataError(
            f"{index.root}: every label needs at least 2 images that have it and 2 that do not, one each to learn from "
            f"and one to check: {', '.join(small)}{_left_out(index)}",
            hint="add such images, or leave these labels out: --ignore",
        )


def _word(index: DatasetIndex) -> str:
    return "label" if index.multi else "class"


def natural_order(names: set[str]) -> tuple[str, ...]:
    """Class names, `class 2` before `class 10`; they stay strings."""
    return tuple(sorted(names, key=natural_key))


def read_header(path: Path) -> tuple[str, ...]:
    """Column names of one of the run's CSV files, empty where it has no line.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return tuple(next(csv.reader(handle), ()))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of one of the run's CSV files.

    Raises:
        DataError: missing, or other columns than `columns`.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) != tuple(columns):
                raise DataError(f"{path}: columns {reader.fieldnames}, expected {','.join(columns)}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    torn = [number for number, row in enumerate(rows, start=2) if None in row or None in row.values()]
    if torn:
        raise DataError(f"{path}: damaged (row {torn[0]} has too few or too many cells)", hint="fit the run again")
    return rows


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write one of the run's CSV files so that :func:`read_rows` gives back the same text, line ends in it included."""
    out = io.StringIO()
    plain = csv.writer(out, lineterminator="\n")
    quoted = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in (columns, *rows):
        # Python before 3.13 does not quote a carriage return, but reads it as the end of the row
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
    write_text(path, out.getvalue())


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({error})", hint="the run is incomplete: fit it again")


def _image(row: Mapping[str, str]) -> Image:
    size = int(row["width"]), int(row["height"])
    return Image(row["path"], -1, row["side"] or None, row["group"], *size, row["sha256"])


def _nothing(index: DatasetIndex) -> DataError:
    return DataError(
        f"{index.root}: no readable image in class folders or a table of labels{_left_out(index)}",
        hint="put the images of each class into its own folder: parts/ok, parts/scratch",
    )


def _left_out(index: DatasetIndex) -> str:
    lines = list(_lines(index.skipped))
    return f"\n{len(index.skipped)} left out:\n" + "\n".join(lines) if lines else ""


def _lines(skipped: Sequence[Skipped], most: int = 5) -> Iterator[str]:
    yield from (f"  {item.path}: {item.reason}" for item in skipped[:most])
    if len(skipped) > most:
        yield f"  and {len(skipped) - most} more"
