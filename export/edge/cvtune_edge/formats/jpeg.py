"""JPEG: the segments before the picture (ITU-T T.81, annex B), and its quality by the quantisation table."""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cvtune_edge.formats.exif import NONE, parse_exif
from cvtune_edge.formats.header import Header, truncated

_MOST_SEGMENTS: Final = 10_000
_MOST_TABLES: Final = 16  # there are four at a time
_SEGMENT: Final = struct.Struct(">BBH").unpack_from
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_HUFFMAN: Final = frozenset({0xC0, 0xC1, 0xC2})
_MOST_PER_BYTE: Final = 8 * 64  # every block of 64 pixels takes one bit at least
_ALONE: Final = frozenset({0x00, 0x01, 0xFF, *range(0xD0, 0xD9)})  # fill bytes, and markers without a segment
_TAKEN: Final = _FRAMES | {0xDB, 0xE1, 0xEE}
# fmt: off
_LUMINANCE: Final = (  # T.81, table K.1: what the IJG's encoder scales
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)
# fmt: on


def _sum_at(quality: int) -> int:
    """Sum of the table that the IJG's encoder writes at a quality (jcparam.c, jpeg_quality_scaling)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return sum(min(255, max(1, (value * scale + 50) // 100)) for value in _LUMINANCE)


_SUMS: Final = tuple(-_sum_at(quality) for quality in range(1, 101))  # rising, for bisect


@dataclass
class Segments:
    """What stands before the first scan.

    Attributes:
        frame: marker of the frame, 0xC0 for baseline; 0 before it was found.
        precision: bits of one sample.
        height: rows.
        width: columns.
        components: 1, 3 or 4.
        adobe: whether there is an Adobe segment.
        exif: the block, or empty.
        tables: sums of the quantisation tables by their number.
        luminance: number of the first component's table.
        scan: where the first scan's entropy-coded data begins; 0 where the walk ended before.
    """

    frame: int = 0
    precision: int = 8
    height: int = 0
    width: int = 0
    components: int = 0
    adobe: bool = False
    exif: bytes = b""
    tables: tuple[tuple[int, int], ...] = ()
    luminance: int = 0
    scan: int = 0


def scan_segments(data: bytes, *, up_to_scan: bool = False) -> Segments:
    """Walk the segments up to the frame, or where something is still missing then, up to the first scan.

    Raises:
        ValueError: there is no frame and no scan.
    """
    found = Segments()
    at = 2
    try:
        for _ in range(_MOST_SEGMENTS):
            mark, marker, length = _SEGMENT(data, at)
            if mark != 0xFF:  # bytes between segments are skipped, as libjpeg does
                at = data.find(b"\xff", at) % (len(data) + 1)  # not found: the end, where nothing can be unpacked
                continue
            if marker in _ALONE:
                at += 1 if marker == 0xFF else 2
                continue
            if marker == 0xD9 or length < 2:
                raise ValueError("damaged: a JPEG without a picture")
            if marker in _TAKEN:
                _take(found, data, marker, at + 4, at + 2 + length)
                if found.frame and found.tables and found.components < 4 and not up_to_scan:
                    return found  # EXIF stands before (JEITA CP-3451, 4.7.2); Adobe's mark matters to CMYK alone
            at += 2 + length
            if marker == 0xDA:
                found.scan = at
                return found
    except struct.error:
        raise truncated("JPEG") from None
    raise ValueError(f"damaged: more than {_MOST_SEGMENTS:,} JPEG segments before the picture")


def _take(found: Segments, data: bytes, marker: int, at: int, end: int) -> None:
    if marker == 0xDB and len(found.tables) < _MOST_TABLES:
        found.tables += _tables(data[at : min(end, at + 4 * 129)])
    elif marker in _FRAMES and not found.frame:
        fields = struct.unpack_from(">BHHBBBB", data, at)
        found.precision, found.height, found.width, found.components = fields[:4]
        found.frame, found.luminance = marker, fields[6]
    elif marker == 0xE1 and not found.exif and data[at : at + 6] == b"Exif\0\0":
        found.exif = data[at:end]
    elif marker == 0xEE and data[at : at + 5] == b"Adobe":
        found.adobe = True


def _tables(body: bytes) -> tuple[tuple[int, int], ...]:
    """Number and sum of each quantisation table of a segment."""
    sums, at = [], 0
    while at + 65 <= len(body):
        if body[at] < 16:
            sums.append((body[at], sum(body[at + 1 : at + 65])))
            at += 65
        else:  # 16-bit values
            values = body[at + 1 : at + 129]
            sums.append((body[at] & 15, 256 * sum(values[::2]) + sum(values[1::2])))
            at += 129
    return tuple(sums)


@lru_cache(maxsize=256)
def estimate_quality(total: int) -> int:
    """The quality, 1 to 100, at which the IJG's luminance table has the sum nearest to this one."""
    place = bisect_left(_SUMS, -total)  # so many qualities have a larger sum
    near = [q for q in (place, place + 1) if 1 <= q <= 100]
    return min(near, key=lambda quality: abs(_SUMS[quality - 1] + total))


def read_header(data: bytes) -> Header:
    """Read the segments of a JPEG.

    Raises:
        ValueError: damaged, truncated, or of a kind that is not read.
    """
    found = scan_segments(data)
    if not found.frame:
        raise ValueError("damaged: a JPEG without a frame")
    if found.precision != 8:
        raise ValueError(f"a JPEG of {found.precision} bits, expected 8")
    if found.components not in (1, 3, 4):
        raise ValueError(f"a JPEG of {found.components} channels, expected 1, 3 or 4")
    if found.components == 4 and not found.adobe:
        raise ValueError("a CMYK JPEG without an Adobe mark: whether its inks are inverted is unknown")
    if found.frame in _HUFFMAN and found.width * found.height > _MOST_PER_BYTE * len(data):
        raise ValueError(f"damaged: too few bytes for a JPEG of {found.width} x {found.height} pixels")
    exif = parse_exif(found.exif) if found.exif else NONE
    tables = dict(found.tables)
    return Header(
        "JPEG",
        found.width,
        found.height,
        channels={1: "grey", 3: "rgb", 4: "cmyk"}[found.components],
        orientation=exif.orientation,
        camera=exif.camera,
        quality=estimate_quality(tables[found.luminance]) if found.luminance in tables else None,
        notes=exif.notes,
    )


def completed(data: bytes) -> bytes | None:
    """The file with 64 more bytes at the end of its only scan, to see whether the decoder still wants any.

    Where a scan is complete, libjpeg passes over them; where data is missing inside, they change the picture. None for
    a file with several scans, where a missing piece does not show.
    """
    found = scan_segments(data, up_to_scan=True)
    end = data.find(b"\xff\xd9", found.scan)
    if found.frame not in (0xC0, 0xC1) or end < 0 or data.find(b"\xff\xda", found.scan, end) >= 0:
        return None
    return data[:end] + b"\x5a\x3c\x96\xe1" * 16 + data[end:]
