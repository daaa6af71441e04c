"""Sets of classes that hold the truth as often as promised, and how errors fall as the least sure go to REVIEW.

Split conformal prediction with the score 1 - p of the true class (Sadinle et al. 2019, "Least ambiguous set-valued
classifiers with bounded error levels"), class by class (Vovk 2012, "Conditional validity of inductive conformal
predictors"): of each class, whatever its share, at least so many sets hold it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Wide = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ConformalSets:
    """Which classes an image may be.

    Attributes:
        level: share of the images of each class whose set holds it, promised.
        limits: K probabilities; a class is in the set from there on. 0 where the class had too few images.
    """

    level: float
    limits: tuple[float, ...]

    def sets(self, probabilities: NDArray[np.floating[Any]]) -> Bools:
        """The sets, bool [N, K]; an empty one says that the image is like none."""
        held: Bools = probabilities.astype(np.float64) >= np.array(self.limits)
        return held


def fit_sets(
    probabilities: NDArray[np.floating[Any]], truth: Ints, level: float, *, by_class: bool = True
) -> ConformalSets:
    """Choose the limits on images that were not trained on.

    Args:
        probabilities: [N, K].
        truth: int64 [N].
        level: 0 < level < 1.
        by_class: each class by itself, else one limit for all.

    Raises:
        ValueError: a level outside 0..1, or shapes that do not fit.
    """
    if not 0 < level < 1 or probabilities.ndim != 2 or truth.shape != probabilities.shape[:1]:
        raise ValueError(f"level {level}, probabilities {list(probabilities.shape)}, truth {list(truth.shape)}")
    own = probabilities.astype(np.float64)[np.arange(len(truth)), truth]
    if not by_class:
        return ConformalSets(level, (_limit(own, level),) * probabilities.shape[1])
    return ConformalSets(level, tuple(_limit(own[truth == k], level) for k in range(probabilities.shape[1])))


def _limit(own: Wide, level: float) -> float:
    """What the probability of the truth reaches as often as `level`; 0 where there are too few for that."""
    return max(0.0, -upper_limit(-own, level))


def upper_limit(scores: NDArray[np.floating[Any]], level: float) -> float:
    """What a score to come stays within as often as `level`: the ceil((n + 1) * level)-th smallest of n.

    Infinite where n is too small for that.
    """
    place = math.ceil(round((len(scores) + 1) * level, 9))
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else math.inf


@dataclass(frozen=True)
class RiskCoverage:
    """How errors fall as fewer images are decided.

    Attributes:
        coverage: share of the images that are decided, ascending to 1, [N].
        risk: share of wrong ones among them, [N].
        area: under the curve (AURC, Geifman et al. 2019); 0 is best.
    """

    coverage: Wide
    risk: Wide
    area: float


def risk_coverage(confidence: NDArray[np.floating[Any]], right: Bools) -> RiskCoverage:
    """Decide the surest image first, then one more each time.

    Args:
        confidence: [N], larger is surer.
        right: bool [N].
    """
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    risk = np.cumsum(~right[order]) / counts
    return RiskCoverage(counts / len(order), risk, float(risk.mean()))
