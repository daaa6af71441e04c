"""What the line gets back for an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one image.

    Attributes:
        path: POSIX style, as it was given; empty for pixels from memory.
        label: the class with the largest probability, the first of equals.
        probability: of that class; a float32 value.
        probabilities: float32 [K] in the order of the bundle's classes.
        embedding: float32 [D], where it was asked for.
        notes: what was changed in reading the image, "16-bit, read at 8 bits".
    """

    path: str
    label: str
    probability: float
    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be used, and why; it stands in the stream where its prediction would stand."""

    path: str
    reason: str
