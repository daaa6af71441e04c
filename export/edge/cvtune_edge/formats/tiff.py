"""TIFF: its tags, its pages, and a rewritten first directory where OpenCV would read it wrongly.

TIFF revision 6.0 (Adobe, 1992) and the BigTIFF layout of libtiff. EXIF blocks have the same structure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.formats.header import Header, truncated

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
MAKE, MODEL, STRIPS, ORIENTATION, SAMPLES, STRIP_BYTES = 271, 272, 273, 274, 277, 279
PLANAR, PREDICTOR, COLORMAP, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES = 284, 317, 320, 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, DNG_VERSION = 338, 339, 50706

_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE: Final = {1: ("u1", "B"), 3: ("u2", "H"), 4: ("u4", "I"), 16: ("u8", "Q")}  # BYTE, SHORT, LONG, LONG8
_MOST_TAGS: Final = 1000  # cameras write about 60
_MOST_PAGES: Final = 10_000  # each is a jump in the file
_SAMPLES: Final = {1: "uint", 2: "int", 3: "float"}
_COLOURS: Final = {0: "grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "rgb"}
_NAMES: Final = {4: "mask", 8: "CIELab", 9: "CIELab", 10: "CIELab", 32803: "raw sensor", 32844: "LogL", 32845: "LogLuv"}
_READ: Final = {"uint": (8, 16, 32), "int": (8, 16, 32), "float": (32, 64)}  # what OpenCV has a type for


@dataclass(frozen=True)
class Entry:
    """One tag: its type, the number of its values, and where in the file they begin."""

    type: int
    count: int
    place: int


@dataclass(frozen=True)
class Directory:
    """The tags of one page.

    Attributes:
        data: the whole file.
        order: "<" or ">".
        big: BigTIFF, with 64-bit offsets.
        entries: by tag number.
        following: where the next page's directory begins, 0 after the last.
    """

    data: bytes
    order: str
    big: bool
    entries: Mapping[int, Entry] = field(default_factory=dict)
    following: int = 0

    def array(self, tag: int) -> NDArray[np.uint64]:
        """All values of a tag of whole numbers, uint64 [n]; empty where it is missing or of another type."""
        entry = self._entry(tag)
        if entry is None:
            return np.zeros(0, np.uint64)
        kind = self.order + _WHOLE[entry.type][0]
        return np.frombuffer(self.data, kind, entry.count, entry.place).astype(np.uint64)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The first eight values of a tag of whole numbers."""
        entry = self._entry(tag)
        if entry is None:
            return ()
        return struct.unpack_from(f"{self.order}{min(entry.count, 8)}{_WHOLE[entry.type][1]}", self.data, entry.place)

    def _entry(self, tag: int) -> Entry | None:
        entry = self.entries.get(tag)
        if entry is None or entry.type not in _WHOLE:
            return None
        if entry.place + entry.count * _SIZES[entry.type] > len(self.data):
            raise truncated("TIFF")
        return entry

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag, or `default`."""
        return next(iter(self.numbers(tag)), default)

    def text(self, tag: int) -> str:
        """A tag of text, at most 64 characters, without control characters; "" where there is none."""
        entry = self.entries.get(tag)
        if entry is None or entry.type not in (2, 7):
            return ""
        raw = self.data[entry.place : entry.place + min(entry.count, 64)].split(b"\0")[0]
        return "".join(c for c in raw.decode("utf-8", "replace") if c.isprintable()).strip()


def first_directory(data: bytes) -> Directory:
    """Read the tags of the first page.

    Raises:
        ValueError: no TIFF, or its first directory is damaged or missing.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    version = struct.unpack_from(f"{order}H", data, 2)[0] if order and len(data) >= 8 else 0
    if version not in (42, 43):
        raise ValueError("damaged: no TIFF header")
    big = version == 43
    if big and len(data) < 16:
        raise truncated("TIFF")
    start = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)[0]
    return _directory(data, str(order), big, start)


