"""The worst mistakes of the test side, as small pictures that travel inside the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from cvtune_edge import CvtuneError, read_image
from numpy.typing import NDArray

from cvtune.evaluation.predictions import Predictions

SIDE: Final = 128  # pixels of a thumbnail's longer side
MOST: Final = 24


@dataclass(frozen=True)
class Mistake:
    """One image with the wrong label; `picture` is a data URI, empty where the file is not there any more."""

    path: str
    truth: str
    label: str
    probability: float
    picture: str


def worst_mistakes(test: Predictions, folder: Path | None, *, most: int = MOST) -> tuple[Mistake, ...]:
    """The wrong answers the model was surest of, surest first."""
    sure = test.probabilities.max(axis=1)
    wrong = np.flatnonzero(~test.right)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    return tuple(
        Mistake(
            path=test.paths[i],
            truth=test.classes[test.truth[i]],
            label=test.classes[test.labels[i]],
            probability=float(sure[i]),
            picture=_picture(folder / test.paths[i]) if folder else "",
        )
        for i in order
    )


def _picture(path: Path) -> str:
    try:
        pixels = read_image(path).pixels
    except (CvtuneError, OSError):  # the folder may have moved since; the page says so in the picture's place
        return ""
    ok, data = cv2.imencode(".jpg", _shrink(pixels)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}" if ok else ""


def _shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    factor = SIDE / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
