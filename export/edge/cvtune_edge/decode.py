"""From a file to pixels: the one decoder, in the lab and on the line.

OpenCV decodes; what it would do silently is decided here: the header is read first, EXIF rotation is applied on every
path alike, transparency is laid on a declared colour, no depth is lost unless a note says so, and every file that is
not read says why.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cvtune_edge.convert import in_three_channels, lay_on, to_depth, turned
from cvtune_edge.errors import ImageError
from cvtune_edge.files import not_an_image, sniff
from cvtune_edge.formats import jpeg, png, ppm, tiff_pixels
from cvtune_edge.headers import Header, read_header
from cvtune_edge.notes import (
    NOTE_8_BIT,
    NOTE_12_BIT,
    NOTE_16_BIT,
    NOTE_ALPHA,
    NOTE_CMYK,
    NOTE_EXTRA,
    NOTE_ORIENTATION,
    NOTE_PAGES,
    NOTE_ROUNDED,
    NOTE_WHITE,
)
from cvtune_edge.opencv import AS_RGB, UNCHANGED, imdecode

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "NOTE_8_BIT",
    "NOTE_12_BIT",
    "NOTE_16_BIT",
    "NOTE_ALPHA",
    "NOTE_CMYK",
    "NOTE_EXTRA",
    "NOTE_ORIENTATION",
    "NOTE_PAGES",
    "NOTE_ROUNDED",
    "NOTE_WHITE",
    "PIXELS",
    "Frame",
    "Header",
    "ReadOptions",
    "decode",
    "probe",
    "read_bytes",
    "read_image",
]

PIXELS: Final = ("uint8", "uint16", "float32")
FORMATS: Final = ("JPEG", "PNG", "BMP", "TIFF", "WebP", "GIF", "PPM", "DICOM")
MAX_PIXELS: Final = 200_000_000  # 600 MB of RGB; a line-scan frame of 16,384 x 12,000 still fits
MAX_BYTES: Final = 2**31 - 1  # OpenCV counts the bytes of a buffer in an int

_END: Final = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\x3b"}


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
        pixels: type of the pixels that come out. "uint8": 16 bits are scaled to 8, with a note. "uint16": 8 bits are
            multiplied by 257, with a note; 16 bits stay as they are. "float32": the values as stored.
        background: colour under transparent pixels, RGB, 0..255.
        max_pixels: width times height at most; guards against files that unpack to more than the memory.
        max_bytes: size of a file at most.
        formats: which ones are read, names as in `FORMATS`.

    Raises:
        ValueError: a value outside its range; the message names all of them.
    """

    pixels: str = "uint8"
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES
    formats: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        problems = []
        if self.pixels not in PIXELS:
            problems.append(f"pixels is {self.pixels!r}, expected one of {', '.join(PIXELS)}")
        ground = tuple(self.background)
        if len(ground) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in ground):
            problems.append(f"background is {self.background!r}, expected three whole numbers from 0 to 255")
        if self.max_pixels < 1:
            problems.append(f"max_pixels is {self.max_pixels}, expected at least 1")
        if not 1 <= self.max_bytes <= MAX_BYTES:
            problems.append(f"max_bytes is {self.max_bytes}, expected 1 to {MAX_BYTES:,}")
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            problems.append(f"formats are {list(self.formats)}, expected some of {', '.join(FORMATS)}")
        if problems:
            raise ValueError("; ".join(problems))
        object.__setattr__(self, "background", ground)  # a list, as JSON has it, would not compare equal
        object.__setattr__(self, "formats", tuple(self.formats))

    def to_json(self) -> dict[str, Any]:
        """What decides the values of the pixels; limits only decide whether there are any."""
        return {"pixels": self.pixels, "background": list(self.background)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ReadOptions:
        """Read what `to_json` gave.

        Raises:
            ValueError: something is missing or outside its range.
        """
        try:
            return cls(pixels=data["pixels"], background=tuple(data["background"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"reading options {data!r}, expected pixels and background") from error


DEFAULTS: Final = ReadOptions()
_NO_FILE: Final = Header("", 0, 0)


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded image.

    Attributes:
        pixels: uint8, uint16 or float32 [H, W, 3], RGB, turned as its EXIF orientation says.
        notes: what was changed or left out in reading, from `cvtune_edge.notes`; empty for nearly every file.
        header: what the file says about itself; of kind "" for pixels that came from no file.
    """

    pixels: NDArray[Any]
    notes: tuple[str, ...] = ()
    header: Header = _NO_FILE


def read_image(path: Path | str, options: ReadOptions = DEFAULTS) -> Frame:
    """Read an image file.

    Args:
        path: any path, also with letters outside ASCII.
        options: type of the pixels, background and limits.

    Raises:
        ImageError: the file is missing, empty, not an image, damaged, too large, or of a kind that is not read.
    """
    return decode(read_bytes(path, options), Path(path).as_posix(), options)


def read_bytes(path: Path | str, options: ReadOptions = DEFAULTS) -> bytes:
    """Read a file whole, if it is a regular one and not too long.

    Raises:
        ImageError: the file is missing, cannot be opened, is no regular file, or too long.
    """
    path = Path(path)
    name = path.as_posix()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise ImageError(name, "a folder" if path.is_dir() else "not a regular file")
        if status.st_size > options.max_bytes:
            raise _too_long(name, status.st_size, options)
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(name, "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError(name, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def decode(data: bytes, name: str, options: ReadOptions = DEFAULTS) -> Frame:
    """Decode the bytes of an image file.

    Args:
        data: the whole file.
        name: what to call it in an error, normally its path.
        options: type of the pixels, background and limits.

    Raises:
        ImageError: as for :func:`read_image`.
    """
    header = probe(data, name, options)
    try:
        if header.kind == "DICOM":
            from cvtune_edge.dicom import read_dicom  # needs the extra

            pixels, notes = read_dicom(data, header, options.pixels)
        else:
            pixels, notes = _read(data, header, options)
    except ValueError as error:
        raise ImageError(name, str(error)) from None
    except (MemoryError, cv2.error):  # what OpenCV does to decoded pixels fails for want of memory alone
        raise ImageError(name, f"{header.width} x {header.height} pixels need more memory than there is") from None
    if header.pages > 1:
        notes = (*notes, NOTE_PAGES)
    return Frame(pixels, (*header.notes, *notes), header)


def probe(data: bytes, name: str, options: ReadOptions = DEFAULTS) -> Header:
    """Refuse everything that can be refused before decoding, and tell what the header says.

    Args:
        data: the whole file.
        name: what to call it in an error, normally its path.
        options: type of the pixels, and limits.

    Raises:
        ImageError: as for :func:`read_image`.
    """
    if not data:
        raise ImageError(name, "empty file (0 bytes)")
    if len(data) > options.max_bytes:
        raise _too_long(name, len(data), options)
    kind = sniff(data)
    if kind is None:
        raise ImageError(name, not_an_image(data))
    if kind not in options.formats:
        raise ImageError(name, f"{kind}, a format that is not allowed here (allowed: {', '.join(options.formats)})")
    try:
        header = read_header(data, kind)
    except ValueError as error:
        raise ImageError(name, str(error), hint=getattr(error, "hint", "")) from None
    if header.width * header.height > options.max_pixels:
        size = f"{header.width} x {header.height}"
        raise ImageError(name, f"{size} pixels, expected at most {options.max_pixels:,} in all")
    if options.pixels != "float32" and (header.sample != "uint" or header.bits > 16) and kind != "DICOM":
        kind_of = "float" if header.sample == "float" else f"{header.sample}{header.bits}"
        raise ImageError(name, f"{kind_of} pixels; --pixels float32 reads them")
    return header


def _too_long(name: str, size: int, options: ReadOptions) -> ImageError:
    return ImageError(name, f"{size:,} bytes, expected at most {options.max_bytes:,}")


def _read(data: bytes, header: Header, options: ReadOptions) -> tuple[NDArray[Any], tuple[str, ...]]:
    stored = _stored(data, header)
    if stored is None:
        raise ValueError(_why_not(data, header.kind))
    if stored.shape[:2] != (header.height, header.width) or stored.dtype.itemsize * 8 != header.bits:
        size = f"{stored.shape[1]} x {stored.shape[0]} pixels of {stored.dtype.name}"
        raise ValueError(f"damaged: {size} come out where the header says otherwise")
    if header.kind == "JPEG" and _ends_in_grey(stored):
        _check_end(data, header, stored)
    colours, notes = _flat(data, stored, header, options)
    pixels, deep = to_depth(colours, header, options.pixels)
    return turned(np.ascontiguousarray(in_three_channels(pixels)), header.orientation), (*notes, *deep)


def _stored(data: bytes, header: Header) -> NDArray[Any] | None:
    """Pixels as stored: [H, W, 3] in RGB, or as OpenCV has them unchanged where they need a closer look."""
    if header.kind == "TIFF":
        return tiff_pixels.read_pixels(data, header)
    if header.kind == "PNG" and header.pages > 1:
        data = png.still(data)
    if header.alpha:
        return imdecode(data, UNCHANGED)
    pixels = imdecode(data, AS_RGB)
    if header.kind == "PPM" and pixels is not None and ppm.scaled_by_opencv(data, header):
        return ppm.unscaled(pixels, header)
    return pixels


def _flat(
    data: bytes, stored: NDArray[Any], header: Header, options: ReadOptions
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Colours without alpha, [H, W] or [H, W, 3] in RGB."""
    notes = (NOTE_CMYK,) if header.channels == "cmyk" else ()
    if header.kind != "TIFF" and not header.alpha:
        return stored, notes  # the way of nearly every file
    if stored.ndim == 2:
        key = png.transparent_grey(data) if header.kind == "PNG" and header.alpha else None
        if key is None:
            return stored, notes
        stored = np.dstack([stored, np.where(stored == key, 0, np.iinfo(stored.dtype).max).astype(stored.dtype)])
    channels = stored.shape[2]
    colours = stored[..., 2::-1] if channels > 2 else np.repeat(stored[..., :1], 3, axis=2)
    if channels == 3:
        return colours, notes
    if not header.alpha:
        return colours, notes if header.channels in ("cmyk", "palette") else (*notes, NOTE_EXTRA)
    alpha = stored[..., -1]
    if int(alpha.min()) == np.iinfo(stored.dtype).max:
        return colours, notes
    premultiplied = header.kind == "TIFF" and tiff_pixels.premultiplied(data, header)
    return lay_on(colours, alpha, options.background, premultiplied=premultiplied), (*notes, NOTE_ALPHA)


def _ends_in_grey(pixels: NDArray[np.uint8]) -> bool:
    """Whether the last corner is the even grey that libjpeg leaves where data is missing."""
    return pixels.item(pixels.size - 1) == 128 and bool((pixels[-4:, -4:] == 128).all())


def _check_end(data: bytes, header: Header, pixels: NDArray[np.uint8]) -> None:
    """Tell an even grey corner from missing data: more bytes at the end change the picture only in the second case.

    libjpeg only prints a line on stderr for a picture that is damaged inside; OpenCV does not hand it on.
    """
    longer = jpeg.completed(data)
    again = None if longer is None else imdecode(longer, AS_RGB)
    if again is not None and not np.array_equal(pixels, again):
        raise ValueError("damaged: data is missing inside the JPEG picture")


def _why_not(data: bytes, kind: str) -> str:
    if kind in _END and _END[kind] not in data[-4096:]:
        return f"truncated: the end of the {kind} file is missing"
    return f"truncated or damaged: cannot be decoded as {kind}"
