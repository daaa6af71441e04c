"""Whether probabilities mean what they say: reliability in bins, expected calibration error, Brier score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cvtune.evaluation.rates import Rate

Wide = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS: Final = 15
LEAST: Final = 10  # images of a bin, where there are so many
DRAWS: Final = 1000


@dataclass(frozen=True)
class Bin:
    """Images of similar confidence.

    Attributes:
        confidence: their mean probability of what was said.
        right: those for which it was the truth.
    """

    confidence: float
    right: Rate

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"confidence": self.confidence, **self.right.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Bin:
        """From :meth:`to_json`."""
        return cls(float(value["confidence"]), Rate(int(value["k"]), int(value["n"])))


@dataclass(frozen=True)
class Reliability:
    """How far confidence and truth are apart on one side.

    Attributes:
        bins: of equal size, ascending in confidence.
        ece: expected calibration error over these bins (Naeini et al. 2015; adaptive bins: Nixon et al. 2019).
        ece_of_chance: what 95 of 100 sides of this size stay below although each probability is true (Vaicenavicius et
            al. 2019, "Evaluating model calibration in classification", consistency resampling).
        brier: mean squared distance of the probabilities from the truth, summed over the classes (Brier 1950).
        log_loss: nats.
    """

    bins: tuple[Bin, ...]
    ece: float
    ece_of_chance: float
    brier: float
    log_loss: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        figures = {"ece": self.ece, "ece_of_chance": self.ece_of_chance, "brier": self.brier, "log_loss": self.log_loss}
        return {**figures, "bins": [one.to_json() for one in self.bins]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reliability:
        """From :meth:`to_json`."""
        figures = (float(value[name]) for name in ("ece", "ece_of_chance", "brier", "log_loss"))
        return cls(tuple(Bin.from_json(one) for one in value["bins"]), *figures)


def reliability(probabilities: NDArray[np.floating[Any]], truth: NDArray[Any], *, seed: int = 0) -> Reliability:
    """Measure it for what a model said.

    Args:
        probabilities: [N, K].
        truth: int64 [N], or bool [N, K] where an image may have several labels: each label is then said by itself.
        seed: of the sides that are drawn.

    Raises:
        ValueError: no images, or shapes that do not fit.
    """
    if (
        probabilities.ndim != 2
        or len(probabilities) == 0
        or truth.shape not in (probabilities.shape, probabilities.shape[:1])
    ):
        raise ValueError(f"probabilities {list(probabilities.shape)} and truth {list(truth.shape)}")
    wide = probabilities.astype(np.float64)
    if truth.ndim == 2:
        said = wide >= 0.5
        confidence, right = np.where(said, wide, 1 - wide).ravel(), (said == truth).ravel()
        brier = float(((wide - truth) ** 2).sum(axis=1).mean())
        loss = -np.log(np.maximum(np.where(truth, wide, 1 - wide), np.finfo(np.float32).eps)).mean()
    else:
        confidence, right = wide.max(axis=1), wide.argmax(axis=1) == truth
        brier = float(((wide - np.eye(wide.shape[1])[truth]) ** 2).sum(axis=1).mean())
        loss = -np.log(np.maximum(wide[np.arange(len(truth)), truth], np.finfo(np.float32).eps)).mean()
    parts = _parts(confidence)
    bins = tuple(Bin(float(confidence[rows].mean()), Rate(int(right[rows].sum()), len(rows))) for rows in parts)
    return Reliability(bins, _ece(confidence, right, parts), _of_chance(confidence, parts, seed), brier, float(loss))


def _parts(confidence: Wide) -> list[NDArray[np.int64]]:
    """Rows of bins of equal size; of a few images fewer bins, so that each says something."""
    order = np.argsort(confidence, kind="stable")
    return np.array_split(order, max(1, min(BINS, len(order) // LEAST)))


def _ece(confidence: Wide, right: NDArray[Any], parts: list[NDArray[np.int64]]) -> float:
    gaps = [abs(float(confidence[rows].sum() - right[rows].sum())) for rows in parts]
    return sum(gaps) / len(confidence)


def _of_chance(confidence: Wide, parts: list[NDArray[np.int64]], seed: int) -> float:
    dice = np.random.default_rng(seed)
    drawn = [_ece(confidence, dice.random(len(confidence)) < confidence, parts) for _ in range(DRAWS)]
    return float(np.quantile(drawn, 0.95))
