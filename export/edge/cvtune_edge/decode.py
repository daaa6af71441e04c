"""From a file to pixels: the one decoder, in the lab and on the line.

OpenCV decodes; what it would do silently is decided here: EXIF rotation is applied, 16 bits are scaled over their full
range and noted, float pixels are refused, and every file that is not read says why.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cvtune_edge.errors import ImageError
from cvtune_edge.files import sniff
from cvtune_edge.headers import Header, read_header

MAX_PIXELS: Final = 200_000_000  # 600 MB of RGB; a line-scan frame of 16,384 x 12,000 still fits

NOTE_16_BIT: Final = "16-bit, read at 8 bits"
NOTE_12_BIT: Final = "16-bit holding 12 bits or fewer: at most 16 grey levels left at 8 bits"
NOTE_ALPHA: Final = "transparency ignored"
NOTE_PAGES: Final = "several pages or frames, only the first read"

_MAX_BYTES: Final = 2**31 - 1  # OpenCV counts the bytes of a buffer in an int
_FLAGS: Final = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR_RGB  # both honour EXIF; IMREAD_UNCHANGED does not
_END: Final = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\x3b"}

# The reason goes into the ImageError; OpenCV's own lines on stderr would come once more for each bad file.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded image.

    Attributes:
        pixels: uint8 [H, W, 3], RGB, turned as its EXIF orientation says.
        notes: what was changed or left out in reading; empty for nearly every file.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Frame:
    """Read an image file.

    Args:
        path: any path, also with letters outside ASCII.
        max_pixels: width times height at most; guards against files that unpack to more than the memory.

    Raises:
        ImageError: the file is missing, empty, not an image, damaged, too large, or has float pixels.
    """
    path = Path(path)
    name = path.as_posix()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise ImageError(name, "a folder" if path.is_dir() else "not a regular file")
        if status.st_size > _MAX_BYTES:
            raise ImageError(name, f"{status.st_size:,} bytes, expected at most {_MAX_BYTES:,}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(name, "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError(name, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    return decode(data, name, max_pixels=max_pixels)


def decode(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Frame:
    """Decode the bytes of an image file.

    Args:
        data: the whole file.
        name: what to call it in an error, normally its path.
        max_pixels: width times height at most.

    Raises:
        ImageError: as for :func:`read_image`.
    """
    if not data:
        raise ImageError(name, "empty file (0 bytes)")
    kind = sniff(data)
    if kind is None:
        raise ImageError(name, "not an image (expected JPEG, PNG, BMP, TIFF, WebP, GIF or PPM)")
    header = read_header(data, kind)
    if header is not None and header.width * header.height > max_pixels:
        size = f"{header.width} x {header.height}"
        raise ImageError(name, f"{size} pixels, expected at most {max_pixels:,} in all")
    buffer = np.frombuffer(data, np.uint8)
    pixels = _imdecode(buffer, _FLAGS)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(name, _why_not(data, kind, buffer))
    return Frame(_to_8_bit(pixels, header), _notes(data, kind, buffer, pixels))


def _imdecode(buffer: NDArray[np.uint8], flags: int) -> NDArray[np.generic] | None:
    try:
        pixels: NDArray[np.generic] | None = cv2.imdecode(buffer, flags)
    except cv2.error:
        return None
    return pixels


def _why_not(data: bytes, kind: str, buffer: NDArray[np.uint8]) -> str:
    raw = _imdecode(buffer, cv2.IMREAD_UNCHANGED) if kind == "TIFF" else None
    if raw is not None and raw.dtype not in (np.uint8, np.uint16):
        return f"{raw.dtype.name} pixels, expected 8 or 16 bit unsigned: their range is unknown"
    if kind in _END and _END[kind] not in data[-4096:]:
        return f"truncated: the end of the {kind} file is missing"
    return f"truncated or damaged: cannot be decoded as {kind}"


def _to_8_bit(pixels: NDArray[np.generic], header: Header | None) -> NDArray[np.uint8]:
    """Scale to 0..255; a PPM by the largest value that it declares, which OpenCV leaves unused (seen in 5.0)."""
    full = 65535 if pixels.dtype == np.uint16 else 255
    maxval = (header.maxval if header else 0) or full
    if maxval == 255:
        return np.ascontiguousarray(pixels, dtype=np.uint8)
    values = pixels.astype(np.uint32)  # round(255 v / maxval) in whole numbers; for 65535 that is round(v / 257)
    values *= 2 * 255
    values += maxval
    values //= 2 * maxval
    return np.minimum(values, 255, out=values).astype(np.uint8)


def _notes(data: bytes, kind: str, buffer: NDArray[np.uint8], pixels: NDArray[np.generic]) -> tuple[str, ...]:
    notes = []
    if pixels.dtype == np.uint16:
        notes.append(NOTE_16_BIT)
        if kind != "PPM" and int(pixels.view(np.uint16).max()) < 4096:  # a PPM says how far its values reach
            notes.append(NOTE_12_BIT)
    if kind == "PNG" and data[25] in (4, 6):  # colour types with alpha (PNG specification, 11.2.1)
        notes.append(NOTE_ALPHA)
    if _pages(kind, buffer) > 1:
        notes.append(NOTE_PAGES)
    return tuple(notes)


def _pages(kind: str, buffer: NDArray[np.uint8]) -> int:
    """1, or 2 where there is more than one page."""
    if kind not in ("TIFF", "WebP", "GIF"):
        return 1
    start = 0 if kind == "GIF" else 1  # asked for frame 1 alone, OpenCV gives a GIF's frame 0 (seen in 5.0)
    try:
        return start + len(cv2.imdecodemulti(buffer, _FLAGS, range=(start, 2))[1])
    except cv2.error:
        return 1
