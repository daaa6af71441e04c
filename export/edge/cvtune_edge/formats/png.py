"""PNG: its chunks (PNG specification, third edition) and the transparent grey that OpenCV drops."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from cvtune_edge.formats.exif import NONE, parse_exif
from cvtune_edge.formats.header import MOST_PAGES, Header, truncated

_MOST_CHUNKS: Final = 10_000  # 80 MB in the 8 kB chunks of libpng; what stands behind them is not looked at
_ANIMATION: Final = (b"acTL", b"fcTL", b"fdAT")
_COLOURS: Final = {0: "grey", 2: "rgb", 3: "palette", 4: "grey", 6: "rgb"}
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of each chunk's body, up to IEND."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        if at + 12 > len(data):
            raise truncated("PNG")
        length = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            raise truncated("PNG")
        yield name, at + 8, length
        if name == b"IEND":
            return
        at += 12 + length


def read_header(data: bytes) -> Header:
    """Read the chunks of a PNG.

    Raises:
        ValueError: damaged or truncated.
    """
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("damaged: no PNG header")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if depth not in _DEPTHS.get(colour, ()):
        raise ValueError(f"damaged: a PNG of colour type {colour} with {depth} bits")
    pages, alpha, block = 1, colour in (4, 6), b""
    for name, at, length in _chunks(data):
        if name == b"tRNS":
            alpha = True
        elif name == b"acTL" and length >= 4:
            pages = min(max(1, int.from_bytes(data[at : at + 4], "big")), MOST_PAGES)
        elif name == b"eXIf" and not block:
            block = data[at : at + length]
    exif = parse_exif(block) if block else NONE
    return Header(
        "PNG",
        width,
        height,
        16 if depth == 16 else 8,
        "uint",
        _COLOURS[colour],
        alpha,
        pages,
        exif.orientation,
        exif.camera,
        notes=exif.notes,
    )


def still(data: bytes) -> bytes:
    """The same PNG without its animation: the still picture that every PNG holds.

    OpenCV 5.0 reads frames where it should read the picture: damaged ones crash it, or come out different every time.
    """
    kept = (data[at - 8 : at + length + 4] for name, at, length in _chunks(data) if name not in _ANIMATION)
    return data[:8] + b"".join(kept)


def transparent_grey(data: bytes) -> int | None:
    """The grey value that stands for transparency, as it comes out of the decoder; None where there is none."""
    depth, colour = data[24], data[25]
    if colour != 0:
        return None
    for name, at, length in _chunks(data):
        if name == b"tRNS" and length >= 2:
            value = int.from_bytes(data[at : at + 2], "big") & ((1 << depth) - 1)
            return value if depth >= 8 else value * 255 // ((1 << depth) - 1)
    return None
