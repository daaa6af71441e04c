"""Lay one picture over another: scale and shift along both axes, which is what cropping and resizing do.

Gauss-Newton on the difference of the two pictures, each with mean 0 and spread 1 over the overlap, so that brightness
and contrast do not matter (Lucas and Kanade 1981; Baker and Matthews 2004, doi:10.1023/B:VISI.0000011205.11775.fd). The
moves are separable, so that a whole chunk of pictures is moved by two matrix products.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

REACH: Final = 0.16  # largest change of scale, and shift in widths; 5 % off each side needs 0.10 and 0.05
_STRIDE: Final = 0.04  # of one step: a longer one leaves the neighbourhood in which the gradient holds
_DAMPING: Final = 1e-3  # share of the mean curvature; a picture of stripes tells nothing along them


def align(still: Floats, moving: Floats, places: Floats, *, steps: int, rim: int = 0) -> tuple[Floats, Floats]:
    """Improve where the pixels of `still` lie in `moving`.

    Args:
        still: [B, P, P], band-passed pictures.
        moving: [B, P, P].
        places: [B, 4], the first guess: scale - 1 and shift along x, then along y, in widths of the picture.
        steps: how often to improve it.
        rim: pixels along the edges of both that are not compared, because what a blur makes of them depends on what
            lies beyond: a crop cuts off the dark frame of a solar cell, and its rim would pull.

    Returns:
        Places [B, 4] and the correlation of the overlaps [B].
    """
    size = still.shape[-1]
    own = np.zeros((size, size), np.float32)
    own[rim : size - rim, rim : size - rim] = 1
    fixed = standardise(still, np.broadcast_to(own, still.shape))
    slopes = _slopes(fixed) * own.reshape(-1)  # (B, 4, P * P)
    curvature = slopes @ slopes.transpose(0, 2, 1)
    mean = np.trace(curvature, axis1=1, axis2=2) / 4
    inverse = np.linalg.inv(curvature + (_DAMPING * mean + 1e-6)[:, None, None] * np.eye(4, dtype=np.float32))
    for _ in range(steps):
        moved, inside = _overlap(moving, places, own, rim)
        rest = (standardise(moved, inside) - fixed) * inside
        step = (inverse @ (slopes @ rest.reshape(len(rest), -1, 1)))[..., 0]
        step *= (size * size / inside.sum((1, 2)))[:, None]  # the slopes are summed over all of it
        places = np.clip(places - np.clip(step, -_STRIDE, _STRIDE), -REACH, REACH).astype(np.float32)
    moved, inside = _overlap(moving, places, own, rim)
    products = standardise(moved, inside) * standardise(still, inside)
    return places, np.asarray(products.sum((1, 2)) / inside.sum((1, 2)), np.float32)


def _overlap(moving: Floats, places: Floats, own: Floats, rim: int) -> tuple[Floats, Floats]:
    moved, inside = move(moving, places, rim=rim)
    return moved, inside * own


def move(pictures: Floats, places: Floats, *, rim: int = 0) -> tuple[Floats, Floats]:
    """The pictures [B, P, P] as seen from these places [B, 4], and 1 where there is anything of them but their rim."""
    across, seen_across = _axis(places[:, 0], places[:, 1], pictures.shape[-1], rim)
    down, seen_down = _axis(places[:, 2], places[:, 3], pictures.shape[-1], rim)
    moved = np.asarray(down @ pictures @ across.transpose(0, 2, 1), np.float32)
    return moved, seen_down[:, :, None] * seen_across[:, None, :]


def standardise(pictures: Floats, inside: Floats) -> Floats:
    """Mean 0 and spread 1 over `inside`, zero outside it; a flat picture becomes zero. Both [B, P, P]."""
    count = inside.sum((1, 2))
    pictures = pictures * inside
    pictures -= (pictures.sum((1, 2)) / count)[:, None, None]
    pictures *= inside
    spread = np.sqrt(np.einsum("bij,bij->b", pictures, pictures) / count)
    pictures /= np.maximum(spread, np.float32(1e-6))[:, None, None]
    return pictures


def positions(scale: Floats, shift: Floats, size: int) -> Floats:
    """Where the pixels of one axis lie in the other picture, in its pixels: [B] and [B] -> [B, P]."""
    centred = _centred(size)
    return np.asarray(((1 + scale)[:, None] * centred + shift[:, None]) * size + (size - 1) / 2, np.float32)


def seen(at: Floats, rim: int = 0) -> npt.NDArray[np.bool_]:
    """Which of these positions are on the other picture, but not on its rim: [B, P]."""
    return np.asarray((at >= rim - 0.25) & (at <= at.shape[-1] - rim - 0.75))


@cache
def _centred(size: int) -> Floats:
    return np.asarray((np.arange(size) - (size - 1) / 2) / size, np.float32)


def _slopes(fixed: Floats) -> Floats:
    size = fixed.shape[-1]
    down, across = np.gradient(fixed, np.float32(1 / size), axis=(1, 2))
    centred = _centred(size)
    parts = (across * centred, across, down * centred[:, None], down)
    return np.stack(parts, 1).reshape(len(fixed), 4, -1)


def _axis(scale: Floats, shift: Floats, size: int, rim: int) -> tuple[Floats, Floats]:
    """Linear interpolation as matrices [B, P, P], and what they see [B, P]."""
    at = positions(scale, shift, size)
    inside = seen(at, rim).astype(np.float32)
    np.clip(at, 0, size - 1, out=at)
    weights = np.abs(at[:, :, None] - np.arange(size, dtype=np.float32))
    np.subtract(1, weights, out=weights)
    np.maximum(weights, 0, out=weights)
    return weights, inside
