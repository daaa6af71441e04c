"""The activation cache: what the frozen layers make of a few augmented views of every image, computed once.

The layers before a cut do not learn, so what they give for a picture does not change: each of V views of n images runs
through them once, and the layers behind the cut train from a file as often as they like.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from cvtune.data.augment import Augmentation
from cvtune.data.pixels import PixelCache
from cvtune.errors import RunError
from cvtune.models.backbone import Backbone
from cvtune.models.engine import Frozen, engine
from cvtune.models.folding import folded
from cvtune.models.normalize import Normalize
from cvtune.rundir import DiskFullError
from cvtune.training.datamodule import Key, PixelDataset, ignore_signals

Ints = NDArray[np.int64]
Storage = Literal["bfloat16", "float16", "float32"]
Progress = Callable[[int, int], None]  # done, total

BATCH: Final = 32  # images that run through the prefix together
MARGIN: Final = 2**30  # bytes of the disk left to checkpoints, the bundle and everybody else
_AHEAD: Final = 2  # batches augmented before the network asks for them
_STREAM: Final = 0x766965  # keeps the order of the views apart from other draws of the same seed
_FILE: Final[dict[Storage, str]] = {"bfloat16": "uint16", "float16": "float16", "float32": "float32"}


@dataclass(frozen=True, eq=False)
class Source:
    """The images that are shown to the frozen layers.

    Attributes:
        pixels: cache of all images.
        rows: int64 [n], rows of the cache; what follows calls their places in it positions.
        transform: augmentation; None shows the plain image, whatever the view.
        seed: of the augmentation.
        window: of deep pixels, the values of black and white.
        workers: processes that augment; 0 for a thread beside the network.
    """

    pixels: PixelCache
    rows: Ints
    transform: Augmentation | None = None
    seed: int = 0
    window: tuple[float, float] | None = None
    workers: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, views: Sequence[int]) -> Generator[Tensor]:
        """Stored pixels [B, 3, S, S], view by view; view v of a position is what the live stage shows in epoch v."""
        nothing = np.zeros(len(self), np.int64)
        side = PixelDataset(
            self.pixels, self.rows, nothing, transform=self.transform, seed=self.seed, window=self.window
        )
        loader: DataLoader[Any] = DataLoader(
            side,
            batch_sampler=_Views(len(self), views),
            num_workers=self.workers,
            worker_init_fn=ignore_signals,
            collate_fn=_stacked,
            generator=torch.Generator(),  # else it draws from torch's global one
        )
        return _ahead(iter(loader))


class _Views:
    """Keys of every batch, position by position of each view."""

    def __init__(self, count: int, views: Sequence[int]) -> None:
        self._count, self._views = count, views

    def __len__(self) -> int:
        return len(self._views) * math.ceil(self._count / BATCH)

    def __iter__(self) -> Iterator[list[Key]]:
        for view in self._views:
            for start in range(0, self._count, BATCH):
                yield [(view, position) for position in range(start, min(start + BATCH, self._count))]


def _stacked(items: list[tuple[Tensor, int]]) -> Tensor:
    # Not torch.stack: in a thread of its own that would start torch's threads a second time.
    return torch.from_numpy(np.stack([pixels.numpy() for pixels, _ in items]))


def _ahead(batches: Iterator[Tensor]) -> Generator[Tensor]:
    """The same batches, made in a thread while the ones before are used; never more than a few wait."""
    with ThreadPoolExecutor(1, "augment") as pool:
        waiting = deque(pool.submit(next, batches, None) for _ in range(_AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch


class FrozenPrefix:
    """The layer groups before a cut, from stored pixels on; a copy in eval mode with folded BatchNorms.

    Args:
        backbone: on any device; not changed.
        normalize: from stored pixels to the network's input.
        cut: index of the first layer group that is not run, 1..len(groups).
        frozen: how they run; onnxruntime where it can.

    Attributes:
        shape: of one image's activation, (C, h, w) or (T, C).
        pooled: P, numbers that the backbone's taps before the cut pool from an image.
    """

    def __init__(self, backbone: Backbone, normalize: Normalize, cut: int, *, frozen: Frozen = "float32") -> None:
        if cut < 1:
            raise ValueError("nothing lies before cut 0: there is nothing to cache")
        self.cut, self.frozen = cut, frozen
        self._device = next(backbone.parameters()).device
        self._normalize = copy.deepcopy(normalize).to(self._device)
        self._backbone, z, pooled = folded(backbone, cut)
        self.shape: tuple[int, ...] = tuple(z.shape[1:])
        self.pooled = pooled.shape[1]
        self._engine = engine(self._backbone, cut) if frozen == "onnxruntime" else None
        self.channels_last = z.ndim == 4 and z.is_contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Stored pixels [B, 3, S, S] -> activations [B, *shape] as the network gives them, pooled float32 [B, P]."""
        x = self._normalize(pixels.to(self._device))
        if self._engine is not None:
            return self._engine(x)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.frozen == "bfloat16"):
            z, pooled = self._backbone.prefix(x, self.cut)
        return z, pooled

    def bytes_per_image(self, storage: Storage) -> int:
        """What one view of an image takes on disk."""
        return math.prod(self.shape) * np.dtype(_FILE[storage]).itemsize + 4 * self.pooled


