"""What a model says of pictures that are spoilt as cameras and lines spoil them: noise, blur, light, JPEG, rotation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cvtune.evaluation.rates import Rate

Frame = NDArray[Any]  # [H, W, 3], uint8, uint16 or float32

STRENGTHS: Final = ("slight", "medium", "strong")


def _noise(frame: Frame, strength: int, seed: tuple[int, ...]) -> Frame:
    """Gaussian, 2, 4 and 8 % of the range."""
    low, high = _range(frame)
    sigma = (high - low) * (0.02, 0.04, 0.08)[strength]
    drawn = np.random.default_rng(seed).normal(0, sigma, frame.shape)
    return _like(frame + drawn, frame)


def _blur(frame: Frame, strength: int, seed: tuple[int, ...]) -> Frame:
    """Gaussian, a sigma of 0.4, 0.8 and 1.6 % of the shorter side: out of focus."""
    sigma = min(frame.shape[:2]) * (0.004, 0.008, 0.016)[strength]
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))


def _darker(frame: Frame, strength: int, seed: tuple[int, ...]) -> Frame:
    """0.85, 0.7 and 0.5 of the light."""
    return _light(frame, (0.85, 0.7, 0.5)[strength])


def _brighter(frame: Frame, strength: int, seed: tuple[int, ...]) -> Frame:
    """1.15, 1.3 and 1.6 times the light."""
    return _light(frame, (1.15, 1.3, 1.6)[strength])


def _light(frame: Frame, factor: float) -> Frame:
    low, _ = _range(frame)
    return _like(low + (frame.astype(np.float32) - low) * factor, frame)


def _jpeg(frame: Frame, strength: int, seed: tuple[int, ...]) -> Frame:
    """Qualities 70, 40 and 15; deep pictures are no JPEG and stay."""
    if frame.dtype != np.uint8:
        return frame
    done, coded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, (70, 40, 15)[strength]])
    assert done
    decoded: Any = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[..., ::-1])


def _rotated(frame: Frame, strength: int, seed: tuple[int, ...]) -> Frame:
    """By 2, 5 and 10 degrees, one way or the other; the rim is mirrored."""
    way = 1 if np.random.default_rng(seed).random() < 0.5 else -1
    height, width = frame.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), way * (2.0, 5.0, 10.0)[strength], 1.0)
    turned = cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned)


SPOILERS: Final[Mapping[str, Callable[[Frame, int, tuple[int, ...]], Frame]]] = {
    "noise": _noise,
    "blur": _blur,
    "darker": _darker,
    "brighter": _brighter,
    "JPEG": _jpeg,
    "rotation": _rotated,
}


def spoil(frame: Frame, how: str, strength: int, *, key: tuple[int, ...] = (0,)) -> Frame:
    """A spoilt copy.

    Args:
        frame: [H, W, 3], RGB.
        how: one of :data:`SPOILERS`.
        strength: 0, 1 or 2.
        key: decides what is random, (seed, position) for example.
    """
    return SPOILERS[how](frame, strength, key)


@dataclass(frozen=True)
class Spoilt:
    """How a model does on pictures that are spoilt in one way.

    Attributes:
        how: which.
        strength: "slight", "medium" or "strong".
        right: answers that are right, of the pictures.
        changed: answers that are others than on the picture as it is.
    """

    how: str
    strength: str
    right: Rate
    changed: Rate

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rates = {"right": self.right.to_json(), "changed": self.changed.to_json()}
        return {"how": self.how, "strength": self.strength, **rates}


def robustness(
    pictures: Iterable[tuple[Frame, Hashable]],
    answer: Callable[[Frame], Hashable],
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Spoilt, ...]:
    """Ask about every picture, as it is and spoilt in every way.

    Args:
        pictures: [H, W, 3] each, with the answer that is right.
        answer: the model's, for a picture.
        seed: of what is random.
        progress: called with the number of pictures done.

    Returns:
        A row for each way and strength; nothing where there are no pictures.
    """
    ways = [(how, strength) for how in SPOILERS for strength in range(len(STRENGTHS))]
    right, changed, n = np.zeros(len(ways), int), np.zeros(len(ways), int), 0
    for frame, truth in pictures:
        plain = answer(frame)
        for number, (how, strength) in enumerate(ways):
            said = answer(spoil(frame, how, strength, key=(seed, n, number)))
            right[number] += said == truth
            changed[number] += said != plain
        n += 1
        progress(n)
    return (
        ()
        if not n
        else tuple(
            Spoilt(how, STRENGTHS[strength], Rate(int(right[number]), n), Rate(int(changed[number]), n))
            for number, (how, strength) in enumerate(ways)
        )
    )


def _range(frame: Frame) -> tuple[float, float]:
    """Of the values: that of the type, or of a deep picture its own."""
    return (0.0, 255.0) if frame.dtype == np.uint8 else (float(frame.min()), float(frame.max()))


def _like(values: NDArray[Any], frame: Frame) -> Frame:
    if frame.dtype == np.float32:
        return values.astype(np.float32)
    limit = np.iinfo(frame.dtype)
    return np.asarray(np.clip(np.rint(values), limit.min, limit.max).astype(frame.dtype))
