from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from cvtune.errors import RunError
from cvtune.report import build_report
from cvtune.rundir import RunDir, write_text
from tests.report.conftest import answers, write_run
from tests.report.pages import Page, assert_inert


def read(run: RunDir) -> Page:
    return Page(build_report(run).read_text(encoding="utf-8"))


def test_the_verdict_is_the_headline(steel_copy: RunDir) -> None:
    text = build_report(steel_copy).read_text(encoding="utf-8")
    page = Page(text)
    assert "<h1>103 of 120 test images right</h1>" in text
    assert "Weakest class: " in page.text
    assert "at 95 % confidence" in page.text
    assert "0.858" in page.text
    assert "[0.783, 0.915]" in page.text  # Clopper-Pearson, 103 of 120


def test_every_part_is_there(steel_copy: RunDir) -> None:
    page = read(steel_copy)
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert ids >= {"test", "probabilities", "pictures", "data", "training", "bundle", "settings"}
    for words in (
        "no clear gain",
        "tf_efficientnet_lite0",
        "notes.txt",
        "error rate below 22 %",
        "1 min 21 s",
        "1.310",
        "sha256, model.onnx",
    ):
        assert words in page.text
    charts = [attributes.get("aria-label") or "" for attributes in page.all("svg")]
    assert [label.split()[0] for label in charts] == ["Confusion", "Probability", "Mistakes", "Images", "Training"]


def test_the_page_loads_nothing(steel_copy: RunDir) -> None:
    page = assert_inert(build_report(steel_copy).read_text(encoding="utf-8"))
    assert page.all("img")


def test_pictures_are_the_wrong_and_the_doubtful_with_words_for_those_who_cannot_see(steel_copy: RunDir) -> None:
    pictures = read(steel_copy).all("img")
    assert len(pictures) == 17 + 5, "of the eight least sure three are wrong and shown as such"
    for picture in pictures:
        assert re.fullmatch(r"\w.*\.jpg: true class \S+, predicted \S+", picture["alt"] or "")
        data = base64.b64decode((picture["src"] or "").removeprefix("data:image/jpeg;base64,"))
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert max(pixels.shape[:2]) == 128


def test_same_run_same_bytes_and_small(steel_copy: RunDir) -> None:
    first = build_report(steel_copy).read_bytes()
    assert build_report(steel_copy).read_bytes() == first
    assert len(first) < 1_000_000


EVERY_FILE = (
    "config.toml environment.json audit.json split.csv stages.json metrics.csv calibration.json predictions-test.csv "
    "bundle/manifest.json"
)


@pytest.mark.parametrize("gone", EVERY_FILE.split())
def test_what_is_absent_is_left_out(steel_copy: RunDir, gone: str) -> None:
    (steel_copy.root / gone).unlink()
    page = read(steel_copy)
    if gone == "predictions-test.csv":
        assert "Not tested yet" in page.text
    if gone == "audit.json":  # the folder is in environment.json as well
        assert page.all("img")


def test_an_empty_run_still_gives_a_page(tmp_path: Path) -> None:
    assert "Not tested yet" in read(RunDir(tmp_path / "nothing")).text


def test_a_folder_that_moved_leaves_words_in_the_pictures_place(steel_copy: RunDir, tmp_path: Path) -> None:
    text = steel_copy.audit.read_text(encoding="utf-8")
    write_text(steel_copy.audit, re.sub(r'"root": "[^"]*"', f'"root": "{(tmp_path / "gone").as_posix()}"', text))
    page = read(steel_copy)
    assert not page.all("img")
    assert "file not found" in page.text


@pytest.mark.parametrize("damaged", ["audit.json", "stages.json", "predictions-test.csv", "calibration.json"])
def test_a_damaged_file_is_named(steel_copy: RunDir, damaged: str) -> None:
    (steel_copy.root / damaged).write_text("[7", encoding="utf-8")
    with pytest.raises(RunError, match=re.escape(damaged)):
        build_report(steel_copy)


def test_two_classes_speak_of_missed_and_false_alarms(tmp_path: Path) -> None:
    paths = [[f"ok/{i}.png" for i in range(30)], [f"scratch/{i}.png" for i in range(19)]]
    page = read(write_run(tmp_path / "parts", tmp_path, ("ok", "scratch"), paths))
    assert "16 of 19 scratch found, 3 missed (at most 35.9 % at 95 % confidence)." in page.text
    assert "26 of 30 ok recognised, 4 false alarms" in page.text
    assert "Sensitivity, scratch" in page.text


def test_names_cannot_write_html(tmp_path: Path) -> None:
    classes = ("<script>alert(1)</script>", "$x^2$ & \"q\" 'r'", "裂纹" + "很" * 30)
    paths = [[f"{i}/<img src=x>.png" for _ in range(8)] for i in range(3)]
    text = build_report(write_run(tmp_path / "<b>run", tmp_path, classes, paths)).read_text(encoding="utf-8")
    page = assert_inert(text)
    assert not page.all("img")
    assert not page.all("b") or "<b>run" not in text
    assert "<script>alert(1)</script>" in page.text
    assert "$x^2$ &" in page.text


def test_many_classes_have_tables_and_no_unreadable_chart(tmp_path: Path) -> None:
    classes = tuple(f"class {i}" for i in range(200))
    page = read(write_run(tmp_path / "many", tmp_path, classes, [[f"{i}.png"] * 3 for i in range(200)]))
    labels = [one["aria-label"] or "" for one in page.all("svg")]
    assert len(labels) == 3
    assert labels[0].startswith("Probability of the answer: all answers: ")
    assert "class 199" in page.text


def test_sixty_classes_are_drawn_under_five_megabytes(tmp_path: Path) -> None:
    classes = tuple(f"class {i}" for i in range(60))
    run = write_run(tmp_path / "sixty", tmp_path, classes, [[f"{i}.png"] * 9 for i in range(60)])
    assert len(read(run).all("svg")) == 5
    assert run.report.stat().st_size < 5_000_000


def test_no_mistake_at_all(tmp_path: Path) -> None:
    run = write_run(tmp_path / "clean", tmp_path, ("a", "b", "c"), [["x.png"] * 4] * 3)
    answers(("a", "b", "c"), ["x.png"] * 12, [0, 1, 2] * 4, wrong_every=99).save(run.predictions("test"))
    page = read(run)
    assert "11 of 12" in page.text  # the fourth answer is wrong at any rate
    answers(("a", "b", "c"), ["x.png"] * 3, [0, 1, 2], wrong_every=99).save(run.predictions("test"))
    assert "No mistake on the test side" in read(run).text
