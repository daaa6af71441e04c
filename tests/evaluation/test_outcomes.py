"""The decisions of two models about the same images."""

from __future__ import annotations

import numpy as np
import pytest
from cvtune_edge.decision import REVIEW, OperatingPoint
from scipy.stats import binom

from cvtune.evaluation.outcomes import Judged, outcomes
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate

CLASSES = ("dent", "ok")
TRUTH = [0] * 20 + [1] * 30


def judged(decisions: list[int], *, ok: tuple[int, ...] = (1,), classes: tuple[str, ...] = CLASSES) -> Judged:
    paths = tuple(f"{i}.png" for i in range(len(decisions)))
    truth = np.array(TRUTH, np.int64)
    answers = Predictions(paths, truth, np.full((len(truth), 2), 0.5, np.float32), classes)
    point = OperatingPoint(ok, (0.5, 0.5), (0.5, 0.5))
    return Judged(answers, point, np.array(decisions, np.int64))


def test_what_only_one_of_them_lets_pass_is_counted_and_tested() -> None:
    first = judged([1] * 6 + [0] * 14 + [0] * 3 + [1] * 26 + [REVIEW])
    second = judged([0] * 5 + [1] * 2 + [REVIEW] + [0] * 12 + [1] * 30)
    escapes, overkill, review = outcomes(first, second)
    assert (escapes.name, escapes.first, escapes.second) == ("escapes", Rate(6, 20), Rate(2, 20))
    assert (escapes.gone, escapes.new) == ((0, 1, 2, 3, 4), (6,))
    assert escapes.p == pytest.approx(2 * binom.cdf(1, 6, 0.5))
    assert (overkill.name, overkill.first, overkill.second) == ("overkill", Rate(3, 30), Rate(0, 30))
    assert overkill.p == pytest.approx(2 * 0.5**3)
    assert (review.name, review.first, review.second) == ("REVIEW", Rate(1, 50), Rate(1, 50))
    assert (review.new, review.gone, review.p) == ((7,), (49,), 1.0)
    assert escapes.to_json()["gone"] == 5


def test_without_a_good_class_what_is_wrong_counts() -> None:
    first, second = judged([0] * 50, ok=()), judged([0] * 20 + [1] * 29 + [REVIEW], ok=())
    wrong, review = outcomes(first, second)
    assert (wrong.name, wrong.first, wrong.second, len(wrong.gone)) == ("wrong", Rate(30, 50), Rate(0, 50), 30)
    assert wrong.p < 1e-8
    assert review.new == (49,)


def test_rows_follow_the_images_asked_for() -> None:
    some = judged(TRUTH).rows(("40.png", "3.png"))
    assert some.answers.paths == ("40.png", "3.png")
    assert some.answers.truth.tolist() == some.decisions.tolist() == [1, 0]


def test_an_escape_of_one_has_to_be_one_of_the_other() -> None:
    with pytest.raises(ValueError, match="other good classes"):
        outcomes(judged(TRUTH), judged(TRUTH, ok=(0,)))
    with pytest.raises(ValueError, match="other images"):
        outcomes(judged(TRUTH), judged(TRUTH).rows(("1.png",)))
