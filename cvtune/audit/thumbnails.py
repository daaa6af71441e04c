"""Small grey pictures from the pixel cache, for looking at many images at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_CHUNK = 64  # images read at a time


class Pixels(Protocol):
    """What is needed of the pixel cache."""

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64], /) -> npt.NDArray[Any]:
        """uint8, uint16 or float32 [B, 3, S, S]."""
        ...


def thumbnails(pixels: Pixels, rows: Ints, size: int) -> Floats:
    """Grey pictures of these rows with mean 0 and spread 1, [M, size, size]; flat ones are zero."""
    out = np.empty((len(rows), size, size), np.float32)
    for start in range(0, len(rows), _CHUNK):
        small = grey(pixels.batch(rows[start : start + _CHUNK]), size)
        small -= small.mean((1, 2), keepdims=True)
        out[start : start + _CHUNK] = small / np.maximum(small.std((1, 2), keepdims=True), 1e-6)
    return out


def grey(images: npt.NDArray[Any], size: int) -> Floats:
    """[B, 3, S, S] of any type -> the channels' mean, float32 [B, size, size], by area."""
    wide = np.uint16 if images.dtype == np.uint8 else np.float32  # whole numbers take half the time
    sums = (np.add(red, green, dtype=wide) + blue for red, green, blue in images)
    return resized(sums, size) / np.float32(3)


def resized(pictures: Iterable[npt.NDArray[Any]], size: int) -> Floats:
    """Pictures [H, W] -> float32 [B, size, size], by area."""
    small = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in pictures]
    return np.array(small, np.float32).reshape(-1, size, size)


def band(pictures: Floats, fine: float, coarse: float) -> Floats:
    """What lies between two blurs (sigma in pixels): no noise, no shading; [B, P, P] -> [B, P, P]."""
    bands = [_blurred(picture, fine) - _blurred(picture, coarse) for picture in pictures]
    return np.array(bands, np.float32).reshape(pictures.shape)


def _blurred(picture: Floats, sigma: float) -> Floats:
    width = 2 * round(2 * sigma) + 1  # two sigma to each side are 95 % of it, for half of the time
    return np.asarray(cv2.GaussianBlur(picture, (width, width), sigma), np.float32)
