"""Activations of the frozen layers for every stage and fold of a run: what one has computed the next one finds.

The layers before a cut are those of the pretrained network in all of them, so a view of an image is computed once a
cut. Views come in rounds: a few are shown again and again for some epochs, then others take their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cvtune.data.augment import Augmentation
from cvtune.data.pixels import PixelCache
from cvtune.models.backbone import Backbone
from cvtune.models.engine import Frozen
from cvtune.models.normalize import Normalize
from cvtune.training.activations import ActivationCache, FrozenPrefix, Source, Storage, fill, orders, room
from cvtune.training.datamodule import Key, as_targets
from cvtune.training.hardware import has_fast_bfloat16

Ints = NDArray[np.int64]
Layers = tuple[int, Frozen]  # index of the first group that is not frozen, and how those before run


class Interrupted(Exception):
    """Somebody asked for an early end while views were computed."""


def storage_of(frozen: Frozen) -> Storage:
    """bfloat16 where the frozen layers give no more than that, or the layers behind them learn in it."""
    return "bfloat16" if frozen == "bfloat16" or (frozen == "onnxruntime" and has_fast_bfloat16()) else "float32"


class Views:
    """Caches of activations, made when they are first asked for.

    Args:
        folder: for the files; the run's scratch folder.
        backbone: see below.
        normalize: from stored pixels to the network's input.
        pixels: cache of all images.
        rows: int64 [n], ascending: those that any stage or fold may train or be judged on.
        transform: augmentation.
        seed: of the augmentation.
        window: of deep pixels, the values of black and white.
        stop: becomes true when somebody asks for an early end.
        progress: called with (what, done, of).

    Attributes:
        backbone: pretrained, with the taps that the head takes; not changed. The probe decides them.
    """

    def __init__(
        self,
        folder: Path,
        backbone: Backbone,
        normalize: Normalize,
        *,
        pixels: PixelCache,
        rows: Ints,
        transform: Augmentation,
        seed: int,
        window: tuple[float, float] | None,
        stop: object,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.folder, self.rows, self.transform = folder, rows, transform
        self.backbone, self._normalize = backbone, normalize
        self._shown = Source(pixels, rows, transform, seed, window)
        self._plain = Source(pixels, rows)
        self._stop, self._progress = stop, progress
        self._prefixes: dict[Layers, FrozenPrefix] = {}
        self._caches: dict[tuple[Layers, int, int], ActivationCache] = {}  # by layers, views of a round and round

    def prefix(self, layers: Layers) -> FrozenPrefix:
        """The layers before a cut."""
        if layers not in self._prefixes:
            cut, frozen = layers
            self._prefixes[layers] = FrozenPrefix(self.backbone, self._normalize, cut, frozen=frozen)
        return self._prefixes[layers]

    def plain(self, layers: Layers) -> ActivationCache:
        """The images as they are, one view.

        Raises:
            Interrupted: before it was complete.
        """
        return self._cache((layers, 0, 0), self._plain, (0,))

    def round(self, layers: Layers, views: int, number: int) -> ActivationCache:
        """A round of augmented views; those of the round before go when the disk is short of room.

        Raises:
            Interrupted: before it was complete.
        """
        return self._cache((layers, views, number), self._shown, range(number * views, (number + 1) * views))

    def forget(self) -> None:
        """Delete the files."""
        while self._caches:
            self._caches.popitem()[1].close()

    def _cache(self, key: tuple[Layers, int, int], source: Source, views: Sequence[int]) -> ActivationCache:
        if key not in self._caches:
            prefix, storage = self.prefix(key[0]), storage_of(key[0][1])
            needed = len(views) * len(self.rows) * prefix.bytes_per_image(storage)
            for old in [old for old in self._caches if old[1:] != (0, 0)]:  # plain views are needed all along
                if needed <= room(self.folder):
                    break
                self._caches.pop(old).close()
            progress = lambda done, of: self._progress("views", done, of)  # noqa: E731
            cache = fill(self.folder, prefix, source, views, storage=storage, progress=progress, stop=self._stop)
            if cache is None:
                raise Interrupted
            self._caches[key] = cache
        return self._caches[key]


class Side(Dataset[Any]):
    """Activations of some of the images, as a loader asks for them: a whole batch at a time.

    Which view an image shows follows from (seed, epoch, position): all of a round before one comes again, and in an
    order of its own.

    Args:
        views: of all images.
        layers: the frozen ones.
        rows: of the cache, ascending; those of this side.
        labels: of the side, class indices [n], or [n, K] ones and zeros where an image may have several labels.
        shown: views of a round; 0 for the plain image.
        every: epochs of a round.
        seed: of the order of the views.
    """

    def __init__(
        self,
        views: Views,
        layers: Layers,
        rows: Ints,
        labels: NDArray[Any],
        *,
        shown: int = 0,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        self._views, self._layers, self._shown, self._every, self._seed = views, layers, shown, every, seed
        self._places = np.searchsorted(views.rows, rows)
        self._labels = as_targets(labels)

    def __len__(self) -> int:
        return len(self._places)

    def __getitems__(self, keys: Sequence[Key | int]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """((activations [B, *shape], pooled [B, P]), labels int64 [B] or float32 [B, K]).

        Args:
            keys: (epoch, position) of each image, one epoch for all; a position alone means epoch 0.
        """
        epoch = keys[0][0] if isinstance(keys[0], tuple) else 0
        positions = np.array([key[1] if isinstance(key, tuple) else key for key in keys], np.int64)
        places = self._places[positions]
        if not self._shown:
            cache, slots = self._views.plain(self._layers), np.zeros(len(keys), np.int64)
        else:
            number, turn = divmod(epoch, self._every)
            cache = self._views.round(self._layers, self._shown, number)
            cycle, turn = divmod(turn, self._shown)
            slots = orders(len(self._views.rows), self._shown, self._seed, cycle)[places, turn]
        return cache.batch(slots, places), torch.from_numpy(self._labels[positions])

    @staticmethod
    def collate(batch: Any) -> Any:
        """What `__getitems__` gives is a batch already."""
        return batch
