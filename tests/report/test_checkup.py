"""The page of `cvtune check`: what it shows, in which order, and that no name can do anything in it."""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cvtune.audit import Finding, Pair, Suspect
from cvtune.data.folder import Skipped
from cvtune.data.index import DatasetIndex, Image
from cvtune.report import build_check_page
from cvtune.report.checkup import in_shell
from tests.report.pages import Page, assert_inert

WARNING = Finding(
    "label_conflict", "warning", "7 pictures under two labels", 7, ("a = b", "c", "d", "e", "f = g"), "remove one"
)
NOTE = Finding("imbalance", "note", "class sizes differ", 2, (), "nothing to do")


def index_of(
    root: Path, labels: dict[str, int], classes: tuple[str, ...] = ("ok", "dent"), **more: Any
) -> DatasetIndex:
    images = tuple(Image(path, label, None, path) for path, label in labels.items())
    return DatasetIndex(root, classes, images, **more)


def on_side(index: DatasetIndex, **sides: str) -> DatasetIndex:
    images = tuple(dataclasses.replace(i, side=sides.get(i.path.partition(".")[0], "train")) for i in index.images)
    return dataclasses.replace(index, images=images)


def write_pictures(index: DatasetIndex, *, noise: bool = False) -> None:
    random = np.random.default_rng(0)
    for number, image in enumerate(index.images):
        pixels = random.integers(0, 255, (200, 200, 3)) if noise else np.full((20, 30, 3), 10 * number)
        (index.root / image.path).parent.mkdir(parents=True, exist_ok=True)
        ok, data = cv2.imencode(".png", pixels.astype(np.uint8))
        assert ok
        (index.root / image.path).write_bytes(data.tobytes())


def suspect(index: DatasetIndex, row: int, proposed: str = "dent") -> Suspect:
    return Suspect(row, index.images[row].path, index.label_names[row], proposed, 0.021, 0.934)


def read(index: DatasetIndex, tmp_path: Path, findings: tuple[Finding, ...] = (), **more: Any) -> Page:
    more = {"suspects": (), "pairs": (), **more}
    page = build_check_page(tmp_path / "check.html", index, findings, **more)
    assert page == tmp_path / "check.html"
    return assert_inert(page.read_text(encoding="utf-8"))


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    found = index_of(tmp_path / "parts", {"a.png": 0, "b.png": 0, "c.png": 1, "d.png": 1, "e.png": 1})
    write_pictures(found)
    return found


@pytest.mark.parametrize(
    "findings, line",
    [
        ((), "Nothing found in 5 images"),
        ((NOTE,), "No warnings in 5 images"),
        ((WARNING, NOTE), "1 warning in 5 images"),
        ((WARNING, WARNING), "2 warnings in 5 images"),
    ],
)
def test_the_headline_counts(index: DatasetIndex, tmp_path: Path, findings: tuple[Finding, ...], line: str) -> None:
    page = read(index, tmp_path, findings)
    assert f"<h1>{line}</h1>" in (tmp_path / "check.html").read_text(encoding="utf-8")
    assert "2 classes" in page.text
    assert "Nothing in it was changed." in page.text


def test_a_finding_has_its_examples_and_what_to_do(index: DatasetIndex, tmp_path: Path) -> None:
    text = read(index, tmp_path, (WARNING, NOTE)).text
    for words in ("Warning: 7 pictures under two labels", "remove one", "a = b", "f = g", "and more", "class sizes"):
        assert words in text
    pairs = Finding("near_duplicates", "note", "4 images with the same picture", 4, ("a ~ b", "c ~ d"), "")
    assert "and more" not in read(index, tmp_path, (pairs,)).text  # they are all there, four images in two pairs


def test_suspects_have_a_picture_both_labels_and_both_probabilities(index: DatasetIndex, tmp_path: Path) -> None:
    page = read(index, tmp_path, suspects=(suspect(index, 0), suspect(index, 2, "")))
    assert [one["alt"] for one in page.all("img")] == [
        "a.png: labelled ok, looks like dent",
        "c.png: labelled dent, looks like none",  # of several labels none may be right
    ]
    assert "2.1 % against 93.4 %" in page.text
    assert "2 labels look wrong" in page.text
    assert "cvtune fit" in page.text


