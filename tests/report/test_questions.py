"""What limits decide about a side, and which images matter for them."""

from __future__ import annotations

import numpy as np
import pytest
from cvtune_edge.decision import NEVER, OperatingPoint

from cvtune.evaluation.predictions import Predictions
from cvtune.report.questions import far_of, kind_of, nearest, questions_of
from tests.report import sides

# defective by so much, in order; the first three are defective
SCORES = (0.05, 0.45, 0.9, 0.1, 0.35, 0.55, 0.95)


def two_classes() -> Predictions:
    probabilities = np.array([(score, 1 - score) for score in SCORES], np.float32)
    paths = tuple(f"{i}.png" for i in range(len(SCORES)))
    return Predictions(paths, np.array([0, 0, 0, 1, 1, 1, 1]), probabilities, ("bad", "ok"))


def test_kinds() -> None:
    assert kind_of(sides.good()) == "good"
    assert kind_of(sides.sort()) == "sort"
    assert kind_of(sides.labels(sides.several())) == "labels"


def test_a_defective_image_must_not_pass_and_a_good_one_not_be_stopped() -> None:
    point = sides.point_of(OperatingPoint((1,), (0.3,) * 2, (0.5,) * 2), ("bad", "ok"))
    (question,) = questions_of(sides.scored_of(two_classes()), point)
    assert question.scores == pytest.approx(SCORES)
    assert question.miss.tolist() == [True] * 3 + [False] * 4
    assert question.alarm.tolist() == [False] * 3 + [True] * 4
    assert question.limits == ((0.3, 0.5),)
    assert question.start == (0.3, 0.5)


def test_without_a_good_class_a_wrong_image_must_not_be_stopped() -> None:
    answers = sides.single()
    (question,) = questions_of(sides.scored_of(answers), sides.sort(0.0, 0.5, 0.7, NEVER))
    assert not question.miss.any()
    assert (question.alarm == ~answers.right).all()
    assert question.start == (0.0, 0.0)
    (higher,) = questions_of(sides.scored_of(answers), sides.sort(0.8, 0.5, 0.7, NEVER))
    assert higher.start == (0.0, 0.5)


def test_sliders_start_at_the_outermost_limits_of_what_is_not_good() -> None:
    point = sides.point_of(OperatingPoint(sides.OK, (0.2, 0.0, 0.6, 0.1), (0.7, NEVER, 0.6, NEVER)), sides.CLASSES)
    (question,) = questions_of(sides.scored_of(sides.single()), point)
    assert question.limits == ((0.2, 0.7), (0.6, 0.6))
    assert question.start == (0.2, 0.7)


def test_each_label_is_a_question() -> None:
    answers = sides.several()
    found = questions_of(sides.scored_of(answers), sides.labels(answers))
    assert [one.name for one in found] == ["dent", "scratch", "stain"]
    assert [one.start for one in found] == [(0.3, 0.5), (0.35, 0.6), (0.4, 0.7)]
    assert (found[2].miss == answers.truth[:, 2]).all()
    assert (found[2].alarm == ~answers.truth[:, 2]).all()


def test_an_image_is_far_beyond_the_limit_of_novelty_alone() -> None:
    near, far = sides.scored_of(sides.single(90)), sides.scored_of(sides.single(90), novelty=True)
    assert far_of(far, sides.good(novelty=2.0)).sum() == 10
    assert not far_of(far, sides.good(novelty=3.0)).any(), "on the limit is within"
    assert not far_of(far, sides.good()).any()
    assert not far_of(near, sides.good(novelty=2.0)).any()


def test_pictures_are_of_the_wrong_then_of_those_that_become_wrong_soonest() -> None:
    point = sides.point_of(OperatingPoint((1,), (0.3,) * 2, (0.5,) * 2), ("bad", "ok"))
    questions = questions_of(sides.scored_of(two_classes()), point)
    near = np.zeros(7, bool)
    # wrong: 0 escapes, 6 and 5 are overkill, 6 the worse; right by one score: 1 and 4, by two: 3, by three: 2
    assert nearest(questions, near, 96).tolist() == [0, 6, 5, 1, 4, 3, 2]
    assert nearest(questions, near, 2).tolist() == [0, 6]
    near[[0, 6]] = True
    assert nearest(questions, near, 96).tolist() == [5, 1, 4, 3, 2], "no limit decides what is too far"


def test_an_image_that_is_wrong_in_two_labels_has_one_picture() -> None:
    answers = sides.several()
    questions = questions_of(sides.scored_of(answers), sides.labels(answers))
    rows = nearest(questions, np.zeros(90, bool), 40).tolist()
    assert len(rows) == len(set(rows)) == 40
    point = sides.labels(answers)
    decisions = point.decide(answers.probabilities)
    wrong = ((decisions == 0) & answers.truth) | ((decisions == 1) & ~answers.truth)
    first = int(wrong.any(axis=1).sum())
    assert 5 < first < 40
    assert wrong[rows[:first]].any(axis=1).all()
