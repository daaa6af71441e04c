"""What the line gets back for an image, and how probabilities become labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one image.

    Attributes:
        path: POSIX style, as it was given; empty for pixels from memory.
        label: the class with the largest probability, the first of equals; in a multi-label bundle all labels that the
            image has, joined by ";", empty where it has none.
        probability: the largest of the probabilities; a float32 value.
        probabilities: float32 [K] in the order of the bundle's classes.
        embedding: float32 [D], where it was asked for.
        notes: what was changed in reading the image, "16-bit, read at 8 bits".
        labels: one by one; a single one where the classes exclude each other.
        novelty: distance from what was trained on; None where the bundle measures none.
        decision: what the graph decided, int64 [], or [K] with several labels; None where the bundle does not decide.
    """

    path: str
    label: str
    probability: float
    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    novelty: float | None = None
    decision: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Decision:
    """What is to be done with one image.

    Attributes:
        prediction: what the decision was made from.
        said: OK, "NG (dent)", REVIEW, or the class where none is good; of several labels those that the image has,
            joined by ";", with a question mark behind those that a person should look at.
        decision: number of the class, or -1 for REVIEW; with several labels K of 1, 0 and -1.
        ok: whether it is a good class; None where none is declared good. REVIEW is not OK.
        reason: why a person should look; empty where nobody need.
    """

    prediction: Prediction
    said: str
    decision: int | tuple[int, ...]
    ok: bool | None
    reason: str

    @property
    def path(self) -> str:
        """Of the image."""
        return self.prediction.path

    @property
    def label(self) -> str:
        """The most probable class, whatever was decided; all labels of a multi-label bundle."""
        return self.prediction.label

    @property
    def probability(self) -> float:
        """The largest of the probabilities."""
        return self.prediction.probability

    @property
    def novelty(self) -> float | None:
        """Distance from what was trained on; None where the bundle measures none."""
        return self.prediction.novelty


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be used, and why; it stands in the stream where its prediction would stand."""

    path: str
    reason: str


def has_labels(probabilities: NDArray[np.floating[Any]], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Which labels an image has: those that reach their threshold, compared as doubles.

    Args:
        probabilities: [K], or [N, K] for several images.
        thresholds: K of them.

    Returns:
        bool, of the probabilities' shape.
    """
    reached: NDArray[np.bool_] = probabilities.astype(np.float64) >= np.asarray(thresholds, np.float64)
    return reached
