"""What may change in a training image without changing its class, and a random state for each sample.

albumentations 2.0.8 hands the same random sequence to every forked worker and epoch, so each sample is seeded from
(seed, epoch, index): the same picture comes out whatever the number of workers.

Several of its transforms refuse uint16, none of those used here refuses float32: deep images are shown to it as shares
of their window, 0 for black and 1 for white, and come back as raw values.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvtune.config import AugmentConfig

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for a newer version when imported

Pixels = NDArray[Any]  # uint8; uint16 or float32 where images are deep
Window = tuple[float, float]
# An albumentations transform: image=[H, W, 3], uint8 or, of deep images, float32 in 0..1 -> {"image": the same}
Augmentation = Callable[..., dict[str, Any]]


def build_augmentation(config: AugmentConfig, size: int) -> Augmentation:
    """The transform of a policy.

    Args:
        config: which changes are allowed and how strong.
        size: side length of the square input in pixels.

    Returns:
        An albumentations `Compose` that takes and gives [size, size, 3] RGB, uint8 or float32 in 0..1.
    """
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # the network has the cores
    reflect = cv2.BORDER_REFLECT_101
    steps: list[Any] = []
    if config.hflip:
        steps.append(A.HorizontalFlip(p=0.5))
    if config.vflip:
        steps.append(A.VerticalFlip(p=0.5))
    if config.quarter_turns:
        steps.append(A.RandomRotate90(p=0.75))
    if config.rotate or config.shift:
        steps.append(
            A.Affine(
                rotate=(-config.rotate, config.rotate),
                translate_percent=(-config.shift, config.shift),
                border_mode=reflect,
                p=0.7,
            )
        )
    if config.scale[0] < 1:
        steps.append(A.RandomResizedCrop((size, size), scale=config.scale, ratio=(0.85, 1.18), p=0.8))
    transform: Augmentation = A.Compose(steps + _photometric(config, size), seed=0)
    return transform


def _photometric(config: AugmentConfig, size: int) -> list[Any]:
    import albumentations as A

    steps: list[Any] = []
    if config.brightness or config.contrast or config.saturation or config.hue:
        jitter = (config.brightness, config.contrast, config.saturation, config.hue)
        steps.append(
            A.ColorJitter(brightness=jitter[0], contrast=jitter[1], saturation=jitter[2], hue=jitter[3], p=0.8)
        )
    if config.blur:
        steps.append(A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.5), p=config.blur))
    if config.noise:
        colour = bool(config.saturation or config.hue)  # else the picture may be grey, and stays so
        steps.append(A.GaussNoise(std_range=(0.01, 0.05), per_channel=colour, p=config.noise))
    if config.erase:
        side = (max(1, size // 20), max(2, size // 8))
        steps.append(
            A.CoarseDropout(
                num_holes_range=(1, 2), hole_height_range=side, hole_width_range=side, fill=0, p=config.erase
            )
        )
    return steps


def augment(
    transform: Augmentation, image: Pixels, *, key: tuple[int, int, int], window: Window | None = None
) -> Pixels:
    """One augmented image, decided by its key alone.

    Args:
        transform: from :func:`build_augmentation`, or any callable of the albumentations form.
        image: [H, W, 3], uint8, or uint16 or float32 of raw values.
        key: (seed, epoch, index).
        window: of deep images, the values of black and white.

    Returns:
        [H, W, 3] of the image's type, the same for the same key on every system and in every worker. Of deep images
        raw values, none outside the window.

    Raises:
        ValueError: a deep image without a window.
    """
    if image.dtype == np.uint8:
        return _transformed(transform, image, key)
    if window is None:
        raise ValueError(f"{image.dtype.name} pixels are augmented within their window, and none was given")
    return _raw(_transformed(transform, _shares(image, window), key), window, image.dtype)


def _shares(image: Pixels, window: Window) -> NDArray[np.float32]:
    low, high = np.float32(window[0]), np.float32(window[1])
    shares: NDArray[np.float32] = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    return shares


def _raw(shares: Pixels, window: Window, kind: np.dtype[Any]) -> Pixels:
    low, high = np.float32(window[0]), np.float32(window[1])
    raw: Pixels = np.clip(shares, 0, 1).astype(np.float32, copy=False) * (high - low) + low
    if kind == np.uint16:  # a given window may reach beyond what 16 bits hold
        raw = np.clip(np.rint(raw), 0, 65535)
    return raw.astype(kind, copy=False)


def _transformed(transform: Augmentation, image: Pixels, key: tuple[int, int, int]) -> Pixels:
    state = int(np.random.SeedSequence(key).generate_state(1)[0])
    # Not set_random_seed: it hands each step the same sequence, so that mirrors only ever come in pairs.
    reseed = getattr(transform, "set_random_state", None)
    if reseed is not None:
        reseed(np.random.default_rng(state), random.Random(state))
    result: Pixels = transform(image=image)["image"]
    return result
