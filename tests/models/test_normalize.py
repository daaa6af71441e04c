from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from cvtune.models.normalize import Normalize, to_tensor

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def plain(values: Any, window: tuple[float, float] | None) -> Any:
    """The formula in double precision, values [N, 3, S, S]."""
    x = np.asarray(values, np.float64)
    if window is not None:
        x = np.clip((x - window[0]) * 255 / (window[1] - window[0]), 0, 255)
    mean, std = (np.array(numbers).reshape(1, 3, 1, 1) for numbers in (MEAN, STD))
    return (x / 255 - mean) / std


def values(kind: str, low: float, high: float) -> Any:
    return np.random.default_rng(0).uniform(low, high, (2, 3, 16, 16)).astype(kind)


@pytest.mark.parametrize(
    ("kind", "low", "high", "window"),
    [
        ("uint8", 0, 256, None),
        ("uint16", 0, 65536, (100, 4095)),
        ("uint16", 0, 65536, (0, 65535)),
        ("float32", -1100, 3000, (-1000.5, 400.25)),
        ("float32", -1e-3, 1e-3, (-1e-4, 5e-4)),
    ],
)
def test_the_formula(kind: str, low: float, high: float, window: tuple[float, float] | None) -> None:
    pixels = values(kind, low, high)
    found = Normalize(MEAN, STD, window)(to_tensor(pixels))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), plain(pixels, window), atol=2e-6)


def test_black_white_and_beyond() -> None:
    black, white = (torch.full((1, 3, 1, 1), value, dtype=torch.uint8) for value in (0, 255))
    eight_bit, window = Normalize(MEAN, STD), Normalize(MEAN, STD, (100, 4095))
    for raw, same_as in ((100, black), (0, black), (4095, white), (65535, white)):
        found = window(torch.full((1, 3, 1, 1), float(raw)))
        torch.testing.assert_close(found, eight_bit(same_as), atol=1e-6, rtol=0)


def test_every_level_of_12_bits_arrives() -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(1, 1, 64, 64).repeat(3, axis=1)
    found = Normalize(MEAN, STD, (0, 4095))(to_tensor(ramp))
    for channel in found[0]:
        levels = channel.flatten()
        assert len(levels.unique()) == 4096
        assert bool((levels.diff() > 0).all())


def test_no_buffer_travels_with_the_weights() -> None:
    assert not Normalize(MEAN, STD, (0, 9)).state_dict()


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_arrays_become_tensors(kind: str) -> None:
    pixels = values(kind, 0, 200)
    for given in (pixels, pixels.transpose(0, 1, 3, 2), np.broadcast_to(pixels[:1], pixels.shape)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of memory that may not be written to
            found = to_tensor(given)
        assert found.dtype == (torch.uint8 if kind == "uint8" else torch.float32)
        assert np.array_equal(found.numpy(), given)
