"""Decoded pixels with their facts, and embeddings, kept between runs and found again by the content of the file.

    pixels/                        below the user's cache directory, or in the run's scratch folder
      .lock                        held for moments: while a run enters and while segments are deleted
      <key>/                       what decides the values: preprocessing, reading, versions; of embeddings the weights
        <process>.run              locked by the operating system as long as a run uses this key
        <segment>.pixels           records of 3 * S * S values or of D, one behind the other, about 128 MB at most
        <segment>.json             line 1: {"format", "records", "sum" of the rest}, then a line of facts a record,
                                   with the blake2b checksum of its pixels

A segment's data is written and flushed first and its index last, by a rename: data without an index is torn (a process
was killed; it loses one segment at most) and is deleted by the next run that finds no other one in the key. Names begin
with a number that grows, so of two records of one content the newer is used. Each record is checked when a run first
uses it; a bad one counts as not there, and the image is read anew. Segments not used for longest go first when the cap
is reached, never those of a key that another process is using. What a segment holds is never changed, so that several
processes do each other no harm: at worst both decode the same image.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple

from cvtune.data.facts import Facts
from cvtune.data.segments import (
    Entry,
    Layout,
    N,
    Pixels,
    Place,
    Segment,
    Writer,
    checksum_of,
    delete,
    index_of,
    is_ours,
    list_segments,
    read_index,
    read_record,
)
from cvtune.rundir import try_lock

_WAIT: Final = 10.0  # seconds for others to leave the lock, which they hold for moments
_KEY: Final = re.compile(r"[0-9a-f]{32}")


class Kept(NamedTuple, Generic[N]):
    """What is known about an image of earlier."""

    place: Place
    facts: N


class Lease:
    """Says that a process uses a key, for as long as this object or the process lives.

    Args:
        folder: of the key; it exists.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / f"{uuid.uuid4().hex}.run"
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT)
        self.release = weakref.finalize(self, _let_go, handle, self.file, os.getpid())
        if not try_lock(handle):
            self.release()
            raise OSError(f"{folder}: the file system has no locks")


def _let_go(handle: int, file: Path, owner: int) -> None:
    os.close(handle)
    if os.getpid() == owner:  # a forked child that ends leaves its parent's file alone
        delete(file)


