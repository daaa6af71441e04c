"""From probabilities to a decision: a class, or REVIEW where the evidence does not suffice. Lab and line share it.

Where some classes are good, what decides is how probable any other class is: below one limit the image is OK, from
another one on it is NG, and between the two a person looks. Where none is, the most probable class is the decision if
it is probable enough. Where an image may have several labels, each label is decided by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

REVIEW: Final = -1
NEVER: Final = 2.0  # a limit that no probability reaches

Wide = NDArray[np.float64]
Decisions = NDArray[np.int64]
Probabilities = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class OperatingPoint:
    """The limits by which probabilities are decided; compared as doubles.

    Attributes:
        ok: positions of the good classes, ascending; empty where none is good.
        accept: K limits. With good classes: below it, for the most probable of the others, the image is OK. With
            several labels: below it the image has not the label. Else without meaning.
        reject: K limits, none below `accept`. With good classes: from it on the image is NG. With several labels: from
            it on the image has the label. Else the class needs so much.
        novelty: distance from what was trained on, beyond which an image goes to REVIEW; None for no such limit.
        several: whether an image may have several labels.

    Raises:
        ValueError: limits that do not fit together.
    """

    ok: tuple[int, ...]
    accept: tuple[float, ...]
    reject: tuple[float, ...]
    novelty: float | None = None
    several: bool = False

    def __post_init__(self) -> None:
        k = len(self.reject)
        if len(self.accept) != k or any(low > high for low, high in zip(self.accept, self.reject, strict=False)):
            raise ValueError(f"limits {self.accept} to accept and {self.reject} to reject: expected K each, none below")
        if self.ok and (
            self.several or list(self.ok) != sorted(set(self.ok)) or not 0 <= self.ok[0] <= self.ok[-1] < k
        ):
            raise ValueError(f"good classes {self.ok} of {k}")
        if len(self.ok) == k > 0:
            raise ValueError("every class is good: there is nothing to decide")

    def decide(
        self, probabilities: NDArray[np.floating[Any]], novelty: NDArray[np.floating[Any]] | None = None
    ) -> Decisions:
        """Decide.

        Args:
            probabilities: [N, K].
            novelty: [N]; needed where there is a limit.

        Returns:
            int64 [N] class positions, or -1 for REVIEW; with several labels [N, K] of 1, 0 and -1.

        Raises:
            ValueError: another number of classes, or no novelty where there is a limit.
        """
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.reject):
            raise ValueError(f"probabilities {list(probabilities.shape)}, expected [N, {len(self.reject)}]")
        wide = probabilities.astype(np.float64)
        decisions = self._several(wide) if self.several else self._one(wide)
        if self.novelty is not None:
            if novelty is None:
                raise ValueError("this operating point has a limit of novelty, and no novelty was given")
            decisions[self.is_strange(novelty)] = REVIEW
        return decisions

    def is_strange(self, novelty: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Whether distances [N] are beyond the limit, bool [N]; none is where there is no limit."""
        limit = np.inf if self.novelty is None else self.novelty
        strange: NDArray[np.bool_] = np.asarray(novelty, np.float64) > limit
        return strange

    def is_ok(self, decisions: Decisions) -> NDArray[np.bool_]:
        """Whether a decision is a good class, bool [N]."""
        return np.isin(decisions, self.ok)

    def _several(self, wide: Wide) -> Decisions:
        unsure = np.where(wide < np.array(self.accept), 0, REVIEW)
        return np.where(wide >= np.array(self.reject), 1, unsure).astype(np.int64)

    def _one(self, wide: Wide) -> Decisions:
        reject = np.array(self.reject)
        if not self.ok:
            likely = wide.argmax(axis=1)
            return np.where(wide.max(axis=1) >= reject[likely], likely, REVIEW).astype(np.int64)
        score, likely, good = defect_scores(wide, self.ok)
        unsure = np.where(score < np.array(self.accept)[likely], good, REVIEW)
        return np.where(score >= reject[likely], likely, unsure).astype(np.int64)


def defect_scores(probabilities: Probabilities, ok: Sequence[int]) -> tuple[Wide, Decisions, Decisions]:
    """How probable any class is that is not good.

    Args:
        probabilities: [N, K].
        ok: positions of the good classes.

    Returns:
        That probability, float64 [N]; the most probable class that is not good and the most probable good one, [N].
    """
    wide = probabilities.astype(np.float64)
    good = np.zeros(wide.shape[1], bool)
    good[list(ok)] = True
    score = wide[:, ~good].sum(axis=1)
    likely = np.where(good, -1.0, wide).argmax(axis=1)
    return score, likely, np.where(good, wide, -1.0).argmax(axis=1)