def _directory(data: bytes, order: str, big: bool, start: int) -> Directory:
    head, step, code = (8, 20, "HHQ8s") if big else (2, 12, "HHI4s")
    if start < 8 or start + head > len(data):
        raise truncated("TIFF")
    count = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
    if not 0 < count <= _MOST_TAGS:
        raise ValueError(f"damaged: a TIFF directory of {count:,} tags")
    first, end = start + head, start + head + count * step
    if end > len(data):
        raise truncated("TIFF")
    entries: dict[int, Entry] = {}
    for i, (tag, kind, number, _) in enumerate(struct.iter_unpack(order + code, data[first:end])):
        value = first + i * step + (12 if big else 8)
        inline = _SIZES.get(kind, 1) * number <= (8 if big else 4)
        place = value if inline else struct.unpack_from(order + ("Q" if big else "I"), data, value)[0]
        entries.setdefault(tag, Entry(kind, number, place))
    link = data[end : end + (8 if big else 4)]
    return Directory(data, order, big, entries, int.from_bytes(link, "little" if order == "<" else "big"))


def count_pages(first: Directory) -> int:
    """Follow the chain of directories; a loop ends it.

    Raises:
        ValueError: the chain leaves the file.
    """
    order = "little" if first.order == "<" else "big"
    head, step, link = (8, 20, 8) if first.big else (2, 12, 4)
    seen, at = set[int](), first.following
    while at and at not in seen and len(seen) < _MOST_PAGES - 1:
        seen.add(at)
        tags = int.from_bytes(first.data[at : at + head], order)  # type: ignore[arg-type]
        end = at + head + tags * step
        if end + link > len(first.data):
            raise truncated("TIFF")
        at = int.from_bytes(first.data[end : end + link], order)  # type: ignore[arg-type]
    return 1 + len(seen)


def rewritten(directory: Directory, values: Mapping[int, tuple[int, ...] | None]) -> bytes:
    """The file with another first page: some tags get other values (as LONG), or None and are left out.

    Nothing but a directory at the end is added, so that the pixels stay where they are.
    """
    order, big = directory.order, directory.big
    data = directory.data + bytes(-len(directory.data) % 8)
    offset, room, head = ("Q", 8, 8) if big else ("I", 4, 2)  # room: of a value inside its row
    tags = sorted((set(directory.entries) | set(values)) - {tag for tag, value in values.items() if value is None})
    start = len(data)
    behind = start + head + len(tags) * (4 + 2 * room) + room
    rows, tail = b"", b""
    for tag in tags:
        kind, count, raw = _row(directory, tag, values)
        if len(raw) > room:
            raw, tail = struct.pack(order + offset, behind + len(tail)), tail + raw + bytes(-len(raw) % 8)
        rows += struct.pack(f"{order}HH{offset}", tag, kind, count) + raw.ljust(room, b"\0")
    number = struct.pack(order + ("Q" if big else "H"), len(tags))
    link = struct.pack(order + offset, start)
    top = data[:8] + link + data[16:] if big else data[:4] + link + data[8:]
    return b"".join((top, number, rows, bytes(room), tail))


def _row(directory: Directory, tag: int, values: Mapping[int, tuple[int, ...] | None]) -> tuple[int, int, bytes]:
    new = values.get(tag)
    if new is not None:
        return 4, len(new), struct.pack(f"{directory.order}{len(new)}I", *new)
    entry = directory.entries[tag]
    return entry.type, entry.count, directory.data[entry.place : entry.place + _SIZES.get(entry.type, 1) * entry.count]


def read_header(data: bytes) -> Header:
    """Read the tags of a TIFF.

    Raises:
        ValueError: damaged, truncated, or of a kind that OpenCV cannot read or reads wrongly.
    """
    from cvtune_edge.formats.exif import exif_of  # exif reads directories, too

    page = first_directory(data)
    if DNG_VERSION in page.entries:
        raise ValueError("a DNG raw file, not an image that is read")
    width, height = page.number(WIDTH, 0), page.number(HEIGHT, 0)
    bits, sample = _depth(page)
    photometric = page.number(PHOTOMETRIC, 1)
    if photometric not in _COLOURS:
        raise ValueError(f"a TIFF of {_NAMES.get(photometric, 'unknown')} pixels, which are not read")
    channels = _COLOURS[photometric]
    alpha = _alpha(page, channels)
    _check_layout(page, channels, bits, sample)
    _check_complete(page)
    exif = exif_of(page)
    stored = 16 if bits in (10, 12, 14) else max(8, bits)
    return Header(
        "TIFF",
        width,
        height,
        stored,
        sample,
        channels,
        alpha,
        count_pages(page),
        exif.orientation,
        exif.camera,
        maxval=2**bits - 1 if bits in (10, 12, 14) else 0,
        notes=exif.notes,
    )


