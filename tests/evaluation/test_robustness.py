"""Spoilt pictures are what they are called, and the table counts what a model makes of them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cvtune.evaluation.rates import Rate
from cvtune.evaluation.robustness import SPOILERS, robustness, spoil


@pytest.fixture(params=["uint8", "uint16", "float32"])
def frame(request: pytest.FixtureRequest) -> NDArray[Any]:
    """A smooth picture with a sharp square, of any depth."""
    rows, columns = np.mgrid[:96, :128]
    grey = 60 + 60 * np.sin(rows / 20) * np.cos(columns / 25)
    grey[30:50, 60:80] += 80
    rgb = np.repeat(grey[..., None], 3, axis=2)
    scale = {"uint8": 1, "uint16": 16, "float32": 1 / 255}[request.param]
    return (rgb * scale).astype(request.param)


@pytest.mark.parametrize("how", SPOILERS)
def test_each_strength_is_farther_away_and_of_the_same_kind(how: str, frame: NDArray[Any]) -> None:
    before = frame.copy()
    spoilt = [spoil(frame, how, strength, key=(1, 2)) for strength in range(3)]
    assert all(one.shape == frame.shape and one.dtype == frame.dtype for one in spoilt)
    assert np.array_equal(frame, before)
    away = [float(np.abs(one.astype(float) - frame).mean()) for one in spoilt]
    if how == "JPEG" and frame.dtype != np.uint8:
        assert away == [0, 0, 0]
    else:
        assert 0 < away[0] < away[1] < away[2]
    assert np.array_equal(spoilt[1], spoil(frame, how, 1, key=(1, 2)))


def test_blur_takes_detail_and_light_takes_light() -> None:
    dice = np.random.default_rng(0)
    frame = dice.integers(40, 200, (64, 64, 3), np.uint8)
    assert spoil(frame, "blur", 2).std() < frame.std() / 3
    assert spoil(frame, "darker", 2).mean() == pytest.approx(frame.mean() / 2, rel=0.01)
    assert spoil(frame, "brighter", 2).max() == 255
    shades = cv2.cvtColor(spoil(frame, "noise", 1), cv2.COLOR_RGB2GRAY)
    assert shades.std() > 0


def test_the_table_counts() -> None:
    """A model that sees light alone: dark pictures are class 0."""
    pictures = [np.full((16, 16, 3), value, np.uint8) for value in (40, 60, 110, 200)]
    found = robustness(zip(pictures, [0, 0, 1, 1], strict=True), lambda frame: int(frame.mean() > 80))
    table = {(one.how, one.strength): one for one in found}
    assert len(table) == len(SPOILERS) * 3
    assert table["rotation", "strong"].right == Rate(4, 4)
    assert table["rotation", "strong"].changed == Rate(0, 4)
    assert table["darker", "medium"].right == Rate(3, 4)
    assert table["darker", "medium"].changed == Rate(1, 4)
    assert table["brighter", "strong"].changed == Rate(1, 4)
    assert table["darker", "slight"].to_json()["right"]["k"] == 4
