"""Each file is read once, resized by the line's own ONNX node, and kept in the pixel cache at the network's size.

What an earlier run has read is found again by the content of the file (`data.store`); it is the same bit for bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import numpy as np
from cvtune_edge.child import Decoder
from cvtune_edge.decode import Frame, ReadOptions, decode
from cvtune_edge.files import HEAD_BYTES, sniff
from cvtune_edge.headers import read_header
from cvtune_edge.session import open_session

from cvtune.data.cache import PixelCache, measure_window
from cvtune.data.facts import Facts, measure
from cvtune.data.folder import Skipped
from cvtune.data.index import DatasetIndex, Image, check_usable
from cvtune.data.key import store_key
from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.data.segments import Layout, Pixels, Place
from cvtune.data.store import PixelStore
from cvtune.data.userdirs import cache_dir
from cvtune.errors import DataError, ImageError

Progress = Callable[[int, int], None]

__all__ = ["Filled", "PixelCache", "choose_pixels", "fill_pixels", "measure_window"]

_AHEAD: Final = 64  # tasks in flight; each holds one frame only while it runs
_GB: Final = 10**9


@dataclass(frozen=True)
class Filled:
    """A folder that was read.

    Attributes:
        index: with sizes, hashes and notes filled in and unreadable images moved to `skipped`.
        pixels: of its images, in its order.
        facts: of its images, in its order.
        repaired: images whose pixels in the cache were damaged and have been made anew.
        reused: images that an earlier run had read already.
        kept: whether a later run finds the pixels; not when they lie in the scratch folder.
    """

    index: DatasetIndex
    pixels: PixelCache
    facts: tuple[Facts, ...]
    repaired: int = 0
    reused: int = 0
    kept: bool = True


def fill_pixels(
    index: DatasetIndex,
    pre: Preprocessing,
    options: ReadOptions,
    *,
    scratch: Path,
    cache_gb: float,
    progress: Progress | None = None,
    workers: int = 2,
    decoder: Decoder | None = None,
) -> Filled:
    """Read every image once: bytes, sha256, decoding, facts, resize; or find all of it in the cache.

    Args:
        index: from `build_index`.
        pre: what happens to a frame; its window plays no part yet.
        options: how files are read, and what is refused.
        scratch: where the pixels go when the cache cannot take them: switched off, not writable, its disk full, or too
            small for this folder alone.
        cache_gb: what the cache may hold of all folders together; 0 switches it off.
        progress: called with (done, total) after each image.
        workers: threads; decoding and resizing both leave Python's lock.
        decoder: decodes instead of this process, for files in unknown hands; used from `workers` threads.

    Raises:
        DataError: frames that do not fit the roi or mask, no room on the disk, or too few images left.
        ValueError: `options` reads other pixels than `pre` takes.
    """
    if options.to_json() != pre.reading.to_json():
        raise ValueError(f"options read {options.to_json()}, the preprocessing takes {pre.reading.to_json()}")
    store, kept = _open_store(pre, len(index), scratch, cache_gb)
    read = _Reader(index.root, pre, options, store, decoder)
    with _finishing(store):
        results = list(_read_all(index, read, workers, progress))
        _check_fit(results)
        filled = _fill(index, results)
        check_usable(filled)
    found = [(result.facts, result.place) for result in results if result.facts and result.place]
    pixels = PixelCache([place for _, place in found], store.layout, lease=store.lease)
    reused = sum(result.reused for result in results)
    return Filled(filled, pixels, tuple(facts for facts, _ in found), store.repaired, reused, kept)


def choose_pixels(index: DatasetIndex, progress: Progress | None = None) -> Literal["uint8", "uint16", "float32"]:
    """What the files of a folder are to be read as, from their headers: deep where most of them are.

    Args:
        index: from `build_index`.
        progress: called with (done, total) after each file.

    Returns:
        "uint8" unless more than half of the readable files have more bits; then "uint16", or "float32" where at least
        half of these hold float, signed or 32-bit pixels.
    """
    found: Counter[str | None] = Counter()
    for done, image in enumerate(index.images, 1):
        found[_depth(index.root / image.path)] += 1
        if progress:
            progress(done, len(index))
    if found["uint16"] + found["float32"] <= found["uint8"]:
        return "uint8"
    return "float32" if found["float32"] >= found["uint16"] else "uint16"


def _open_store(pre: Preprocessing, count: int, scratch: Path, cache_gb: float) -> tuple[PixelStore, bool]:
    layout = Layout(pre.size, pre.pixels)
    cap = int(cache_gb * _GB)
    key = store_key(pre)
    if 0 < count * layout.record_bytes <= cap:
        with contextlib.suppress(OSError):  # a home that cannot be written or locked
            store = PixelStore(cache_dir() / "pixels", key, layout, cap=cap)
            if store.make_room(_lacking(store, count)):
                return store, True
            store.lease.release()
    scratch.mkdir(parents=True, exist_ok=True)
    _check_room(scratch, count * layout.record_bytes)
    return PixelStore(scratch / "pixels", key, layout), False


def _lacking(store: PixelStore, count: int) -> int:
    return max(0, count - len(store)) * store.layout.record_bytes


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: the pixel cache needs {needed / _GB:.1f} GB, {free / _GB:.1f} GB are free",
            hint="choose a run directory on a larger disk with --out, a larger disk for the cache with the variable "
            "CVTUNE_CACHE, or a smaller --size",
        )


@contextlib.contextmanager
def _finishing(store: PixelStore) -> Iterator[None]:
    """Finish the store in any case: what was read before Ctrl-C need not be read again."""
    try:
        yield
        store.close()
    except BaseException as error:
        with contextlib.suppress(OSError):
            store.close()
        store.lease.release()
        if not isinstance(error, OSError):
            raise
        raise DataError(  # a disk that filled up, a quota, a cache that somebody deleted
            f"{store.root}: the pixel cache cannot be written ({error.strerror or error})",
            hint="make room there, or set the variable CVTUNE_CACHE to a folder on another disk",
        ) from error


@dataclass(frozen=True)
class _Result:
    image: Image
    reason: str = ""  # why it cannot be read
    misfit: str = ""  # why it does not fit the roi or mask
    facts: Facts | None = None
    place: Place | None = None
    reused: bool = False


class _Reader:
    """Reads one image into the store; called from several threads."""

    def __init__(
        self, root: Path, pre: Preprocessing, options: ReadOptions, store: PixelStore, decoder: Decoder | None
    ) -> None:
        self.root, self.pre, self.options, self.store, self.decoder = root, pre, options, store, decoder
        self.session = open_session(frame_graph(replace(pre, window=None)).SerializeToString(), threads=1)

    def __call__(self, image: Image) -> _Result:
        try:
            data = _read_file(self.root / image.path, image.path, self.options)
            sha256 = hashlib.sha256(data).hexdigest()
            kept = self.store.find(sha256)
            if kept is not None and self._allowed(kept.facts):
                return self._result(image, kept.facts, kept.place, reused=True)
            return self._new(image, data, sha256)
        except ImageError as error:
            return _Result(image, reason=error.reason)
        except MemoryError:
            return _Result(image, reason="needs more memory than there is")

    def _new(self, image: Image, data: bytes, sha256: str) -> _Result:
        frame = self._decode(data, image.path)
        facts = measure(frame, data, sha256)
        if self.pre.misfit(facts.height, facts.width):
            return self._result(image, facts, None)
        (pixels,) = self.session.run(None, {"image": frame.pixels[None]})  # [1, 3, S, S]
        return self._result(image, facts, self.store.add(facts, _stored(pixels[0], self.store.layout.dtype)))

    def _decode(self, data: bytes, name: str) -> Frame:
        return self.decoder.decode(data, name) if self.decoder else decode(data, name, self.options)

    def _allowed(self, facts: Facts) -> bool:
        """Whether it passes the limits of today; where not, the decoder says why."""
        return facts.width * facts.height <= self.options.max_pixels and facts.kind in self.options.formats

    def _result(self, image: Image, facts: Facts, place: Place | None, *, reused: bool = False) -> _Result:
        image = replace(image, width=facts.width, height=facts.height, sha256=facts.sha256)
        misfit = self.pre.misfit(facts.height, facts.width) or ""
        return _Result(image, misfit=misfit, facts=facts, place=place, reused=reused)


def _read_file(path: Path, name: str, options: ReadOptions) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # it was a file when the folder was listed; a pipe might never end
            raise ImageError(name, "not a regular file")
        if status.st_size > options.max_bytes:
            raise ImageError(name, f"{status.st_size:,} bytes, expected at most {options.max_bytes:,}")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(name, "vanished since the folder was listed") from None
    except OSError as error:
        raise ImageError(name, f"cannot be read: {error.strerror or error}") from None


def _stored(pixels: Pixels, dtype: str) -> Pixels:
    """The graph's pixels in the type of the cache; uint16 leave it as float32 that hold whole numbers."""
    if pixels.dtype == dtype:
        return pixels
    stored = pixels.astype(dtype)
    if not np.array_equal(stored, pixels):
        raise AssertionError(f"the frame graph gave pixels that {dtype} cannot hold")
    return stored


