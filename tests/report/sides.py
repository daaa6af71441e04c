"""Answers about a side with limits, one of each kind of question, small enough to count by hand and hard to guess."""

from __future__ import annotations

import numpy as np
from cvtune_edge.decision import NEVER, OperatingPoint
from numpy.typing import NDArray

from cvtune.evaluation.metrics import score
from cvtune.evaluation.multilabel import MultiPredictions, score_multi
from cvtune.evaluation.objective import Words
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.predictions import Predictions
from cvtune.report.facts import Scored

CLASSES = ("dent", "ok", "scratch", "fine")
OK = (1, 3)


def single(n: int = 120, classes: tuple[str, ...] = CLASSES, seed: int = 3) -> Predictions:
    """Answers of every certainty, about two thirds of them right, some of them alike to the last bit."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, len(classes), n)
    logits = generator.normal(0, 2, (n, len(classes)))
    logits[np.arange(n), truth] += 2
    logits[: n // 10] = logits[0]
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return Predictions(tuple(f"{i}.png" for i in range(n)), truth, probabilities, classes)


def several(n: int = 90, labels: tuple[str, ...] = ("dent", "scratch", "stain")) -> MultiPredictions:
    """Answers about labels, many of them unsure."""
    generator = np.random.default_rng(5)
    truth = generator.random((n, len(labels))) < 0.35
    probabilities = generator.beta(np.where(truth, 3, 1.2), np.where(truth, 1.5, 3)).astype(np.float32)
    paths = tuple(f"{i}.png" for i in range(n))
    return MultiPredictions(paths, truth, probabilities, probabilities >= 0.5, labels)


def distances(n: int) -> NDArray[np.float32]:
    """One of every nine images lies beyond 2."""
    return np.where(np.arange(n) % 9 == 4, 3.0, 1.0).astype(np.float32)


def scored_of(answers: Predictions | MultiPredictions, *, novelty: bool = False, side: str = "test") -> Scored:
    figures = score(answers) if isinstance(answers, Predictions) else score_multi(answers)
    return Scored(side, answers, figures, distances(len(answers.paths)) if novelty else None)


def point_of(limits: OperatingPoint, classes: tuple[str, ...], words: Words = "factory") -> ChosenPoint:
    return ChosenPoint(limits, classes, False, (), 100, (), words)


def good(low: float = 0.4, high: float = 0.8, novelty: float | None = None) -> ChosenPoint:
    """Two good classes, the same limits for each other."""
    return point_of(OperatingPoint(OK, (low,) * 4, (high,) * 4, novelty), CLASSES)


def sort(*limits: float, novelty: float | None = None) -> ChosenPoint:
    """No good class."""
    return point_of(OperatingPoint((), (0.0,) * 4, limits or (0.6,) * 4, novelty), CLASSES)


def labels(answers: MultiPredictions, novelty: float | None = None) -> ChosenPoint:
    """A pair of limits for each label."""
    k = len(answers.classes)
    lows, highs = tuple(0.3 + 0.05 * i for i in range(k)), tuple(0.5 + 0.1 * i for i in range(k))
    return point_of(OperatingPoint((), lows, highs, novelty, several=True), answers.classes)


SINGLE_POINTS = {
    "one limit": good(0.5, 0.5),
    "two limits": good(),
    "too far": good(novelty=2.0),
    "nothing is OK": good(0.0, 0.5),
    "nothing is NG": good(0.5, NEVER),
    "limits of their own": point_of(OperatingPoint(OK, (0.2, 0.5, 0.6, 0.5), (0.7, 0.5, 0.6, 0.5)), CLASSES),
    "one defect": point_of(OperatingPoint((1, 2, 3), (0.3,) * 4, (0.5,) * 4), CLASSES),
    "sorted": sort(),
    "sorted, every image": sort(0.0, 0.0, 0.0, 0.0),
    "sorted, no image": sort(*(NEVER,) * 4),
    "sorted, limits of their own": sort(0.0, 0.5, 0.7, NEVER, novelty=2.0),
}
