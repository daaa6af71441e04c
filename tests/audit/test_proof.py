from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cvtune.audit.alignment import align, move
from cvtune.audit.proof import SIDE, THUMBNAIL, Overlay, detail_agreement, prove
from cvtune.audit.thumbnails import band, grey, thumbnails

Grey = NDArray[np.float32]
SIZE = 160


class InMemory:
    """Stands in for the pixel cache."""

    def __init__(self, images: Sequence[Grey], dtype: Any = np.uint8, scale: float = 1.0) -> None:
        stretched = [cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for image in images]
        pixels = np.clip(np.array(stretched), 0, 255) * scale
        whole = pixels if dtype == np.float32 else np.round(pixels)
        self.images = np.repeat(whole.astype(dtype)[:, None], 3, axis=1)

    def batch(self, indices: Sequence[int] | NDArray[np.int64], /) -> NDArray[Any]:
        return np.asarray(self.images[np.asarray(indices)])


def cloud(seed: int, blur: float, spread: float) -> Grey:
    field = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(SIZE, SIZE)).astype(np.float32), (0, 0), blur)
    return np.asarray(field * spread / field.std(), np.float32)


def photograph(seed: int) -> Grey:
    """Shading, texture and grain of its own."""
    return 128 + cloud(seed, 20, 15) + cloud(seed + 1000, 2.5, 12) + cloud(seed + 2000, 0.8, 5)


def of_one_part(seed: int) -> Grey:
    """The same part on a fixture each time, in its own light and with its own grain."""
    return 128 + cloud(1, 2.5, 30) + cloud(seed, 40, 4) + cloud(seed + 1000, 0.8, 2)


def jpeg(picture: Grey, quality: int) -> Grey:
    data = cv2.imencode(".jpg", np.clip(picture, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    return decoded.astype(np.float32)


def smaller(picture: Grey, scale: float) -> Grey:
    return np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.float32)


def score(first: Grey, second: Grey, dtype: Any = np.uint8, scale: float = 1.0) -> float:
    pixels, rows = InMemory([first, second], dtype, scale), np.arange(2)
    return float(prove(pixels, rows, thumbnails(pixels, rows, THUMBNAIL), np.array([[0, 1]]))[0])


CHANGES: dict[str, Callable[[Grey], Any]] = {
    "nothing": lambda picture: picture,
    "JPEG": lambda picture: jpeg(picture, 60),
    "half the size": lambda picture: smaller(picture, 0.5),
    "larger": lambda picture: cv2.resize(picture, None, fx=1.4, fy=1.4, interpolation=cv2.INTER_CUBIC),
    "cropped": lambda picture: picture[7:-3, 2:-8],
    "cropped on one side": lambda picture: picture[:, 8:],
    "brighter": lambda picture: picture * 1.05,
    "darker": lambda picture: picture - 13,
    "all of it": lambda picture: jpeg(smaller(picture[4:-6, 5:-2], 0.8) * 0.95, 80),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [photograph, of_one_part])
def test_copies_are_proven(make: Any, change: str) -> None:
    copy = CHANGES[change](make(7))
    assert score(make(7), copy) > 0.6
    assert score(copy, make(7)) > 0.6  # whichever comes first


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint16, 16.0), (np.uint16, 257.0), (np.float32, 1 / 255)])
def test_deep_pixels(dtype: Any, scale: float) -> None:
    assert score(photograph(7), photograph(7)[7:-3, 2:-8], dtype, scale) > 0.8
    assert score(of_one_part(7), of_one_part(8), dtype, scale) == -1


@pytest.mark.parametrize("seed", range(5))
def test_the_same_part_photographed_twice_is_no_copy(seed: int) -> None:
    first, second = of_one_part(seed), of_one_part(seed + 50)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.95  # what makes it hard
    assert score(first, second) < 0.3


def test_a_scratch_that_only_one_shows() -> None:
    """Neighbouring slices of a crystal agree in everything else."""
    scratched = photograph(7)
    scratched[30:110, 80:83] += 60
    assert score(photograph(7), photograph(7)) == pytest.approx(1, abs=1e-3)
    assert score(photograph(7), scratched) == -1


