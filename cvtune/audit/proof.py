"""Proof on pixels that two images are one picture: laid over each other, nothing is left that one alone shows.

A perceptual hash or an embedding can only suggest that. Where all pictures of a class look alike (solar cells, steel,
parts on a fixture) any measure of the whole image is high for two different parts: drawn parts correlate by 0.999, and
cells cut from neighbouring slices of one crystal by 0.98 even in their grain. So the copy is laid over the original
(no turns, no flips: those are other pictures), and then it must pass three tests, each with what another photograph
never has and saving again never takes away:

- detail: after everything smooth is taken out, the weakest tenth of 49 blocks still agrees;
- light: the means of those blocks agree to one grey level after one change of brightness and contrast. Noise and JPEG
  average out over a block; light and material of another part do not;
- nothing foreign: no small block holds a line or spot that only one of the two shows.

Measured on planted copies: detail 0.41 and more (JPEG of quality 30 on smooth steel; most 0.9), light within 0.8.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from cvtune.audit.alignment import align, positions, seen
from cvtune.audit.thumbnails import Floats, Ints, Pixels, band, grey, resized

Doubles = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]


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


# The coarse blur is small, so that the dark frame of a solar cell, which a crop cuts off, does not reach far inside.
# Of 400 planted copies 2 fell below these bounds.
_COARSE: Final = (_Level(14, 0.6, 1.5, 6, 0.35), _Level(28, 0.7, 2, 5, 0.75))
_FINE: Final = _Level(56, 0.7, 4, 3, 0.70)
THUMBNAIL: Final = _COARSE[-1].size
SIDE: Final = 112  # pixels of the proof; a copy of half the size still holds all that is left here of most pictures
_BAND: Final = (0.7, 3.0)  # blurs between which detail is compared, pixels of SIDE
_PROMISING: Final = 0.2  # detail, from which a better alignment and the other tests are worth their time
_LAST_STEPS: Final = 4  # of that alignment, at the size of the proof
_FINE_RIM: Final = 3  # pixels of the finest level's pictures that do not count there
_LAST_RIM: Final = 5  # pixels of SIDE; with the rims copies of solar cells differ by 0.2 grey levels, by 0.9 without
_CHUNK: Final = 32  # pairs at a time: the arrays of one step stay in the processor's cache

_BLOCKS: Final = 7  # along each axis, 16 pixels each
_SMALL: Final = 14  # along each axis, 8 pixels each: as wide as the lines and spots that tell parts apart
_WEAKEST: Final = 0.1  # share of blocks whose noise may disagree
_INFORMED: Final = 6  # blocks with any detail; with fewer there is nothing to tell pictures apart by
_FLAT: Final = 0.25  # grey levels: spread of a block without detail, which is what rounding to 8 bits leaves
_LIGHT: Final = 0.8  # grey levels; copies 0.6 at most, the most alike of 1,400 pairs of sister cells 0.5
_FOREIGN: Final = 1.5  # grey levels: a residue in a small block above what JPEG of quality 30 leaves
_STRAY: Final = 1  # foreign blocks that alignment and JPEG may account for
_SHARED: Final = 0.7  # correlation of a small block whose residue is only a matter of sharpness
_COVERED: Final = 0.5  # share of a block that can be compared
_WHOLE: Final = 0.98  # likewise, for its mean
_ENOUGH: Final = 16  # blocks
_RIM: Final = 9  # pixels: blurs reach 6 to each side, most of it within 4


def prove(
    pixels: Pixels, rows: Ints, small: Floats, pairs: Ints, *, progress: Progress | None = None, workers: int = 2
) -> Floats:
    """How well two images agree where they agree least.

    Args:
        pixels: the network's input of each image.
        rows: [M], the images that are looked at, as rows of `pixels`.
        small: their thumbnails, [M, 28, 28].
        pairs: [P, 2], candidates as positions in `rows`.
        progress: called with (pairs decided, P).
        workers: threads; almost all of the work leaves Python's lock.

    Returns:
        Correlation of detail in the weakest tenth of the overlap's blocks, float32 [P], up to 1; -1 where the images
        cannot be laid over each other, show no detail, were taken in other light, or one shows what the other does not.
    """
    if not len(pairs):
        return np.empty(0, np.float32)
    search = _Search(pixels, rows, pairs, progress)
    with ThreadPoolExecutor(max(1, min(workers, os.cpu_count() or 1))) as pool:
        for level in _COARSE:
            search.narrow(pool, level, small)
        search.decide(pool)
    return search.scores


class _Search:
    """Pairs on their way from coarse to fine."""

    def __init__(self, pixels: Pixels, rows: Ints, pairs: Ints, progress: Progress | None) -> None:
        self.pixels = pixels
        self.rows = rows
        self.pairs = pairs
        self.progress = progress
        self.scores = np.full(len(pairs), -1, np.float32)
        self.places = np.zeros((len(pairs), 4), np.float32)
        self.alive = np.arange(len(pairs))

    def narrow(self, pool: ThreadPoolExecutor, level: _Level, small: Floats) -> None:
        """Align all pairs that are left, and leave those out that do not match."""
        views = band(resized(small, level.size), level.fine, level.coarse)
        chunks = self._chunks()

        def match(chunk: Ints) -> tuple[Floats, Floats]:
            first, second = self.pairs[chunk].T
            return align(views[first], views[second], self.places[chunk], steps=level.steps)

        kept = [self.alive[:0]]
        for chunk, (places, matches) in zip(chunks, pool.map(match, chunks), strict=True):
            self.places[chunk] = places
            kept.append(chunk[matches >= level.least])
        self.alive = np.concatenate(kept)
        self._report(len(self.pairs) - len(self.alive))

    def decide(self, pool: ThreadPoolExecutor) -> None:
        """Compare the detail of what is left."""
        done, chunks = len(self.pairs) - len(self.alive), self._chunks()
        for chunk, scores in zip(chunks, pool.map(self._scores, chunks), strict=True):
            self.scores[chunk] = scores
            done += len(chunk)
            self._report(done)

    def _scores(self, chunk: Ints) -> Floats:
        used, at = np.unique(self.pairs[chunk], return_inverse=True)
        at = at.reshape(-1, 2)
        pictures = _Pictures(self.pixels.batch(self.rows[used]))
        views = band(resized(pictures.grey, _FINE.size), _FINE.fine, _FINE.coarse)
        places, matches = align(views[at[:, 0]], views[at[:, 1]], self.places[chunk], steps=_FINE.steps, rim=_FINE_RIM)
        scores = np.full(len(chunk), -1, np.float32)
        fitting = np.flatnonzero(matches >= _FINE.least)
        scores[fitting] = detail_agreement([pictures.overlay(at[i, 0], at[i, 1], places[i]) for i in fitting])
        promising = fitting[scores[fitting] >= _PROMISING]
        if len(promising):
            first, second = at[promising].T
            detail = pictures.detail[first], pictures.detail[second]
            better, _ = align(*detail, places[promising], steps=_LAST_STEPS, rim=_LAST_RIM)
            overlays = [pictures.overlay(at[i, 0], at[i, 1], place) for i, place in zip(promising, better, strict=True)]
            same = np.array([overlay.same_photograph() for overlay in overlays])
            scores[promising] = np.where(same, detail_agreement(overlays), -1)
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
        self.grey = grey(images, SIDE)
        self.detail = band(self.grey, *_BAND)
        self.level = _grey_level(images, self.grey)

    def overlay(self, a: int, b: int, place: Floats) -> Overlay:
        """Picture `b` laid over picture `a`, whose pixels lie in it at `place`."""
        moved, inside = _move(self.grey[b], place)
        level = float(max(self.level[a], self.level[b]))
        return Overlay(self.grey[a], moved, self.detail[a], band(moved[None], *_BAND)[0], inside, level)


@dataclass(frozen=True, eq=False)
class Overlay:
    """Two pictures, one laid over the other; all arrays [112, 112].

    Args:
        still: grey.
        moved: grey of the other.
        still_detail: what lies between two blurs of it.
        moved_detail: likewise.
        inside: 1 where both are seen, 0 elsewhere.
        level: what one of 256 grey levels is in these pictures.
    """

    still: Floats
    moved: Floats
    still_detail: Floats
    moved_detail: Floats
    inside: Floats
    level: float = 1.0

    def same_photograph(self) -> bool:
        """Whether light and small things agree as well."""
        return self.light_residue() <= _LIGHT and self.foreign_blocks() <= _STRAY

    def light_residue(self) -> float:
        """Grey levels by which the means of 7 x 7 blocks differ after one change of brightness and contrast (rms).

        The line is fitted to the four fifths of the blocks that it fits best.
        """
        weight = self._unclipped
        share = _by_block(weight, _BLOCKS)
        # whole blocks: at the rim of the overlap a shift of a tenth of a pixel changes a mean by more than light does
        covered = (_by_block(self.inside, _BLOCKS) > _WHOLE) & (share > _COVERED)
        if np.count_nonzero(covered) < _INFORMED:
            return float("inf")
        a, b = (_by_block(values * weight, _BLOCKS)[covered] / share[covered] for values in (self.still, self.moved))
        fitted = np.ones(len(a), bool)
        for _ in range(3):
            rest = np.abs(a - _line(b[fitted], a[fitted], b))
            fitted = rest <= np.quantile(rest, 0.8) + 1e-9
        return float(np.sqrt(np.mean(rest**2))) / max(self.level, 1e-12)

    def foreign_blocks(self) -> int:
        """How many small blocks hold something that only one of the two shows."""
        sure = _eroded(self._unclipped)
        a, b = self.still_detail * sure, self.moved_detail * sure
        gain = float((a * b).sum()) / max(float((b * b).sum()), 1e-12)
        stats = _BlockStatistics(self.still_detail, self.moved_detail * np.float32(gain), sure, _SMALL)
        foreign = (stats.residue > _FOREIGN * self.level) & (stats.correlation < _SHARED)
        return int(np.count_nonzero(stats.covered & foreign))

    @cached_property
    def _unclipped(self) -> Floats:
        """Where brightening cannot have cut anything off; all of the overlap where that would leave next to nothing."""
        weight = self.inside.copy()
        for picture in (self.still, self.moved):
            seen = picture[self.inside > 0]
            ends = (seen.min() + self.level, seen.max() - self.level) if len(seen) else (0, 0)
            weight *= (picture > ends[0]) & (picture < ends[1])
        blocks = np.count_nonzero(_by_block(weight, _BLOCKS) > _COVERED)
        return weight if blocks >= _ENOUGH else self.inside


def detail_agreement(overlays: Sequence[Overlay]) -> Floats:
    """Correlation of detail in the weakest tenth of 7 x 7 blocks, [B]; -1 with too few that show anything.

    Many at a time: on single pictures Python would cost more than the arithmetic.
    """
    if not overlays:
        return np.empty(0, np.float32)
    still, moved, weight = (
        np.stack([pick(overlay) for overlay in overlays])
        for pick in (lambda o: o.still_detail, lambda o: o.moved_detail, lambda o: _eroded(o.inside))
    )
    stats = _BlockStatistics(still, moved, weight, _BLOCKS)
    flat = np.array([_FLAT * overlay.level for overlay in overlays])[:, None, None]
    informed = stats.covered & (np.maximum(stats.spread_a, stats.spread_b) > flat)
    return _weakest(stats.correlation, informed)


def _weakest(correlation: Doubles, informed: npt.NDArray[np.bool_]) -> Floats:
    """The quantile of the weakest tenth over the informed blocks of each picture, [B, n, n] -> [B]."""
    count = informed.sum((1, 2))
    ordered = np.sort(np.where(informed, correlation, np.inf).reshape(len(count), -1), axis=1)
    place = _WEAKEST * np.maximum(count - 1, 0)
    below = place.astype(np.int64)
    lines = np.arange(len(count))
    low, high = ordered[lines, below], ordered[lines, np.minimum(below + 1, np.maximum(count - 1, 0))]
    with np.errstate(invalid="ignore"):  # no informed block at all: infinity less infinity
        return np.where(count >= _INFORMED, low + (place - below) * (high - low), -1).astype(np.float32)


class _BlockStatistics:
    """Spread and correlation of pictures [..., P, P] in each of blocks x blocks, attributes [..., blocks, blocks]."""

    def __init__(self, a: Floats, b: Floats, weight: Floats, blocks: int) -> None:
        share = _by_block(weight, blocks)
        self.covered = share > _COVERED

        def mean(values: Floats) -> Doubles:
            return _by_block(values * weight, blocks) / np.maximum(share, 1e-6)

        mean_a, mean_b = mean(a), mean(b)
        variance_a = np.maximum(mean(a * a) - mean_a**2, 0)
        variance_b = np.maximum(mean(b * b) - mean_b**2, 0)
        shared = mean(a * b) - mean_a * mean_b
        self.spread_a: Doubles = np.sqrt(variance_a)
        self.spread_b: Doubles = np.sqrt(variance_b)
        self.correlation: Doubles = np.clip(shared / np.maximum(self.spread_a * self.spread_b, 1e-12), -1, 1)
        self.residue: Doubles = np.sqrt(np.maximum(variance_a + variance_b - 2 * shared, 0))


def _eroded(weight: Floats) -> Floats:
    """Without the rim whose detail depends on what lies beyond it."""
    kernel = np.ones((_RIM, _RIM), np.uint8)
    return np.asarray(cv2.erode(weight, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0), np.float32)


def _by_block(pictures: Floats, blocks: int) -> Doubles:
    """Means [..., blocks, blocks] of pictures [..., P, P]; P is a multiple of `blocks`."""
    share = _shares(pictures.shape[-1], blocks)
    return np.asarray(share @ pictures @ share.T, np.float64)


@cache
def _shares(size: int, blocks: int) -> Floats:
    """[blocks, size]: what each pixel of an axis counts in the mean of a block."""
    return np.repeat(np.eye(blocks, dtype=np.float32), size // blocks, axis=1) * np.float32(blocks / size)


def _line(x: Doubles, y: Doubles, at: Doubles) -> Doubles:
    """The least squares line through (x, y) at other points; a level one where x does not vary."""
    spread = float(np.mean((x - x.mean()) ** 2))
    slope = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 1e-9 else 1.0
    return np.asarray(y.mean() + slope * (at - x.mean()), np.float64)


def _move(picture: Floats, place: Floats) -> tuple[Floats, Floats]:
    """The picture as seen from this place, and 1 where there is anything to see, both [P, P]."""
    size = picture.shape[-1]
    across, down = (positions(place[i : i + 1], place[i + 1 : i + 2], size)[0] for i in (0, 2))
    matrix = np.array([[1 + place[0], 0, across[0]], [0, 1 + place[2], down[0]]], np.float64)
    # cubic: linear interpolation half-way between two pixels would blur what is compared
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(picture, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32), np.outer(seen(down), seen(across)).astype(np.float32)


def _grey_level(images: npt.NDArray[Any], greys: Floats) -> Floats:
    """One of 256 levels of each image's range, [B]; of the picture's own range where the type's says nothing."""
    if images.dtype == np.uint8:
        return np.ones(len(images), np.float32)
    return np.asarray((greys.max((1, 2)) - greys.min((1, 2))) / 255, np.float32)
