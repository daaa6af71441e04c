"""From the pixel cache to batches: augmented for training, plain for validation, the same bytes for the same seed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cvtune.data.augment import Augmentation, augment
from cvtune.data.pixels import PixelCache
from cvtune.models.normalize import to_tensor
from cvtune.training.hardware import default_workers

Ints = NDArray[np.int64]
Labels = NDArray[Any]
Key = tuple[int, int]  # epoch, position in the side


class Order:
    """Which images make the batch of a step: decided by (seed, step) alone, so that any step can be gone on from.

    Each epoch has an order of its own. A last batch of one image would break BatchNorm, so incomplete batches are left
    out of an epoch; since the order changes, no image is left out for good.

    Args:
        count: images of the side.
        batch_size: lowered to `count` where that is smaller.
        seed: of the order.

    Attributes:
        batches: of an epoch.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self.batch_size = min(batch_size, count)
        self.batches = count // self.batch_size

    def keys(self, step: int) -> list[Key]:
        """(epoch, position) of the images of a step."""
        epoch, turn = divmod(step, self.batches)
        chosen = self._permutation(epoch)[turn * self.batch_size : (turn + 1) * self.batch_size]
        return [(epoch, int(position)) for position in chosen]

    def _permutation(self, epoch: int) -> Ints:
        return _permutation(self._count, self._seed, epoch)


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> Ints:
    return np.random.default_rng((seed, epoch)).permutation(count)


class StepSampler(Sampler[list[Key]]):
    """Batches of some steps of an order; where several processes train, each has its share of every batch.

    Args:
        order: of the whole stage.
        steps: those that follow now.
        rank: of this process.
        world: processes.
    """

    def __init__(self, order: Order, steps: range, *, rank: int = 0, world: int = 1) -> None:
        self._order, self._steps, self._rank, self._world = order, steps, rank, world

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Key]]:
        return (self._order.keys(step)[self._rank :: self._world] for step in self._steps)


def as_targets(labels: Labels) -> Labels:
    """What a loss takes: class indices int64 [n], or float32 [n, K] where an image may have several labels."""
    return labels.astype(np.int64 if labels.ndim == 1 else np.float32)


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
        self._labels = as_targets(labels)
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


class StageData(L.LightningDataModule):
    """Train and val loaders of one stage, from any step on.

    What Lightning calls an epoch ends with a look at the validation side; that is an epoch of the side, or a part of
    one where `validate_every` says so. A run that is gone on from in the middle of one has a shorter first one.

    Args:
        train: pairs of input and label, asked for by (epoch, position).
        val: the same, asked for by position, complete and in order.
        batch_size: lowered to the size of the side where that is smaller.
        seed: of the order.
        validate_every: steps; None for every epoch of the side.
        workers: loader processes; None chooses from the cores.

    Attributes:
        step: the next one that the train loader gives.
    """

    def __init__(
        self,
        train: Any,
        val: Any,
        *,
        batch_size: int,
        seed: int,
        validate_every: int | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.order = Order(len(train), batch_size, seed)
        self.batch_size = self.order.batch_size
        self.seed = seed
        self.validate_every = validate_every or self.order.batches
        self.workers = default_workers() if workers is None else workers
        self.step = 0

    @property
    def batches(self) -> int:
        """Batches an epoch."""
        return self.order.batches

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from `step` to the next look at the validation side."""
        until = (self.step // self.validate_every + 1) * self.validate_every
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler: Any = StepSampler(self.order, range(self.step, until), rank=rank, world=world)
        return self._loader(self.train, batch_sampler=sampler, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation side in order, complete."""
        return self._loader(self.val, batch_size=64)

    def _loader(self, side: Any, **how: Any) -> DataLoader[Any]:
        collate = getattr(side, "collate", None)
        return DataLoader(side, collate_fn=collate, worker_init_fn=ignore_signals, **how)


class PixelDataModule(StageData):
    """Loaders over the pixel cache: batches of pixels [B, 3, S, S] and labels, int64 [B] or float32 [B, K].

    Args:
        train: augmented images.
        val: plain images.
        more: see :class:`StageData`.
    """

    train: PixelDataset
    val: PixelDataset

    def __init__(self, train: PixelDataset, val: PixelDataset, **more: Any) -> None:
        super().__init__(train, val, **more)


def ignore_signals(worker: int) -> None:
    """Set up a loader process."""
    # They are sent to every process of a group; the main one ends the stage, and needs its workers for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
