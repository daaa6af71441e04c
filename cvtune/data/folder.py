"""Walking a labelled folder: every file in it is either an image of a class or listed as skipped, never touched."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cvtune_edge.files import HEAD_BYTES, foreign_kind, is_hidden, natural_key, sniff

from cvtune.errors import DataError

SIDE_NAMES: Final = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was left out, relative to the root, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """A file that looks like an image, and what the folder or the table says about it.

    Args:
        path: relative to the root, with `/`; absolute where a table names a file outside of it.
        labels: names of its classes; exactly one unless a table holds several labels an image.
        side: train, val or test where given.
        group: from a table's column `group`, else empty.
    """

    path: str
    labels: tuple[str, ...]
    side: str | None
    group: str = ""


def walk(root: Path) -> tuple[list[Found], list[Skipped]]:
    """All images below the class folders of `root`, and everything else.

    Symbolic links are followed; one that leads back to a folder above it is skipped. Class names are compared in
    Unicode's composed form (NFC), because macOS and Linux spell `ü` differently on disk.

    Raises:
        DataError: `root` is missing, a file, unreadable or empty.
    """
    _check_root(root)
    skipped: list[Skipped] = []
    found: list[Found] = []
    for folder, side in _side_folders(root, skipped):
        for item in _listing(folder, root, skipped):
            if item.is_dir():
                labels = (unicodedata.normalize("NFC", item.name),)
                ancestors = (_identity(root), _identity(folder))
                images = [Found(path, labels, side) for path in _images(item, root, ancestors, skipped)]
                found += images
                if not images:
                    skipped.append(Skipped(_relative(item, root), "a class folder without any image"))
            else:
                skipped.append(Skipped(_relative(item, root), "not in a class folder"))
    return found, list(in_order(skipped))


def in_order(skipped: Iterable[Skipped]) -> tuple[Skipped, ...]:
    """Skipped files in natural order of their paths."""
    return tuple(sorted(skipped, key=lambda item: natural_key(item.path)))


def _check_root(root: Path) -> None:
    hint = "expected a folder with one folder a class: parts/ok, parts/scratch, or a table: labels.csv, labels.parquet"
    if not root.exists():
        raise DataError(f"{root}: no such folder", hint=hint)
    if not root.is_dir():
        raise DataError(f"{root}: is a file, not a folder", hint=hint)
    try:
        empty = not any(root.iterdir())
    except OSError as error:
        raise DataError(f"{root}: cannot be listed ({error.strerror})", hint="check its permissions") from error
    if empty:
        raise DataError(f"{root}: the folder is empty", hint=hint)


def _side_folders(root: Path, skipped: list[Skipped]) -> list[tuple[Path, str | None]]:
    """The folders that hold class folders: the root, or its sides.

    A class may be called `test`: sides need a `train` beside them, or nothing else, and folders inside.
    """
    folders = [item for item in _listing(root, root, []) if item.is_dir()]
    sides = [item for item in folders if item.name.lower() in SIDE_NAMES and _has_folder(item)]
    if not sides or (len(sides) < len(folders) and all(item.name.lower() != "train" for item in sides)):
        return [(root, None)]
    beside = [item for item in _listing(root, root, skipped) if item not in sides]
    skipped += [Skipped(_relative(item, root), "beside train/, val/ or test/, not in one of them") for item in beside]
    return [(item, SIDE_NAMES[item.name.lower()]) for item in sides]


def _has_folder(folder: Path) -> bool:
    return any(item.is_dir() for item in _listing(folder, folder, []))


def _images(folder: Path, root: Path, ancestors: tuple[object, ...], skipped: list[Skipped]) -> Iterator[str]:
    """Relative paths of the images below one class folder."""
    identity = _identity(folder)
    if identity in ancestors:
        skipped.append(Skipped(_relative(folder, root), "a link back to a folder above it"))
        return
    for item in _listing(folder, root, skipped):
        if item.is_dir():
            yield from _images(item, root, (*ancestors, identity), skipped)
            continue
        reason = not_an_image(item)
        if reason is None:
            yield _relative(item, root)
        else:
            skipped.append(Skipped(_relative(item, root), reason))


def _listing(folder: Path, root: Path, skipped: list[Skipped]) -> list[Path]:
    """Entries in natural order without hidden files, junk and names that cannot be written as UTF-8."""
    try:
        names = sorted(os.listdir(folder), key=natural_key)  # noqa: PTH208  names only
    except OSError as error:
        skipped.append(Skipped(_relative(folder, root), f"cannot be listed: {error.strerror}"))
        return []
    items: list[Path] = []
    for name in names:
        reason = _foreign(name)
        if reason:
            skipped.append(Skipped(_relative(folder / name, root), reason))
        else:
            items.append(folder / name)
    return items


def _foreign(name: str) -> str | None:
    if is_hidden(name):
        return "hidden, or left there by the operating system"
    if printable(name) != name:
        return "the name is not valid UTF-8"
    return None


def not_an_image(path: Path) -> str | None:
    """Why a file cannot be an image, from its first bytes alone; None where it looks like one."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"  # opening a pipe would wait for ever
        if status.st_size == 0:
            return "empty file"
        with path.open("rb") as handle:
            head = handle.read(HEAD_BYTES)
    except FileNotFoundError:
        return "broken link"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if sniff(head):
        return None
    kind = foreign_kind(head)
    return f"a {kind} file, not an image that is read" if kind else "not an image"


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _relative(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def printable(text: str) -> str:
    """The text as it can be written in UTF-8; bytes of a name that are none become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
