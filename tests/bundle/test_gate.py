from __future__ import annotations

import numpy as np
import pytest
from cvtune_edge.results import has_labels

from cvtune.bundle.gate import Parity, check, compare
from cvtune.errors import GateError


def table(*rows: tuple[float, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32)


def test_equal_answers_pass() -> None:
    answers = table((0.9, 0.1), (0.2, 0.8))
    parity = compare(answers, answers + np.float32(5e-4))
    assert (parity.images, parity.equal, parity.ties) == (2, 2, 0)
    assert parity.worst == pytest.approx(5e-4, rel=1e-3)
    check(parity)


def test_classes_that_are_level_may_swap() -> None:
    parity = compare(table((0.50004, 0.49996), (0.9, 0.1)), table((0.49998, 0.50002), (0.9, 0.1)))
    assert (parity.equal, parity.ties, parity.passed) == (1, 1, True)
    check(parity)


def test_classes_further_apart_may_not() -> None:
    parity = compare(table((0.5002, 0.4998)), table((0.4999, 0.5001)))
    assert (parity.equal, parity.ties, parity.passed) == (0, 0, False)
    with pytest.raises(
        GateError, match=r"1 of 1 decisions differ, largest difference of a probability 0.0003 \(at most"
    ):
        check(parity)


def test_a_probability_that_is_off_fails_although_the_decisions_agree() -> None:
    parity = compare(table((0.9, 0.1)), table((0.898, 0.102)))
    assert (parity.equal, parity.passed) == (1, False)
    with pytest.raises(GateError, match="0 of 1 decisions differ") as caught:
        check(parity)
    assert caught.value.exit_code == 3
    assert "no bundle was written" in caught.value.hint


THRESHOLDS = (0.5, 0.9, 0.1)


def labels(trained: tuple[float, ...], exported: tuple[float, ...]) -> Parity:
    return compare(table(trained), table(exported), task="multi", thresholds=THRESHOLDS)


def test_several_labels_are_compared_one_by_one() -> None:
    parity = labels((0.6, 0.8, 0.2), (0.6005, 0.8, 0.2))
    assert (parity.images, parity.equal, parity.ties, parity.passed) == (1, 1, 0, True)
    assert parity.worst == pytest.approx(5e-4, rel=1e-3)
    # the largest stays the largest, and a label goes
    parity = labels((0.6, 0.9005, 0.2), (0.6, 0.8995, 0.2))
    assert (parity.images, parity.equal, parity.ties, parity.passed) == (1, 0, 0, False)
    with pytest.raises(GateError, match="1 of 1 decisions differ"):
        check(parity)


def test_a_label_at_its_threshold_may_come_and_go() -> None:
    at = (0.50005, 0.90002, 0.3), (0.49995, 0.89998, 0.3)
    assert (labels(*at).equal, labels(*at).ties, labels(*at).passed) == (0, 1, True)
    beside = (0.50005, 0.9002, 0.3), (0.49995, 0.8998, 0.3)
    assert (labels(*beside).equal, labels(*beside).ties, labels(*beside).passed) == (0, 0, False)


def test_labels_are_those_of_the_line() -> None:
    """float32(0.1) is above the double 0.1: both sides compare as doubles."""
    assert labels((0.6, 0.95, 0.1), (0.6, 0.95, 0.1)).equal == 1
    assert list(has_labels(table((0.6, 0.9, 0.1))[0], THRESHOLDS)) == [True, False, True]
    assert has_labels(table((0.6, 0.9, 0.1), (0.5, 1, 0)), THRESHOLDS).tolist() == [
        [True, False, True],
        [True, True, False],
    ]


def test_what_is_no_number_never_passes() -> None:
    assert not labels((0.6, np.nan, 0.2), (0.6, np.nan, 0.2)).passed
    assert not compare(table((0.9, 0.1)), table((np.nan, np.nan))).passed
    assert not compare(table((np.nan, 0.1)), table((np.nan, 0.1))).passed


def test_nothing_compared_is_nothing_wrong() -> None:
    assert compare(np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)) == Parity(0, 0, 0, 0.0)