@dataclass(frozen=True)
class _Layout:
    """A file: [slots, count, *shape] of `storage`, then [slots, count, pooled] of float32.

    Attributes:
        shape: of an activation, (C, h, w) or (T, C).
        channels_last: whether it lies in the file as (h, w, C), the order in which the network has it in memory.
    """

    slots: int
    count: int
    shape: tuple[int, ...]
    pooled: int
    storage: Storage
    channels_last: bool

    @property
    def stored(self) -> tuple[int, ...]:
        return (*self.shape[1:], self.shape[0]) if self.channels_last else self.shape

    @property
    def item(self) -> int:
        """Bytes of an activation."""
        return math.prod(self.shape) * np.dtype(_FILE[self.storage]).itemsize

    @property
    def pooled_at(self) -> int:
        """Byte at which the second part begins."""
        return self.slots * self.count * self.item

    @property
    def nbytes(self) -> int:
        return self.pooled_at + self.slots * self.count * self.pooled * 4

    def write(self, handle: BinaryIO, first: int, z: Tensor, pooled: Tensor) -> None:
        """Put some images' activations into the file, `first` images from its start."""
        handle.seek(first * self.item)
        handle.write(self.to_file(z).data)
        handle.seek(self.pooled_at + first * self.pooled * 4)
        handle.write(pooled.cpu().contiguous().numpy().data)

    def to_file(self, z: Tensor) -> NDArray[Any]:
        """[B, *shape] -> [B, *stored]; float16 holds no more than 65,504."""
        if self.channels_last:
            z = z.movedim(1, -1)
        if self.storage == "bfloat16":
            return z.to(torch.bfloat16).contiguous().view(torch.uint16).cpu().numpy()
        if self.storage == "float16":
            return z.float().clamp(-65504, 65504).half().contiguous().cpu().numpy()
        return z.float().contiguous().cpu().numpy()

    def to_network(self, z: NDArray[Any]) -> Tensor:
        """[B, *stored] -> [B, *shape], of the storage's type."""
        tensor = torch.from_numpy(z)
        if self.storage == "bfloat16":
            tensor = tensor.view(torch.bfloat16)
        return tensor.movedim(-1, 1) if self.channels_last else tensor