def test_copies_that_do_harm_come_first(index: DatasetIndex, tmp_path: Path) -> None:
    sided = on_side(index, e="test")
    pairs = (Pair(0, 1, "exact", 1.0), Pair(2, 3, "near", 0.9), Pair(3, 4, "exact", 1.0), Pair(1, 2, "near", 0.8))
    page = read(sided, tmp_path, pairs=pairs)
    assert [one["alt"].partition(":")[0] for one in page.all("img") if one["alt"]] == [
        *("b.png", "c.png"),  # two labels
        *("d.png", "e.png"),  # two sides
        *("a.png", "b.png"),
        *("c.png", "d.png"),
    ]
    titles = [line.strip() for line in page.text.splitlines() if line.strip().startswith(("Exact,", "Near,"))]
    assert titles == ["Near, two labels", "Exact, two sides"]
    assert "4 pairs of copies" in page.text


def test_one_picture_with_many_copies_leaves_room_for_others(index: DatasetIndex, tmp_path: Path) -> None:
    crowd = index_of(index.root, {f"{i}.png": 0 for i in range(60)} | {"x.png": 0, "y.png": 0})
    write_pictures(crowd)
    pairs = (*(Pair(0, i, "exact", 1.0) for i in range(1, 60)), Pair(60, 61, "near", 0.9))
    page = read(crowd, tmp_path, pairs=pairs)
    assert len(page.all("img")) == 80
    assert "40 of 60 pairs." in page.text
    assert [one["alt"] for one in page.all("img")][2] == "x.png: labelled ok"


def test_identical_files_are_copies_where_nobody_looked_for_others(index: DatasetIndex, tmp_path: Path) -> None:
    images = tuple(dataclasses.replace(image, sha256="0" * 64) for image in index.images[:3])
    page = read(dataclasses.replace(index, images=images), tmp_path)
    assert len(page.all("img")) == 4
    assert "2 pairs of copies" in page.text


def test_given_sides_have_a_column(index: DatasetIndex, tmp_path: Path) -> None:
    page = read(on_side(index, a="test", c="test"), tmp_path)
    assert page.cells == [
        "Class",
        "Images",
        "train",
        "test",
        "",
        *("ok", "2", "1", "1", ""),
        *("dent", "3", "2", "1", ""),
    ]


def test_several_labels_an_image(tmp_path: Path) -> None:
    images = (
        Image("a.png", 0, None, "a.png", labels=(0, 1)),
        Image("b.png", -1, None, "b.png", labels=()),
    )
    index = DatasetIndex(tmp_path, ("dent", "scratch"), images, multi=True)
    write_pictures(index)
    page = read(index, tmp_path, suspects=(suspect(index, 1, "dent;scratch"),), pairs=(Pair(0, 1, "exact", 1.0),))
    assert "2 labels (an image may have several)" in page.text
    assert "two labels" in page.text
    assert [one["alt"] for one in page.all("img")] == [
        "b.png: labelled none, looks like dent;scratch",
        "a.png: labelled dent;scratch",
        "b.png: labelled none",
    ]


def test_files_left_out_are_listed_with_their_reasons(index: DatasetIndex, tmp_path: Path) -> None:
    skipped = tuple(Skipped(f"ok/{i}.txt", f"reason {i}") for i in range(600))
    text = read(dataclasses.replace(index, skipped=skipped), tmp_path).text
    assert "600 files left out" in text
    assert "reason 499" in text
    assert "reason 500" not in text
    assert "The first 500 of 600" in text


def test_how_to_go_on(index: DatasetIndex, tmp_path: Path) -> None:
    source = tmp_path / "my labels.csv"
    text = read(index, tmp_path, suspects=(suspect(index, 0),), source=source).text
    assert f"cvtune check {in_shell(source)} --corrections fix.csv" in text
    assert f"cvtune fit {in_shell(source)} --corrections fix.csv" in text
    assert "--group-by" not in text
    assert "--corrections" in read(index, tmp_path, pairs=(Pair(1, 2, "near", 0.9),)).text  # two labels
    clean = read(index, tmp_path, pairs=(Pair(0, 1, "near", 0.9),)).text
    assert f"cvtune fit {in_shell(index.root)}" in clean
    assert "--corrections" not in clean


def test_names_that_look_grouped_are_proposed_as_a_command(tmp_path: Path) -> None:
    names = {f"ok/part{i:02d}_{view}.png": 0 for i in range(12) for view in (1, 2, 3)}
    names |= {f"dent/part{i:02d}_{view}.png": 1 for i in range(12, 24) for view in (1, 2, 3)}
    text = read(index_of(tmp_path, names), tmp_path).text
    command = next(line.strip() for line in text.splitlines() if "--group-by" in line)
    assert command.startswith(f"cvtune fit {in_shell(tmp_path)} --group-by ")


