"""Two models on the same images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binom

from cvtune.errors import DataError
from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.paired import Difference, aligned, log_loss_change, versus
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate

CLASSES = ("dent", "ok", "scratch")


def answers(right: list[bool], *, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Predictions:
    """Images of all classes in turn, answered rightly or not."""
    dice = np.random.default_rng(seed)
    truth = np.arange(len(right)) % len(classes)
    said = np.where(right, truth, (truth + 1) % len(classes))
    probabilities = dice.dirichlet([1, 1, 1], len(right)) * 0.4 + 0.6 * np.eye(3)[said]
    paths = tuple(f"{classes[t]}/{i}.png" for i, t in enumerate(truth))
    return Predictions(paths, truth.astype(np.int64), probabilities.astype(np.float32), classes)


def test_what_changed_is_counted_and_tested_exactly() -> None:
    a = answers([True] * 50 + [False] * 10)
    b = answers([True] * 46 + [False] * 4 + [True] * 9 + [False], seed=1)
    found = versus(a, b)
    assert (found.first, found.second) == (Rate(50, 60), Rate(55, 60))
    assert sorted(found.newly_right) == list(range(50, 59))
    assert sorted(found.newly_wrong) == list(range(46, 50))
    assert found.p == pytest.approx(2 * binom.cdf(4, 13, 0.5))
    sure = b.probabilities.max(axis=1)[list(found.newly_right)]
    assert (np.diff(sure) <= 0).all()
    assert found.sentence.startswith(
        "no difference is shown: 9 newly right, 4 newly wrong of 60, chance alone does that"
    )
    accuracy, balanced, loss = found.differences
    assert accuracy.value == pytest.approx(5 / 60)
    assert accuracy.low < 0 < accuracy.value < accuracy.high
    assert not accuracy.shown
    assert balanced.value == pytest.approx(5 / 60)  # twenty images of each class
    assert loss.value == pytest.approx(b.log_loss - a.log_loss)
    assert loss == log_loss_change(a, b) == Difference.from_json(json.loads(json.dumps(loss.to_json())))


def test_a_better_model_is_called_so() -> None:
    a, b = answers([False] * 30 + [True] * 90), answers([True] * 118 + [False] * 2)
    found = versus(a, b)
    assert found.sentence == (
        "the second is better: 30 newly right, 2 newly wrong of 120, "
        "chance alone does that less than once in 1,000 times"
    )
    assert found.differences[0].shown
    assert versus(b, a).sentence.startswith("the first is better: 2 newly right, 30 newly wrong")
    same = versus(a, a)
    assert (same.p, same.differences[0].low, same.differences[0].high) == (1.0, 0.0, 0.0)


def test_the_interval_holds_what_it_promises() -> None:
    """A true difference of 0: 95 of 100 intervals hold it."""
    held = 0
    for seed in range(100):
        dice = np.random.default_rng(seed)
        hard = dice.random(150) < 0.3
        a, b = (answers((~hard | (dice.random(150) < 0.5)).tolist(), seed=seed) for _ in range(2))
        one = versus(a, b, seed=seed).differences[0]
        held += one.low <= 0 <= one.high
    assert 89 <= held <= 100


def test_images_and_classes_are_put_into_one_order() -> None:
    a = answers([True, False, True, True, False, True])
    order, columns = [4, 2, 0, 5], [2, 0, 1]
    place = np.argsort(columns)
    b = Predictions(
        tuple(a.paths[row] for row in order),
        place[a.truth[order]].astype(np.int64),
        a.probabilities[np.ix_(order, columns)],
        tuple(CLASSES[k] for k in columns),
    )
    first, second = aligned(a, b)
    assert first.paths == second.paths == tuple(a.paths[row] for row in (0, 2, 4, 5))
    assert np.array_equal(first.probabilities, second.probabilities)
    assert np.array_equal(first.truth, second.truth)


def test_what_cannot_be_compared() -> None:
    a = answers([True] * 6)
    with pytest.raises(DataError, match="no test image in common"):
        aligned(a, Predictions(tuple(f"x{p}" for p in a.paths), a.truth, a.probabilities, CLASSES))
    with pytest.raises(DataError, match="know other classes: dent, ok, scratch and dent, ok, rust"):
        aligned(a, Predictions(a.paths, a.truth, a.probabilities, ("dent", "ok", "rust")))
    other = a.truth.copy()
    other[3] = 1
    with pytest.raises(DataError, match=r"dent/3\.png has another label"):
        aligned(a, Predictions(a.paths, other, a.probabilities, CLASSES))


def test_labels_are_right_together() -> None:
    truth = np.array([[True, False], [True, True], [False, False]])
    p = np.where(truth, 0.8, 0.2).astype(np.float32)
    a = MultiPredictions(("a", "b", "c"), truth, p, truth, ("x", "y"))
    b = MultiPredictions(("c", "b"), truth[[2, 1]][:, ::-1], p[[2, 1]][:, ::-1], ~truth[[2, 1]][:, ::-1], ("y", "x"))
    first, second = aligned(a, b)
    found = versus(first, second)
    assert (found.first, found.second) == (Rate(2, 2), Rate(0, 2))
    assert [one.name for one in found.differences] == ["accuracy", "log-loss"]
