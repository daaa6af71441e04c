"""Files of a bundle, opened so that nothing but a regular file inside of its folder is ever read.

A bundle may come from other hands. A link could lead to any file of this machine, a named pipe would make the reader
wait for ever, opening a device can do things by itself; and what is looked at first and opened afterwards may have been
exchanged in between. So every file is opened once, folder by folder without following links, and what was opened is
looked at before a byte of it is read; its checksum is that of the bytes which are used.

A hard link is read like any file: it cannot be told from one of a file system that keeps equal files once, and it shows
nothing that the bundle's writer could not have copied; what counts are the bytes, by the manifest's sha256.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

MOST_JSON: Final = 1 << 26  # bytes of a JSON file: 21,000 classes and 32 golden frames take 15 MB
MOST_FILE: Final = (1 << 31) - 1  # bytes of any other; protobuf ends there
MOST_FILES: Final = 10_000
MOST_BYTES: Final = 1 << 34  # of all files together: ten seconds of SHA-256
_PIECE: Final = 1 << 20
_JUNCTION: Final = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT: a folder of Windows that is another one
_BY_FOLDER: Final = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
# O_NONBLOCK: a named pipe that takes the file's place after it was looked at must not hold the reader
_FLAGS: Final = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)
_KINDS: Final = {
    stat.S_IFLNK: "a link, which may lead out of the bundle: copy the folder with the files themselves",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_DEVICES: Final = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$"}) | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}


class RefusedError(OSError):
    """A file that is there and is not read; `strerror` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)


def stays_inside(name: str) -> bool:
    """Whether a name can only mean a file in the folder, on every system.

    No "..", root, drive or backslash, no character that does something on a terminal, no device of Windows.
    """
    parts = name.split("/")
    return (
        len(name) <= 255
        and name.isprintable()
        and not set(name) & set('\\:*?"<>|')
        and not any(part in ("", ".", "..") or part.endswith((".", " ")) for part in parts)
        and not any(part.split(".")[0].rstrip().casefold() in _DEVICES for part in parts)
    )


def read_inside(folder: Path, name: str, *, most: int = MOST_FILE) -> bytes:
    """All bytes of a file of a bundle.

    Args:
        folder: of the bundle.
        name: relative to it, POSIX style.
        most: bytes; a longer file is not read at all.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        RefusedError: it is no regular file, leaves the folder or is too long.
        OSError: it cannot be read.
    """
    with _opened(folder, name, most) as (handle, size):
        data = handle.read(size + 1)
        if len(data) != size:
            raise RefusedError("its length changes while it is read")
        return data


def changed(found: str, digest: str) -> str:
    """What to say of a file whose SHA-256 is another one."""
    return f"changed after the export (sha256 {found[:12]}..., expected {digest[:12]}...)"


def hash_inside(folder: Path, name: str, *, most: int = MOST_FILE) -> tuple[str, int]:
    """SHA-256 and length of a file of a bundle, read in pieces.

    Args:
        folder: of the bundle.
        name: relative to it, POSIX style.
        most: bytes; a longer file is not read at all.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        RefusedError: it is no regular file, leaves the folder or is too long.
        OSError: it cannot be read.
    """
    with _opened(folder, name, most) as (handle, size):
        found, left = hashlib.sha256(), size
        while left and (piece := handle.read(min(left, _PIECE))):
            found.update(piece)
            left -= len(piece)
        if left or handle.read(1):
            raise RefusedError("its length changes while it is read")
        return found.hexdigest(), size


def problems_inside(folder: Path, files: Mapping[str, str]) -> list[str]:
    """What is wrong with a bundle's files, a line each: missing, changed, no regular files, too many bytes.

    Args:
        folder: of the bundle.
        files: SHA-256 by name.
    """
    problems, left = [], MOST_BYTES
    for name, digest in files.items():
        try:
            found, size = hash_inside(folder, name, most=min(left, MOST_FILE))
        except (FileNotFoundError, NotADirectoryError):
            problems.append(f"{name}: missing")
        except RefusedError as error:
            problems.append(f"{name}: {error.strerror}")
        except OSError as error:
            problems.append(f"{name}: cannot be read ({error.strerror})")
        else:
            left -= size
            if found != digest:
                problems.append(f"{name}: {changed(found, digest)}")
    return problems


def walk_inside(folder: Path, above: str = "") -> Iterator[str]:
    """Names of all files in a folder and those below it, sorted.

    Args:
        folder: of the bundle.
        above: a folder in it, with a slash behind.

    Raises:
        RefusedError: something there is neither a regular file nor a folder, such as a link.
        OSError: a folder cannot be read.
    """
    with os.scandir(folder / above) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{above}{entry.name}"
            kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
            if kind == stat.S_IFDIR:
                yield from walk_inside(folder, f"{name}/")
            elif kind == stat.S_IFREG:
                yield name
            else:
                raise RefusedError(f"{name!r}: {_KINDS.get(kind, 'no regular file')}")


@contextmanager
def _opened(folder: Path, name: str, most: int) -> Iterator[tuple[BinaryIO, int]]:
    """The open file, its position at the beginning, and its length."""
    if not stays_inside(name):
        raise RefusedError("a name that may lead out of the bundle")
    number = _open_by_folder(folder, name) if _BY_FOLDER else _open_by_path(folder, name)
    with os.fdopen(number, "rb") as handle:
        status = os.fstat(number)
        _check_regular(status)
        if status.st_size > most:
            raise RefusedError(f"{status.st_size:,} bytes, at most {most:,} are read")
        yield handle, status.st_size


def _open_by_folder(folder: Path, name: str) -> int:
    """Open folder by folder, so that none of them can be exchanged for a link on the way."""
    *above, last = name.split("/")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in above:
            status = os.stat(part, dir_fd=at, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                _check_regular(status)
            below = os.open(part, _FLAGS | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        _check_regular(os.stat(last, dir_fd=at, follow_symlinks=False))  # before: opening a device may do something
        return os.open(last, _FLAGS, dir_fd=at)
    finally:
        os.close(at)


def _open_by_path(folder: Path, name: str) -> int:
    """Where the system cannot do that (Windows): look, open, and compare what was opened."""
    path = folder
    for part in name.split("/"):
        path /= part
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == _JUNCTION:
            raise RefusedError(_KINDS[stat.S_IFLNK])
    _check_regular(status)
    number = os.open(path, _FLAGS)
    opened = os.fstat(number)
    if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino):
        os.close(number)
        raise RefusedError("exchanged while it was opened")
    return number


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(_KINDS.get(stat.S_IFMT(status.st_mode), "no regular file"))
