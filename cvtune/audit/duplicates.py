"""The same picture more than once: identical files, and copies that were saved again, resized, cropped or brightened.

Near-duplicates are found in three steps: neighbours by perceptual hash and by embedding are candidates
(`audit.neighbours`), and the pixels are the proof (`audit.proof`). What is proven is that two files come from one
photograph. The same part photographed twice is another picture, and so are turned and mirrored ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from cvtune.audit.neighbours import candidates
from cvtune.audit.proof import THUMBNAIL, Progress, prove
from cvtune.audit.thumbnails import Pixels, thumbnails
from cvtune.data.facts import Facts
from cvtune.data.index import DatasetIndex
from cvtune.data.units import Links

PROVEN: Final = 0.45  # detail; of planted copies 1 in 100 has less: JPEG of quality 30 on the smoothest steel


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Args:
        a: position in the index.
        b: position in the index, after `a`.
        kind: `exact` for identical files, `near` for what was proven on pixels.
        score: agreement of the pixels where they agree least, up to 1; 1 for identical files.
    """

    a: int
    b: int
    kind: Literal["exact", "near"]
    score: float


def exact_clusters(index: DatasetIndex) -> tuple[tuple[int, ...], ...]:
    """Positions of byte-identical files, clusters of two and more, in the order of their first image."""
    same: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(index.images):
        if image.sha256:
            same[image.sha256].append(position)
    return tuple(tuple(cluster) for cluster in same.values() if len(cluster) > 1)


def near_pairs(
    index: DatasetIndex,
    facts: Sequence[Facts],
    pixels: Pixels,
    embeddings: npt.NDArray[np.float32] | None,
    *,
    progress: Progress | None = None,
) -> tuple[Pair, ...]:
    """Find copies, identical files included.

    Of identical files the first stands for all: each other one is paired with it (`exact`), and it alone is compared
    with other pictures (`near`). Where many copies of one picture exist, not every two of them are listed: each is
    compared with its nearest few, and `clusters` joins them.

    Args:
        index: after `fill_pixels`, which fills in the content hashes.
        facts: of its images, for the perceptual hashes.
        pixels: of its images; a copy that was cropped is found up to 16 % per axis.
        embeddings: float32 [N, D] of the same images; None takes neighbours by hash alone and misses some crops.
        progress: called with (candidates decided, candidates).

    Returns:
        Pairs ordered by position, each once.

    Raises:
        ValueError: facts or embeddings of another number of images.
    """
    _check(index, facts, embeddings)
    exact = [Pair(first, other, "exact", 1.0) for first, *rest in exact_clusters(index) for other in rest]
    copies = {pair.b for pair in exact}
    kept = np.array([i for i in range(len(index)) if i not in copies], np.int64)
    hashes = np.array([facts[i].phash for i in kept], np.uint64)
    small = thumbnails(pixels, kept, THUMBNAIL)  # 3 KB an image: less than its embedding
    # Small matrices in two threads of our own: a BLAS that starts threads as well costs five times the time.
    with threadpool_limits(1, user_api="blas"):
        pairs = candidates(hashes, None if embeddings is None else embeddings[kept], small)
        scores = prove(pixels, kept, small, pairs, progress=progress)
    pairs = kept[pairs]
    proven = np.flatnonzero(scores >= PROVEN)
    near = [Pair(int(pairs[i, 0]), int(pairs[i, 1]), "near", float(scores[i])) for i in proven]
    return tuple(sorted((*exact, *near), key=lambda pair: (pair.a, pair.b)))


def clusters(pairs: Iterable[Pair], n: int, *, most: int | None = None) -> tuple[tuple[int, ...], ...]:
    """Images that show the same picture, joined over all pairs: if a is b and b is c, then a is c.

    Links chain: on a strip that was photographed with overlap each image is proven to be its neighbour, and one cluster
    may hold the whole strip. A cluster of more than `most` images is therefore taken apart to its identical files;
    `oversized` names those clusters.

    Args:
        pairs: from `near_pairs`.
        n: number of images.
        most: images that a cluster may hold; None joins without a limit.

    Returns:
        Clusters of two and more positions, ascending, in the order of their first image; no position is in two.
    """
    pairs = list(pairs)
    whole = _joined(pairs, n)
    too_large = {i for cluster in whole if most is not None and len(cluster) > most for i in cluster}
    if not too_large:
        return whole
    return _joined([pair for pair in pairs if pair.kind == "exact" or pair.a not in too_large], n)


def oversized(pairs: Iterable[Pair], n: int, *, most: int) -> tuple[tuple[int, ...], ...]:
    """The clusters that `clusters` takes apart with the same `most`."""
    return tuple(cluster for cluster in _joined(pairs, n) if len(cluster) > most)


def _joined(pairs: Iterable[Pair], n: int) -> tuple[tuple[int, ...], ...]:
    links = Links(n)
    for pair in pairs:
        links.join((pair.a, pair.b))
    return links.clusters()


def _check(index: DatasetIndex, facts: Sequence[Facts], embeddings: npt.NDArray[np.float32] | None) -> None:
    if len(facts) != len(index):
        raise ValueError(f"facts of {len(facts)} images, expected {len(index)}")
    if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != len(index)):
        raise ValueError(f"embeddings of shape {list(embeddings.shape)}, expected [{len(index)}, D]")
