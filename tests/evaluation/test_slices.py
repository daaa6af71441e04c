"""Slices that are worse are found, and those that are not are rarely called so."""

from __future__ import annotations

import numpy as np
import pytest

from cvtune.evaluation.rates import Rate
from cvtune.evaluation.slices import slices


def test_a_camera_that_is_worse_is_named_first() -> None:
    dice = np.random.default_rng(0)
    camera = dice.integers(0, 4, 800)
    wrong = dice.random(800) < np.where(camera == 2, 0.25, 0.05)
    names = [f"camera {number}" for number in camera]
    first, *others = slices(wrong, {"folder": names, "brightness": dice.random(800)})
    assert (first.attribute, first.name, first.worse) == ("folder", "camera 2", True)
    assert first.wrong == Rate(int(wrong[camera == 2].sum()), int((camera == 2).sum()))
    assert first.wrong.k + first.rest.k == wrong.sum()
    assert not any(one.worse for one in others)
    assert first.to_json()["wrong"]["k"] == first.wrong.k


def test_dark_images_are_a_band() -> None:
    dice = np.random.default_rng(1)
    brightness = dice.random(600)
    wrong = dice.random(600) < np.where(brightness < 0.2, 0.3, 0.03)
    first = slices(wrong, {"brightness": brightness})[0]
    assert first.name.startswith("below 0.1") or first.name.startswith("below 0.2")
    assert first.worse
    assert sum(one.wrong.n for one in slices(wrong, {"brightness": brightness})) == 600


def test_where_nothing_is_worse_nothing_is_called_so() -> None:
    alarms = 0
    for seed in range(100):
        dice = np.random.default_rng(seed)
        names = [str(number) for number in dice.integers(0, 6, 300)]
        found = slices(
            dice.random(300) < 0.1, {"folder": names, "size": dice.random(300), "sharpness": dice.random(300)}
        )
        alarms += any(one.worse for one in found)
    assert alarms <= 9  # 5 expected at most; 9 or fewer in 98 of 100 cases


def test_few_images_and_equal_values_make_no_slice() -> None:
    assert slices(np.zeros(9, bool), {"folder": ["a"] * 5 + ["b"] * 4}) == ()
    assert slices(np.zeros(60, bool), {"size": np.full(60, 3.0)}) == ()
    with pytest.raises(ValueError, match="folder: 2 values for 3 images"):
        slices(np.zeros(3, bool), {"folder": ["a", "b"]})