def _depth(path: Path) -> str | None:
    """What a file is to be read as; None for one that cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as handle:
            head = handle.read(HEAD_BYTES)
            kind = sniff(head)
            if kind in ("JPEG", "BMP", "WebP", "GIF"):
                return "uint8"
            if kind == "PNG":  # the depth is byte 24 (PNG specification, 11.2.1), and files are many and large
                return "uint16" if head[24:25] == b"\x10" else "uint8"
            header = read_header(head + handle.read(), kind) if kind else None
    except (OSError, ValueError):
        return None
    if header is None:
        return None
    if header.bits == 8:
        return "uint8"
    # A DICOM says itself which of its values are black and white, so signed ones too fill 16 bits.
    whole = header.kind == "DICOM" or (header.sample == "uint" and header.bits == 16)
    return "uint16" if whole else "float32"


def _read_all(index: DatasetIndex, read: _Reader, workers: int, progress: Progress | None) -> Iterator[_Result]:
    tasks = iter(index.images)
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        waiting: list[Future[_Result]] = [pool.submit(read, image) for image in islice(tasks, _AHEAD)]
        for done in range(len(index)):
            yield waiting.pop(0).result()
            waiting += [pool.submit(read, image) for image in islice(tasks, 1)]
            if progress:
                progress(done + 1, len(index))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the whole folder


def _fill(index: DatasetIndex, results: Sequence[_Result]) -> DatasetIndex:
    notes = Counter(note for result in results if result.facts for note in result.facts.notes)
    unreadable = tuple(Skipped(result.image.path, result.reason) for result in results if result.reason)
    return replace(
        index,
        images=tuple(result.image for result in results if not result.reason),
        skipped=(*index.skipped, *unreadable),
        notes=tuple(sorted(notes.items())),
    )


def _check_fit(results: Sequence[_Result]) -> None:
    misfits = [f"  {result.image.path}: {result.misfit}" for result in results if result.misfit]
    if misfits:
        more = [f"  and {len(misfits) - 5} more"] if len(misfits) > 5 else []
        raise DataError(
            f"{len(misfits)} of {len(results)} images do not fit the region to look at:\n"
            + "\n".join(misfits[:5] + more),
            hint="use frames of one size, or change --roi or the mask",
        )
