from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cvtune.report.thumbnails import SIDE, SMALL, Shrunk, Thumbnail, Thumbnails, encoded

RAMP = np.tile(np.arange(200), (150, 1))  # [150, 200], dark to bright from left to right


def pixels_of(thumbnail: Thumbnail) -> NDArray[np.uint8]:
    data = base64.b64decode(thumbnail.picture.removeprefix("data:image/jpeg;base64,"))
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def written(folder: Path, name: str, pixels: NDArray[Any]) -> str:
    assert cv2.imwrite(str(folder / name), pixels)
    return name


def make(folder: Path, name: str, *, untrusted: bool = False) -> Thumbnail:
    with Thumbnails(folder, untrusted=untrusted) as thumbnails:
        return thumbnails.of(name)


@pytest.mark.parametrize("untrusted", [False, True])
@pytest.mark.parametrize(
    "name, pixels",
    [
        ("8.png", (RAMP + 20).astype(np.uint8)),
        ("12 in 16.png", (RAMP * 20).astype(np.uint16)),  # as 8 bits 16 levels of black
        ("16.tif", (RAMP * 300 + 1000).astype(np.uint16)),
        ("small float.tif", (RAMP / 1e6).astype(np.float32)),
        ("large float.tif", ((RAMP - 100) * 3e36).astype(np.float32)),
    ],
)
def test_every_depth_shows(tmp_path: Path, name: str, pixels: NDArray[Any], untrusted: bool) -> None:
    shown = pixels_of(make(tmp_path, written(tmp_path, name, pixels), untrusted=untrusted))
    assert shown.shape == (96, SIDE, 3)
    levels = shown[48, :, 0].astype(int)
    assert levels[-1] - levels[0] > 150
    assert (np.diff(levels) >= -8).all()  # JPEG


def test_hot_pixels_do_not_darken_a_deep_image(tmp_path: Path) -> None:
    pixels = (RAMP * 20).astype(np.uint16)
    pixels[0, 0] = pixels[70, 70] = 65535
    shown = pixels_of(make(tmp_path, written(tmp_path, "hot.png", pixels)))
    assert shown[:, -4:].mean() > 200


@pytest.mark.parametrize("value", [0, 65535])
def test_a_deep_image_of_one_value(tmp_path: Path, value: int) -> None:
    name = written(tmp_path, "flat.png", np.full((40, 30), value, np.uint16))
    assert pixels_of(make(tmp_path, name)).shape == (40, 30, 3)  # and small ones are not blown up


def test_words_where_there_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("x", encoding="utf-8")
    (tmp_path / "folder.png").mkdir()
    for untrusted in (False, True):
        assert make(tmp_path, "gone.png", untrusted=untrusted) == Thumbnail("", "file not found")
        assert make(tmp_path, "text.png", untrusted=untrusted) == Thumbnail("", "cannot be read")
        assert make(tmp_path, "folder.png", untrusted=untrusted) == Thumbnail("", "cannot be read")
    with Thumbnails(None) as thumbnails:
        assert thumbnails.of("x.png") == Thumbnail("", "file not found")


def test_very_long_images_keep_a_pixel_of_height(tmp_path: Path) -> None:
    name = written(tmp_path, "line.png", np.full((1, 3000), 9000, np.uint16))
    assert pixels_of(make(tmp_path, name)).shape == (1, SIDE, 3)


def test_a_file_is_read_once(tmp_path: Path) -> None:
    name = written(tmp_path, "8.png", RAMP.astype(np.uint8))
    with Thumbnails(tmp_path) as thumbnails:
        first = thumbnails.of(name)
        (tmp_path / name).unlink()
        assert thumbnails.of(name) is first


def test_a_smaller_one_is_made_of_the_same_reading(tmp_path: Path) -> None:
    name = written(tmp_path, "8.png", np.tile(RAMP, (3, 3)).astype(np.uint8))
    with Thumbnails(tmp_path) as thumbnails:
        large = thumbnails.of(name)
        (tmp_path / name).unlink()
        small = thumbnails.of(name, SMALL)
        shrunk = thumbnails.shrunk(name)
    assert pixels_of(small).shape == (48, SMALL, 3)
    assert len(small.picture) < len(large.picture)
    assert isinstance(shrunk, Shrunk)
    assert (shrunk.size, shrunk.pixels.shape) == ((450, 600), (96, SIDE, 3))


def test_a_deep_frame_keeps_its_size_though_it_is_thinned(tmp_path: Path) -> None:
    name = written(tmp_path, "16.png", np.full((2000, 3001), 9000, np.uint16))
    with Thumbnails(tmp_path) as thumbnails:
        shrunk = thumbnails.shrunk(name)
        assert thumbnails.shrunk("gone.png") == "file not found"
    assert isinstance(shrunk, Shrunk)
    assert shrunk.size == (2000, 3001)


def test_noise_takes_little_more_room_than_a_picture(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    assert 8_000 < len(encoded(noise).picture) < 11_500, "at the usual quality it would be 17,000"
