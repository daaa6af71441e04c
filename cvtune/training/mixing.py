"""Mixup and CutMix: pairs of a batch become one image with a label between theirs.

Off below 20,000 images: there they slow learning down, and a cut may hide the one scratch that makes a part defective.

torchvision has both, drawing from torch's global generator and mixing neighbours alone; here a step's draw follows from
(seed, step), so that a resumed run mixes what the uninterrupted one would have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SMALL: Final = 20_000  # images
_ALPHA: Final = 0.2  # mixup on ImageNet (Zhang et al. 2018, section 3.1)
_CUTMIX_ALPHA: Final = 1.0  # any size of box (Yun et al. 2019, section 3.1)
_STREAM: Final = 0x6D6978  # keeps these draws apart from others of the same seed and step


def when(images: int, setting: Literal["auto", "off"] | float = "auto") -> float:
    """Strength of the mixing, mixup's alpha; 0 is off.

    Args:
        images: on the training side.
        setting: `auto` is off below 20,000 images and 0.2 from there on.
    """
    if setting == "off":
        return 0.0
    if setting == "auto":
        return _ALPHA if images >= SMALL else 0.0
    return float(setting)


@dataclass(frozen=True)
class Draw:
    """What one step mixes.

    Attributes:
        share: of an image that stays its own.
        shift: its partner is the image so many places before it, 1..B-1; 0 for a batch of one.
        box: top, bottom, left, right in pixels, of the partner's part in CutMix; None for mixup.
    """

    share: float
    shift: int
    box: tuple[int, int, int, int] | None = None


class Mixing:
    """Mixes batches in training.

    Args:
        strength: alpha of mixup's Beta distribution (Zhang et al. 2018, arXiv:1710.09412), from :func:`when`; 0 mixes
            nothing and gives batches back as they are.
        classes: K.
        seed: of the draws, with the step.
        cutmix: every other step of the live stage, by chance, is CutMix (Yun et al. 2019, arXiv:1905.04899).

    Raises:
        ValueError: a strength that is negative or not finite.
    """

    def __init__(self, strength: float, *, classes: int, seed: int, cutmix: bool = True) -> None:
        if not (math.isfinite(strength) and strength >= 0):
            raise ValueError(f"mixing with strength {strength}; expected a number from 0 on")
        self.strength, self.classes, self.seed, self.cutmix = strength, classes, seed, cutmix

    def pixels(self, x: Tensor, labels: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Normalised images, float [B, 3, H, W], and int64 [B] or float [B, K] -> images and labels float [B, K]."""
        if not self.strength:
            return x, labels
        draw = self.draw(step, batch=len(x), size=(x.shape[2], x.shape[3]))
        return mix(x, draw), mix_labels(labels, draw, self.classes)

    def activations(self, z: Tensor, pooled: Tensor, labels: Tensor, *, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mixup of the activations at a cut (manifold mixup, Verma et al. 2019, arXiv:1806.05236).

        Args:
            z: float [B, C, h, w] or [B, T, C].
            pooled: float [B, P], P may be 0.
            labels: int64 [B], or float [B, K].
            step: of the stage.

        Returns:
            The same, mixed; labels float [B, K].
        """
        if not self.strength:
            return z, pooled, labels
        draw = self.draw(step, batch=len(z))
        return mix(z, draw), mix(pooled, draw), mix_labels(labels, draw, self.classes)

    def draw(self, step: int, *, batch: int, size: tuple[int, int] | None = None) -> Draw:
        """What a step mixes, decided by (seed, step) alone; mixup where no size in pixels is given."""
        random = np.random.default_rng((_STREAM, self.seed, step))
        shift = int(random.integers(1, batch)) if batch > 1 else 0
        if size is None or not self.cutmix or random.random() < 0.5:
            return Draw(float(random.beta(self.strength, self.strength)), shift)
        height, width = size
        side = math.sqrt(1 - random.beta(_CUTMIX_ALPHA, _CUTMIX_ALPHA)) / 2
        top, bottom = _span(int(random.integers(height)), round(side * height), height)
        left, right = _span(int(random.integers(width)), round(side * width), width)
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return Draw(share, shift, (top, bottom, left, right))


def mix(x: Tensor, draw: Draw) -> Tensor:
    """Each entry of a batch [B, ...] with its partner's part in it; the batch itself is left alone."""
    partner = x.roll(draw.shift, 0)
    if draw.box is None:
        return torch.lerp(partner, x, draw.share)
    top, bottom, left, right = draw.box
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
    return mixed


def mix_labels(labels: Tensor, draw: Draw, classes: int) -> Tensor:
    """Labels int64 [B], or float [B, K] -> float32 [B, K] by the shares of both images."""
    soft = F.one_hot(labels, classes).float() if labels.ndim == 1 else labels.float()
    return torch.lerp(soft.roll(draw.shift, 0), soft, draw.share)


def _span(centre: int, half: int, length: int) -> tuple[int, int]:
    return max(0, centre - half), min(length, centre + half)
