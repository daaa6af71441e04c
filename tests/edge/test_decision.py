"""Limits, and what they make of probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from cvtune_edge.decision import NEVER, REVIEW, OperatingPoint, defect_scores

# ok, scratch, dent
P = np.array(
    [
        [0.90, 0.06, 0.04],  # OK
        [0.40, 0.30, 0.30],  # more likely defective than not, though ok is the most probable class
        [0.70, 0.05, 0.25],  # between the limits of dent
        [0.10, 0.85, 0.05],
    ],
    np.float32,
)


def test_what_decides_is_how_probable_any_defect_is() -> None:
    point = OperatingPoint((0,), (0.5,) * 3, (0.5,) * 3)
    decisions = point.decide(P)
    assert decisions.tolist() == [0, 1, 0, 1]
    assert point.is_ok(decisions).tolist() == [True, False, True, False]


def test_between_the_limits_a_person_looks() -> None:
    point = OperatingPoint((0,), (0.5, 0.5, 0.2), (0.5, 0.5, 0.9))
    assert point.decide(P).tolist() == [0, 1, REVIEW, 1]


def test_several_good_classes_are_told_apart() -> None:
    point = OperatingPoint((0, 2), (0.5,) * 3, (0.5,) * 3)
    assert point.decide(P).tolist() == [0, 0, 0, 1]
    assert point.decide(np.array([[0.2, 0.1, 0.7]])).tolist() == [2]


def test_without_a_good_class_the_most_probable_one_needs_its_limit() -> None:
    point = OperatingPoint((), (0.0,) * 3, (0.8, 0.86, NEVER))
    assert point.decide(P).tolist() == [0, REVIEW, REVIEW, REVIEW]


def test_each_label_is_decided_by_itself() -> None:
    point = OperatingPoint((), (0.2, 0.5), (0.6, 0.5), several=True)
    found = point.decide(np.array([[0.1, 0.5], [0.3, 0.49], [0.6, 1.0]]))
    assert found.tolist() == [[0, 1], [REVIEW, 0], [1, 1]]


@pytest.mark.parametrize("several", [False, True])
def test_what_is_far_from_everything_goes_to_review(several: bool) -> None:
    point = OperatingPoint(() if several else (0,), (0.5,) * 3, (0.5,) * 3, novelty=2.0, several=several)
    found = point.decide(P[:2], np.array([2.0, 2.1]))
    assert (found[0] != REVIEW).all()
    assert (found[1] == REVIEW).all()
    with pytest.raises(ValueError, match="no novelty was given"):
        point.decide(P)


@pytest.mark.parametrize(
    ("ok", "accept", "reject", "several"),
    [
        ((0,), (0.5, 0.6), (0.5, 0.5), False),  # accept above reject
        ((0,), (0.5,), (0.5, 0.5), False),
        ((2,), (0.5, 0.5), (0.5, 0.5), False),
        ((1, 0), (0.5,) * 3, (0.5,) * 3, False),
        ((0, 1), (0.5, 0.5), (0.5, 0.5), False),  # nothing could be defective
        ((0,), (0.5, 0.5), (0.5, 0.5), True),
    ],
)
def test_limits_that_do_not_fit(
    ok: tuple[int, ...], accept: tuple[float, ...], reject: tuple[float, ...], several: bool
) -> None:
    with pytest.raises(ValueError, match=r"limits|good classes|every class is good"):
        OperatingPoint(ok, accept, reject, several=several)


def test_another_number_of_classes() -> None:
    with pytest.raises(ValueError, match=r"\[4, 3\], expected \[N, 2\]"):
        OperatingPoint((0,), (0.5, 0.5), (0.5, 0.5)).decide(P)


def test_scores_are_sums_of_doubles() -> None:
    score, likely, good = defect_scores(P, (0,))
    assert score == pytest.approx([0.10, 0.60, 0.30, 0.90], abs=1e-7)
    assert likely.tolist() == [1, 1, 2, 1]
    assert good.tolist() == [0, 0, 0, 0]
