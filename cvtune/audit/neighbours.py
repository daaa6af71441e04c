"""Which images are worth comparing pixel by pixel: the nearest by perceptual hash, by embedding and by thumbnail.

Each misses other copies. A crop of 5 % moves more than 20 of the hash's 64 bits; JPEG of quality 30 moves the embedding
of a smooth image behind a hundred others; and where hundreds of pictures look alike, only thumbnails that were cropped
on trial find the crops. Of 200 planted copies of solar cells hash and embedding (4 each) missed 18, all three (2, 2
and 4) none. A handful each, so that the candidates grow with the images, however alike those are.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from cvtune.audit.alignment import move
from cvtune.audit.thumbnails import Floats, Ints, band

_BY_HASH: Final = 2
_BY_EMBEDDING: Final = 2
_BY_THUMBNAIL: Final = 4
_BITS: Final = 20  # of 64; two pictures that have nothing in common differ in 32 with a spread of 4
_AXES: Final = 128  # principal axes of the embeddings; more are noise
_SMALL_AXES: Final = 64  # of the thumbnails
_BAND: Final = (1.0, 6.0)  # blurs between which thumbnails are compared, pixels of 28
# Smaller by a share in x and moved by a share in x, then y: the middle of what cropping each side by up to 5 % does,
# and its four corners.
_CROPS: Final = (
    *((x, 0, y, 0) for x, y in product((0.03, 0.07), repeat=2)),
    *((0.05, x, 0.05, y) for x, y in product((-0.018, 0.018), repeat=2)),
)
_CHUNK: Final = 512  # rows at a time: memory grows with N, not with its square

Likeness = Callable[[slice], npt.NDArray[np.float32]]


def candidates(hashes: npt.NDArray[np.uint64], embeddings: Floats | None, small: Floats) -> Ints:
    """Pairs to compare, [P, 2] with the smaller position first, in ascending order, each once.

    Args:
        hashes: perceptual hashes, [N].
        embeddings: [N, D]; None does without.
        small: thumbnails, [N, 28, 28].
    """
    found = [hash_neighbours(hashes), thumbnail_neighbours(small)]
    if embeddings is not None:
        found.append(embedding_neighbours(embeddings))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def hash_neighbours(hashes: npt.NDArray[np.uint64], *, most: int = _BY_HASH) -> Ints:
    """Each image with its nearest by Hamming distance, none further than 20 bits: [P, 2]."""

    def likeness(rows: slice) -> Floats:
        distance = np.bitwise_count(hashes[rows, None] ^ hashes[None, :])
        return np.where(distance <= _BITS, -distance.astype(np.float32), -np.inf).astype(np.float32)

    return _nearest(len(hashes), most, likeness)


def embedding_neighbours(embeddings: Floats, *, most: int = _BY_EMBEDDING) -> Ints:
    """Each image with its nearest by cosine of the whitened embeddings: [P, 2].

    Whitened, because where all images look alike their embeddings differ along a few axes that say "lighter" or "to
    the left", and a copy is nearest along all the others.
    """
    units = _Whitening(embeddings, _AXES)(embeddings)
    return _nearest(len(units), most, lambda rows: units[rows] @ units.T)


def thumbnail_neighbours(small: Floats, *, most: int = _BY_THUMBNAIL) -> Ints:
    """Each image with those that look like what is left of it after cropping: [P, 2].

    Not with those that look like the whole of it: these would crowd out the crops, and the other two find them.
    """
    whole = band(small, *_BAND).reshape(len(small), -1)
    whiten = _Whitening(whole, _SMALL_AXES)
    units, cropped = whiten(whole), []
    for x, right, y, down in _CROPS:
        crops, _ = move(small, np.array([[-x, right, -y, down]], np.float32))
        cropped.append(whiten(band(crops, *_BAND).reshape(len(small), -1)))

    def likeness(rows: slice) -> Floats:
        best = cropped[0][rows] @ units.T
        for crop in cropped[1:]:
            np.maximum(best, crop[rows] @ units.T, out=best)
        return best

    return _nearest(len(units), most, likeness)


def _nearest(n: int, most: int, likeness: Likeness) -> Ints:
    """The `most` columns with the largest likeness of each row, [P, 2]; none at minus infinity, none with itself."""
    found = [np.empty((0, 2), np.int64)]
    count = min(most, n - 1)
    for start in range(0, n if count > 0 else 0, _CHUNK):
        rows = slice(start, min(n, start + _CHUNK))
        values = likeness(rows)
        here = np.arange(rows.stop - start)
        values[here, here + start] = -np.inf
        columns = np.argpartition(values, -count, axis=1)[:, -count:]
        line, place = np.nonzero(np.isfinite(np.take_along_axis(values, columns, axis=1)))
        found.append(np.stack([line + start, columns[line, place]], axis=1))
    return np.concatenate(found)


class _Whitening:
    """Projects on the principal axes of a table [N, D], each scaled to spread 1, and then to unit length.

    Args:
        axes: the largest so many; a quarter of N at most, since the last axes of few rows tell one from all others.
    """

    def __init__(self, table: Floats, axes: int) -> None:
        self.mean = table.mean(0)
        centred = table - self.mean
        axes = max(1, min(axes, len(table) // 4, table.shape[1]))
        variances, directions = np.linalg.eigh(centred.T @ centred / np.float32(max(1, len(table))))
        floor = 1e-6 * max(float(variances[-1]), 1e-12)  # axes along which nothing varies
        self.axes = (directions[:, -axes:] / np.sqrt(np.maximum(variances[-axes:], floor))).astype(np.float32)

    def __call__(self, table: Floats) -> Floats:
        projected = (table - self.mean) @ self.axes
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        return np.asarray(projected / np.maximum(lengths, 1e-6), np.float32)
