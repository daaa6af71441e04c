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

Ints = NDArray[np.int64]
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


class PixelDataset(Dataset[tuple[Tensor, int]]):
    """Images of one side.

    Args:
        pixels: the cache of all images.
        rows: [n] rows of the cache on this side.
        labels: [n] class indices.
        transform: augmentation, or None for the plain image.
        seed: of the augmentation.
    """

    def __init__(
        self, pixels: PixelCache, rows: Ints, labels: Ints, *, transform: Augmentation | None = None, seed: int = 0
    ) -> None:
        self._pixels, self._rows, self._labels = pixels, rows, labels
        self._transform, self._seed = transform, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, int]:
        """uint8 [3, S, S] and the class index."""
        epoch, position = key if isinstance(key, tuple) else (0, key)
        image = self._pixels.batch(self._rows[position : position + 1])[0]  # (3, S, S)
        if self._transform is not None:
            frame = np.ascontiguousarray(image.transpose(1, 2, 0))  # (S, S, 3)
            changed = augment(self._transform, frame, key=(self._seed, epoch, position))
            image = np.ascontiguousarray(changed.transpose(2, 0, 1))
        return torch.from_numpy(np.array(image)), int(self._labels[position])


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
        """Batches of uint8 [B, 3, S, S] and int64 [B], augmented."""
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
