"""The network's input of every image of a folder, read through memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cvtune.data.segments import Layout, Maps, Pixels, Place
from cvtune.data.store import Lease

Rows = Sequence[int] | npt.NDArray[np.int64]


class PixelCache:
    """The network's input of every image of an index, on disk.

    Opened on first use and again in each process that it is sent to, so loader workers share the system's file cache.

    Args:
        places: of the images, in the order of the index.
        layout: shape and type of an image.
        lease: what keeps other processes from deleting the files as long as this object lives.
    """

    def __init__(self, places: Sequence[Place], layout: Layout, *, lease: Lease | None = None) -> None:
        self.layout = layout
        self._files = sorted({place.file for place in places})
        numbers = {file: number for number, file in enumerate(self._files)}
        self._places = np.array([(numbers[place.file], place.row) for place in places], np.int64).reshape(-1, 2)
        self._lease = lease
        self._maps = Maps(layout)

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lease": None, "_maps": None}  # paths travel to a worker, not gigabytes

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _maps=Maps(state["layout"]))

    @property
    def size(self) -> int:
        """Side S of an image."""
        return self.layout.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels: uint8, uint16 or float32."""
        return np.dtype(self.layout.dtype)

    def batch(self, indices: Rows) -> Pixels:
        """Copies of the images at these positions of the index, [B, 3, S, S] of the cache's type."""
        places = self._places[np.asarray(indices, np.int64)]
        pixels = np.empty((len(places), *self.layout.shape), self.dtype)
        for image, (number, row) in zip(pixels, places.tolist(), strict=True):
            image[:] = self._maps.record(Place(self._files[number], row))
        return pixels


def measure_window(pixels: PixelCache, rows: Rows) -> tuple[float, float]:
    """The values of deep pixels that the network is to see as black and as white.

    The lowest 0.01 % percentile of any image and the highest 99.99 % percentile of any: of percentiles over all images
    together, a small bright defect in a few of them would be cut off.

    Args:
        pixels: of type uint16 or float32.
        rows: positions of the images on the training side.

    Returns:
        (low, high), low < high; whole numbers for uint16.

    Raises:
        ValueError: no rows, or 8-bit pixels.
    """
    if pixels.dtype == np.uint8 or not len(rows):
        raise ValueError(f"no window of {len(rows)} images of {pixels.dtype} pixels")
    ends = np.array([_ends(pixels.batch([row])) for row in rows])  # [n, 2]
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if low < high:
        return low, high
    if pixels.dtype == np.uint16:
        return (low, low + 1) if low < 65535 else (low - 1, low)
    return low, low + max(1.0, abs(low) * 1e-3)  # wide enough for float32 to tell them apart


def _ends(values: Pixels) -> tuple[float, float]:
    """Percentiles 0.01 and 99.99, values that occur."""
    flat = values.ravel()
    first = round(1e-4 * (flat.size - 1))
    ordered = np.partition(flat, (first, flat.size - 1 - first))
    return float(ordered[first]), float(ordered[flat.size - 1 - first])
