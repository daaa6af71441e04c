"""Which images of a side a person should look at: the worst mistakes, the least sure, the strangest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.predictions import Predictions

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

MISTAKES: Final = 24
UNSURE: Final = 8
STRANGE: Final = 8
SUSPECTS: Final = 24  # labels that look wrong, of all sides


@dataclass(frozen=True, eq=False)
class Notable:
    """Positions among the answers of a side, int64 each.

    Attributes:
        mistakes: wrong answers, the surest first.
        unsure: answers of the lowest confidence, right or wrong, the least sure first.
        strange: the images farthest from everything that was trained on, the farthest first; none where that is not
            known.
    """

    mistakes: Ints
    unsure: Ints
    strange: Ints

    @property
    def rows(self) -> Ints:
        """All of them, ascending."""
        return np.unique(np.concatenate([self.mistakes, self.unsure, self.strange]))


def notable(answers: Predictions | MultiPredictions, novelty: Floats | None = None) -> Notable:
    """Choose them.

    Args:
        answers: N of them.
        novelty: float32 [N], distance of each image from what was trained on.
    """
    wrong = np.flatnonzero(~answers.right)
    mistakes = wrong[np.argsort(-certainty(answers)[wrong], kind="stable")][:MISTAKES]
    unsure = np.argsort(doubt(answers), kind="stable")[:UNSURE]
    strange = np.argsort(-(np.zeros(0) if novelty is None else novelty), kind="stable")[:STRANGE]
    return Notable(*(rows.astype(np.int64) for rows in (mistakes, unsure, strange)))


def certainty(answers: Predictions | MultiPredictions) -> Floats:
    """How sure the model was of its answer, float32 [N]; of several labels of the worst wrong one, 0 without one."""
    if isinstance(answers, Predictions):
        return np.asarray(answers.probabilities.max(axis=1))
    against = np.where(answers.truth, 1 - answers.probabilities, answers.probabilities)
    return np.asarray(np.where(answers.said != answers.truth, against, 0).max(axis=1), np.float32)


def doubt(answers: Predictions | MultiPredictions) -> Floats:
    """How far an answer was from being another one, float32 [N]: the lead of the best class, or the closest label's."""
    if isinstance(answers, MultiPredictions):
        return np.asarray(np.abs(answers.probabilities - 0.5).min(axis=1), np.float32)
    ordered = np.sort(answers.probabilities, axis=1)
    return np.asarray(ordered[:, -1] - (ordered[:, -2] if ordered.shape[1] > 1 else 0), np.float32)
