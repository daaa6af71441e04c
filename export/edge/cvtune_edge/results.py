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
    """

    path: str
    label: str
    probability: float
    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


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
