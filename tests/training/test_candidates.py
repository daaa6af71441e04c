from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression, Ridge

from cvtune.training import candidates
from cvtune.training.candidates import Floats, Labels, Linear, Sample, discriminants, logistic, losses, temperature
from cvtune.training.ridge import PENALTIES, ridge


def sample(
    n: int = 60, width: int = 8, classes: int = 3, *, multi: bool = False, seed: int = 0, **changes: Any
) -> Sample:
    """Overlapping clouds, each image a unit of its own, classes of different weight."""
    random = np.random.default_rng(seed)
    labels: Labels = random.integers(0, classes, n)
    x = random.normal(size=(n, width)) + random.normal(size=(classes, width))[labels]
    if multi:
        labels = random.random((n, classes)) < 1 / (1 + np.exp(-2 * x[:, :classes]))
    values: dict[str, Any] = {
        "x": x.astype(np.float32),
        "labels": labels,
        "units": np.arange(n),
        "images": np.arange(n),
        "weights": np.linspace(0.5, 1.5, classes).astype(np.float32),
        **changes,
    }
    return Sample(**values)


def brute_force(one: Sample, penalty: float) -> NDArray[np.float64]:
    """Scores [n, K] of each row by a fit without its unit."""
    scores = np.empty((len(one.x), len(one.weights)))
    for unit in np.unique(one.units):
        out = one.units == unit
        rest = one.take(np.flatnonzero(~out))
        model = Ridge(alpha=penalty).fit(rest.x.astype(np.float64), rest.targets, sample_weight=rest.row_weights)
        scores[out] = model.predict(one.x[out].astype(np.float64))
    return scores


