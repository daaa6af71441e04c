"""Calibration error against simulated truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from cvtune.evaluation.rates import Rate
from cvtune.evaluation.reliability import Reliability, reliability


def said(n: int, seed: int, sharper: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities [n, 3], and classes drawn from them before they are made sharper."""
    dice = np.random.default_rng(seed)
    logits = dice.normal(size=(n, 3)) * 1.5
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (true.cumsum(axis=1) < dice.random((n, 1))).sum(axis=1).clip(0, 2)
    e = np.exp(sharper * logits)
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32), truth


def test_true_probabilities_are_below_chance_nineteen_times_in_twenty() -> None:
    found = [reliability(*said(200, seed), seed=seed) for seed in range(60)]
    below = sum(one.ece <= one.ece_of_chance for one in found)
    assert 52 <= below <= 60  # 57 expected


def test_probabilities_that_are_too_sharp_are_not() -> None:
    found = reliability(*said(600, 0, sharper=3.0))
    assert found.ece > 1.5 * found.ece_of_chance
    assert sum(one.confidence * one.right.n - one.right.k for one in found.bins) > 50, "surer than right"


def test_by_hand() -> None:
    """Two images in one bin: 0.8 and 0.6 sure, one of them right."""
    found = reliability(np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0]))
    assert len(found.bins) == 1
    assert found.bins[0].right == Rate(1, 2)
    assert found.bins[0].confidence == pytest.approx(0.7)
    assert found.ece == pytest.approx(0.2)
    assert found.brier == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)
    assert found.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)


def test_labels_are_said_one_by_one() -> None:
    found = reliability(np.array([[0.9, 0.2], [0.5, 0.4]]), np.array([[True, False], [False, True]]))
    assert found.bins[0].right == Rate(2, 4)
    assert found.bins[0].confidence == pytest.approx((0.9 + 0.8 + 0.5 + 0.6) / 4)
    assert found.brier == pytest.approx((0.1**2 + 0.2**2 + 0.5**2 + 0.6**2) / 2)


def test_few_images_make_few_bins_and_all_are_counted() -> None:
    for n, bins in ((1, 1), (25, 2), (149, 14), (1000, 15)):
        found = reliability(*said(n, n))
        assert len(found.bins) == bins
        assert sum(one.right.n for one in found.bins) == n
        assert found.to_json()["bins"][0]["n"] == found.bins[0].right.n


def test_it_reads_back_from_its_plain_values() -> None:
    found = reliability(*said(149, 3))
    assert Reliability.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(ValueError, match="is no rate"):
        Reliability.from_json({**found.to_json(), "bins": [{"confidence": 0.5, "k": 3, "n": 2}]})


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        reliability(np.zeros((0, 2)), np.zeros(0, np.int64))
