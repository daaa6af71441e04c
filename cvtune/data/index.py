"""The index: which images there are, of which class, on which given side, and what was left out and why."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from cvtune_edge.files import natural_key

from cvtune.data.folder import Found, Skipped, walk
from cvtune.errors import ConfigError, DataError
from cvtune.rundir import write_text

GIVEN_SIDES: Final = ("train", "val", "test")
_COLUMNS: Final = ("path", "label", "side", "group", "width", "height", "sha256")


@dataclass(frozen=True)
class Image:
    """One image file.

    Args:
        path: relative to the index's root, with `/`.
        label: position in the index's classes.
        side: train, val or test where the folder says so, else None.
        group: the part, track or patient it belongs to; its own path when it stands for itself.
        width: pixels as read (after EXIF orientation), 0 until the file was read.
        height: likewise.
        sha256: of the file's bytes, empty until the file was read.
    """

    path: str
    label: int
    side: str | None
    group: str
    width: int = 0
    height: int = 0
    sha256: str = ""


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

    Raises:
        ValueError: a class position or a side that does not exist, or a path twice.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[Image, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[tuple[str, int], ...] = ()
    ungrouped: int = 0

    def __post_init__(self) -> None:
        for image in self.images:
            if not 0 <= image.label < len(self.classes):
                raise ValueError(f"{image.path}: class {image.label}, expected 0 to {len(self.classes) - 1}")
            if image.side not in (None, *GIVEN_SIDES):
                raise ValueError(f"{image.path}: side {image.side!r}, expected one of {GIVEN_SIDES} or None")
        twice = [path for path, count in Counter(image.path for image in self.images).items() if count > 1]
        if twice:
            raise ValueError(f"paths listed twice: {twice[:3]}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class indices of the images, int64 [N]."""
        return np.array([image.label for image in self.images], np.int64)

    def counts(self, side: str | None = None) -> tuple[int, ...]:
        """Images a class, in class order; all of them or those of one given side."""
        found = Counter(image.label for image in self.images if side is None or image.side == side)
        return tuple(found[label] for label in range(len(self.classes)))

    def save(self, path: Path) -> None:
        """Write index.csv; `skipped` and `notes` go to audit.json."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for i in self.images:
            writer.writerow((i.path, self.classes[i.label], i.side or "", i.group, i.width, i.height, i.sha256))
        write_text(path, out.getvalue())

    @classmethod
    def load(cls, path: Path, *, root: Path) -> DatasetIndex:
        """Read index.csv; paths start from `root`.

        Raises:
            DataError: the file is missing or not an index.
        """
        rows = read_rows(path, _COLUMNS)
        classes = natural_order({row["label"] for row in rows})
        labels = {name: label for label, name in enumerate(classes)}
        try:
            return cls(root, classes, tuple(_image(row, labels) for row in rows))
        except ValueError as error:
            raise DataError(f"{path}: damaged ({error})", hint="fit the run again") from error


def build_index(root: Path | str, *, group_by: str | None = None, trainable: bool = True) -> DatasetIndex:
    """List the images of a labelled folder; file contents are read later, by `fill_pixels`.

    Layouts: `folder/class/**/image`, or `train/`, `val/` (or valid, validation) and `test/` above the classes.

    Args:
        root: the folder; never written to.
        group_by: regex searched in each path (relative, with `/`); its first group that matched something names the
            part, track or patient. Without a match the image stands for itself and is counted in `ungrouped`.
        trainable: False accepts a single class or single images, for scoring a folder with a model that exists.

    Raises:
        DataError: the folder is missing, a file, empty, or too small to train from.
        ConfigError: `group_by` is no regex, has no group, or matches no path at all.
    """
    root = Path(root).absolute()
    pattern = _compile(group_by)
    found, skipped = walk(root)
    classes = natural_order({item.label for item in found})
    labels = {name: label for label, name in enumerate(classes)}
    groups = [_group(pattern, item.path) for item in found]
    images = tuple(
        Image(item.path, labels[item.label], item.side, group or item.path)
        for item, group in sorted(zip(found, groups, strict=True), key=lambda pair: natural_key(pair[0].path))
    )
    ungrouped = groups.count(None) if pattern else 0
    _check_groups(pattern, found, ungrouped)
    index = DatasetIndex(root, classes, images, tuple(skipped), ungrouped=ungrouped)
    if trainable:
        check_usable(index)
    elif not images:
        raise _nothing(index)
    return index


def check_usable(index: DatasetIndex) -> None:
    """Refuse an index that nothing can be learned from.

    Raises:
        DataError: no image, one class only, or classes with fewer than 2 images; all classes in one message.
    """
    if not index.images:
        raise _nothing(index)
    counts = index.counts()
    if len(counts) < 2:
        raise DataError(
            f"{index.root}: only one class, '{index.classes[0]}' ({counts[0]} images); "
            "expected at least two class folders",
            hint="put the images of each class into its own folder: parts/ok, parts/scratch",
        )
    small = [f"'{name}' has {count}" for name, count in zip(index.classes, counts, strict=True) if count < 2]
    if small:
        raise DataError(
            f"{index.root}: every class needs at least 2 images, one to learn from and one to check: {', '.join(small)}"
            + _left_out(index),
            hint="add images to these folders, or remove the folders",
        )


def natural_order(names: set[str]) -> tuple[str, ...]:
    """Class names, `class 2` before `class 10`; they stay strings."""
    return tuple(sorted(names, key=natural_key))


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
            return list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})", hint="the run is incomplete: fit it again") from error


def _image(row: Mapping[str, str], labels: Mapping[str, int]) -> Image:
    size = int(row["width"]), int(row["height"])
    return Image(row["path"], labels[row["label"]], row["side"] or None, row["group"], *size, row["sha256"])


def _compile(group_by: str | None) -> re.Pattern[str] | None:
    if group_by is None:
        return None
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ConfigError(f"--group-by '{group_by}' is no regular expression: {error}", hint=_GROUP_HINT) from None
    if not pattern.groups:
        raise ConfigError(
            f"--group-by '{group_by}' has no group in parentheses to take the name from", hint=_GROUP_HINT
        )
    return pattern


_GROUP_HINT: Final = r"for files like ok/part12_view3.png: --group-by '(part\d+)_'"


def _group(pattern: re.Pattern[str] | None, path: str) -> str | None:
    match = pattern.search(path) if pattern else None
    return next((text for text in match.groups() if text), None) if match else None


def _check_groups(pattern: re.Pattern[str] | None, found: Sequence[Found], ungrouped: int) -> None:
    if pattern and found and ungrouped == len(found):
        raise ConfigError(
            f"--group-by '{pattern.pattern}' matches none of the {len(found)} paths, for example '{found[0].path}'",
            hint=_GROUP_HINT,
        )


def _nothing(index: DatasetIndex) -> DataError:
    return DataError(
        f"{index.root}: no readable image in class folders{_left_out(index)}",
        hint="put the images of each class into its own folder: parts/ok, parts/scratch",
    )


def _left_out(index: DatasetIndex) -> str:
    lines = list(_lines(index.skipped))
    return f"\n{len(index.skipped)} left out:\n" + "\n".join(lines) if lines else ""


def _lines(skipped: Sequence[Skipped], most: int = 5) -> Iterator[str]:
    yield from (f"  {item.path}: {item.reason}" for item in skipped[:most])
    if len(skipped) > most:
        yield f"  and {len(skipped) - most} more"
