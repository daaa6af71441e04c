"""The files of a store: segments of records with their index, read through memory maps."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from cvtune.rundir import write_bytes

Pixels = npt.NDArray[Any]  # uint8, uint16 or float32

FORMAT: Final = 1  # another layout or other facts: older keys are left behind and evicted in their turn
SEGMENT_BYTES: Final = 128 * 2**20  # 50,000 images of 224 px are 56 files; what a kill loses is read again in seconds
_ROWS: Final = 2048
_OPEN: Final = 64  # maps kept open: macOS grants a process 256 handles
# Nothing else is ever deleted: CVTUNE_CACHE may name a folder in which somebody keeps pictures of his own.
_OURS: Final = re.compile(r"\d{20}-[0-9a-f]{8}\.(pixels|json)|\.\d{20}-[0-9a-f]{8}\.json\.part|[0-9a-f]{32}\.run")


class Noted(Protocol):
    """What is written down about a record."""

    @property
    def sha256(self) -> str:
        """Of the file that it was made from, by which it is found again."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, the hash among them."""


N = TypeVar("N", bound=Noted)


class Place(NamedTuple):
    """Where the pixels of an image are, or another record."""

    file: Path
    row: int


@dataclass(frozen=True)
class Layout:
    """Shape [3, S, S] and type of the records of a store."""

    size: int
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, S, S)."""
        return 3, self.size, self.size

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def per_segment(self) -> int:
        """Records of a full segment."""
        return max(1, SEGMENT_BYTES // self.record_bytes)


@dataclass(frozen=True)
class RowLayout(Layout):
    """Records of `size` numbers each."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)

    @property
    def per_segment(self) -> int:
        """Rows of a full segment; there is work in each of them, and a kill is to lose no more than seconds of it."""
        return min(super().per_segment, _ROWS)


class Maps:
    """Segments as memory maps: opened on first use, the last few kept open, usable from any thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._open: OrderedDict[Path, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, place: Place) -> Pixels:
        """A read-only view of one image, [3, S, S].

        Raises:
            OSError: the file is gone.
            IndexError: it is shorter than that.
        """
        with self._lock:
            if place.file in self._open:
                self._open.move_to_end(place.file)
            else:
                self._open[place.file] = self._map(place.file)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)  # closed as soon as nobody looks at a record of it any more
            record: Pixels = self._open[place.file][place.row]
            return record

    def _map(self, file: Path) -> Pixels:
        records = file.stat().st_size // self._layout.record_bytes
        if not records:  # an empty file cannot be mapped
            raise IndexError(f"{file}: no record")
        mapped: Pixels = np.memmap(file, self._layout.dtype, "r", shape=(records, *self._layout.shape))
        plain: Pixels = mapped.view(np.ndarray)  # each slice of a memmap would be built in Python again
        return plain


@dataclass(frozen=True)
class Segment:
    """Data and index of some records.

    Attributes:
        file: the data.
        size: bytes of both files.
        used: when a run last had use for it, in ns.
    """

    file: Path
    size: int
    used: int


@dataclass
class Entry(Generic[N]):
    """A record.

    Attributes:
        place: of the pixels.
        checksum: of the pixels.
        line: the facts as JSON, of records of earlier runs.
        facts: of records that were added in this run.
    """

    place: Place
    checksum: str
    line: bytes = b""
    facts: N | None = None


@dataclass
class Writer:
    """A segment that grows; without an index it does not count."""

    file: Path
    _lines: list[bytes] = field(default_factory=list)
    _size: int = 0  # bytes
    _handle: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._handle = self.file.open("xb", buffering=0)

    def __len__(self) -> int:
        return len(self._lines)

    def append(self, facts: Noted, pixels: Pixels, checksum: str) -> Place:
        """Add a record.

        Raises:
            OSError: it cannot be written; the next one takes its place.
        """
        # Written, not mapped: writing to a map beyond the end of the disk kills the process without a word (SIGBUS).
        data, row = np.ascontiguousarray(pixels).data.cast("B"), len(self)
        self._handle.seek(self._size)  # a record that was cut short by an error is written over
        written = 0
        while written < len(data):
            written += self._handle.write(data[written:])
        self._size += written
        self._lines.append(json.dumps(facts.to_json() | {"checksum": checksum}).encode("ascii") + b"\n")
        return Place(self.file, row)

    def finish(self) -> None:
        """Flush the data, then write the index that makes it count.

        Raises:
            OSError: it cannot be written.
        """
        with self._handle:
            self._handle.truncate(self._size)  # a record cut short by an error may be behind it
            os.fsync(self._handle.fileno())
        rest = b"".join(self._lines)
        head = json.dumps(_head(self._lines, rest)).encode("ascii")
        write_bytes(index_of(self.file), head + b"\n" + rest)


def read_record(place: Place, layout: Layout) -> bytes:
    """The bytes of one image, read without a map: checking a whole store would count as this process's memory.

    Raises:
        OSError: the file is gone or cannot be read.
    """
    with place.file.open("rb", buffering=0) as handle:
        handle.seek(place.row * layout.record_bytes)
        return handle.read(layout.record_bytes)


def read_index(file: Path) -> Iterator[tuple[str, Entry[Any]]]:
    """The records of a segment by the content of their images; the pixels are another matter.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    first, _, rest = index_of(file).read_bytes().partition(b"\n")
    lines = rest.splitlines()
    if json.loads(first) != _head(lines, rest):
        raise ValueError(f"{index_of(file)}: damaged")
    for row, line in enumerate(lines):
        values = json.loads(line)
        yield values["sha256"], Entry(Place(file, row), values["checksum"], line)


def _head(lines: Sequence[bytes], rest: bytes) -> dict[str, Any]:
    return {"format": FORMAT, "records": len(lines), "sum": checksum_of(rest)}


def list_segments(folder: Path) -> Iterator[Segment]:
    """Segments with both files; which of them are damaged shows when they are read."""
    for file in filter(is_ours, folder.glob("*.pixels")):
        index = index_of(file)
        with contextlib.suppress(OSError):
            status = index.stat()
            yield Segment(file, status.st_size + file.stat().st_size, status.st_mtime_ns)


def is_ours(file: Path) -> bool:
    """Whether a file has a name that only the store gives."""
    return _OURS.fullmatch(file.name) is not None


def index_of(file: Path) -> Path:
    """The index that belongs to a segment's data."""
    return file.with_suffix(".json")


def delete(*files: Path) -> None:
    """Delete what can be deleted."""
    for file in files:
        with contextlib.suppress(OSError):  # gone already; or open, on Windows: the next run tries again
            file.unlink()


def checksum_of(data: bytes | Pixels) -> str:
    """blake2b with 16 bytes, in hexadecimal digits."""
    plain = np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data
    return hashlib.blake2b(plain, digest_size=16).hexdigest()
