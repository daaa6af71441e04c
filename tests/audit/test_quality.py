from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvtune.audit.finding import Finding
from cvtune.audit.quality import quality
from cvtune.data.index import DatasetIndex, Image
from tests.audit.samples import FACT as SAMPLE

FACT = replace(SAMPLE, kind="PNG", quality=None)


def found(changes: dict[int, dict[str, Any]], *, each: int = 30, every: dict[str, Any] | None = None) -> list[Finding]:
    """Two classes, the second ten times as sharp; `changes` by position."""
    images = tuple(Image(f"{'ab'[i // each]}/{i:02d}", i // each, None, f"{i}") for i in range(2 * each))
    index = DatasetIndex(Path("parts"), ("a", "b"), images)
    spread = np.random.default_rng(0).lognormal(0, 0.4, 2 * each)
    facts = [
        replace(FACT, **{"sharpness": 100.0 * 10**image.label * spread[i], **(every or {}), **changes.get(i, {})})
        for i, image in enumerate(images)
    ]
    return list(quality(index, facts))


def only(changes: dict[int, dict[str, Any]], **more: Any) -> Finding:
    (finding,) = found(changes, **more)
    return finding


def test_nothing_is_wrong() -> None:
    assert found({}) == []
    assert quality(DatasetIndex(Path(), ("a",), ()), ()) == ()


def test_blurred_against_its_own_class_the_worst_first() -> None:
    finding = only({3: {"sharpness": 6.0}, 33: {"sharpness": 10.0}})
    assert (finding.code, finding.severity, finding.count) == ("blurred", "warning", 2)
    assert finding.title == "2 images with far less detail than the others of the class"
    assert [line.split(":")[0] for line in finding.examples] == ["b/33", "a/03"]
    assert finding.examples[1].startswith("a/03: sharpness 6, usual in its class 9")
    assert only({34: {"sharpness": 10.0}}).examples[0].startswith("b/34"), "as sharp as many of the other class"


def test_a_little_less_sharp_is_nothing() -> None:
    assert found({3: {"sharpness": 40.0}, 33: {"sharpness": 300.0}}) == []


def test_a_class_of_all_equal_pictures_is_not_picked_apart() -> None:
    assert found({3: {"sharpness": 80.0}}, every={"sharpness": 100.0}) == []
    assert only({3: {"sharpness": 5.0}}, every={"sharpness": 100.0}).code == "blurred"


def test_small_classes_have_nothing_usual() -> None:
    assert found({3: {"sharpness": 1.0}}, each=10) == []


def test_nothing_to_be_seen() -> None:
    finding = only({5: {"sharpness": 0.0, "dark": 1.0, "brightness": 0.0}})
    assert (finding.code, finding.severity) == ("flat", "warning")
    assert finding.title == "1 image of one colour, with nothing to be seen"
    assert finding.examples == ("a/05: mean grey 0.00",)


@pytest.mark.parametrize(
    ("fact", "code", "word"), [("dark", "underexposed", "black"), ("bright", "overexposed", "white")]
)
def test_exposure(fact: str, code: str, word: str) -> None:
    finding = only({4: {fact: 0.85}, 5: {fact: 0.97}, 6: {fact: 0.5}})
    assert (finding.code, finding.severity) == (code, "warning")
    assert finding.title == f"2 images almost all {word}, unlike the others of the class"
    assert finding.examples == (f"a/05: 97 % {word}", f"a/04: 85 % {word}")
    assert found({}, every={fact: 0.9}) == [], "parts on a white table are taken that way"


def test_odd_sizes() -> None:
    finding = only({1: {"width": 640}, 2: {"width": 640}})
    assert (finding.code, finding.severity) == ("odd_size", "note")
    assert finding.title == "2 images of another size than the usual 200 x 200"
    assert finding.examples[0] == "a/01: 640 x 200"


def test_sizes_that_vary_are_not_odd_but_shapes_may_be() -> None:
    sizes = {i: {"width": 150 + i, "height": 150 + i} for i in range(60)}
    assert found(sizes) == []
    finding = only(sizes | {7: {"width": 150, "height": 400}, 8: {"width": 300, "height": 200}})
    assert finding.code == "odd_shape"
    assert finding.title == "2 images of another shape than the usual 1.00 : 1"
    assert finding.examples == ("a/07: 150 x 400", "a/08: 300 x 200")


def test_thumbnails() -> None:
    finding = only({i: {"width": 30 + i, "height": 40 + i} for i in range(60)})
    assert finding.code == "tiny"
    assert finding.title == "2 images with fewer than 32 pixels on a side"
    assert finding.examples == ("a/00: 30 x 40", "a/01: 31 x 41")


def test_mixtures() -> None:
    depth, colour = found({1: {"bits": 16, "channels": "rgb"}, 2: {"channels": "palette"}})
    assert (depth.code, depth.title) == ("mixed_depth", "different bit depths: 59 8-bit, 1 16-bit")
    assert depth.examples == ("a/01: 16-bit",)
    assert (colour.code, colour.title) == ("mixed_colour", "grey and colour files together: 58 grey, 2 colour")
    assert colour.count == 2
    assert colour.severity == depth.severity == "note"


def test_several_labels_an_image() -> None:
    sets = [(0,), (0, 1)] * 30
    images = tuple(Image(f"{i:02d}", 0, None, f"{i}", labels=one) for i, one in enumerate(sets))
    index = DatasetIndex(Path("parts"), ("a", "b"), images, multi=True)
    facts = [replace(FACT, sharpness=100.0 * 10 ** len(one) + i % 7) for i, one in enumerate(sets)]
    (finding,) = quality(index, [*facts[:-1], replace(facts[-1], sharpness=900.0)])
    assert finding.examples[0].startswith("59: sharpness 900")


def test_facts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="1 facts, expected 0"):
        quality(DatasetIndex(Path(), ("a",), ()), [FACT])
