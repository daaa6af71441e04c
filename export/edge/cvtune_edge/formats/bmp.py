"""BMP: sizes, depth, and which of the 32 bits are which colour."""

from __future__ import annotations

import struct
from typing import Final

from cvtune_edge.formats.header import Header, truncated

_BGR: Final = (0xFF0000, 0xFF00, 0xFF)


def read_header(data: bytes) -> Header:
    """Read the two headers of a BMP.

    Raises:
        ValueError: damaged, truncated, or with colours in an order that OpenCV does not follow.
    """
    if len(data) < 34:
        raise truncated("BMP")
    size = data[14]
    if size == 12:  # the OS/2 header has 16-bit sizes
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    masks = struct.unpack_from("<IIII", data, 54) if len(data) >= 70 else (0, 0, 0, 0)
    if width < 0 or height == -(2**31):
        raise ValueError("damaged: a BMP of impossible size")
    if bits == 32 and compression == 3 and size == 40 and masks[:3] != _BGR:
        raise ValueError("a BMP of 32 bits with its colours in an unusual order")  # OpenCV 5.0 would swap them
    start = int.from_bytes(data[10:14], "little")
    rows = (width * bits + 31) // 32 * 4 * abs(height)  # a negative height means rows from top to bottom
    if compression in (0, 3) and start + rows > len(data):
        raise truncated("BMP")
    alpha = bits == 32 and compression == 3 and size >= 56 and masks[3] != 0
    return Header("BMP", width, abs(height), channels="palette" if bits <= 8 else "rgb", alpha=alpha)
