"""How far an image is from everything that was trained on: what nobody has shown to the network goes to REVIEW.

Two distances of embeddings, both the mean distance to the nearest few points in a linear space of fewer dimensions, so
that one piece of graph serves both:

- knn: to the nearest training images (Sun et al. 2022, arXiv:2204.06507), embeddings of length 1;
- mahalanobis: to the nearest class mean, in units of the spread inside the classes, shrunk as by Ledoit and Wolf
  (Lee et al. 2018, arXiv:1807.03888).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from cvtune.evaluation.conformal import upper_limit

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Kind = Literal["knn", "mahalanobis"]

KINDS: Final[tuple[Kind, ...]] = ("knn", "mahalanobis")
VARIANCE: Final = 0.99  # of the embeddings, that the space keeps,
DIMENSIONS: Final = 128  # in so many dimensions at most
NEIGHBOURS: Final = 5
BANK: Final = 4000  # training images that are kept to be compared with: 2 MB of 128 dimensions
CHUNK: Final = 1024


@dataclass(frozen=True, eq=False)
class Novelty:
    """A distance.

    Attributes:
        kind: which one.
        mean: float32 [D], of the embeddings.
        basis: float32 [D, d], from there into the space.
        points: float32 [m, d], what the distance is measured to.
        neighbours: how many of them count.
    """

    kind: Kind
    mean: Floats
    basis: Floats
    points: Floats
    neighbours: int

    def __call__(self, embeddings: Floats) -> Floats:
        """Distances float32 [N] of embeddings [N, D]."""
        parts = [self._distances(embeddings[at : at + CHUNK]) for at in range(0, len(embeddings), CHUNK)]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def _distances(self, embeddings: Floats) -> Floats:
        z = (_unit(embeddings) - self.mean) @ self.basis  # (N, d)
        squares = (z**2).sum(axis=1)[:, None] - 2 * z @ self.points.T + (self.points**2).sum(axis=1)
        nearest = np.partition(squares, self.neighbours - 1, axis=1)[:, : self.neighbours]
        return np.asarray(np.sqrt(np.maximum(nearest, 0)).mean(axis=1), np.float32)


def fit_novelty(kind: Kind, embeddings: Floats, labels: Ints, *, seed: int = 0) -> Novelty:
    """The distance from some training images.

    Args:
        kind: which one.
        embeddings: float32 [n, D].
        labels: int64 [n].
        seed: of the images that are kept where there are more than enough.

    Raises:
        ValueError: fewer than two images.
    """
    if len(embeddings) < 2 or len(labels) != len(embeddings):
        raise ValueError(f"{len(embeddings)} embeddings and {len(labels)} labels: expected two or more, alike")
    x = _unit(embeddings)
    mean = x.mean(axis=0)
    spread = _principal(x - mean)  # (D, d)
    z = (x - mean) @ spread
    if kind == "knn":
        kept = np.sort(np.random.default_rng(seed).permutation(len(z))[:BANK])
        return Novelty(kind, mean, spread, z[kept], min(NEIGHBOURS, len(kept)))
    classes = np.unique(labels)
    means = np.stack([z[labels == label].mean(axis=0) for label in classes])
    within = z - means[np.searchsorted(classes, labels)]
    covariance, _ = ledoit_wolf(within.astype(np.float64), assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    white = (vectors / np.sqrt(np.maximum(values, values.max() * 1e-9))).astype(np.float32)
    return Novelty(kind, mean, spread @ white, means @ white, 1)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Embeddings float32 [n, D] of images whose classes are known, int64 [n]."""

    embeddings: Floats
    labels: Ints

    def where(self, rows: NDArray[np.bool_]) -> Labelled:
        """Some of them."""
        return Labelled(self.embeddings[rows], self.labels[rows])


def choose_novelty(
    train: Labelled, unseen: Labelled, strange: Sequence[Floats] = (), *, seed: int = 0
) -> tuple[Novelty, dict[str, float]]:
    """The distance that better tells what it has not seen: each class left out, and images that were spoilt.

    Args:
        train: images that the network was trained on.
        unseen: images that it was not trained on, of the same classes.
        strange: embeddings float32 [., D] of spoilt images, one table a way of spoiling them.
        seed: see :func:`fit_novelty`.

    Returns:
        The distance, and the mean AUROC of each kind; 0.5 where there was nothing to try.
    """
    scores: dict[str, float] = {}
    for kind in KINDS:
        trials = [*_without_each_class(kind, train, unseen, seed).values()]
        if len(strange):
            whole = fit_novelty(kind, train.embeddings, train.labels, seed=seed)
            known = whole(unseen.embeddings)
            trials += [auroc(known, whole(table)) for table in strange]
        scores[kind] = float(np.mean(trials)) if trials else 0.5
    best = max(KINDS, key=lambda kind: scores[kind])
    return fit_novelty(best, train.embeddings, train.labels, seed=seed), scores


def _without_each_class(kind: Kind, train: Labelled, unseen: Labelled, seed: int) -> dict[int, float]:
    """AUROC of each class that was left out; with two classes a distance of one alone would be asked."""
    found = {}
    classes = np.unique(train.labels)
    for label in classes if len(classes) > 2 else ():
        strange = unseen.labels == label
        if strange.any() and not strange.all():
            rest = train.where(train.labels != label)
            distance = fit_novelty(kind, rest.embeddings, rest.labels, seed=seed)(unseen.embeddings)
            found[int(label)] = auroc(distance[~strange], distance[strange])
    return found


def auroc(known: Floats, strange: Floats) -> float:
    """How often something strange lies farther away than something known."""
    truth = np.concatenate([np.zeros(len(known), bool), np.ones(len(strange), bool)])
    return float(roc_auc_score(truth, np.concatenate([known, strange])))


def novelty_limit(distances: Floats, alarms: float) -> float:
    """The distance that known images exceed with a probability of at most `alarms`.

    An order statistic of images that were not trained on, as for conformal sets; infinite where they are too few.

    Args:
        distances: float32 [n].
        alarms: 0 < alarms < 1.
    """
    return upper_limit(distances, 1 - alarms)


def _unit(embeddings: Floats) -> Floats:
    length: Any = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(length, 1e-12), np.float32)


def _principal(centred: Floats) -> Floats:
    """Directions [D, d] of the largest spread, largest first."""
    covariance = (centred.T.astype(np.float64) @ centred) / len(centred)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    share = np.cumsum(np.maximum(values, 0)) / max(values.clip(0).sum(), 1e-30)
    wanted = int(np.searchsorted(share, VARIANCE)) + 1
    return np.ascontiguousarray(vectors[:, : min(wanted, DIMENSIONS, max(1, len(centred) - 1))], np.float32)
