from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtune.config import AugmentConfig, load_config, preset_names
from cvtune.data.augment import Augmentation, Pixels, augment, build_augmentation

OFF: dict[str, Any] = {"rotate": 0.0, "scale": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0}
SIZE = 48


def transform(**changes: Any) -> Augmentation:
    return build_augmentation(AugmentConfig(**{**OFF, **changes}), SIZE)


def noise(channels: int = 3) -> Pixels:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, channels), dtype=np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (SIZE, SIZE, 3)))


def versions(policy: Augmentation, image: Pixels, count: int = 60) -> list[Pixels]:
    return [augment(policy, image, key=(0, 0, index)) for index in range(count)]


def quarters(image: Pixels) -> dict[bytes, str]:
    """The eight ways to lay a square picture down."""
    turned = {f"turn {90 * k}": np.rot90(image, k) for k in range(4)}
    turned |= {f"mirror {90 * k}": np.rot90(image[:, ::-1], k) for k in range(4)}
    return {pixels.tobytes(): name for name, pixels in turned.items()}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_gives_an_image_of_the_same_kind(name: str) -> None:
    policy = build_augmentation(load_config(name).augment, SIZE)
    found = versions(policy, noise())
    assert {(image.shape, image.dtype.name) for image in found} == {((SIZE, SIZE, 3), "uint8")}
    assert len({image.tobytes() for image in found}) == 60


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(0, 10_000), st.integers(0, 10**7))
def test_the_key_alone_decides(seed: int, epoch: int, index: int) -> None:
    policy, image = build_augmentation(load_config("traffic-signs").augment, SIZE), noise()
    first = augment(policy, image, key=(seed, epoch, index))
    augment(policy, image, key=(seed, epoch, index + 1))
    np.random.default_rng().random()
    again = augment(build_augmentation(load_config("traffic-signs").augment, SIZE), image, key=(seed, epoch, index))
    assert np.array_equal(first, again)


def test_seed_epoch_and_index_each_matter() -> None:
    policy = build_augmentation(load_config("default").augment, SIZE)
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]
    assert len({augment(policy, noise(), key=key).tobytes() for key in keys}) == 5


def test_nothing_allowed_nothing_changed() -> None:
    image = noise()
    assert all(np.array_equal(found, image) for found in versions(transform(), image, 5))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"hflip": True}, {"turn 0", "mirror 0"}),
        ({"vflip": True}, {"turn 0", "mirror 180"}),
        ({"hflip": True, "vflip": True}, {"turn 0", "mirror 0", "mirror 180", "turn 180"}),
        ({"quarter_turns": True}, {"turn 0", "turn 90", "turn 180", "turn 270"}),
        ({"hflip": True, "vflip": True, "quarter_turns": True}, set(quarters(noise()).values())),
    ],
)
def test_steps_are_drawn_one_apart_from_the_other(changes: dict[str, bool], wanted: set[str]) -> None:
    image = noise()
    found = [quarters(image)[one.tobytes()] for one in versions(transform(**changes), image)]
    assert set(found) == wanted
    assert max(map(found.count, wanted)) < 60 * 2 / len(wanted)


@pytest.mark.parametrize("name", ["traffic-signs", "default"])
def test_these_presets_never_mirror_and_never_turn(name: str) -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[: SIZE // 2, : SIZE // 2] = 250  # only the top left is bright
    policy = build_augmentation(load_config(name).augment, SIZE)
    for found in versions(policy, image):
        halves = found[: SIZE // 2], found[SIZE // 2 :]
        corners = [float(part.mean()) for half in halves for part in (half[:, : SIZE // 2], half[:, SIZE // 2 :])]
        assert corners.index(max(corners)) == 0


def test_radiographs_are_mirrored_but_never_upside_down() -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[: SIZE // 2, : SIZE // 2] = 250
    found = versions(build_augmentation(load_config("xray").augment, SIZE), image)
    assert all(one[: SIZE // 2].mean() > one[SIZE // 2 :].mean() for one in found)
    left = sum(one[:, : SIZE // 2].mean() > one[:, SIZE // 2 :].mean() for one in found)
    assert 15 <= left <= 45


@pytest.mark.parametrize("name", ["xray", "defects", "default"])
def test_grey_stays_grey_where_colour_may_not_change(name: str) -> None:
    policy = build_augmentation(load_config(name).augment, SIZE)
    for found in versions(policy, noise(channels=1)):
        assert int(np.ptp(found.astype(int), axis=2).max()) <= 1


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({"rotate": 20.0}, 0.4),
        ({"shift": 0.2}, 0.4),
        ({"scale": (0.3, 0.9)}, 0.5),
        ({"brightness": 0.5}, 0.5),
        ({"contrast": 0.5}, 0.5),
        ({"saturation": 0.5}, 0.5),
        ({"hue": 0.2}, 0.5),
        ({"blur": 1.0}, 0.9),
        ({"noise": 1.0}, 0.9),
        ({"erase": 1.0}, 0.9),
    ],
)
def test_each_setting_does_something(changes: dict[str, Any], least: float) -> None:
    image = noise()
    changed = [not np.array_equal(found, image) for found in versions(transform(**changes), image)]
    assert sum(changed) >= 60 * least


def test_any_callable_of_the_form_will_do() -> None:
    image = noise()
    assert np.array_equal(augment(lambda image: {"image": 255 - image}, image, key=(0, 0, 0)), 255 - image)


def test_importing_albumentations_asks_no_network() -> None:
    code = "import os, cvtune.data.augment; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    clean = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    found = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"