class Store(Generic[N]):
    """The segments of one key: what is there is found, what is missing is added. Usable from several threads.

    Args:
        root: the folder of all keys; created, for this user alone.
        key: 32 hexadecimal digits of a hash of what decides the values of the records.
        layout: of the records.
        parse: makes what was noted about a record out of its plain values.
        cap: bytes of all keys together at most; None for no limit.

    Raises:
        OSError: the folder cannot be written or locked.
    """

    def __init__(
        self, root: Path, key: str, layout: Layout, parse: Callable[[dict[str, Any]], N], *, cap: int | None = None
    ) -> None:
        self.root, self.folder, self.layout = root, root / key, layout
        self.repaired = 0
        self._parse = parse
        self._cap = cap
        self._lock = threading.Lock()
        self._known: dict[str, Entry[N]] = {}
        self._used: set[Path] = set()
        self._writer: Writer | None = None
        root.mkdir(parents=True, exist_ok=True, mode=0o700)  # the pictures are nobody else's business
        with _turn(root):
            self.folder.mkdir(exist_ok=True)
            self.lease = Lease(self.folder)
            for folder in _keys(root):
                _sweep(folder, self.lease)
            self._newest = self._load()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, sha256: str) -> Kept[N] | None:
        """Place and notes of the record of the file with this content, verified; None where it has to be made."""
        entry = self._known.get(sha256)
        if entry is None:
            return None
        if entry.facts is not None:  # added in this run
            return Kept(entry.place, entry.facts)
        with self._lock:
            self._used.add(entry.place.file)
        with contextlib.suppress(OSError):  # a disk that fails, or somebody deleted the file
            if checksum_of(read_record(entry.place, self.layout)) == entry.checksum:
                return Kept(entry.place, self._parse(json.loads(entry.line)))
        with self._lock:
            if self._known.get(sha256) is entry:  # not yet noticed by another thread
                del self._known[sha256]
                self.repaired += 1
        return None

    def add(self, facts: N, pixels: Pixels) -> Place:
        """Keep a record; those of two files of one content are kept once.

        Args:
            facts: of the file.
            pixels: of the layout's shape and type.

        Raises:
            OSError: it cannot be written.
            ValueError: pixels of another shape or type.
        """
        if pixels.shape != self.layout.shape or pixels.dtype != self.layout.dtype:
            raise ValueError(f"pixels {pixels.dtype} {pixels.shape}, expected {self.layout}")
        checksum = checksum_of(pixels)
        with self._lock:
            known = self._known.get(facts.sha256)
            if known is not None:
                return known.place
            if self._writer is None:
                self._writer = self._new_writer()
            writer = self._writer
            place = writer.append(facts, pixels, checksum)
            self._known[facts.sha256] = Entry(place, checksum, facts=facts)
            full = len(writer) == self.layout.per_segment
            if full:
                self._writer = None
        if full:
            writer.finish()  # outside the lock: flushing takes a second, and the others may go on
            self.make_room()
        return place

    def _new_writer(self) -> Writer:
        self._newest = max(self._newest + 1, time.time_ns())
        writer = Writer(self.folder / f"{self._newest:020d}-{uuid.uuid4().hex[:8]}.pixels")
        self._used.add(writer.file)
        return writer

    def close(self) -> None:
        """Finish the last segment and tell the others which ones were of use; the lease goes on.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.finish()
        for file in self._used:
            with contextlib.suppress(OSError):
                os.utime(index_of(file))
        self.make_room()

    def make_room(self, free: int = 0) -> bool:
        """Delete what was not used for longest: segments of other keys first, then of this one, none in use.

        Args:
            free: bytes that the disk must have left.

        Returns:
            Whether the disk has them now.
        """
        if self._cap is not None or free:
            with _turn(self.root) as mine:
                if mine:
                    self._evict(free)
        return shutil.disk_usage(self.root).free >= free

    def _evict(self, free: int) -> None:
        segments = self._evictable()
        total = sum(_size(file) for folder in _keys(self.root) for file in folder.iterdir())
        while segments and self._too_much(total, free):
            segment = segments.pop(0)
            total -= segment.size
            delete(index_of(segment.file), segment.file)  # the index first: data alone is torn, not wrong

    def _too_much(self, total: int, free: int) -> bool:
        return (self._cap is not None and total > self._cap) or shutil.disk_usage(self.root).free < free

    def _evictable(self) -> list[Segment]:
        with self._lock:
            used = set(self._used)
        found = []
        for folder in _keys(self.root):
            if not _is_leased(folder, self.lease):
                found += [segment for segment in list_segments(folder) if segment.file not in used]
        return sorted(found, key=lambda segment: (segment.file.parent == self.folder, segment.used))

    def _load(self) -> int:
        """Learn what is there; the number of the newest segment."""
        newest = 0
        for segment in sorted(list_segments(self.folder), key=lambda segment: segment.file.name):
            try:
                entries = list(read_index(segment.file))
                newest = int(segment.file.name.partition("-")[0])
            except (OSError, ValueError):
                if not _is_leased(self.folder, self.lease):
                    delete(index_of(segment.file), segment.file)
                continue
            self._known.update(entries)  # of a content that is there twice the newer: the older one may be bad
        return newest


class PixelStore(Store[Facts]):
    """The network's input of images, with their facts; see :class:`Store`."""

    def __init__(self, root: Path, key: str, layout: Layout, *, cap: int | None = None) -> None:
        super().__init__(root, key, layout, Facts.from_json, cap=cap)


def _keys(root: Path) -> list[Path]:
    return [folder for folder in root.iterdir() if _KEY.fullmatch(folder.name) and folder.is_dir()]


def _sweep(folder: Path, own: Lease) -> None:
    """Delete what dead processes left in a key, unless a living one may be about to finish it."""
    if _is_leased(folder, own):
        return
    whole = {own.file}
    for segment in list_segments(folder):
        whole |= {segment.file, index_of(segment.file)}
    delete(*(file for file in folder.iterdir() if is_ours(file) and file not in whole))
    with contextlib.suppress(OSError):  # it is not empty
        folder.rmdir()


def _is_leased(folder: Path, own: Lease) -> bool:
    """Whether another run, in this process or another one, uses the key."""
    return any(_is_locked(file) for file in folder.glob("*.run") if file != own.file)


def _is_locked(file: Path) -> bool:
    try:
        handle = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not try_lock(handle)
    finally:
        os.close(handle)


@contextmanager
def _turn(root: Path) -> Iterator[bool]:
    """Wait for the others to leave the store; False where they do not, or where there are no locks."""
    handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        until = time.monotonic() + _WAIT
        while not (mine := try_lock(handle)) and time.monotonic() < until:
            time.sleep(0.01)
        yield mine
    finally:
        os.close(handle)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
