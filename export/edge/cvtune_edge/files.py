"""Which files are images, and in what order a folder is walked. Needs nothing but the standard library."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from cvtune_edge.foreign import foreign_kind, not_an_image

__all__ = [
    "FOREIGN",
    "HEAD_BYTES",
    "IMAGE_SUFFIXES",
    "find_images",
    "foreign_kind",
    "is_hidden",
    "natural_key",
    "not_an_image",
    "sniff",
]

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".dcm", ".dicom"}
)

HEAD_BYTES: Final = 512  # DICOM has its mark at byte 128, tar at 257

FOREIGN: Final = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin"})

_MAGIC: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),  # BigTIFF
    (b"MM\x00+", "TIFF"),
)


def sniff(head: bytes) -> str | None:
    """Tell the format of an image by its first bytes; the name of a file proves nothing.

    Args:
        head: the first `HEAD_BYTES` bytes of the file, or all of it.

    Returns:
        "JPEG", "PNG", "BMP", "TIFF", "WebP", "GIF", "PPM" (P1 to P6) or "DICOM", or None for anything else.
    """
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if re.match(rb"P[1-6][\s#]", head):
        return "PPM"
    # "BM" alone begins many a text: the length of the second header is one of a few small numbers
    if head[:2] == b"BM" and len(head) >= 18 and 12 <= int.from_bytes(head[14:18], "little") <= 124:
        return "BMP"
    return "DICOM" if head[128:132] == b"DICM" else None


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key that puts class 2 before class 10; equal numbers ("01", "1") fall back to the text itself."""
    pieces = re.split(r"([0-9]+)", text.casefold())
    return tuple(int(piece) if i % 2 else piece for i, piece in enumerate(pieces)), text


def is_hidden(name: str) -> bool:
    """Whether an entry of a folder is hidden or left by an operating system (.DS_Store, Thumbs.db, __MACOSX)."""
    return name.startswith(".") or name.casefold() in FOREIGN


def find_images(paths: Iterable[Path], *, passed_over: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield the images under `paths`, one folder in memory at a time.

    Files are yielded as they were given, even where they do not exist: reading them tells why they cannot be read.
    Folders are walked in natural order; hidden and system files are skipped; links are followed, loops are not.

    Args:
        paths: files and folders.
        passed_over: told of each file in a folder that is no image by its suffix nor by its first bytes.
    """
    for path in paths:
        if path.is_dir():
            yield from _walk(path, passed_over or (lambda _: None), frozenset())
        else:
            yield path


def _walk(folder: Path, passed_over: Callable[[Path], None], above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    status = folder.stat()
    place = (status.st_dev, status.st_ino)
    if place in above:  # a link to a folder that contains it
        return
    with os.scandir(folder) as entries:
        names = sorted((entry.name for entry in entries if not is_hidden(entry.name)), key=natural_key)
    for name in names:
        path = folder / name
        if path.is_dir():
            yield from _walk(path, passed_over, above | {place})
        elif path.suffix.lower() in IMAGE_SUFFIXES or _is_image(path):
            yield path
        else:
            passed_over(path)


def _is_image(path: Path) -> bool:
    """Cameras also write files without a suffix: look inside."""
    try:
        if not path.is_file():  # opening a named pipe would wait for ever
            return False
        with path.open("rb") as handle:
            return sniff(handle.read(HEAD_BYTES)) is not None
    except OSError:
        return False
