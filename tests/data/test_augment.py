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


EACH: list[dict[str, Any]] = [
    {"hflip": True},
    {"vflip": True},
    {"quarter_turns": True},
    {"rotate": 20.0},
    {"shift": 0.2},
    {"scale": (0.5, 1.0)},
    {"brightness": 0.3},
    {"contrast": 0.3},
    {"saturation": 0.5},
    {"hue": 0.2},
    {"blur": 1.0},
    {"noise": 1.0},
    {"erase": 1.0},
]
WINDOW = (1000.0, 5095.0)


def smooth() -> Pixels:
    """A picture with a course and some noise, uint8."""
    course = np.add.outer(np.arange(SIZE), np.arange(SIZE))[..., None] * 2.5
    pixels: Pixels = np.clip(course + np.random.default_rng(0).normal(0, 10, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    return pixels


def deep(kind: str) -> Pixels:
    """12 bits between the ends of the window, and single values outside of it."""
    pixels = np.random.default_rng(0).integers(1000, 5096, (SIZE, SIZE, 3)).astype(kind)
    pixels[0, 0], pixels[-1, -1] = 0, 60_000
    return pixels


@pytest.mark.parametrize("changes", EACH, ids=lambda changes: next(iter(changes)))
def test_deep_images_are_changed_as_8_bit_ones_are(changes: dict[str, Any]) -> None:
    policy, image = transform(**changes), smooth()
    low, high = 500.0, 500.0 + 255 * 16
    raw = (image.astype(np.float32) * 16 + 500).astype(np.uint16)
    moved = 0
    for index in range(30):
        expected = augment(policy, image, key=(0, 0, index))
        found = augment(policy, raw, key=(0, 0, index), window=(low, high))
        moved += not np.array_equal(expected, image)
        # OpenCV rounds a hue of 8 bits to 2 degrees: 2.6 levels
        assert np.abs((found - 500.0) / 16 - expected).max() <= (3 if "hue" in changes else 1.1)
    assert moved >= 10


@pytest.mark.parametrize("kind", ["uint16", "float32"])
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_gives_a_deep_image_of_the_same_kind(name: str, kind: str) -> None:
    policy, image = build_augmentation(load_config(name).augment, SIZE), deep(kind)
    found = [augment(policy, image, key=(0, 0, index), window=WINDOW) for index in range(40)]
    assert {(one.shape, one.dtype.name) for one in found} == {((SIZE, SIZE, 3), kind)}
    assert len({one.tobytes() for one in found}) == 40
    assert all(one.min() >= 1000 and one.max() <= 5095 for one in found)
    again = augment(build_augmentation(load_config(name).augment, SIZE), image, key=(0, 0, 7), window=WINDOW)
    assert np.array_equal(again, found[7])


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_deep_values_stay_where_nothing_is_allowed_but_are_clipped_into_the_window(kind: str) -> None:
    image = deep(kind)
    found = augment(transform(), image, key=(0, 0, 0), window=WINDOW)
    np.testing.assert_allclose(found, np.clip(image, 1000, 5095), atol=0 if kind == "uint16" else 1e-3)
    wide = augment(transform(), image, key=(0, 0, 0), window=(-300.5, 70_000))
    np.testing.assert_allclose(wide, image, atol=0 if kind == "uint16" else 1e-2)


def test_12_bits_stay_12_bits() -> None:
    ramp = np.arange(4096).reshape(64, 64, 1).repeat(3, axis=2)
    turned = augment(transform(hflip=True, quarter_turns=True), ramp.astype(np.uint16), key=(0, 0, 1), window=(0, 4095))
    assert np.array_equal(np.unique(turned), np.arange(4096))
    policy = transform(brightness=0.5)
    brighter = augment(policy, ramp.astype(np.float32), key=(0, 0, 3), window=(-1000, 9000))
    assert not np.array_equal(brighter, ramp)
    assert len(np.unique(brighter)) > 4000


def test_a_deep_image_needs_its_window() -> None:
    with pytest.raises(ValueError, match="uint16 pixels are augmented within their window, and none was given"):
        augment(transform(), deep("uint16"), key=(0, 0, 0))


def test_a_transform_of_the_users_own_sees_shares_of_the_window() -> None:
    def invert(*, image: Pixels) -> dict[str, Any]:
        assert (image.dtype.name, float(image.min()), float(image.max())) == ("float32", 0, 1)
        return {"image": 1 - image}

    found = augment(invert, deep("uint16"), key=(0, 0, 0), window=WINDOW)
    assert np.array_equal(found, 6095 - np.clip(deep("uint16"), 1000, 5095))


def test_importing_albumentations_asks_no_network() -> None:
    code = "import os, cvtune.data.augment; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    clean = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    found = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"
