"""PPM, PGM and PBM: size and white value."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.formats.header import Header, truncated

_SPACE: Final = rb"(?:\s|#[^\n]*\n)+"
_HEADER: Final = re.compile(rb"P\d" + (_SPACE + rb"(\d{1,9})") * 3 + rb"\s")
_BITMAP: Final = re.compile(rb"P\d" + (_SPACE + rb"(\d{1,9})") * 2 + rb"\s")
_LONGEST: Final = 65536  # a header with its comments


def read_header(data: bytes) -> Header:
    """Read the numbers at the head of a PPM.

    Raises:
        ValueError: damaged.
    """
    kind = data[1:2]
    bitmap = kind in b"14"  # P1 and P4 have no largest value
    fields = (_BITMAP if bitmap else _HEADER).match(data[:_LONGEST])
    if fields is None:
        raise ValueError("damaged: no PPM header")
    width, height, *rest = (int(field) for field in fields.groups())
    maxval = rest[0] if rest else 0
    if not bitmap and not 0 < maxval < 65536:
        raise ValueError(f"damaged: a PPM whose largest value is {maxval}, expected 1 to 65535")
    channels = "rgb" if kind in b"36" else "grey"
    if len(data) - fields.end() < _least(kind, width, height, maxval):
        raise truncated("PPM")
    return Header("PPM", width, height, 16 if maxval > 255 else 8, channels=channels, maxval=maxval)


def _least(kind: bytes, width: int, height: int, maxval: int) -> int:
    """How many bytes the pixels take at least."""
    if kind == b"4":
        return (width + 7) // 8 * height
    samples = width * height * (3 if kind in b"36" else 1)
    if kind in b"123":  # digits, and between numbers a space
        return samples if kind == b"1" else 2 * samples - 1
    return samples * (2 if maxval > 255 else 1)


def scaled_by_opencv(data: bytes, header: Header) -> bool:
    """Whether OpenCV has stretched the values to 0..255 itself: the plain ones of 8 bits, and only those (5.0)."""
    return data[1:2] in b"23" and header.maxval <= 255


def unscaled(pixels: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    """Undo that stretch, exactly: OpenCV rounds down, and no two values of a maxval below 256 fall together."""
    return ((pixels.astype(np.uint32) * header.maxval + 254) // 255).astype(np.uint8)
