from __future__ import annotations

import json
import time
from dataclasses import fields
from typing import Any

import cv2
import imagehash
import numpy as np
import numpy.typing as npt
import pytest
from cvtune_edge.decode import Frame, decode
from cvtune_edge.headers import Header
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from cvtune.data.facts import Facts, measure, perceptual_hash

Array = npt.NDArray[Any]


def frame(grey: Array, **header: Any) -> Frame:
    """A frame whose three channels are this picture."""
    height, width = grey.shape
    return Frame(np.repeat(grey[..., None], 3, axis=2), ("a note",), Header("PNG", width, height, **header))


def picture(seed: int = 0, size: tuple[int, int] = (480, 640)) -> Array:
    """A smooth scene with some structure, uint8."""
    rough = np.random.default_rng(seed).random((12, 16), np.float32)
    smooth = cv2.resize(rough, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth * 255, 0, 255).astype(np.uint8))


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_what_the_header_says_is_taken_over() -> None:
    header = {"bits": 16, "channels": "grey", "alpha": True, "quality": 85, "camera": "A B", "orientation": 6}
    facts = measure(frame(picture(), pages=3, **header), b"12345")
    assert (facts.width, facts.height, facts.kind, facts.file_bytes) == (640, 480, "PNG", 5)
    assert {name: getattr(facts, name) for name in header} == header
    assert (facts.pages, facts.notes) == (3, ("a note",))
    assert facts.sha256 == "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"


def test_brightness_border_and_both_ends() -> None:
    grey = np.full((100, 200), 51, np.uint8)
    grey[5:95, 10:190] = 204  # all but the outer 5 %
    grey[50, 50:90] = [0, 2] * 20
    grey[60, 50:70] = [255, 253] * 10
    facts = measure(frame(grey), b"")
    assert facts.border == pytest.approx(0.2)
    assert facts.brightness == pytest.approx(grey.mean() / 255, rel=1e-5)
    assert (facts.dark, facts.bright) == (40 / 20_000, 20 / 20_000)


def test_blur_lowers_sharpness_and_size_hardly_changes_it() -> None:
    grey = np.random.default_rng(0).integers(0, 255, (256, 384), np.uint8)
    grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
    sharp = measure(frame(grey), b"").sharpness
    blurred = measure(frame(cv2.GaussianBlur(grey, (0, 0), 3.0)), b"").sharpness
    large = measure(frame(cv2.resize(grey, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)), b"").sharpness
    assert blurred < sharp / 20
    assert large == pytest.approx(sharp, rel=0.25)


def test_hash_is_imagehash_s(real_data: Any) -> None:
    for file in sorted((real_data / "neu_steel").rglob("*.jpg"))[::100]:
        grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        assert grey is not None
        theirs = int(str(imagehash.phash(PillowImage.fromarray(grey))), 16)
        assert distance(perceptual_hash(grey), theirs) <= 6  # of 64; Pillow's filter is another one


def test_hash_knows_copies_and_tells_others_apart() -> None:
    for seed in range(5):
        grey, other = picture(seed), picture(seed + 100)
        hashed = measure(frame(grey), b"").phash
        jpeg = decode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes(), "a.jpg")
        assert distance(hashed, measure(jpeg, b"").phash) <= 4
        assert distance(hashed, measure(frame(cv2.resize(grey, (400, 300))), b"").phash) <= 4
        assert distance(hashed, measure(frame(cv2.convertScaleAbs(grey, alpha=0.95)), b"").phash) <= 4
        assert distance(hashed, measure(frame(other), b"").phash) > 10


def test_deep_frames_are_looked_at_stretched_and_measured_by_the_full_range() -> None:
    grey = picture()
    shallow = measure(frame(grey), b"")
    deep = measure(frame(grey.astype(np.uint16) * 16), b"")  # 12 bits in 16
    assert distance(deep.phash, shallow.phash) <= 2
    assert deep.brightness == pytest.approx(grey.mean() * 16 / 65535, rel=1e-3)
    assert deep.border == pytest.approx(shallow.border * 255 * 16 / 65535, rel=1e-3)
    assert deep.sharpness == pytest.approx(shallow.sharpness, rel=0.5)
    declared = measure(frame(grey.astype(np.uint16) * 16, maxval=4095), b"")
    assert declared.brightness == pytest.approx(grey.mean() * 16 / 4095, rel=1e-3)


def test_float_frames_have_the_range_of_their_own() -> None:
    grey = picture().astype(np.float32)
    facts = [measure(frame(grey * scale + shift), b"") for scale, shift in ((1, 0), (1e-3, -5), (1e30, 0))]
    assert facts[0].brightness == pytest.approx(facts[1].brightness, abs=0.01)
    assert facts[0].brightness == pytest.approx(facts[2].brightness, abs=0.01)
    assert distance(facts[0].phash, facts[1].phash) <= 2
    assert distance(facts[0].phash, facts[2].phash) <= 2


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    top=st.sampled_from([0, 1, 255, 4095, 65535]),
    seed=st.integers(0, 9),
)
def test_any_frame_has_facts_that_json_keeps(height: int, width: int, dtype: str, top: int, seed: int) -> None:
    top = min(top, 255) if dtype == "uint8" else top
    grey = (np.random.default_rng(seed).random((height, width)) * top).astype(dtype)
    facts = measure(frame(grey), b"x")
    assert all(0 <= share <= 1 for share in (facts.brightness, facts.border, facts.dark, facts.bright))
    assert facts.sharpness >= 0
    assert 0 <= facts.phash < 2**64
    assert Facts.from_json(json.loads(json.dumps(facts.to_json(), allow_nan=False))) == facts


def test_facts_cost_little() -> None:
    looked_at = frame(picture())
    measure(looked_at, b"")  # the first one imports scipy's transforms
    start = time.thread_time()
    for _ in range(20):
        measure(looked_at, b"", "known")
    assert (time.thread_time() - start) / 20 < 0.006  # seconds for 640 x 480; 1.3 ms on a busy core


def test_facts_that_are_none_are_refused() -> None:
    whole = measure(frame(picture()), b"").to_json()
    for field in fields(Facts):
        with pytest.raises(ValueError, match="no facts about an image"):
            Facts.from_json({key: value for key, value in whole.items() if key != field.name})
    with pytest.raises(ValueError, match="base 16"):
        Facts.from_json(whole | {"phash": "no"})