def _depth(page: Directory) -> tuple[int, str]:
    """Bits and sample type of every channel."""
    bits = set(page.numbers(BITS)) or {1}
    formats = set(page.numbers(SAMPLE_FORMAT)) or {1}
    if len(bits) > 1 or len(formats) > 1:
        raise ValueError("a TIFF whose channels differ in depth, which is not read")
    number, sample = bits.pop(), _SAMPLES.get(formats.pop(), "unknown")
    packed = sample == "uint" and number in (1, 2, 4, 10, 12, 14)
    if not packed and number not in _READ.get(sample, ()):
        raise ValueError(f"a TIFF of {number}-bit {sample} pixels, which are not read")
    return number, sample


def _alpha(page: Directory, channels: str) -> bool:
    """Whether the channel after the colours is told to be an alpha: ExtraSamples 1 or 2."""
    extra = page.numbers(EXTRA_SAMPLES)
    wanted = {"grey": 1, "palette": 1, "rgb": 3, "cmyk": 4}[channels]
    samples = page.number(SAMPLES, 1)
    if samples < wanted:
        raise ValueError(f"damaged: a TIFF of {samples} channels, expected {wanted}")
    if samples > wanted + 1 or (samples > wanted and channels in ("cmyk", "palette")):
        raise ValueError(f"a TIFF of {samples} channels, expected at most {wanted + 1}")
    return samples > wanted and extra[:1] in ((1,), (2,))


def _check_layout(page: Directory, channels: str, bits: int, sample: str) -> None:
    """Refuse what OpenCV would scramble, or read at fewer bits, without a word (seen in 5.0)."""
    if channels in ("palette", "cmyk") and (bits > 8 or sample != "uint"):
        raise ValueError(f"a TIFF of {bits}-bit {channels} pixels, which are not read")
    if channels == "palette" and len(page.array(COLORMAP)) != 3 * 2**bits:
        raise ValueError("damaged: a TIFF with a palette of the wrong length")
    if page.number(PHOTOMETRIC, 1) == 0 and (bits == 32 or sample != "uint"):
        raise ValueError(f"a TIFF of {bits}-bit {sample} pixels where 0 is white, which are not read")
    if sample != "uint" and page.numbers(EXTRA_SAMPLES)[:1] in ((1,), (2,)):
        raise ValueError(f"a TIFF of {sample} pixels with transparency, which are not read")
    if page.number(PHOTOMETRIC, 1) == 6 and (bits != 8 or sample != "uint"):
        raise ValueError(f"a TIFF of {bits}-bit YCbCr pixels, which are not read")
    samples = page.number(SAMPLES, 1)
    if bits < 8 and (samples > 1 or (TILE_WIDTH in page.entries and (bits > 1 or channels == "palette"))):
        raise ValueError(f"a TIFF of {bits}-bit pixels in {samples} channels or in tiles, which is not read")
    if samples == 2 and page.number(PLANAR, 1) == 1 and page.number(PREDICTOR, 1) != 1:
        raise ValueError("a grey TIFF with a second channel and a predictor, which is not read")
    if page.number(TILE_WIDTH, 0) * page.number(TILE_HEIGHT, 0) > 2**28:
        raise ValueError("damaged: a TIFF with tiles larger than any image")


def _check_complete(page: Directory) -> None:
    """Every strip or tile must lie inside the file."""
    places, sizes = (TILES, TILE_BYTES) if TILES in page.entries else (STRIPS, STRIP_BYTES)
    offsets, counts = page.array(places), page.array(sizes)
    total = np.uint64(len(page.data))
    if not len(offsets):
        raise truncated("TIFF")
    if len(counts) != len(offsets):  # old writers leave the sizes out; libtiff guesses them
        counts = np.zeros_like(offsets)
    if (offsets > total).any() or (counts > total - offsets).any():
        raise truncated("TIFF")
