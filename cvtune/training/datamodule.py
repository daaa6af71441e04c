"""From the pixel cache to batches: augmented for training, plain for validation, the same bytes for the same seed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from cvtune.data.augment import Augmentation, augment
from cvtune.data.pixels import PixelCache
from cvtune.models.normalize import to_tensor

Ints = NDArray[np.int64]
Labels = NDArray[Any]
Key = tuple[int, int]  # epoch, position in the side


class EpochSampler(Sampler[Key]):
    """Positions in a new order each epoch, decided by (seed, epoch) alone; the epoch goes along for augmentation."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed, self._epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._count)
        return ((self._epoch, int(position)) for position in order)


class PixelDataset(Dataset[tuple[Tensor, int | Tensor]]):
    """Images of one side.

    Args:
        pixels: the cache of all images.
        rows: [n] rows of the cache on this side.
        labels: class indices [n], or [n, K] ones and zeros where an image may have several labels.
        transform: augmentation, or None for the plain image.
        seed: of the augmentation.
        window: of deep pixels, the values of black and white, for the augmentation.
    """

    def __init__(
        self,
        pixels: PixelCache,
        rows: Ints,
        labels: Labels,
        *,
        transform: Augmentation | None = None,
        seed: int = 0,
        window: tuple[float, float] | None = None,
    ) -> None:
        self._pixels, self._rows = pixels, rows
        self._labels = labels.astype(np.int64 if labels.ndim == 1 else np.float32)
        self._transform, self._seed, self._window = transform, seed, window

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, int | Tensor]:
        """Pixels [3, S, S], uint8 or float32 of raw values, and the class index, or float32 [K] ones and zeros."""
        epoch, position = key if isinstance(key, tuple) else (0, key)
        image = self._pixels.batch(self._rows[position : position + 1])[0]  # (3, S, S)
        if self._transform is not None:
            frame = np.ascontiguousarray(image.transpose(1, 2, 0))  # (S, S, 3)
            changed = augment(self._transform, frame, key=(self._seed, epoch, position), window=self._window)
            image = np.ascontiguousarray(changed.transpose(2, 0, 1))
        return to_tensor(image), self._label(position)

    def _label(self, position: int) -> int | Tensor:
        if self._labels.ndim == 1:
            return int(self._labels[position])
        return torch.from_numpy(self._labels[position].copy())


class PixelDataModule(L.LightningDataModule):
    """Train and val loaders over the pixel cache.

    A last batch of one image would break BatchNorm, so incomplete batches are left out of an epoch; the order changes
    each epoch, so no image is left out for good.

    Args:
        train: augmented images.
        val: plain images.
        batch_size: lowered to the size of the side where that is smaller.
        seed: of the order.
        workers: loader processes; None chooses from the cores.
    """

    def __init__(
        self, train: PixelDataset, val: PixelDataset, *, batch_size: int, seed: int, workers: int | None = None
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.batch_size = min(batch_size, len(train))
        self.seed = seed
        self.workers = default_workers() if workers is None else workers

    @property
    def batches(self) -> int:
        """Batches an epoch."""
        return len(self.train) // self.batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of pixels [B, 3, S, S] and labels, int64 [B] or float32 [B, K], augmented."""
        keys: Any = EpochSampler(len(self.train), self.seed)  # torch types a batch sampler's keys as int
        sampler = BatchSampler(keys, self.batch_size, drop_last=True)
        return DataLoader(self.train, batch_sampler=sampler, num_workers=self.workers, worker_init_fn=_ignore_ctrl_c)

    def val_dataloader(self) -> DataLoader[Any]:
        """The same without augmentation, in order, complete."""
        return DataLoader(self.val, batch_size=64, num_workers=0)


def _ignore_ctrl_c(worker: int) -> None:
    # A terminal sends it to every process; the main one ends the stage, and needs its workers for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def default_workers() -> int:
    """None on small machines, where the network needs every core; else half the cores, eight at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 4 else min(8, cores // 2)
