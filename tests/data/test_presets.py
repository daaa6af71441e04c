from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cvtune.config import load_config
from cvtune.data.index import DatasetIndex
from cvtune.data.presets import choose_preset, settle_preset

MakeIndex = Callable[..., DatasetIndex]


@pytest.fixture
def folder(make_index: MakeIndex) -> Callable[..., DatasetIndex]:
    """`folder("ok", "bad", sizes=[(w, h), ...])`: an index of these classes, its images of these sizes in turn."""

    def make(*classes: str, sizes: tuple[tuple[int, int], ...] = ((640, 480),)) -> DatasetIndex:
        index = make_index(dict.fromkeys(classes, 4))
        sized = [
            replace(image, width=w, height=h)
            for i, image in enumerate(index.images)
            for w, h in [sizes[i % len(sizes)]]
        ]
        return replace(index, images=tuple(sized))

    return make


@pytest.mark.parametrize(
    ("classes", "word"),
    [
        (("0", "1", "42"), "digits or letters (0, 1, 42)"),
        (("b", "d"), "digits or letters"),
        (("turn left", "straight"), "'left'"),
        (("Arm_LEFT", "other"), "'left'"),
        (("keepRight", "stop"), "'right'"),
        (("left2", "none"), "'left'"),
        (("links", "nichts"), "'links'"),
        (("screw-cw", "screw-ccw"), "'ccw'"),
        (("ab", "ba"), "mirror each other (ab, ba)"),
        (("traffic sign", "none"), "'sign'"),
        (("letters", "else"), "'letters'"),
    ],
)
def test_nothing_is_mirrored_where_class_names_speak_against_it(
    classes: tuple[str, ...], word: str, folder: MakeIndex
) -> None:
    choice = choose_preset(folder(*classes, sizes=((64, 64),)))
    assert (choice.name, choice.hflip) == ("traffic-signs", False)
    assert word in choice.reason
    assert "never mirrored" in choice.reason


@pytest.mark.parametrize("classes", [("NORMAL", "PNEUMONIA"), ("COVID19", "other"), ("no fracture", "fracture")])
def test_radiographs_are_known_by_their_findings(classes: tuple[str, ...], folder: MakeIndex) -> None:
    choice = choose_preset(folder(*classes, sizes=((64, 64),)))
    assert choice.name == "xray"
    assert "radiographs" in choice.reason


def test_square_close_ups_of_one_size_are_surfaces(folder: MakeIndex) -> None:
    choice = choose_preset(folder("scratch", "ok", sizes=((200, 200),)))
    assert (choice.name, choice.hflip) == ("defects", True)
    assert "all 200x200" in choice.reason


@pytest.mark.parametrize("sizes", [((200, 200), (201, 201)), ((640, 480),)])
def test_else_left_right_mirrors_alone(sizes: tuple[tuple[int, int], ...], folder: MakeIndex) -> None:
    choice = choose_preset(folder("bright", "leftover", "copyright", sizes=sizes))
    assert (choice.name, choice.hflip) == ("default", True)


def test_auto_is_settled_and_says_why(folder: MakeIndex) -> None:
    settled, why = settle_preset(load_config("auto"), folder("ok", "dent", sizes=((300, 300),)))
    assert settled.preset == "defects"
    assert settled.augment == load_config("defects").augment
    assert why == "defects (auto: square close-ups, all 300x300: flips and quarter turns)"


def test_auto_allows_mirrors_where_the_preset_itself_does_not(folder: MakeIndex) -> None:
    settled, _ = settle_preset(load_config("auto"), folder("ok", "dent"))
    assert load_config("default").augment.hflip is False
    assert settled.augment.hflip is True


def test_what_the_user_set_stays(folder: MakeIndex) -> None:
    config = load_config(
        "auto", flags={"augment.hflip": False, "augment.rotate": 3.0, "train.tail.steps": 7, "seed": 5}
    )
    settled, _ = settle_preset(config, folder("ok", "dent", sizes=((300, 300),)))
    assert (settled.augment.hflip, settled.augment.rotate, settled.augment.vflip) == (False, 3.0, True)
    assert (settled.train.tail.steps, settled.seed) == (7, 5)


def test_a_preset_that_was_asked_for_is_kept(folder: MakeIndex) -> None:
    config = load_config("xray")
    assert settle_preset(config, folder("left", "right")) == (config, "xray (as asked)")


def test_several_labels_an_image_are_settled_by_their_names(folder: MakeIndex) -> None:
    index = folder("left", "ok", sizes=((64, 64),))
    images = tuple(
        replace(image, labels=() if image.label == 1 else (0, 1), label=-image.label) for image in index.images
    )
    settled, why = settle_preset(load_config("auto"), replace(index, images=images, multi=True))
    assert settled.preset == "traffic-signs"
    assert "'left'" in why
