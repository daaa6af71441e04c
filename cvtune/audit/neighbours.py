"""Which images are worth comparing pixel by pixel: the nearest by perceptual hash and the nearest by embedding.

The two miss different copies. A crop of 5 % moves more than 20 of the hash's 64 bits; JPEG of quality 30 moves the
embedding of a smooth image behind a hundred others, and leaves the hash alone. A handful of neighbours each, so that
the number of candidates grows with the number of images even where all of them look alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

NEAREST: Final = 4  # by each of the two; 8 found one copy more of 400 on drawn parts, for twice the work
_BITS: Final = 20  # of 64; two pictures that have nothing in common differ in 32 with a spread of 4
_AXES: Final = 128  # principal axes of the embeddings; more are noise, and cost the search time
_CHUNK: Final = 512  # rows at a time: memory grows with N, never with its square


def candidates(hashes: npt.NDArray[np.uint64], embeddings: Floats | None) -> Ints:
    """Pairs to compare, [P, 2] with the smaller position first, in ascending order, each once.

    Args:
        hashes: perceptual hashes, [N].
        embeddings: [N, D]; None looks at the hashes alone.
    """
    found = [hash_neighbours(hashes)]
    if embeddings is not None:
        found.append(embedding_neighbours(embeddings))
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0)


def hash_neighbours(hashes: npt.NDArray[np.uint64], *, most: int = NEAREST, bits: int = _BITS) -> Ints:
    """Each image with its `most` nearest by Hamming distance, none further than `bits`: [P, 2]."""
    found = [np.empty((0, 2), np.int64)]
    for start, stop, count in _chunks(len(hashes), most):
        distances = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, :])
        distances[np.arange(stop - start), np.arange(start, stop)] = 65  # not with itself
        nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
        near = np.take_along_axis(distances, nearest, axis=1) <= bits
        rows, columns = np.nonzero(near)
        found.append(np.stack([rows + start, nearest[rows, columns]], axis=1))
    return np.concatenate(found)


def embedding_neighbours(embeddings: Floats, *, most: int = NEAREST) -> Ints:
    """Each image with its `most` nearest by cosine of the whitened embeddings: [P, 2].

    Whitened, because where all images look alike their embeddings differ along a few axes that say "lighter" or "to
    the left", and a copy is nearest along all the others.
    """
    found = [np.empty((0, 2), np.int64)]
    units = whiten(embeddings)
    for start, stop, count in _chunks(len(units), most):
        likeness = units[start:stop] @ units.T
        likeness[np.arange(stop - start), np.arange(start, stop)] = -2
        nearest = np.argpartition(likeness, -count, axis=1)[:, -count:]
        rows = np.repeat(np.arange(start, stop), count)
        found.append(np.stack([rows, nearest.ravel()], axis=1))
    return np.concatenate(found)


def whiten(embeddings: Floats) -> Floats:
    """Unit vectors along the principal axes, each axis scaled to spread 1: [N, D] -> [N, at most 128]."""
    centred = embeddings - embeddings.mean(0)
    # a quarter of the images at most: the last axes of few images each tell one of them from all others
    axes = max(1, min(_AXES, len(centred) // 4, centred.shape[1]))
    variances, directions = np.linalg.eigh(centred.T @ centred / max(1, len(centred)))
    scale = np.sqrt(np.maximum(variances[-axes:], 1e-12 * max(float(variances[-1]), 1e-12)))
    projected = centred @ (directions[:, -axes:] / scale).astype(np.float32)
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    return np.asarray(projected / np.maximum(lengths, 1e-6), np.float32)


def _chunks(n: int, most: int) -> Iterator[tuple[int, int, int]]:
    """First row, last row + 1 and how many neighbours each can have."""
    count = min(most, n - 1)
    if count > 0:
        yield from ((start, min(n, start + _CHUNK), count) for start in range(0, n, _CHUNK))