class ActivationCache:
    """Activations of V views of n images in one file, read through memory maps; made by :func:`fill`.

    The place that holds a view is its slot, 0..V-1. As a context manager it deletes its file at the end.
    """

    def __init__(self, file: Path, layout: _Layout) -> None:
        self.file = file
        self._layout = layout
        self._maps: tuple[NDArray[Any], NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return self._layout.count

    def __enter__(self) -> ActivationCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}  # the path travels to a worker, not gigabytes

    @property
    def slots(self) -> int:
        """V."""
        return self._layout.slots

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one activation, (C, h, w) or (T, C)."""
        return self._layout.shape

    @property
    def pooled(self) -> int:
        """P."""
        return self._layout.pooled

    @property
    def nbytes(self) -> int:
        """Of the file."""
        return self._layout.nbytes

    def batch(self, slots: Sequence[int] | Ints, positions: Sequence[int] | Ints) -> tuple[Tensor, Tensor]:
        """Activations of some images, a view of each.

        Args:
            slots: [B], 0..V-1.
            positions: [B], 0..n-1.

        Returns:
            Activations [B, *shape], of the storage's type and in the network's memory order; pooled float32 [B, P].
        """
        z, pooled = self._open()
        where = np.asarray(slots, np.int64), np.asarray(positions, np.int64)
        return self._layout.to_network(z[where]), torch.from_numpy(pooled[where])

    def close(self) -> None:
        """Delete the file; what was read before stays good."""
        self._maps = None
        self.file.unlink(missing_ok=True)

    def _open(self) -> tuple[NDArray[Any], NDArray[np.float32]]:
        # The system's read-ahead is left as it is: a record of 20 to 60 kB is about what it reads at once.
        if self._maps is None:
            layout, front = self._layout, (self._layout.slots, self._layout.count)
            z = np.memmap(self.file, _FILE[layout.storage], "r", shape=(*front, *layout.stored))
            pooled: NDArray[np.float32] = np.zeros((*front, 0), np.float32)  # an empty part cannot be mapped
            if layout.pooled:
                pooled = np.memmap(self.file, np.float32, "r", layout.pooled_at, (*front, layout.pooled))
            self._maps = z.view(np.ndarray), pooled.view(np.ndarray)
        return self._maps


def fill(
    folder: Path,
    prefix: FrozenPrefix,
    source: Source,
    views: Sequence[int],
    *,
    storage: Storage = "bfloat16",
    progress: Progress | None = None,
    stop: object = None,
) -> ActivationCache | None:
    """Run views of all images through the frozen layers.

    What comes out hangs on prefix, source and the numbers of the views alone; a view is the same whatever others
    are made with it, so that a resumed stage fills its cache with those that it had.

    Args:
        folder: for the file, whose name is new; the run's scratch folder.
        prefix: the layers.
        source: the images.
        views: numbers of the views, one a slot; (0,) for a side that is not augmented.
        storage: of the activations. bfloat16 keeps exactly what a prefix in bfloat16 gives.
        progress: called with (done, total) images after each batch.
        stop: looked at between batches: anything that becomes true.

    Returns:
        The cache, to be closed; None after a stop, with nothing left on disk.

    Raises:
        RunError: not enough room on the disk.
        DiskFullError: it filled up meanwhile.
        ValueError: no images or no views.
    """
    if not len(source) or not views:
        raise ValueError(f"{len(source)} images in {len(views)} views: nothing to cache")
    layout = _Layout(len(views), len(source), prefix.shape, prefix.pooled, storage, prefix.channels_last)
    _check_room(folder, layout.nbytes)
    number, name = tempfile.mkstemp(".bin", "activations-", folder)
    os.close(number)
    cache = ActivationCache(Path(name), layout)
    with contextlib.ExitStack() as undo:
        undo.callback(cache.close)
        if not _write(cache.file, layout, prefix, source.batches(views), progress, stop):
            return None
        undo.pop_all()
    return cache


def _write(
    file: Path,
    layout: _Layout,
    prefix: FrozenPrefix,
    batches: Generator[Tensor],
    progress: Progress | None,
    stop: object,
) -> bool:
    """Write slot by slot; whether it was not stopped."""
    done = 0
    # By write, not through a map: there a full disk is a bus error, which nobody can catch.
    with _disk(file, layout.nbytes), contextlib.closing(batches), file.open("r+b") as handle:
        for pixels in batches:
            layout.write(handle, done, *prefix(pixels))
            done += len(pixels)
            if progress:
                progress(done, layout.slots * layout.count)
            if stop:
                return False
    return True


def room(folder: Path) -> int:
    """Bytes that a cache may take on the disk of a folder; a margin is left free."""
    return max(0, shutil.disk_usage(folder).free - MARGIN)


def room_for(folder: Path, needed: int) -> bool:
    """Whether a cache of so many bytes fits on the disk of a folder."""
    return needed <= room(folder)


def _check_room(folder: Path, needed: int) -> None:
    if not room_for(folder, needed):
        raise RunError(
            f"{folder}: the activation cache needs {needed / 1e9:.1f} GB, {room(folder) / 1e9:.1f} GB may be used",
            hint="choose a run directory on a larger disk with --out, or a smaller --size",
        )


@contextlib.contextmanager
def _disk(file: Path, wanted: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(file, wanted, error) from error


@lru_cache(maxsize=2)
def orders(count: int, slots: int, seed: int, cycle: int) -> NDArray[np.int64]:
    """In which order each image shows its views in a cycle of as many epochs, [count, slots].

    All of them before one comes again, and in an order of its own, decided by (seed, cycle).
    """
    return np.random.default_rng((_STREAM, seed, cycle)).random((count, slots)).argsort(axis=1)
