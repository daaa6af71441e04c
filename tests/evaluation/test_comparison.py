from __future__ import annotations

import numpy as np
import pytest

from cvtune.evaluation.comparison import better
from cvtune.evaluation.predictions import Predictions


def model(right: list[bool], truth: list[int], sure: float = 0.8) -> Predictions:
    labels = [t if r else 1 - t for t, r in zip(truth, right, strict=True)]
    probabilities = np.array([[sure, 1 - sure] if label == 0 else [1 - sure, sure] for label in labels], np.float32)
    paths = tuple(str(i) for i in range(len(truth)))
    return Predictions(paths, np.array(truth, np.int64), probabilities, ("ok", "bad"))


TRUTH = [0] * 10 + [1] * 10
ALL = [True] * 20


def wrong(*places: int) -> list[bool]:
    return [i not in places for i in range(20)]


def test_a_clear_gain_is_kept_even_with_a_worse_log_loss() -> None:
    verdict = better(model(ALL, TRUTH, 0.55), model(wrong(0, 1, 10, 11), TRUTH, 0.99))
    assert verdict.keep
    assert verdict.gain == pytest.approx(0.2)
    assert verdict.standard_error == pytest.approx(0.1)
    assert verdict.reason == "gain +0.200, above one standard error of 0.100; 4 newly right and 0 newly wrong of 20"


def test_a_clear_loss_is_dropped_even_with_a_better_log_loss() -> None:
    verdict = better(model(wrong(0, 1, 10, 11), TRUTH, 0.55), model(ALL, TRUTH, 0.51))
    assert not verdict.keep
    assert "loss -0.200" in verdict.reason


def test_one_image_more_is_no_proof_and_log_loss_decides() -> None:
    assert better(model(ALL, TRUTH, 0.9), model(wrong(0), TRUTH, 0.9)).keep
    verdict = better(model(ALL, TRUTH, 0.51), model(wrong(0), TRUTH, 0.9))
    assert not verdict.keep
    assert "no clear gain (+0.050, standard error 0.050) and a higher log-loss: 0.673 after 0.215" in verdict.reason


def test_where_neither_is_clear_more_right_answers_win() -> None:
    """One image more is right, and what that gains in log-loss others lose."""
    sure = np.full(20, 0.8)
    sure[10:15] = 0.6
    new = model(ALL, TRUTH)
    new = Predictions(new.paths, new.truth, _sure(new.probabilities, sure), new.classes)
    old = model(wrong(0), TRUTH)
    old = Predictions(old.paths, old.truth, _sure(old.probabilities, np.full(20, 0.8)), old.classes)
    verdict = better(new, old)
    assert verdict.keep
    assert "no clear difference in log-loss" in verdict.reason
    assert "more is right; 1 newly right and 0 newly wrong of 20" in verdict.reason
    verdict = better(old, new)
    assert not verdict.keep
    assert "nothing more is right" in verdict.reason


def _sure(probabilities: np.ndarray, sure: np.ndarray) -> np.ndarray:
    first = probabilities[:, 0] > 0.5
    return np.stack([np.where(first, sure, 1 - sure), np.where(first, 1 - sure, sure)], axis=1).astype(np.float32)


def test_the_same_answers_keep_the_cheaper_model() -> None:
    verdict = better(model(ALL, TRUTH), model(ALL, TRUTH))
    assert (verdict.keep, verdict.gain, verdict.standard_error) == (False, 0.0, 0.0)


def test_a_rare_class_weighs_as_much_as_a_common_one() -> None:
    truth = [0] * 18 + [1] * 2
    verdict = better(model(ALL, truth), model(wrong(18, 19), truth))
    assert verdict.gain == pytest.approx(0.5)


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="same images"):
        better(model(ALL, TRUTH), model(ALL, TRUTH[::-1]))
