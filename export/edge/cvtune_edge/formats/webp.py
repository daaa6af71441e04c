"""WebP: the chunks of its RIFF container (RFC 9649)."""

from __future__ import annotations

from typing import Final

from cvtune_edge.formats.exif import NONE, parse_exif
from cvtune_edge.formats.header import MOST_PAGES, Header, truncated

_MOST_CHUNKS: Final = 10_000


def read_header(data: bytes) -> Header:
    """Read the chunks of a WebP.

    Raises:
        ValueError: damaged or truncated.
    """
    if len(data) < 30 or 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise truncated("WebP")
    width, height, alpha = _size(data)
    frames, exif = 0, NONE
    if data[12:16] == b"VP8X":
        frames, block = _walk(data, 12)
        exif = parse_exif(block) if block else NONE
    return Header(
        "WebP",
        width,
        height,
        alpha=alpha,
        pages=max(1, frames),
        orientation=exif.orientation,
        camera=exif.camera,
        notes=exif.notes,
    )


def _size(data: bytes) -> tuple[int, int, bool]:
    """Width, height and alpha by the first chunk, whose body begins at byte 20."""
    name = data[12:16]
    if name == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"), bool(data[20] & 16)
    if name == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1)
    if name == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF, False
    raise ValueError("damaged: no WebP picture")


def _walk(data: bytes, at: int) -> tuple[int, bytes]:
    """Number of animation frames, and the EXIF block."""
    frames, block = 0, b""
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            return frames, block
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > len(data):
            raise truncated("WebP")
        if name == b"ANMF":
            frames += 1
        elif name == b"EXIF":
            block = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return min(frames + data.count(b"ANMF", at), MOST_PAGES), block
