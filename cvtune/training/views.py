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
from cvtune.models.normalize import Normalize
from cvtune.training.activations import ActivationCache, FrozenPrefix, Source, Storage, fill, orders, room
from cvtune.training.datamodule import Key

Ints = NDArray[np.int64]


class Interrupted(Exception):
    """Somebody asked for an early end while views were computed."""


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
        half: bfloat16 for the frozen layers.
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
        half: bool,
        stop: object,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.folder, self.rows, self.half, self.transform = folder, rows, half, transform
        self.backbone, self._normalize = backbone, normalize
        self._shown = Source(pixels, rows, transform, seed, window)
        self._plain = Source(pixels, rows)
        self._stop, self._progress = stop, progress
        self._prefixes: dict[int, FrozenPrefix] = {}
        self._caches: dict[tuple[int, int, int], ActivationCache] = {}  # by cut, views of a round and round

    @property
    def storage(self) -> Storage:
        """bfloat16 where the frozen layers give no more than that."""
        return "bfloat16" if self.half else "float32"

    def prefix(self, cut: int) -> FrozenPrefix:
        """The layers before a cut."""
        if cut not in self._prefixes:
            self._prefixes[cut] = FrozenPrefix(self.backbone, self._normalize, cut, half=self.half)
        return self._prefixes[cut]

    def plain(self, cut: int) -> ActivationCache:
        """The images as they are, one view.

        Raises:
            Interrupted: before it was complete.
        """
        return self._cache((cut, 0, 0), self._plain, (0,))

    def round(self, cut: int, views: int, number: int) -> ActivationCache:
        """A round of augmented views; those of the round before go when the disk is short of room.

        Raises:
            Interrupted: before it was complete.
        """
        return self._cache((cut, views, number), self._shown, range(number * views, (number + 1) * views))

    def forget(self) -> None:
        """Delete the files."""
        while self._caches:
            self._caches.popitem()[1].close()

    def _cache(self, key: tuple[int, int, int], source: Source, views: Sequence[int]) -> ActivationCache:
        if key not in self._caches:
            prefix = self.prefix(key[0])
            needed = len(views) * len(self.rows) * prefix.bytes_per_image(self.storage)
            for old in [old for old in self._caches if old[1:] != (0, 0)]:  # plain views are needed all along
                if needed <= room(self.folder):
                    break
                self._caches.pop(old).close()
            progress = lambda done, of: self._progress("views", done, of)  # noqa: E731
            cache = fill(self.folder, prefix, source, views, storage=self.storage, progress=progress, stop=self._stop)
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
        cut: where the frozen layers end.
        rows: of the cache, ascending; those of this side.
        labels: of the side, class indices [n], or [n, K] ones and zeros where an image may have several labels.
        shown: views of a round; 0 for the plain image.
        every: epochs of a round.
        seed: of the order of the views.
    """

    def __init__(
        self,
        views: Views,
        cut: int,
        rows: Ints,
        labels: NDArray[Any],
        *,
        shown: int = 0,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        self._views, self._cut, self._shown, self._every, self._seed = views, cut, shown, every, seed
        self._places = np.searchsorted(views.rows, rows)
        self._labels = labels.astype(np.int64 if labels.ndim == 1 else np.float32)

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
            cache, slots = self._views.plain(self._cut), np.zeros(len(keys), np.int64)
        else:
            number, turn = divmod(epoch, self._every)
            cache = self._views.round(self._cut, self._shown, number)
            cycle, turn = divmod(turn, self._shown)
            slots = orders(len(self._views.rows), self._shown, self._seed, cycle)[places, turn]
        return cache.batch(slots, places), torch.from_numpy(self._labels[positions])

    @staticmethod
    def collate(batch: Any) -> Any:
        """What `__getitems__` gives is a batch already."""
        return batch