@pytest.mark.parametrize("turn", [np.fliplr, np.flipud, np.rot90], ids=["left-right", "upside down", "turned"])
def test_turned_and_mirrored_pictures_are_others(turn: Any) -> None:
    assert score(photograph(7), np.ascontiguousarray(turn(photograph(7)))) == -1


@pytest.mark.parametrize("value", [0, 255])
def test_flat_pictures_prove_nothing(value: int) -> None:
    flat = np.full((SIZE, SIZE), value, np.float32)
    assert score(flat, flat) == -1
    assert score(flat, photograph(7)) == -1


def test_no_pair() -> None:
    pixels = InMemory([photograph(7)])
    assert prove(pixels, np.arange(1), thumbnails(pixels, np.arange(1), THUMBNAIL), np.empty((0, 2), int)).shape == (0,)


def test_progress_ends_with_all_pairs_and_threads_change_nothing() -> None:
    pixels = InMemory([*(photograph(seed) for seed in range(9)), photograph(0)[3:, 2:], photograph(4) * 1.04])
    pairs, rows = np.array([(a, b) for b in range(11) for a in range(b)]), np.arange(11)
    small = thumbnails(pixels, rows, THUMBNAIL)
    told: list[tuple[int, int]] = []
    scores = prove(pixels, rows, small, pairs, progress=lambda done, of: told.append((done, of)), workers=2)
    assert told == sorted(told)
    assert told[-1][1] == len(pairs)
    np.testing.assert_array_equal(scores, prove(pixels, rows, small, pairs, workers=1))
    assert {tuple(pair) for pair in pairs[scores > 0.5].tolist()} == {(0, 9), (4, 10)}


@pytest.mark.parametrize(
    "place", [(0, 0, 0, 0), (-0.08, 0.01, -0.04, -0.02), (0.07, 0.02, 0.03, 0.0), (0.0, 0.05, 0.0, -0.05)]
)
def test_alignment_finds_the_place(place: tuple[float, ...]) -> None:
    picture = grey(InMemory([photograph(3)]).images, 56)
    true = np.array([place], np.float32)
    moved, inside = move(picture, true)
    found, match = align(band(moved, 1, 5), band(picture, 1, 5), np.zeros((1, 4), np.float32), steps=12)
    np.testing.assert_allclose(found, true, atol=0.01)
    assert match[0] > 0.9
    assert inside.min() == 0 or place[0] <= 0


def overlay(first: Grey, second: Grey) -> Overlay:
    greys = grey(InMemory([first, second]).images, SIDE)
    details = band(greys, 0.7, 3.0)
    return Overlay(greys[0], greys[1], details[0], details[1], np.ones((SIDE, SIDE), np.float32))


def test_the_three_tests_see_what_they_are_for() -> None:
    lit, spotted, picture = photograph(7) + cloud(9, 40, 6), photograph(7), photograph(7)
    spotted[60:90, 60:90] += cloud(99, 1.5, 40)[:30, :30]
    other_grain = picture - cloud(2007, 0.8, 5) + cloud(1, 0.8, 15)
    assert overlay(picture, lit).light_residue() > 2
    assert overlay(picture, picture * 0.9 + 20).light_residue() < 0.2
    assert overlay(picture, spotted).foreign_blocks() > 1
    assert overlay(picture, jpeg(picture, 50)).foreign_blocks() == 0
    foreign, saved = detail_agreement([overlay(picture, other_grain), overlay(picture, jpeg(picture, 50))])
    assert foreign < saved


def test_brightening_that_cuts_off_the_light_parts() -> None:
    bright = photograph(7) * 1.5 + 20  # some of it is at 255 before, more afterwards
    assert (np.clip(bright * 1.05, 0, 255) == 255).mean() > 0.03
    assert score(bright, np.clip(bright, 0, 255) * 1.05) > 0.6
