"""Proof on pixels that two images are one picture: laid over each other, they agree everywhere.

A perceptual hash or an embedding can only suggest that. Where all pictures of a class look alike (solar cells, steel,
parts on a fixture) any measure of the whole image is high for two different parts: two drawn parts correlate by 0.999.
So the copy is laid over the original, everything smooth is taken out of both, and the weakest tenth of 49 blocks
decides. A copy agrees in each of them, down to grain and noise; two photographs agree only where the structure that
they share is strong. No turns and no flips: those are other pictures.

Measured on planted copies in steel, drawn parts and X-rays: 0.87 and more for copies (0.55 for JPEG of quality 30 on
the smoothest steel), 0.63 and less for candidates that are none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from cvtune.audit.alignment import align, positions, seen

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]


class Pixels(Protocol):
    """What is needed of the pixel cache."""

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64], /) -> npt.NDArray[Any]:
        """uint8, uint16 or float32 [B, 3, S, S]."""
        ...


@dataclass(frozen=True)
class _Level:
    """One step of the search from coarse to fine; a pair below `least` goes no further.

    Args:
        size: side of the pictures in pixels.
        fine: blur against noise, pixels (sigma).
        coarse: blur that is subtracted, and brightness and shading with it, pixels.
        steps: of the alignment.
        least: correlation of the overlap after it.
    """

    size: int
    fine: float
    coarse: float
    steps: int
    least: float


# Planted copies reached 0.97 at each of these levels; 97 of 100 candidates on steel and 93 on X-rays fall below.
_COARSE: Final = (_Level(14, 0.6, 3, 6, 0.45), _Level(28, 0.7, 4, 5, 0.75))
_FINE: Final = _Level(56, 0.7, 4, 3, 0.80)
_SIDE: Final = 112  # of the proof; a copy of half the size still holds all that is left here of most pictures
_BAND: Final = (0.7, 3.0)  # blurs between which detail is compared, pixels of _SIDE
_BLOCKS: Final = 7  # along each axis, 16 pixels each
_UNSURE: Final = (0.25, 0.9)  # agreements that a better alignment may change; hardly any other pair is among them
_LAST_STEPS: Final = 2  # of it, at the size of the proof
_COVERED: Final = 0.9  # share of a block on both pictures
_WEAKEST: Final = 0.1  # share of blocks that may disagree: a time stamp, an edge
_INFORMED: Final = 6  # blocks with any detail at all; with fewer there is nothing to tell pictures apart by
_FLAT: Final = 0.001  # spread of a block without detail, share of the range: what rounding to 8 bits leaves
_CHUNK: Final = 32  # pairs at a time: the arrays of one step stay in the processor's cache


def prove(pixels: Pixels, pairs: Ints, *, progress: Progress | None = None, workers: int = 2) -> Floats:
    """How well two images agree everywhere.

    Args:
        pixels: the network's input of each image.
        pairs: [P, 2], candidates as positions.
        progress: called with (pairs decided, P).
        workers: threads; almost all of the work leaves Python's lock.

    Returns:
        Correlation of detail in the weakest tenth of the overlap's blocks, float32 [P], -1 to 1; -1 where the images
        cannot be laid over each other or show no detail.
    """
    if not len(pairs):
        return np.empty(0, np.float32)
    search = _Search(pixels, pairs, progress)
    with ThreadPoolExecutor(max(1, min(workers, os.cpu_count() or 1))) as pool:
        for level in _COARSE:
            search.narrow(pool, level)
        search.decide(pool)
    return search.scores


class _Search:
    """Pairs on their way from coarse to fine."""

    def __init__(self, pixels: Pixels, pairs: Ints, progress: Progress | None) -> None:
        self.pixels = pixels
        self.pairs = pairs
        self.progress = progress
        self.scores = np.full(len(pairs), -1, np.float32)
        self.places = np.zeros((len(pairs), 4), np.float32)
        self.alive = np.arange(len(pairs))
        rows, at = np.unique(pairs, return_inverse=True)
        self.at = at.reshape(pairs.shape)
        self.small = _thumbnails(pixels, rows, _COARSE[-1].size)  # 3 KB an image: less than its embedding

    def narrow(self, pool: ThreadPoolExecutor, level: _Level) -> None:
        """Align all pairs that are left, and leave those out that do not match."""
        views = _band(_resized(self.small, level.size), level)
        chunks = self._chunks()

        def match(chunk: Ints) -> tuple[Floats, Floats]:
            first, second = self.at[chunk].T
            return align(views[first], views[second], self.places[chunk], steps=level.steps)

        kept = []
        for chunk, (places, matches) in zip(chunks, pool.map(match, chunks), strict=True):
            self.places[chunk] = places
            kept.append(chunk[matches >= level.least])
        self.alive = np.concatenate([self.alive[:0], *kept])
        self._report(len(self.pairs) - len(self.alive))

    def decide(self, pool: ThreadPoolExecutor) -> None:
        """Compare the detail of what is left."""
        done, chunks = len(self.pairs) - len(self.alive), self._chunks()
        for chunk, scores in zip(chunks, pool.map(self._scores, chunks), strict=True):
            self.scores[chunk] = scores
            done += len(chunk)
            self._report(done)

    def _scores(self, chunk: Ints) -> Floats:
        rows, at = np.unique(self.pairs[chunk], return_inverse=True)
        pictures = _Pictures(self.pixels.batch(rows))
        at = at.reshape(-1, 2)
        views = _band(_resized(pictures.grey, _FINE.size), _FINE)
        places, matches = align(views[at[:, 0]], views[at[:, 1]], self.places[chunk], steps=_FINE.steps)
        scores = np.full(len(chunk), -1, np.float32)
        fitting = np.flatnonzero(matches >= _FINE.least)
        scores[fitting] = pictures.agreements(at[fitting], places[fitting])
        unsure = np.flatnonzero((scores >= _UNSURE[0]) & (scores < _UNSURE[1]))
        if len(unsure):
            detail = pictures.detail
            first, second = at[unsure].T
            better, _ = align(detail[first], detail[second], places[unsure], steps=_LAST_STEPS)
            scores[unsure] = np.maximum(scores[unsure], pictures.agreements(at[unsure], better))
        return scores

    def _chunks(self) -> list[Ints]:
        return [self.alive[start : start + _CHUNK] for start in range(0, len(self.alive), _CHUNK)]

    def _report(self, done: int) -> None:
        if self.progress:
            self.progress(done, len(self.pairs))


class _Pictures:
    """A few images at the size of the proof.

    Args:
        images: [B, 3, S, S].
    """

    def __init__(self, images: npt.NDArray[Any]) -> None:
        self.grey = _grey(images, _SIDE)
        self.detail = np.stack([_detail(picture) for picture in self.grey])
        self.flat = _flat(images, self.grey)

    def agreements(self, pairs: Ints, places: Floats) -> Floats:
        """[P, 2] rows and [P, 4] places -> [P]."""
        scores = np.empty(len(pairs), np.float32)
        for i, (a, b) in enumerate(pairs):
            moved, inside = _move(self.grey[b], places[i])
            flat = float(self.flat[a]), float(self.flat[b])
            scores[i] = agreement(self.detail[a], _detail(moved), inside, flat=flat)
        return scores


def agreement(still: Floats, moved: Floats, inside: Floats, *, flat: tuple[float, float] = (0, 0)) -> float:
    """Correlation of detail in the weakest tenth of the blocks.

    Args:
        still: detail of one picture, [112, 112].
        moved: detail of the other, laid over it.
        inside: 1 where they overlap, 0 elsewhere.
        flat: spread of a block without detail, of each.

    Returns:
        -1 to 1; -1 with too few blocks that show anything.
    """
    mean_a, mean_b, square_a, square_b, product, overlap = (
        _by_block(values) for values in (still, moved, still * still, moved * moved, still * moved, inside)
    )
    spread_a = np.sqrt(np.maximum(square_a - mean_a**2, 0))
    spread_b = np.sqrt(np.maximum(square_b - mean_b**2, 0))
    informed = (overlap > _COVERED) & ((spread_a > flat[0]) | (spread_b > flat[1]))
    if np.count_nonzero(informed) < _INFORMED:
        return -1
    correlations = (product - mean_a * mean_b) / np.maximum(spread_a * spread_b, 1e-12)
    return float(np.quantile(np.clip(correlations[informed], -1, 1), _WEAKEST))


def _move(picture: Floats, place: Floats) -> tuple[Floats, Floats]:
    """The picture at these places and where they lie on it, both [P, P]."""
    size = picture.shape[-1]
    across, down = (positions(place[i : i + 1], place[i + 1 : i + 2], size)[0] for i in (0, 2))
    matrix = np.array([[1 + place[0], 0, across[0]], [0, 1 + place[2], down[0]]], np.float64)
    # cubic: linear interpolation half-way between two pixels would blur what is compared
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(picture, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32), np.outer(seen(down), seen(across)).astype(np.float32)


def _detail(picture: Floats) -> Floats:
    return _blurred(picture, _BAND[0]) - _blurred(picture, _BAND[1])


def _blurred(picture: Floats, sigma: float) -> Floats:
    width = 2 * round(2 * sigma) + 1  # two sigma to each side are 95 % of it, at half of OpenCV's cost
    return np.asarray(cv2.GaussianBlur(picture, (width, width), sigma), np.float32)


def _by_block(picture: Floats) -> npt.NDArray[np.float64]:
    means = cv2.resize(picture, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA)
    return np.asarray(means, np.float64)


def _flat(images: npt.NDArray[Any], grey: Floats) -> Floats:
    """[B, 3, S, S] and [B, P, P] -> [B]; the range is that of the type, or of the picture where the type has none."""
    if images.dtype == np.uint8:
        return np.full(len(images), 255 * _FLAT, np.float32)
    return np.asarray((grey.max((1, 2)) - grey.min((1, 2))) * _FLAT, np.float32)


def _grey(images: npt.NDArray[Any], size: int) -> Floats:
    """[B, 3, S, S] -> [B, size, size], by area."""
    wide = np.uint16 if images.dtype == np.uint8 else np.float32  # whole numbers take half the time
    greys = (np.add(red, green, dtype=wide) + blue for red, green, blue in images)
    return np.asarray(_resized(greys, size) / 3, np.float32)


def _thumbnails(pixels: Pixels, rows: Ints, size: int) -> Floats:
    """[M, size, size] with mean 0 and spread 1."""
    out = np.empty((len(rows), size, size), np.float32)
    for start in range(0, len(rows), 64):
        grey = _grey(pixels.batch(rows[start : start + 64]), size)
        grey -= grey.mean((1, 2), keepdims=True)
        out[start : start + 64] = grey / np.maximum(grey.std((1, 2), keepdims=True), 1e-6)
    return out


def _resized(pictures: Iterable[npt.NDArray[Any]], size: int) -> Floats:
    resized = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in pictures]
    return np.array(resized, np.float32).reshape(-1, size, size)


def _band(pictures: Floats, level: _Level) -> Floats:
    return np.stack([_blurred(picture, level.fine) - _blurred(picture, level.coarse) for picture in pictures])
