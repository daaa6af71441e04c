from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvtune.audit.finding import Finding
from cvtune.audit.shortcuts import shortcuts
from cvtune.data.facts import Facts
from cvtune.data.index import DatasetIndex, Image
from tests.audit.samples import FACT

Change = Callable[[int, Facts], dict[str, Any]]


def folder(*sizes: int) -> DatasetIndex:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    names = ("dent", "ok", "scratch", "stain")[: len(sizes)]
    return DatasetIndex(
        Path("parts"), names, tuple(Image(f"{i:04d}", k, None, f"{i:04d}") for i, k in enumerate(labels))
    )


def found(index: DatasetIndex, change: Change) -> tuple[Finding, ...]:
    """Findings where everything is random but equal in all classes, except for what `change` says."""
    generator = np.random.default_rng(0)
    facts = []
    for image in index.images:
        light = {"brightness": generator.random(), "border": generator.random()}
        shape = {"width": int(generator.integers(180, 220)), "quality": int(generator.choice([90, 92, 94]))}
        fact = replace(FACT, **light, **shape)  # type: ignore[arg-type]
        facts.append(replace(fact, **change(image.label, fact)))
    return shortcuts(index, facts)


def test_nothing_where_nothing_differs() -> None:
    assert found(folder(60, 60, 60), lambda label, fact: {}) == ()


def test_nothing_where_everything_is_the_same() -> None:
    index = folder(30, 30)
    assert shortcuts(index, [FACT] * 60) == ()


@pytest.mark.parametrize(
    ("change", "code", "name", "severity"),
    [
        ({"quality": 80}, "quality", "JPEG quality", "warning"),
        ({"kind": "BMP"}, "format", "the file format", "warning"),
        ({"bits": 16}, "depth", "the bit depth", "warning"),
        ({"channels": "rgb"}, "colour", "grey or colour", "warning"),
        ({"alpha": True}, "colour", "grey or colour", "warning"),
        ({"orientation": 6}, "orientation", "the EXIF orientation", "warning"),
        ({"camera": "ACME 5"}, "camera", "the EXIF camera", "warning"),
        ({"width": 640, "height": 480}, "size", "the image size", "warning"),
        ({"brightness": 1.2}, "brightness", "mean brightness", "note"),
        ({"border": 1.2}, "border", "the brightness of the border", "note"),
    ],
)
def test_each_feature_that_betrays_a_class(change: dict[str, Any], code: str, name: str, severity: str) -> None:
    (finding,) = found(folder(40, 60, 50), lambda label, fact: change if label == 2 else {})
    assert (finding.code, finding.severity, finding.count) == (f"shortcut_{code}", severity, 1)
    assert finding.title == (
        f"{name} alone tells 'scratch' from the others: 50 of 50 images found, 0 of 100 others taken for it"
    )
    assert finding.examples == ("scratch: 50 of 50 found, 0 of 100 others taken",)


def test_it_says_what_will_happen_and_what_to_do() -> None:
    (saved,) = found(folder(40, 60), lambda label, fact: {"quality": 80} if label else {})
    assert "learns how files were saved, not the defect: save all classes with the same program" in saved.action
    (light,) = found(folder(40, 60), lambda label, fact: {"brightness": 1.2} if label else {})
    assert light.action.startswith("fine where the defect itself does it")


def test_half_of_a_class_is_enough_for_what_the_file_says() -> None:
    turn = iter(range(1000))
    (finding,) = found(folder(40, 60, 50), lambda label, fact: {"camera": "B"} if label == 1 and next(turn) % 2 else {})
    assert "'ok' from the others: 30 of 60 images found, 0 of 90" in finding.title


def test_two_cameras_for_four_classes() -> None:
    (finding,) = found(folder(40, 40, 40, 40), lambda label, fact: {"camera": "AB"[label // 2]})
    assert finding.count == 4
    assert "40 of 40 images found, 40 of 120 others taken" in finding.title


def test_a_darker_class_is_no_shortcut_when_others_are_as_dark() -> None:
    """A defect may darken the picture: on real steel brightness alone tells two thirds of a class."""
    turn = iter(range(1000))
    assert found(folder(60, 60), lambda label, fact: {"brightness": 0.1} if label and next(turn) % 3 else {}) == ()


def test_few_images_are_enough_where_the_others_are_many() -> None:
    (finding,) = found(folder(6, 150), lambda label, fact: {} if label else {"quality": 50})
    assert "'dent' from the others: 6 of 6" in finding.title


def test_fewer_than_five_are_not_judged() -> None:
    assert found(folder(4, 150, 80), lambda label, fact: {} if label else {"quality": 50}) == ()


def test_one_part_photographed_often_is_no_proof() -> None:
    """Forty pictures of two parts are two observations."""
    index = folder(40, 100)
    images = [
        replace(image, group=f"part{i % 5}") if image.label == 0 else image for i, image in enumerate(index.images)
    ]
    change: Change = lambda label, fact: {} if label else {"width": 900 + 3 * int(fact.border * 9)}  # noqa: E731
    assert found(index, change)
    few = [replace(image, group=f"{image.label} {i % 2}") for i, image in enumerate(images)]
    assert found(replace(index, images=tuple(few)), change) == ()


def test_files_without_a_jpeg_quality_are_told_by_their_format_alone() -> None:
    (finding,) = found(folder(40, 60), lambda label, fact: {"kind": "PNG", "quality": None} if label else {})
    assert finding.code == "shortcut_format"
    assert found(folder(40, 60), lambda label, fact: {"kind": "PNG", "quality": None}) == ()


def test_many_camera_names() -> None:
    turn = iter(range(1000))
    (finding,) = found(folder(60, 60), lambda label, fact: {"camera": "A" if label else f"unit {next(turn)}"})
    assert finding.code == "shortcut_camera"


def test_random_features_are_seldom_taken_for_shortcuts() -> None:
    generator = np.random.default_rng(7)
    index = folder(30, 30, 30)
    alarms = 0
    for _ in range(30):
        facts = [
            replace(FACT, quality=int(quality), camera=f"unit {camera}", width=int(width))
            for quality, camera, width in generator.integers(50, 60, (90, 3))
        ]
        alarms += len(shortcuts(index, facts))
    assert alarms == 0


def test_several_labels_an_image() -> None:
    sets = [(0,), (0, 1), (1,), ()] * 20
    images = [Image(f"{i:03d}", one[0] if one else -1, None, f"{i:03d}", labels=one) for i, one in enumerate(sets)]
    index = DatasetIndex(Path("parts"), ("dent", "scratch"), tuple(images), multi=True)
    (finding,) = shortcuts(index, [replace(FACT, quality=70 if 1 in one else 94) for one in sets])
    assert "JPEG quality alone tells 'scratch' from the others: 40 of 40 images found, 0 of 40 others" in finding.title


def test_facts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="3 facts, expected 20"):
        shortcuts(folder(10, 10), [FACT] * 3)