@pytest.mark.skipif(os.name == "nt", reason="quotes as POSIX shells read them")
@pytest.mark.parametrize("text", ["parts", "my parts", "$(rm x)", "it's", "a;b", "[x](y)", "~root"])
def test_a_command_is_one_argument(text: str) -> None:
    assert shlex.split(in_shell(text)) == [text]
    assert (in_shell(text) == text) == (text == "parts")


HOSTILE = (
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "'><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "--><h1>x</h1><!--",
    "</style></table><a href=javascript:alert(1)>x</a>",
    "a\nb\rc\u202egnp",
    "\udcff",
    "</title><meta http-equiv=refresh content=0;url=x>",
)


def test_no_name_can_do_anything(tmp_path: Path) -> None:
    classes = tuple(f"{i}{name}" for i, name in enumerate(HOSTILE))
    index = index_of(tmp_path / HOSTILE[0], {name: i for i, name in enumerate(HOSTILE)}, classes)
    index = dataclasses.replace(index, skipped=tuple(Skipped(name, name) for name in HOSTILE))
    findings = tuple(Finding(name, "warning", name, 9, (name, name), name) for name in HOSTILE)
    found = tuple(suspect(index, row, HOSTILE[-row]) for row in range(len(HOSTILE)))
    pairs = tuple(Pair(row - 1, row, "near", 0.5) for row in range(1, len(HOSTILE)))
    page = read(index, tmp_path, findings, suspects=found, pairs=pairs)
    assert len(page.all("h1")) == len(page.all("title")) == len(page.all("style")) == 1
    assert not {name for name, _ in page.tags} & {"svg", "img", "h3", "iframe"}
    assert "{{ 7 * 7 }}" in page.text
    assert "49{%" not in page.text
    assert r"a\x0ab\x0dc\u202egnp" in page.text
    assert r"\xff" in page.text


def test_files_that_are_gone_leave_a_sentence(index: DatasetIndex, tmp_path: Path) -> None:
    (index.root / "a.png").unlink()
    (index.root / "c.png").write_bytes(b"no picture")
    page = read(index, tmp_path, suspects=(suspect(index, 0),), pairs=(Pair(1, 2, "near", 0.9),))
    assert [one["alt"] for one in page.all("img")] == ["b.png: labelled ok"]
    assert page.text.count("file not found") == 1
    assert page.text.count("cannot be read") == 1


def test_deep_images_show(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"16.png": 0, "float.tif": 1})
    ramp = np.tile(np.arange(100), (80, 1))
    assert cv2.imwrite(str(tmp_path / "16.png"), (ramp * 40).astype(np.uint16))
    assert cv2.imwrite(str(tmp_path / "float.tif"), (ramp / 7).astype(np.float32))
    assert len(read(index, tmp_path, suspects=(suspect(index, 0), suspect(index, 1))).all("img")) == 2


def test_unknown_hands(index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvtune.report.thumbnails.read_image", None)
    assert len(read(index, tmp_path, suspects=(suspect(index, 0),), untrusted=True).all("img")) == 1


def test_the_worst_page_stays_under_five_megabytes(tmp_path: Path) -> None:
    names = {"x" * 200 + f"{i}.png": i % 2 for i in range(140)}
    index = index_of(
        tmp_path / "noise", names, skipped=tuple(Skipped("y" * 200 + str(i), "z" * 90) for i in range(9999))
    )
    write_pictures(index, noise=True)
    found = tuple(suspect(index, i) for i in range(100))
    pairs = tuple(Pair(i, i + 1, "near", 0.9) for i in range(138))
    page = read(index, tmp_path, suspects=found, pairs=pairs)
    assert len(page.all("img")) == 60 + 80
    assert "The worst 60 of 100" in page.text
    assert (tmp_path / "check.html").stat().st_size < 5_000_000


def test_the_same_folder_gives_the_same_bytes(index: DatasetIndex, tmp_path: Path) -> None:
    read(index, tmp_path, (WARNING,), suspects=(suspect(index, 0),))
    first = (tmp_path / "check.html").read_bytes()
    read(index, tmp_path, (WARNING,), suspects=(suspect(index, 0),))
    assert (tmp_path / "check.html").read_bytes() == first


def test_many_classes_are_folded_away(tmp_path: Path) -> None:
    index = index_of(tmp_path, {f"{i}.png": i for i in range(300)}, tuple(f"class {i}" for i in range(300)))
    page = read(index, tmp_path)
    assert len(page.all("details")) == 1
    assert "class 299" in page.text
