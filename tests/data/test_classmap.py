from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from cvtune.data.classmap import ClassMap, did_you_mean
from cvtune.data.folder import Skipped
from cvtune.data.index import build_index
from cvtune.errors import ConfigError, DataError

MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    return make_folder(*(f"{name}/{i}.png" for name in ("dent", "misc", "ok", "scratch") for i in range(3)))


@pytest.mark.parametrize(
    ("merge", "classes", "merged"),
    [
        ({}, ("dent", "misc", "ok", "scratch"), ()),
        (
            {"defect": ("scratch", "dent")},
            ("defect", "misc", "ok"),
            (("dent", "defect", 3), ("scratch", "defect", 3)),
        ),
        ({"dent": ("scratch", "dent")}, ("dent", "misc", "ok"), (("scratch", "dent", 3),)),  # named like a source
        ({"ok": ("misc",)}, ("dent", "ok", "scratch"), (("misc", "ok", 3),)),  # joins a class that stays
        ({"good": ("ok",)}, ("dent", "good", "misc", "scratch"), (("ok", "good", 3),)),  # a plain new name
    ],
)
def test_merge(
    folder: Path,
    merge: Mapping[str, Sequence[str]],
    classes: tuple[str, ...],
    merged: tuple[tuple[str, str, int], ...],
) -> None:
    index = build_index(folder, merge=merge)
    assert index.classes == classes
    assert index.merged == merged
    assert len(index) == 12


def test_ignored_classes_are_counted(folder: Path) -> None:
    (folder / "misc/readme.txt").write_text("x")
    index = build_index(folder, ignore=["misc", "dent"], merge={"bad": ["scratch"]})
    assert index.classes == ("bad", "ok")
    assert index.skipped == (
        Skipped("dent", "ignored by --ignore: 3 images"),
        Skipped("misc", "ignored by --ignore: 3 images"),
        Skipped("misc/readme.txt", "a text file, not an image that is read"),
    )


def test_given_sides_are_mapped_alike(make_folder: MakeFolder) -> None:
    names = [f"{side}/{name}/{i}.png" for side in ("train", "test") for name in ("a", "b", "c", "d") for i in (1, 2)]
    index = build_index(make_folder(*names), merge={"ab": ("a", "b")}, ignore=("d",))
    assert index.counts("train") == index.counts("test") == (4, 2)
    assert index.merged == (("a", "ab", 4), ("b", "ab", 4))


def test_all_problems_in_one_error(folder: Path) -> None:
    merge = {"x": ("scrach", "dent"), "y": ("dent",), "z": (), "misc": ("ok",), "ok": ("scratch",)}
    with pytest.raises(ConfigError) as caught:
        build_index(folder, merge=merge, ignore=("dent", "MISC", "misc"))
    assert str(caught.value).split("\n")[1:-1] == [
        "  'dent' is in 2 merges",
        "  'dent' is both merged and ignored",
        "  merge '=z': expected at least one class and a name for them",
        "  'misc' is ignored, but 'ok' should become it",
        "  'ok' stands for 'scratch' and is itself merged into 'misc'",
        "  --merge: there is no class 'scrach', did you mean 'scratch'?",
        "  --ignore: there is no class 'MISC', did you mean 'misc'?",
    ]
    assert "the classes are: dent, misc, ok, scratch" in caught.value.hint


def test_names_are_compared_in_one_form_of_unicode(make_folder: MakeFolder) -> None:
    folder = make_folder("gr\u00fcn/1.png", "gr\u00fcn/2.png", "rot/1.png", "rot/2.png", "blau/1.png", "blau/2.png")
    assert build_index(folder, merge={"bunt": ("gru\u0308n", "rot")}).classes == ("blau", "bunt")


def test_a_part_of_a_folder_may_lack_classes_of_the_map(folder: Path) -> None:
    merge = {"defect": ("dent", "crack")}
    assert build_index(folder, merge=merge, ignore=("junk",), trainable=False).classes[0] == "defect"
    with pytest.raises(ConfigError, match="there is no class 'crack'"):
        build_index(folder, merge=merge)


def test_one_class_left(folder: Path) -> None:
    with pytest.raises(DataError, match=r"only one class, 'ok' \(3 images\)") as caught:
        build_index(folder, ignore=("misc", "dent", "scratch"))
    assert "at least two" in str(caught.value)


def test_of_several_labels_only_the_ignored_one_is_dropped(make_folder: MakeFolder) -> None:
    folder = make_folder(*(f"{i}.png" for i in range(4)))
    (folder / "t.csv").write_text("path,labels\n0.png,a;b;misc\n1.png,misc\n2.png,c\n3.png,c;a\n")
    index = build_index(folder / "t.csv", merge={"ab": ("a", "b")}, ignore=("misc",))
    assert index.label_names == ("ab", "", "c", "ab;c")
    assert index.merged == (("a", "ab", 2), ("b", "ab", 1))
    assert index.skipped == (Skipped("misc", "label ignored by --ignore, kept without it: 2 images"),)


def test_many_classes_are_not_all_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        ClassMap({}, ("x",)).check({f"class {i}" for i in range(50)})
    assert "class 19 and 30 more" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "sentence"), [("Scratch", ", did you mean 'scratch'?"), ("dnet", ", did you mean 'dent'?"), ("qqq", "")]
)
def test_did_you_mean(name: str, sentence: str) -> None:
    assert did_you_mean(name, ("scratch", "dent")) == sentence
