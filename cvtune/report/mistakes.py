"""The worst mistakes of one side, with small pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.predictions import Predictions
from cvtune.report.thumbnails import Thumbnail, Thumbnails

MOST: Final = 24


@dataclass(frozen=True)
class Mistake:
    """One image with a wrong answer.

    Attributes:
        path: as in the predictions.
        truth: the class it has, or its labels.
        label: the class it was given, or its labels.
        detail: how sure the model was; of several labels each one that is wrong.
        thumbnail: the picture.
    """

    path: str
    truth: str
    label: str
    detail: str
    thumbnail: Thumbnail


def worst_mistakes(
    answers: Predictions | MultiPredictions, thumbnails: Thumbnails, *, most: int = MOST
) -> tuple[Mistake, ...]:
    """The wrong answers the model was surest of, surest first."""
    read: Callable[[int], tuple[str, str, str]]
    if isinstance(answers, MultiPredictions):
        sure, read = _surest_wrong(answers), partial(_read_several, answers)
    else:
        sure, read = answers.probabilities.max(axis=1), partial(_read_single, answers)
    wrong = np.flatnonzero(~answers.right)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:most].tolist()
    return tuple(Mistake(answers.paths[row], *read(row), thumbnails.of(answers.paths[row])) for row in order)


def _surest_wrong(answers: MultiPredictions) -> NDArray[np.float32]:
    """For each image how sure the model was of its worst wrong label, float32 [N]; 0 where all are right."""
    against = np.where(answers.truth, 1 - answers.probabilities, answers.probabilities)
    surest: NDArray[np.float32] = np.where(answers.said != answers.truth, against, 0).max(axis=1)
    return surest


def _read_single(answers: Predictions, row: int) -> tuple[str, str, str]:
    truth, label = answers.classes[answers.truth[row]], answers.classes[answers.labels[row]]
    return truth, label, f"{answers.probabilities[row].max():.3f}"


def _read_several(answers: MultiPredictions, row: int) -> tuple[str, str, str]:
    truth, said, probabilities = answers.truth[row], answers.said[row], answers.probabilities[row]
    words = [
        f"{name} {'missed' if truth[k] else 'wrongly given'} at {probabilities[k]:.3f}"
        for k, name in enumerate(answers.classes)
        if truth[k] != said[k]
    ]
    return _joined(answers.names(truth)), _joined(answers.names(said)), ", ".join(words)


def _joined(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"
