"""How far an image is from everything that was trained on: what nobody has shown to the network goes to REVIEW.

Two distances of embeddings, both the mean distance to the nearest few points in a linear space of fewer dimensions, so
that one piece of graph serves both:

- knn: to the nearest training images (Sun et al. 2022, arXiv:2204.06507), embeddings of length 1;
- mahalanobis: to the nearest class mean, in units of the spread inside the classes, shrunk as by Ledoit and Wolf
  (Lee et al. 2018, arXiv:1807.03888).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from cvtune.errors import RunError
from cvtune.evaluation.conformal import upper_limit
from cvtune.rundir import write_bytes

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Kind = Literal["knn", "mahalanobis"]

KINDS: Final[tuple[Kind, ...]] = ("knn", "mahalanobis")
VARIANCE: Final = 0.99  # of the embeddings, that the space keeps,
DIMENSIONS: Final = 128  # in so many dimensions at most
NEIGHBOURS: Final = 5
BANK: Final = 2000  # training images that are kept to be compared with: 1 MB of 128 dimensions
CHUNK: Final = 1024
_MARGIN: Final = 1.01  # in place of a next farther image
SHORTEST: Final = 1e-12  # an embedding of nothing but zeros has no direction


@dataclass(frozen=True, eq=False)
class Labelled:
    """Embeddings float32 [n, D] of images whose classes are known, int64 [n]."""

    embeddings: Floats
    labels: Ints

    def __post_init__(self) -> None:
        if len(self.embeddings) != len(self.labels):
            raise ValueError(f"{len(self.embeddings)} embeddings and {len(self.labels)} labels: expected as many")

    def where(self, rows: NDArray[np.bool_]) -> Labelled:
        """Some of them."""
        return Labelled(self.embeddings[rows], self.labels[rows])


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

    def save(self, path: Path) -> None:
        """Write novelty.safetensors."""
        tables = {"mean": self.mean, "basis": self.basis, "points": self.points}
        tensors = {name: np.ascontiguousarray(table) for name, table in tables.items()}
        write_bytes(path, save_tensors(tensors, {"kind": self.kind, "neighbours": str(self.neighbours)}))

    @classmethod
    def load(cls, path: Path) -> Novelty:
        """Read novelty.safetensors.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about, tables = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            kind = next(kind for kind in KINDS if kind == about["kind"])
            return cls(kind, tables["mean"], tables["basis"], tables["points"], int(about["neighbours"]))
        except (OSError, KeyError, ValueError, StopIteration, SafetensorError) as error:
            raise RunError(f"{path}: damaged, no distance in it ({error!r})", hint="fit the run again") from error


def fit_novelty(kind: Kind, embeddings: Floats, labels: Ints, *, seed: int = 0, space: Space | None = None) -> Novelty:
    """The distance from some training images.

    Args:
        kind: which one.
        embeddings: float32 [n, D].
        labels: int64 [n].
        seed: of the images that are kept where there are more than enough.
        space: of these embeddings, where it is known.

    Raises:
        ValueError: fewer than two images.
    """
    return _fitted(kind, space or Space.of(embeddings), Labelled(embeddings, labels), seed=seed)


@dataclass(frozen=True, eq=False)
class Space:
    """The directions of the largest spread of some embeddings: mean float32 [D], basis [D, d].

    Raises:
        ValueError: fewer than two embeddings, from :meth:`of`.
    """

    mean: Floats
    basis: Floats

    @classmethod
    def of(cls, embeddings: Floats) -> Space:
        """Of embeddings [n, D]."""
        if len(embeddings) < 2:
            raise ValueError(f"{len(embeddings)} embeddings: expected two or more")
        x = _unit(embeddings)
        mean = x.mean(axis=0)
        return cls(mean, _principal(x - mean))


