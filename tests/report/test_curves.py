"""The curve of mistakes over the limit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cvtune_edge.decision import NEVER, OperatingPoint

from cvtune.evaluation.objective import Words
from cvtune.evaluation.operating import ChosenPoint
from cvtune.report.curves import Curve, curve_of
from cvtune.report.facts import Scored
from cvtune.report.questions import far_of, kind_of, questions_of
from tests.report import sides


def drawn(scored: Scored, point: ChosenPoint, words: Words = "factory") -> Curve:
    question = questions_of(scored, point)[0]
    return curve_of(question, kind_of(point), words, far_of(scored, point), "limit-test-0")


def lines_of(curve: Curve, colour: str) -> list[np.ndarray]:
    """The corners of what is drawn in a colour, in the units of the viewBox."""
    shapes = re.findall(rf'<path d="([^"]*)"[^>]*stroke: var\(--{colour}\)', curve.svg)
    return [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", shape), float) for shape in shapes]


def shares_of(curve: Curve, colour: str) -> np.ndarray:
    """Shares at the left and right end of the longest line of a colour."""
    line = max(lines_of(curve, colour), key=len)
    _, top, _, bottom = curve.box
    heights = (bottom - line[[0, -1], 1]) / (bottom - top) * 1.03 - 0.01  # the axis goes from -0.01 to 1.02
    return np.square(np.maximum(heights, 0))


def test_escapes_rise_and_overkill_falls() -> None:
    curve = drawn(sides.scored_of(sides.single()), sides.good())
    assert shares_of(curve, "bad") == pytest.approx([0, 1], abs=0.03)
    assert shares_of(curve, "train") == pytest.approx([1, 0], abs=0.03)


def test_what_is_too_far_neither_escapes_nor_is_rejected() -> None:
    answers = sides.single(90)
    scored, point = sides.scored_of(answers, novelty=True), sides.good(novelty=2.0)
    question, far = questions_of(scored, point)[0], far_of(scored, point)
    most = (question.miss & ~far).sum() / question.miss.sum()
    assert most < 0.96
    assert shares_of(drawn(scored, point), "bad") == pytest.approx([0, most], abs=0.01)


def test_without_a_good_class_errors_are_of_the_decided() -> None:
    answers = sides.single()
    curve = drawn(sides.scored_of(answers), sides.sort())
    assert shares_of(curve, "bad")[0] == pytest.approx((~answers.right).mean(), abs=0.02)
    assert shares_of(curve, "train") == pytest.approx([0, 1], abs=0.03)


@pytest.mark.parametrize(
    ("low", "high", "marks"), [(0.4, 0.8, 2), (0.5, 0.5, 1), (0.0, 0.5, 1), (0.5, NEVER, 1), (0.0, NEVER, 0)]
)
def test_limits_are_marked_but_those_of_nothing(low: float, high: float, marks: int) -> None:
    curve = drawn(sides.scored_of(sides.single()), sides.good(low, high))
    upright = [line for line in lines_of(curve, "ink") if len(line) == 2 and line[0, 0] == line[1, 0]]
    assert len(upright) == marks
    left, _, right, _ = curve.box
    first, last = curve.ends
    for line, limit in zip(sorted(upright, key=lambda line: line[0, 0]), (low or high, high), strict=False):
        share = (np.log(limit / (1 - limit)) - first) / (last - first)
        assert line[0, 0] == pytest.approx(left + share * (right - left), abs=0.5)


def test_of_many_limits_the_outermost_are_marked() -> None:
    k = 30
    classes = tuple(f"class {i}" for i in range(k))
    limits = tuple(0.3 + 0.02 * i for i in range(k))
    point = sides.point_of(OperatingPoint((), (0.0,) * k, limits), classes)
    curve = drawn(sides.scored_of(sides.single(200, classes)), point)
    assert len([line for line in lines_of(curve, "ink") if len(line) == 2]) == 2


def test_words_for_those_who_cannot_see_have_counts_and_the_house_s_terms() -> None:
    scored = sides.scored_of(sides.single())
    defective = int((~np.isin(scored.answers.truth, sides.OK)).sum())
    assert f'aria-label="Escapes, of {defective} defective and overkill' in drawn(scored, sides.good()).svg
    assert f"1 - sensitivity, of {defective} defective" in drawn(scored, sides.good(), "clinic").svg
    answers = sides.several()
    has = int(answers.truth[:, 0].sum())
    assert f"missed, of {has} with the label" in drawn(sides.scored_of(answers), sides.labels(answers), "clinic").svg


def test_scores_that_are_all_alike_have_a_curve() -> None:
    answers = sides.single(3, seed=0)
    answers.probabilities[:] = np.array([1, 0, 0, 0], np.float32)
    assert "<svg" in drawn(sides.scored_of(answers), sides.good()).svg
