"""What an image file says about itself before it is decoded: width, height, and the largest grey value of a PPM."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Header:
    """Width and height in pixels as stored (before any rotation).

    `maxval` is the value that means white in a PPM, where it is left to us to scale by it; 0 otherwise.
    """

    width: int
    height: int
    maxval: int = 0


def read_header(data: bytes, kind: str) -> Header | None:
    """Read the size of an image without decoding it.

    Args:
        data: the whole file.
        kind: what :func:`cvtune_edge.files.sniff` says.

    Returns:
        The header, or None where it cannot be found (damaged, or TIFF and WebP, which OpenCV bounds itself).
    """
    readers = {"PNG": _png, "JPEG": _jpeg, "BMP": _bmp, "GIF": _gif, "PPM": _ppm}
    try:
        return readers[kind](data) if kind in readers else None
    except struct.error:
        return None


def _png(data: bytes) -> Header | None:
    return Header(*struct.unpack_from(">II", data, 16)) if data[12:16] == b"IHDR" else None


def _gif(data: bytes) -> Header:
    return Header(*struct.unpack_from("<HH", data, 6))


def _bmp(data: bytes) -> Header:
    core = data[14] == 12  # the OS/2 header has 16-bit sizes
    width, height = struct.unpack_from("<HH" if core else "<ii", data, 18)
    return Header(abs(width), abs(height))  # a negative height means rows from top to bottom


def _jpeg(data: bytes) -> Header | None:
    """Walk the segments to the first start of frame (ITU-T T.81, B.1.1 and B.2.2)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header(width, height)
        else:
            at += 2 + length
    return None


def _ppm(data: bytes) -> Header | None:
    kind, space = data[1:2], rb"(?:\s|#[^\n]*\n)+"
    bitmap = kind in b"14"  # P1 and P4 have no largest value
    fields = re.match(rb"P\d" + (space + rb"(\d{1,9})") * (2 if bitmap else 3) + rb"\s", data)
    if fields is None:
        return None
    width, height, *rest = (int(field) for field in fields.groups())
    maxval = rest[0] if rest else 0
    scaled = kind in b"23" and maxval <= 255  # OpenCV scales the plain 8-bit ones itself, and only those (seen in 5.0)
    return Header(width, height, 0 if scaled else maxval)
