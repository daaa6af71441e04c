"""Distances against scikit-learn's, and what they tell apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from cvtune.errors import RunError
from cvtune.evaluation.novelty import (
    KINDS,
    Kind,
    Labelled,
    Novelty,
    Space,
    auroc,
    fit_novelty,
    merged,
    novelty_limit,
    try_kinds,
)


def table(n: int, classes: int, seed: int) -> Labelled:
    """Embeddings of 24 dimensions around a mean of each class, as different in each as networks give them."""
    means = np.random.default_rng(7).normal(size=(classes, 24)) * 2
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, classes, n)
    return Labelled((means[labels] + dice.normal(size=(n, 24))).astype(np.float32), labels)


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def test_neighbours_are_scikit_learns() -> None:
    train, new = table(200, 4, 0), table(50, 4, 1)
    found = fit_novelty("knn", train.embeddings, train.labels)(new.embeddings)
    assert found.dtype == np.float32
    near = NearestNeighbors(n_neighbors=5).fit(unit(train.embeddings)).kneighbors(unit(new.embeddings))[0]
    assert found == pytest.approx(near.mean(axis=1), rel=0.2)  # 1 % of the variance is left out
    assert np.corrcoef(found, near.mean(axis=1))[0, 1] > 0.98


def test_mahalanobis_is_scikit_learns() -> None:
    train, new = table(400, 4, 0), table(50, 4, 1)
    fitted = fit_novelty("mahalanobis", train.embeddings, train.labels)
    space = (unit(train.embeddings) - fitted.mean).astype(np.float64)
    means = np.stack([space[train.labels == k].mean(axis=0) for k in range(4)])
    within = LedoitWolf(assume_centered=True).fit(space - means[train.labels])
    z = unit(new.embeddings) - fitted.mean
    wanted = np.sqrt(np.min([within.mahalanobis(z - mean) for mean in means], axis=0))
    assert np.corrcoef(fitted(new.embeddings), wanted)[0, 1] > 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_another_class_is_far_away(kind: Kind) -> None:
    train, new = table(400, 5, 0), table(400, 5, 1)
    rest = train.where(train.labels != 4)
    distances = fit_novelty(kind, rest.embeddings, rest.labels)(new.embeddings)
    assert auroc(distances[new.labels != 4], distances[new.labels == 4]) > 0.95


def test_the_better_distance_is_chosen() -> None:
    train, unseen = table(300, 4, 0), table(200, 4, 1)
    spoilt = unseen.embeddings + np.random.default_rng(3).normal(size=unseen.embeddings.shape).astype(np.float32)
    trial = try_kinds(train, unseen, [spoilt])
    assert trial.scores[trial.best] == max(trial.scores.values()) > 0.9
    for kind in KINDS:
        assert set(trial.left_out[kind]) == {0, 1, 2, 3}
        np.testing.assert_array_equal(
            trial.distances[kind], fit_novelty(kind, train.embeddings, train.labels)(unseen.embeddings)
        )


def test_a_space_that_is_known_is_taken() -> None:
    train, unseen = table(60, 3, 0), table(20, 3, 1)
    space = Space.of(train.embeddings)
    for kind in KINDS:
        fitted = fit_novelty(kind, train.embeddings, train.labels, space=space)
        np.testing.assert_array_equal(fitted.mean, space.mean)
        np.testing.assert_array_equal(
            fitted(unseen.embeddings), fit_novelty(kind, train.embeddings, train.labels)(unseen.embeddings)
        )
        np.testing.assert_array_equal(try_kinds(train, unseen, space=space).distances[kind], fitted(unseen.embeddings))


def test_nothing_to_try_is_no_error() -> None:
    train = table(40, 2, 0)
    trial = try_kinds(train, train)
    assert set(trial.scores.values()) == {0.5}
    assert not any(trial.left_out.values())


def test_nothing_unseen_is_no_error() -> None:
    train = table(40, 3, 0)
    trial = try_kinds(train, train.where(np.zeros(40, bool)), [train.embeddings])
    assert set(trial.scores.values()) == {0.5}
    assert [len(trial.distances[kind]) for kind in KINDS] == [0, 0]


def test_folds_are_put_together_in_the_order_of_their_images() -> None:
    train, parts = table(100, 3, 0), [table(20, 3, 1), table(10, 3, 2)]
    trials = [try_kinds(train, part) for part in parts]
    order = np.random.default_rng(0).permutation(30)
    whole = merged(trials, order)
    for kind in KINDS:
        both = np.concatenate([trial.distances[kind] for trial in trials])
        np.testing.assert_array_equal(whole.distances[kind], both[order])
        assert whole.scores[kind] == pytest.approx(np.mean([trial.scores[kind] for trial in trials]))
    assert set(whole.left_out["knn"]) == {0, 1, 2}
    with pytest.raises(ValueError, match="no trials"):
        merged([], order)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_same_distances(kind: Kind, tmp_path: Path) -> None:
    train, new = table(60, 3, 0), table(20, 3, 1)
    fitted, path = fit_novelty(kind, train.embeddings, train.labels), tmp_path / "novelty.safetensors"
    fitted.save(path)
    read = Novelty.load(path)
    assert (read.kind, read.neighbours) == (fitted.kind, fitted.neighbours)
    np.testing.assert_array_equal(read(new.embeddings), fitted(new.embeddings))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "novelty.safetensors"
    with pytest.raises(RunError, match=r"novelty\.safetensors: damaged"):
        Novelty.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(RunError, match=r"novelty\.safetensors: damaged"):
        Novelty.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_images_than_dimensions(kind: Kind) -> None:
    few = table(6, 2, 0)
    assert np.isfinite(fit_novelty(kind, few.embeddings, few.labels)(table(30, 2, 1).embeddings)).all()
    with pytest.raises(ValueError, match="1 embeddings"):
        fit_novelty(kind, few.embeddings[:1], few.labels[:1])


def test_the_limit_is_passed_as_often_as_stated() -> None:
    train = table(300, 4, 0)
    distance = fit_novelty("knn", train.embeddings, train.labels)
    far = distance(table(20_000, 4, 2).embeddings)
    alarms = [(far > novelty_limit(distance(table(120, 4, 100 + s).embeddings), 0.05)[0]).mean() for s in range(100)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.01)
    limit, share = novelty_limit(far[:19], 0.05)
    assert share == 0.05
    assert far[:19].max() < limit < 1.01 * far[:19].max(), "no known image is at the limit"
    assert (far[:19] > novelty_limit(far[:19], 0.25)[0]).sum() == 4


def test_of_a_few_images_the_farthest_is_the_limit() -> None:
    """One in twenty cannot be promised with 18: the next one is the farthest once in 19 times."""
    distances = np.arange(18, dtype=np.float32)
    limit, share = novelty_limit(distances, 0.05)
    assert limit == pytest.approx(17.0 * 1.005)
    assert share == 1 / 19
    assert novelty_limit(distances[:0], 0.05) == (math.inf, 0.0)
