"""What an image file says about itself before it is decoded: size, depth, colours, pages, orientation, camera."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

from cvtune_edge.formats import bmp, gif, jpeg, png, ppm, tiff, webp
from cvtune_edge.formats.header import Header

__all__ = ["Header", "read_header"]

_READERS: Final[Mapping[str, Callable[[bytes], Header]]] = {
    "PNG": png.read_header,
    "JPEG": jpeg.read_header,
    "BMP": bmp.read_header,
    "GIF": gif.read_header,
    "PPM": ppm.read_header,
    "TIFF": tiff.read_header,
    "WebP": webp.read_header,
}


def read_header(data: bytes, kind: str) -> Header:
    """Read what an image says about itself, without decoding it.

    Costs a few milliseconds at most, whatever the file claims.

    Args:
        data: the whole file.
        kind: what :func:`cvtune_edge.files.sniff` says.

    Raises:
        ValueError: the header is damaged, or tells of a kind of pixels that is not read; the message is the reason.
    """
    try:
        header = _read_dicom(data) if kind == "DICOM" else _READERS[kind](data)
    except (struct.error, IndexError):
        raise ValueError(f"damaged: the {kind} header cannot be read") from None
    if header.width < 1 or header.height < 1:
        raise ValueError(f"damaged: {header.width} x {header.height} pixels")
    return header


def _read_dicom(data: bytes) -> Header:
    from cvtune_edge.dicom import read_dicom_header  # needs the extra

    return read_dicom_header(data)
