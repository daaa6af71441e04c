"""Escapes, overkill and REVIEW, counted, and what the counts prove."""

from __future__ import annotations

import numpy as np
import pytest
from cvtune_edge.decision import OperatingPoint

from cvtune.evaluation.objective import Target
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.verdict import inspect, proof, sort

CLASSES = ("ok", "scratch", "dent")
POINT = OperatingPoint((0,), (0.5,) * 3, (0.5,) * 3)
#                 good            scratch          dent
TRUTH = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
SAID = np.array([0, 0, 0, 1, -1, 1, 2, 0, -1, 2, 2, 0])


def test_a_side_is_counted() -> None:
    found = inspect(POINT, SAID, TRUTH, CLASSES)
    assert (found.escapes, found.overkill) == (Rate(2, 7), Rate(1, 5))
    assert (found.review, found.review_defects) == (Rate(2, 12), Rate(1, 7))
    assert found.mixed_up == Rate(1, 4)
    assert dict(found.by_class) == {"scratch": Rate(1, 4), "dent": Rate(1, 3)}


def test_the_study_is_of_what_was_decided() -> None:
    """By hand: of 10 decided 3 + 4 rightly; OK or NG by chance (5 * 4 + 5 * 6) / 100 = 0.5."""
    study = inspect(POINT, SAID, TRUTH, CLASSES).study
    assert (study.effectiveness, study.miss, study.false_alarm) == (Rate(7, 10), Rate(2, 6), Rate(1, 4))
    assert study.kappa == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert set(study.acceptable.values()) == {False}
    perfect = inspect(POINT, TRUTH, TRUTH, CLASSES).study
    assert set(perfect.acceptable.values()) == {True}
    assert inspect(POINT, TRUTH[:5], TRUTH[:5], CLASSES).study.kappa is None
    assert inspect(POINT, np.full(12, -1), TRUTH, CLASSES).study.effectiveness == Rate(0, 0)


def test_everything_goes_into_json_with_its_counts() -> None:
    value = inspect(POINT, SAID, TRUTH, CLASSES).to_json()
    assert value["escapes"] | {"value": 0, "low": 0, "high": 0, "at_most": 0} == {
        **dict.fromkeys(("value", "low", "high", "at_most"), 0),
        "k": 2,
        "n": 7,
    }
    assert value["escapes"]["at_most"] == pytest.approx(Rate(2, 7).at_most)
    assert value["study"]["acceptable"]["miss"] is False


def test_without_good_classes_errors_and_coverage_are_counted() -> None:
    found = sort(SAID, TRUTH, CLASSES)
    assert (found.errors, found.review) == (Rate(4, 10), Rate(2, 12))
    assert dict(found.by_class) == {"ok": Rate(1, 4), "scratch": Rate(2, 3), "dent": Rate(1, 3)}
    assert dict(found.coverage) == {"ok": Rate(4, 5), "scratch": Rate(3, 4), "dent": Rate(3, 3)}
    assert found.to_json()["coverage"]["ok"]["k"] == 4


@pytest.mark.parametrize(
    ("rate", "share", "told"),
    [
        (
            Rate(0, 62),
            0.005,
            "0 of 62 escapes: at most 4.7 % (95 % sure); escape<=0.5% is not proven: 598 defective images without a "
            "mistake would prove it",
        ),
        (Rate(0, 600), 0.005, "0 of 600 escapes: at most 0.5 % (95 % sure); escape<=0.5% is proven"),
        (Rate(3, 62), 0.005, "3 of 62 escapes: at most 12.0 % (95 % sure); escape<=0.5% is missed"),
        (Rate(0, 0), 0.005, "no defective images: nothing is known of escapes"),
        (Rate(1, 50), None, "1 of 50 escapes: at most 9.1 % (95 % sure)"),
    ],
)
def test_what_a_count_proves(rate: Rate, share: float | None, told: str) -> None:
    target = None if share is None else Target("escape", share)
    assert proof(rate, target, ("escapes", "defective images")) == told
