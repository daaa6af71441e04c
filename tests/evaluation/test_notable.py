from __future__ import annotations

import numpy as np
import pytest

from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.notable import MISTAKES, UNSURE, certainty, doubt, notable
from cvtune.evaluation.predictions import Predictions


def single(probabilities: list[list[float]], truth: list[int]) -> Predictions:
    paths = tuple(f"{number}.png" for number in range(len(truth)))
    return Predictions(paths, np.array(truth), np.array(probabilities, np.float32), ("a", "b", "c"))


ANSWERS = single([[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.4, 0.35, 0.25], [0.05, 0.05, 0.9]], [0, 0, 0, 1])


def test_mistakes_come_surest_first() -> None:
    assert notable(ANSWERS).mistakes.tolist() == [3, 1]


def test_the_least_sure_come_first() -> None:
    assert doubt(ANSWERS) == pytest.approx([0.8, 0.5, 0.05, 0.85])
    assert notable(ANSWERS).unsure.tolist() == [2, 1, 0, 3]


def test_the_strangest_come_first_where_that_is_known() -> None:
    assert notable(ANSWERS).strange.tolist() == []
    assert notable(ANSWERS, np.array([1, 4, 2, 3], np.float32)).strange.tolist() == [1, 3, 2, 0]
    assert notable(ANSWERS).rows.tolist() == [0, 1, 2, 3]


def test_of_many_some_are_chosen() -> None:
    dice = np.random.default_rng(0)
    p = dice.dirichlet(np.ones(3), 500).astype(np.float32)
    many = Predictions(tuple(map(str, range(500))), dice.integers(0, 3, 500), p, ("a", "b", "c"))
    found = notable(many, p[:, 0])
    assert (len(found.mistakes), len(found.unsure)) == (MISTAKES, UNSURE)
    assert not many.right[found.mistakes].any()
    assert many.probabilities.max(axis=1)[found.mistakes].min() >= np.sort(p.max(axis=1)[~many.right])[-MISTAKES]


def test_of_several_labels_the_worst_and_the_closest_count() -> None:
    truth = np.array([[True, False], [True, False]])
    p = np.array([[0.1, 0.2], [0.9, 0.45]], np.float32)
    answers = MultiPredictions(("a", "b"), truth, p, p >= 0.5, ("x", "y"))
    assert certainty(answers) == pytest.approx([0.9, 0])
    assert doubt(answers) == pytest.approx([0.3, 0.05])
    assert notable(answers).mistakes.tolist() == [0]