@pytest.mark.parametrize("width", [8, 150])  # fewer features than images, and more
@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("units", [1, 3])
def test_leaving_out_is_exact(width: int, multi: bool, units: int) -> None:
    one = sample(60, width, multi=multi, units=np.arange(60) // units)
    tried = {penalty: brute_force(one, penalty) for penalty in PENALTIES}
    error = {p: float((one.row_weights[:, None] * (s - one.targets) ** 2).sum()) for p, s in tried.items()}
    head, penalty = ridge(one)
    assert penalty == min(error, key=lambda p: error[p])
    plain = Ridge(alpha=penalty).fit(one.x.astype(np.float64), one.targets, sample_weight=one.row_weights)
    if multi:
        ratio = head.coefficients / plain.coef_
        np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(width), rtol=1e-4)
    else:
        factor = temperature(tried[penalty], one.labels, one.weights)
        np.testing.assert_allclose(head.coefficients, factor * plain.coef_, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(head.intercepts, factor * plain.intercept_, rtol=2e-4, atol=1e-6)


def test_many_rows_ask_some_units_only(monkeypatch: pytest.MonkeyPatch) -> None:
    one = sample(300, 10, units=np.arange(300) // 2)
    whole = ridge(one)
    monkeypatch.setattr("cvtune.training.ridge._ASKED", 100)
    monkeypatch.setattr("cvtune.training.candidates.CHUNK", 64)
    part = ridge(one)
    np.testing.assert_allclose(part[0].coefficients, whole[0].coefficients, rtol=0.2)
    assert not np.array_equal(part[0].coefficients, whole[0].coefficients)


def test_a_unit_of_very_many_rows_is_left_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvtune.training.ridge._LARGE", 20)
    large = ridge(sample(60, 6, units=np.arange(60) // 30))
    parts = ridge(sample(60, 6, units=10 * (np.arange(60) // 30) + np.arange(60) % 30 // 20))
    assert large[1] == parts[1]
    np.testing.assert_allclose(large[0].coefficients, parts[0].coefficients)


def test_a_class_in_one_unit_is_left_out_image_by_image() -> None:
    """Leaving its only track out, nothing would be left to know it by."""
    one = sample(60, 4, classes=3, seed=1)
    units = np.where(one.labels == 2, 0, 1 + one.images // 2)
    head, _ = ridge(sample(60, 4, classes=3, seed=1, units=units))
    alone, _ = ridge(sample(60, 4, classes=3, seed=1, units=np.where(one.labels == 2, 100 + one.images, units)))
    np.testing.assert_allclose(head.coefficients, alone.coefficients)
    several = sample(60, 4, multi=True, units=np.zeros(60, np.int64))
    assert np.isfinite(ridge(several)[0].coefficients).all()


@pytest.mark.parametrize("width", [6, 150])  # fewer features than images, and more
def test_discriminants_shrink_the_covariance_inside_the_classes_as_ledoit_and_wolf_do(width: int) -> None:
    one = sample(90, width)
    head, shrinkage = discriminants(one)
    x = one.x.astype(np.float64)
    means = np.stack([x[one.labels == k].mean(axis=0) for k in range(3)])
    covariance, expected = ledoit_wolf(x - means[one.labels], assume_centered=True)
    assert shrinkage == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(head.coefficients, np.linalg.solve(covariance, means.T).T, rtol=1e-3, atol=1e-3)
    priors = np.bincount(one.labels) * one.weights
    intercepts = np.log(priors / priors.sum()) - 0.5 * (head.coefficients * means).sum(axis=1)
    np.testing.assert_allclose(head.intercepts, intercepts, rtol=1e-4)


def test_discriminants_want_one_label_an_image() -> None:
    with pytest.raises(ValueError, match="one label an image"):
        discriminants(sample(multi=True))


def test_images_that_do_not_differ_are_no_obstacle() -> None:
    same = sample(12, 5, x=np.ones((12, 5), np.float32))
    for head in (ridge(same)[0], discriminants(same)[0], logistic(same, 1.0)):
        assert np.isfinite(head(same.x)).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_is_scikit_learns_with_the_weights_of_the_classes(classes: int) -> None:
    one = sample(80, 5, classes)
    plain = LogisticRegression(C=0.1, class_weight=dict(enumerate(one.weights)), tol=1e-6).fit(one.x, one.labels)
    logits = logistic(one, 0.1)(one.x)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p, plain.predict_proba(one.x), atol=5e-3)


def test_an_image_that_stands_twice_counts_once() -> None:
    one = sample(50, 6)
    twice = np.tile(np.arange(50), 2)
    double = Sample(one.x[twice], one.labels[twice], one.units[twice], one.images[twice], one.weights, 0.5)
    np.testing.assert_allclose(logistic(double, 0.1)(one.x), logistic(one, 0.1)(one.x), atol=0.02)
    assert ridge(double)[1] == ridge(one)[1]  # had its twin stayed, leaving it out would ask for no penalty
    np.testing.assert_allclose(ridge(double)[0](one.x), ridge(one)[0](one.x), rtol=0.05)  # half the doubt


@pytest.mark.parametrize("multi", [False, True])
def test_losses_are_weighted_log_likelihoods(multi: bool) -> None:
    one = sample(20, 4, multi=multi)
    logits = np.random.default_rng(1).normal(size=(20, 3))
    found = losses(logits, one.labels, one.weights)
    if multi:
        p = 1 / (1 + np.exp(-logits))
        expected = -np.where(one.labels, one.weights * np.log(p), np.log(1 - p)).mean(axis=1)
    else:
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected = -one.weights[one.labels] * np.log(p[np.arange(20), one.labels])
    np.testing.assert_allclose(found, expected)


def test_the_temperature_makes_unseen_logits_likely() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(4000, 3)) * 2
    labels = np.array([random.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in truth])
    assert temperature(truth * 7, labels, np.ones(3, np.float32)) == pytest.approx(1 / 7, rel=0.05)


def test_few_images_that_are_all_told_apart_give_no_certainty() -> None:
    labels = np.repeat(np.arange(3), 5)
    factor = temperature(np.eye(3)[labels], labels, np.ones(3, np.float32))
    assert 2 < factor < 6  # without a doubt it would be 10,000, the most there is
    assert candidates._FACTORS[1] == 1e4


def test_a_sample_of_two_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="of different length"):
        sample(units=np.arange(3))


def test_floats_stay_floats() -> None:
    x: Floats = sample().x
    assert Linear(np.ones((2, 8)), np.zeros(2))(x).shape == (60, 2)
