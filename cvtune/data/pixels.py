"""The pixel cache: each file is read once, resized by the line's own ONNX node, and memory-mapped as uint8."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cvtune_edge.decode import decode
from cvtune_edge.session import open_session

from cvtune.data.folder import Skipped
from cvtune.data.index import DatasetIndex, Image, check_usable
from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.errors import DataError, ImageError

Pixels = npt.NDArray[np.uint8]
_AHEAD: Final = 64  # tasks in flight; each holds one frame only while it runs


class PixelCache:
    """The network's input of every image of an index, on disk.

    Opened on first use and again in each process that it is sent to, so loader workers share the system's file cache.

    Args:
        file: a `.npy` file of uint8 [M, 3, S, S].
        rows: path to row of the file, in the order of the index's images.
    """

    def __init__(self, file: Path, rows: Mapping[str, int]) -> None:
        self.file = file
        self.rows = dict(rows)
        self._order = np.fromiter(self.rows.values(), np.int64, len(self.rows))
        self._array: Pixels | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}  # the path travels to a worker, not gigabytes

    @property
    def array(self) -> Pixels:
        """The memory-mapped file, uint8 [M, 3, S, S]; rows of unreadable images are unused."""
        if self._array is None:
            self._array = np.load(self.file, mmap_mode="r")
        return self._array

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Pixels:
        """Copies of the images at these positions of the index, uint8 [B, 3, S, S]."""
        return np.asarray(self.array[self._order[np.asarray(indices, np.int64)]])


def fill_pixels(
    index: DatasetIndex,
    pre: Preprocessing,
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> tuple[DatasetIndex, PixelCache]:
    """Read every image once: bytes, sha256, decoding, resize.

    Args:
        index: from `build_index`.
        pre: what happens to a frame.
        folder: where `pixels.npy` goes, N * 3 * S * S bytes.
        progress: called with (done, total) after each image.
        workers: threads; decoding and resizing both leave Python's lock.

    Returns:
        The index with sizes, hashes and notes filled in and unreadable images moved to `skipped`, and the cache.

    Raises:
        DataError: frames that do not fit the roi or mask, no room on the disk, or too few images left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pixels.npy"
    shape = (len(index), 3, pre.size, pre.size)
    _check_room(folder, int(np.prod(shape)), file)
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    results = list(_read_all(index, _Reader(index.root, pre, array), workers, progress))
    array.flush()
    _check_fit(results)
    filled = _fill(index, results)
    check_usable(filled)
    rows = {result.image.path: row for row, result in enumerate(results) if not result.reason}
    return filled, PixelCache(file, rows)


@dataclass(frozen=True)
class _Result:
    image: Image
    reason: str = ""  # why it cannot be read
    misfit: str = ""  # why it does not fit the roi or mask
    notes: tuple[str, ...] = ()


class _Reader:
    """Reads one image into its row; called from several threads."""

    def __init__(self, root: Path, pre: Preprocessing, array: Pixels) -> None:
        self.root = root
        self.pre = pre
        self.array = array
        self.session = open_session(frame_graph(pre).SerializeToString(), threads=1)

    def __call__(self, row: int, image: Image) -> _Result:
        try:
            data = (self.root / image.path).read_bytes()
            frame = decode(data, image.path)
        except ImageError as error:
            return _Result(image, reason=error.reason)
        except OSError as error:
            return _Result(image, reason=f"cannot be read: {error.strerror or error}")
        height, width = frame.pixels.shape[:2]
        image = replace(image, width=width, height=height, sha256=hashlib.sha256(data).hexdigest())
        misfit = self.pre.misfit(height, width)
        if misfit:
            return _Result(image, misfit=misfit)
        (pixels,) = self.session.run(None, {"image": frame.pixels[None]})  # [1, 3, S, S]
        self.array[row] = pixels[0]
        return _Result(image, notes=frame.notes)


def _read_all(
    index: DatasetIndex, read: _Reader, workers: int, progress: Callable[[int, int], None] | None
) -> Iterator[_Result]:
    tasks = iter(enumerate(index.images))
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        waiting: list[Future[_Result]] = [pool.submit(read, *task) for task in islice(tasks, _AHEAD)]
        for done in range(len(index)):
            yield waiting.pop(0).result()
            waiting += [pool.submit(read, *task) for task in islice(tasks, 1)]
            if progress:
                progress(done + 1, len(index))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the whole folder


def _fill(index: DatasetIndex, results: Sequence[_Result]) -> DatasetIndex:
    notes = Counter(note for result in results for note in result.notes)
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


def _check_room(folder: Path, needed: int, old: Path) -> None:
    # Writing a memory map beyond the end of the disk kills the process without a word (SIGBUS).
    free = shutil.disk_usage(folder).free + (old.stat().st_size if old.exists() else 0)
    if needed > free:
        raise DataError(
            f"{folder}: the pixel cache needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            hint="choose a run directory on a larger disk with --out, or a smaller --size",
        )
