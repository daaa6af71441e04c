from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cvtune_edge.decision import REVIEW, OperatingPoint
from cvtune_edge.results import has_labels
from numpy.typing import NDArray

from cvtune.bundle import gate
from cvtune.bundle.gate import Parity, Said, check
from cvtune.errors import GateError

PLAIN = OperatingPoint((), (0.0, 0.0), (0.0, 0.0))


def table(*rows: tuple[float, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32)


def said(probabilities: NDArray[np.float32], point: OperatingPoint, novelty: list[float] | None = None) -> Said:
    far = None if novelty is None else np.array(novelty, np.float32)
    return Said(probabilities, far, point.decide(probabilities, far))


def compare(trained: NDArray[np.float32], exported: NDArray[np.float32], point: OperatingPoint = PLAIN) -> Parity:
    return gate.compare(said(trained, point), said(exported, point), point)


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
    return compare(table(trained), table(exported), OperatingPoint((), THRESHOLDS, THRESHOLDS, several=True))


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
    none = np.empty((0, 2), np.float32)
    assert compare(none, none) == Parity(0, 0, 0, 0.0)


GOOD = OperatingPoint((0,), (0.3, 0.3), (0.6, 0.6))


@pytest.mark.parametrize(
    ("score", "other", "ties"),
    [
        (0.30004, 0.29998, 1),  # at the limit below which it is OK
        (0.60003, 0.59996, 1),  # at the limit from which on it is NG
        (0.3003, 0.2998, 0),  # beside it
        (0.6003, 0.5998, 0),
    ],
)
def test_what_is_at_a_limit_may_be_on_either_side(score: float, other: float, ties: int) -> None:
    parity = compare(table((1 - score, score)), table((1 - other, other)), GOOD)
    assert (parity.equal, parity.ties, parity.passed) == (0, ties, ties == 1)


def test_defects_that_are_level_may_swap() -> None:
    point = OperatingPoint((0,), (0.3,) * 3, (0.6,) * 3)
    assert compare(table((0.2, 0.40003, 0.39997)), table((0.2, 0.39998, 0.40002)), point).ties == 1
    assert not compare(table((0.2, 0.4002, 0.3998)), table((0.2, 0.3998, 0.4002)), point).passed


def test_a_class_that_needs_its_limit() -> None:
    point = replace(PLAIN, reject=(0.8, 0.7))
    assert compare(table((0.80003, 0.19997)), table((0.79997, 0.20003)), point).ties == 1
    assert not compare(table((0.8003, 0.1997)), table((0.7998, 0.2002)), point).passed


FAR = replace(GOOD, novelty=2.0)
OK = table((0.9, 0.1))


def test_distances_are_compared_and_decide() -> None:
    ours = said(OK, FAR, [1.9999])
    assert ours.decisions.tolist() == [0]
    tie = gate.compare(ours, said(OK, FAR, [2.0001]), FAR)
    assert (tie.equal, tie.ties, tie.passed) == (0, 1, True)
    assert tie.distance == pytest.approx(1e-4, rel=1e-2)
    other = gate.compare(said(OK, FAR, [1.9985]), said(OK, FAR, [2.0001]), FAR)
    assert (other.ties, other.passed) == (0, False)
    assert said(OK, FAR, [2.0001]).decisions.tolist() == [REVIEW]


def test_a_distance_that_is_off_fails_although_the_decisions_agree() -> None:
    parity = gate.compare(said(OK, FAR, [1.5]), said(OK, FAR, [1.53]), FAR)
    assert (parity.equal, parity.passed) == (1, False)
    with pytest.raises(GateError, match=r"of a distance 0.013 of its limit"):
        check(parity)


def test_roots_of_rounding_errors_are_no_difference() -> None:
    """Of copies of training images the square of the distance is as good as 0, and its root is not."""
    assert gate.compare(said(OK, FAR, [0.0]), said(OK, FAR, [5e-4]), FAR).passed
    assert not gate.compare(said(OK, FAR, [0.0]), said(OK, FAR, [0.2]), FAR).passed