def _fitted(kind: Kind, space: Space, known: Labelled, *, seed: int) -> Novelty:
    z: Floats = np.asarray((_unit(known.embeddings) - space.mean) @ space.basis, np.float32)
    if kind == "knn":
        kept = np.sort(np.random.default_rng(seed).permutation(len(z))[:BANK])
        return Novelty(kind, space.mean, space.basis, z[kept], min(NEIGHBOURS, len(kept)))
    classes = np.unique(known.labels)
    means = np.stack([z[known.labels == label].mean(axis=0) for label in classes]).astype(np.float32)
    within = z - means[np.searchsorted(classes, known.labels)]
    covariance, _ = ledoit_wolf(within.astype(np.float64), assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    white = (vectors / np.sqrt(np.maximum(values, values.max() * 1e-9))).astype(np.float32)
    return Novelty(kind, space.mean, space.basis @ white, means @ white, 1)


@dataclass(frozen=True, eq=False)
class Trial:
    """How both distances do, fitted on some images and tried on others.

    Attributes:
        distances: of each kind, float32 [n], of the images that were not trained on.
        scores: of each kind, the mean AUROC of whatever was to be told apart; 0.5 where there was nothing to try.
        left_out: of each kind, the AUROC of each class by its number, were it unknown to the distance (the network has
            seen it all the same); empty where two classes or fewer leave nothing to leave out.
    """

    distances: Mapping[Kind, Floats]
    scores: Mapping[Kind, float]
    left_out: Mapping[Kind, Mapping[int, float]]

    @property
    def best(self) -> Kind:
        """The kind with the higher score, the first of equal ones."""
        return max(KINDS, key=lambda kind: self.scores[kind])


def try_kinds(
    train: Labelled, unseen: Labelled, strange: Sequence[Floats] = (), *, seed: int = 0, space: Space | None = None
) -> Trial:
    """Fit both distances and see how they tell what they have not seen: each class left out, and images spoilt.

    Args:
        train: images that the network was trained on.
        unseen: images that it was not trained on, of the same classes.
        strange: embeddings float32 [., D] of spoilt images, one table a way of spoiling them.
        seed: see :func:`fit_novelty`.
        space: of the training images, where it is known.

    Raises:
        ValueError: fewer than two images to train on.
    """
    space = space or Space.of(train.embeddings)  # one for all: with each class left out anew it would take K times
    distances, scores, left_out = {}, {}, {}
    for kind in KINDS:
        whole = _fitted(kind, space, train, seed=seed)
        distances[kind] = whole(unseen.embeddings)
        left_out[kind] = _without_each_class(kind, space, train, unseen, seed)
        spoilt = [auroc(distances[kind], whole(table)) for table in strange if len(unseen.labels)]
        found = [*left_out[kind].values(), *spoilt]
        scores[kind] = float(np.mean(found)) if found else 0.5
    return Trial(distances, scores, left_out)


def merged(trials: Sequence[Trial], order: Ints) -> Trial:
    """Of several folds: their distances one behind the other, taken in an order, and means of what was measured.

    Raises:
        ValueError: no trial.
    """
    if not trials:
        raise ValueError("no trials: expected one a fold")
    distances = {kind: np.concatenate([one.distances[kind] for one in trials])[order] for kind in KINDS}
    scores = {kind: float(np.mean([one.scores[kind] for one in trials])) for kind in KINDS}
    return Trial(distances, scores, {kind: _means([one.left_out[kind] for one in trials]) for kind in KINDS})


def _means(tables: Sequence[Mapping[int, float]]) -> dict[int, float]:
    names = sorted({name for table in tables for name in table})
    return {name: float(np.mean([table[name] for table in tables if name in table])) for name in names}


def _without_each_class(kind: Kind, space: Space, train: Labelled, unseen: Labelled, seed: int) -> dict[int, float]:
    """AUROC of each class that was left out; with two classes a distance of one alone would be asked."""
    found = {}
    classes = np.unique(train.labels)
    for label in classes if len(classes) > 2 else ():
        strange = unseen.labels == label
        if strange.any() and not strange.all():
            distance = _fitted(kind, space, train.where(train.labels != label), seed=seed)(unseen.embeddings)
            found[int(label)] = auroc(distance[~strange], distance[strange])
    return found


def auroc(known: Floats, strange: Floats) -> float:
    """How often something strange lies farther away than something known."""
    truth = np.concatenate([np.zeros(len(known), bool), np.ones(len(strange), bool)])
    return float(roc_auc_score(truth, np.concatenate([known, strange])))


def novelty_limit(distances: Floats, alarms: float) -> tuple[float, float]:
    """The distance that known images exceed with a probability of at most `alarms`.

    An order statistic of images that were not trained on, as for conformal sets. Where they are too few to promise so
    little, the largest of them is the limit, which the next image exceeds once in n + 1. It is moved half-way to the
    next farther one: what another machine computes a hair's breadth otherwise stays on its side.

    Args:
        distances: float32 [n].
        alarms: 0 < alarms < 1.

    Returns:
        The limit, infinite where nothing was measured, and the share of alarms that it stands for.
    """
    n = len(distances)
    if not n:
        return math.inf, 0.0
    limit = upper_limit(distances, 1 - alarms)
    share = alarms if math.isfinite(limit) else 1 / (n + 1)
    limit = limit if math.isfinite(limit) else float(distances.max())
    farther = distances[distances > limit]
    return (limit + (float(farther.min()) if len(farther) else _MARGIN * limit)) / 2, share


def _unit(embeddings: Floats) -> Floats:
    length: Any = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(length, SHORTEST), np.float32)


def _principal(centred: Floats) -> Floats:
    """Directions [D, d] of the largest spread, largest first."""
    covariance = (centred.T @ centred).astype(np.float64) / len(centred)
    width = len(covariance)
    most = min(DIMENSIONS, width, max(1, len(centred) - 1))
    values, vectors = eigh(covariance, subset_by_index=(width - most, width - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    share = np.cumsum(np.maximum(values, 0)) / max(float(np.trace(covariance)), 1e-30)
    wanted = min(most, int(np.searchsorted(share, VARIANCE)) + 1)
    return np.ascontiguousarray(vectors[:, :wanted], np.float32)
