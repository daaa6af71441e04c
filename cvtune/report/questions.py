"""The questions that limits answer about a side: is the image good, has it the label, is the model sure enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cvtune_edge.decision import defect_scores
from numpy.typing import NDArray

from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.predictions import Predictions
from cvtune.report.facts import Scored

Wide = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Kind = Literal["good", "sort", "labels"]


@dataclass(frozen=True, eq=False)
class Question:
    """What is decided by a score: below one limit an image passes, from another one on it is stopped.

    Attributes:
        name: the label that is asked for; empty where the question is whether an image is good, or sure enough.
        scores: [N].
        miss: where it is a mistake to pass, bool [N].
        alarm: where it is a mistake to stop, bool [N].
        likely: position of the class whose limits hold, int64 [N].
        accept: K limits below which an image passes; 0 where none does.
        reject: K limits from which on it is stopped.
        classes: positions of the limits that hold for any image.
    """

    name: str
    scores: Wide
    miss: Bools
    alarm: Bools
    likely: Ints
    accept: tuple[float, ...]
    reject: tuple[float, ...]
    classes: tuple[int, ...]

    @property
    def limits(self) -> tuple[tuple[float, float], ...]:
        """The different pairs of limits in use, ascending."""
        return tuple(sorted({(self.accept[k], self.reject[k]) for k in self.classes}))

    @property
    def start(self) -> tuple[float, float]:
        """The smallest limit to pass and the largest to be stopped; where nothing passes the smallest to be stopped."""
        passes = any(low for low, _ in self.limits)
        highs = [high for _, high in self.limits]
        return min(low for low, _ in self.limits), max(highs) if passes else min(highs)


def kind_of(point: ChosenPoint) -> Kind:
    """Whether some classes are good ("good"), none is ("sort"), or an image may have several labels ("labels")."""
    return "labels" if point.limits.several else "good" if point.ok else "sort"


def questions_of(scored: Scored, point: ChosenPoint) -> tuple[Question, ...]:
    """One question, or one for each label."""
    answers = scored.answers
    if isinstance(answers, MultiPredictions):
        return tuple(_label(answers, point, k) for k in range(len(point.classes)))
    return ((_good if point.ok else _sure)(answers, point),)


def far_of(scored: Scored, point: ChosenPoint) -> Bools:
    """Images that go to REVIEW by their distance from what was trained on, whatever their scores; bool [N]."""
    if scored.novelty is None:
        return np.zeros(len(scored.answers.paths), bool)
    return point.limits.is_strange(scored.novelty)


def nearest(questions: Sequence[Question], far: Bools, most: int) -> Ints:
    """The images that matter most for limits near those in use: int64, `most` rows at most.

    First those that are wrong, the worst of each kind of mistake in turn, then those that become wrong soonest.
    """
    places = sorted(place for one in questions for group in _groups(one, far) for place in _places(*group, most))
    rows = dict.fromkeys(row for _, _, row in places)
    return np.array(list(rows)[:most], np.int64)


def _groups(question: Question, far: Bools) -> Iterator[tuple[Ints, Ints]]:
    """Of each kind of mistake the rows and by how many scores they are on the right side of their limit."""
    steps = np.unique(question.scores[~far])
    rank = np.searchsorted(steps, question.scores)
    low = np.searchsorted(steps, np.array(question.accept)[question.likely])
    high = np.searchsorted(steps, np.array(question.reject)[question.likely])
    for rows, margin in ((question.miss, rank - low), (question.alarm, high - 1 - rank)):
        found = np.flatnonzero(rows & ~far)
        yield found, margin[found]


def _places(rows: Ints, margin: Ints, most: int) -> Iterator[tuple[bool, int, int]]:
    """Where each image stands: the wrong ones by how many of their kind are worse, the others by their margin."""
    order = np.argsort(margin, kind="stable")[:most]
    for worse, one in enumerate(order.tolist()):
        right = bool(margin[one] >= 0)
        yield right, int(margin[one]) if right else worse, int(rows[one])


def _good(answers: Predictions, point: ChosenPoint) -> Question:
    ok = point.limits.ok
    score, likely, _ = defect_scores(answers.probabilities, ok)
    good = np.isin(answers.truth, ok)
    others = tuple(k for k in range(len(point.classes)) if k not in ok)
    return Question("", score, ~good, good, likely, point.limits.accept, point.limits.reject, others)


def _sure(answers: Predictions, point: ChosenPoint) -> Question:
    sure, k = answers.probabilities.max(axis=1).astype(np.float64), len(point.classes)
    never, none = np.zeros(len(sure), bool), (0.0,) * k
    return Question("", sure, never, ~answers.right, answers.labels, none, point.limits.reject, tuple(range(k)))


def _label(answers: MultiPredictions, point: ChosenPoint, k: int) -> Question:
    has, limits = answers.truth[:, k], point.limits
    scores, whose = answers.probabilities[:, k].astype(np.float64), np.full(len(has), k)
    return Question(point.classes[k], scores, has, ~has, whose, limits.accept, limits.reject, (k,))
