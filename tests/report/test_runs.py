"""The kinds of run: cross-validated, several labels an image, leaking, with suspected labels, deep."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cvtune.audit import Suspect
from cvtune.errors import RunError
from cvtune.evaluation.predictions import Predictions
from cvtune.report import build_report
from cvtune.rundir import RunDir, read_json, write_json, write_text
from tests.report.conftest import add_folds, add_suspects, answers, several, write_multi_run, write_run
from tests.report.pages import Page, assert_inert

CLASSES = ("ok", "scratch", "dent")
SUSPECT = Suspect(3, "crazing/crazing_1.jpg", "crazing", "inclusion", 0.0123, 0.9567)


def read(run: RunDir) -> Page:
    return assert_inert(build_report(run).read_text(encoding="utf-8"))


def headline(run: RunDir) -> str:
    return run.report.read_text(encoding="utf-8").partition("<h1>")[2].partition("</h1>")[0]


def small_run(root: Path, folder: Path) -> RunDir:
    return write_run(root, folder, CLASSES, [[f"{name}/{i}.png" for i in range(10)] for name in CLASSES])


def folds_answers(n: int = 60) -> Predictions:
    truth = [i % len(CLASSES) for i in range(n)]
    return answers(CLASSES, [f"all/{i}.png" for i in range(n)], truth)


# ---- cross-validation


@pytest.fixture
def crossed(tmp_path: Path) -> RunDir:
    run = small_run(tmp_path / "crossed", tmp_path)
    run.predictions("test").unlink()
    add_folds(run, folds_answers())
    return run


def test_a_cross_validation_says_what_was_measured(crossed: RunDir) -> None:
    page = read(crossed)
    right = int(folds_answers().right.sum())
    assert 0 < right < 60
    assert headline(crossed) == f"{right} of 60 images right in a 3-fold cross-validation"
    assert "3 folds: each image was answered by a model that had not seen it." in page.text
    assert "The bundle was trained on all 60 images: it was not measured on unseen images" in page.text
    assert "the cross-validated figures stand for it" in page.text
    assert {item.get("id") for item in page.all("section")} >= {"folds", "pictures"}
    assert "test" not in {item.get("id") for item in page.all("section")}
    assert "the means of the folds" in page.text


def test_each_fold_has_its_row(crossed: RunDir) -> None:
    page = read(crossed)
    right = folds_answers().right
    for fold in range(3):
        assert f"{int(right[fold::3].sum())} of 20 [" in page.text.replace("\n", " ")
    assert page.text.count("probe, tail") == 3
    crossed.folds.with_suffix(".csv").unlink()
    assert "of 20 [" not in read(crossed).text


def test_a_test_side_beside_the_folds_comes_after_them(crossed: RunDir) -> None:
    answers(CLASSES, ["x.png"] * 12, [0, 1, 2] * 4).save(crossed.predictions("test"))
    page = read(crossed)
    assert headline(crossed).endswith("in a 3-fold cross-validation")
    ids = [item.get("id") for item in page.all("section")]
    assert ids[:6] == ["folds", "probabilities", "pictures", "test", "probabilities-test", "pictures-test"]
    assert "Pictures to look at, test side" in page.text
    assert "of the test side, kept apart, it has 10 of 12 right (below)" in page.text
    assert "was not measured on unseen images" not in page.text
    labels = [item.get("aria-label") or "" for item in page.all("svg")]
    assert sum(label.startswith("Confusion") for label in labels) == 2


def test_of_a_final_fit_the_test_side_is_the_headline(crossed: RunDir) -> None:
    answers(CLASSES, ["x.png"] * 12, [0, 1, 2] * 4).save(crossed.predictions("test"))
    write_json(crossed.metrics, {"model": "final", "task": "single"})
    page = read(crossed)
    assert headline(crossed) == "10 of 12 test images right"
    ids = [item.get("id") for item in page.all("section")]
    assert ids[:6] == ["test", "probabilities", "pictures", "folds", "probabilities-folds", "pictures-folds"]
    assert "Pictures to look at, folds" in page.text
    assert "Pictures to look at, test side" not in page.text
    right = int(folds_answers().right.sum())
    assert "The bundle was trained on the 60 images outside test, after 3 models had answered" in page.text
    assert f"{right} of 60 right" in page.text
    assert "the stages and steps that were chosen on the sides" in page.text
    assert "those that were kept are repeated on all images outside test" in page.text
    assert "choosing between stages; then the folds, and the bundle" in page.text


def test_a_damaged_folds_file_is_named(crossed: RunDir) -> None:
    write_json(crossed.folds, [{"images": 20}])
    with pytest.raises(RunError, match=r"folds\.json: damaged"):
        build_report(crossed)


# ---- several labels an image


@pytest.fixture
def multi(tmp_path: Path) -> RunDir:
    return write_multi_run(tmp_path / "multi", tmp_path, [f"{i}.png" for i in range(50)])


def test_several_labels_have_figures_of_their_own(multi: RunDir) -> None:
    page = read(multi)
    assert headline(multi) == "40 of 50 test images with every label right"
    figure = f"{several([f'{i}.png' for i in range(50)]).mean_average_precision:.3f}"
    assert f"Mean average precision {figure}." in page.text
    for words in ("Specificity", "Average precision", "Threshold", "0.432", "Weakest label: scratch", "AUROC"):
        assert words in page.text
    assert "Confusion" not in page.text
    assert not [one for one in page.all("svg") if (one.get("aria-label") or "").startswith("Confusion")]
    assert "Mean average precision, val" in page.text


def test_mistakes_of_several_labels_name_each_wrong_one(multi: RunDir) -> None:
    page = read(multi)
    answered = several([f"{i}.png" for i in range(50)])
    assert page.text.count("scratch missed at") + page.text.count("scratch wrongly given at") == 10
    row = 0 if answered.truth[0, 1] else 5
    names = ", ".join(answered.names(answered.truth[row])) or "none"
    assert f"{names} taken for" in page.text.replace("\n", " ")


def test_the_split_counts_labels_and_images(multi: RunDir) -> None:
    page = read(multi)
    chart = next(one for one in page.all("svg") if (one.get("aria-label") or "").startswith("Images a class"))
    assert (chart["aria-label"] or "").endswith("train 2; test 1")  # images, though labels are two and one
    start = page.cells.index("Label", page.cells.index("For"))
    rows = [["Label", "train", "test"], ["dent", "1", "0"], ["scratch", "0", "1"], ["stain", "1", "0"]]
    assert page.cells[start : start + 12] == [cell for row in rows for cell in row]


def test_several_labels_in_folds_say_that_thresholds_were_fitted_there(multi: RunDir) -> None:
    multi.predictions("test").unlink()
    add_folds(multi, several([f"{i}.png" for i in range(30)]))
    page = read(multi)
    assert headline(multi) == "24 of 30 images with every label right in a 3-fold cross-validation"
    assert "thresholds. Both were fitted on these same answers" in page.text


def test_the_bundle_says_how_it_reads_and_answers(multi: RunDir, tmp_path: Path) -> None:
    text = read(multi).text
    for words in (
        "16 bit; transparent ones are laid over RGB 0, 0, 0",
        "900 is black, 3960.5 is white",
        "answer.labels",
    ):
        assert words in text
    assert "dent 0.500, scratch 0.432, stain 0.600" in text
    plain = read(small_run(tmp_path / "plain", tmp_path)).text
    assert "8 bit; transparent ones are laid over RGB 255, 255, 255" in plain
    assert "is black" not in plain
    assert "Thresholds" not in plain


def test_an_unknown_task_is_a_damaged_file(multi: RunDir) -> None:
    write_json(multi.metrics, {"task": "boxes"})
    with pytest.raises(RunError, match=r"metrics\.json: damaged \(task 'boxes'\)"):
        build_report(multi)


# ---- leaks


def test_leaked_test_images_are_told_with_both_figures(tmp_path: Path) -> None:
    run = small_run(tmp_path / "leak", tmp_path)
    write_json(run.metrics, {"task": "single", "test_without_leaks": {"n": 20, "right": 15}})
    text = read(run).text
    whole = Predictions.load(run.predictions("test"))
    assert whole.right.sum() == 26
    assert (
        "LEAK: 10 of these 30 test images have a copy or a picture of the same group among those trained on; "
        "without them: 15 of 20 right, 0.750 [0.509, 0.913]; with them: 26 of 30 right, 0.867 [0.693, 0.962]." in text
    )
    assert "Accuracy, leaked images left out" in text
    page = run.report.read_text(encoding="utf-8")
    assert page.index("LEAK") < page.index("<nav")


def test_a_test_side_that_is_all_leaked_proves_nothing(tmp_path: Path) -> None:
    run = small_run(tmp_path / "leak", tmp_path)
    tree = read_json(run.audit)
    finding = {**tree["findings"][0], "code": "leakage", "count": 30}
    write_json(run.audit, {**tree, "findings": [finding]})
    assert "LEAK: all 30 test images have a copy" in read(run).text
    assert "prove nothing" in run.report.read_text(encoding="utf-8")


def test_without_leaks_there_is_no_such_line(tmp_path: Path) -> None:
    assert "LEAK" not in read(small_run(tmp_path / "fine", tmp_path)).text


def test_damaged_figures_are_named(tmp_path: Path) -> None:
    run = small_run(tmp_path / "leak", tmp_path)
    write_json(run.metrics, {"task": "single", "test_without_leaks": {"n": 3, "right": 5}})
    with pytest.raises(RunError, match=r"metrics\.json: damaged"):
        build_report(run)


# ---- labels that look wrong, and the rest


def test_suspected_labels_are_shown(steel_copy: RunDir) -> None:
    before = len(read(steel_copy).all("img"))
    add_suspects(steel_copy, [dataclasses.replace(SUSPECT, position=i) for i in range(30)])
    page = read(steel_copy)
    shown = [one for one in page.all("img") if "looks like" in (one["alt"] or "")]
    assert len(shown) == 24
    assert len(page.all("img")) == before + 24
    assert shown[0]["alt"] == "crazing/crazing_1.jpg: labelled crazing, looks like inclusion"
    assert "The worst 24 of 30." in page.text
    assert "1.2 % against 95.7 %" in page.text


def test_a_damaged_list_of_suspects_is_named(steel_copy: RunDir) -> None:
    write_json(steel_copy.audit, {**read_json(steel_copy.audit), "suspects": [{"path": "x"}]})
    with pytest.raises(RunError, match=r"audit\.json: damaged"):
        build_report(steel_copy)


def test_the_summary_is_there_as_it_was_told(steel_copy: RunDir) -> None:
    write_text(steel_copy.summary, "  indexed   120 images\n  merged    3 images of '<b>' are 'b'\n")
    text = read(steel_copy).text
    assert "  indexed   120 images\n  merged    3 images of '<b>' are 'b'" in text


def test_files_from_unknown_hands_are_read_by_a_child(steel_copy: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("read in this process")

    write_text(steel_copy.config, "[data]\nuntrusted = true\n")
    monkeypatch.setattr("cvtune.report.thumbnails.read_image", never)
    assert len(read(steel_copy).all("img")) == 22


def test_a_name_cannot_hide_its_line_end_or_direction(tmp_path: Path) -> None:
    run = small_run(tmp_path / "names", tmp_path)
    found = answers(CLASSES, ["a\nb.png", "\u202egnp.exe", "c\udcff.png", "d.png"], [0, 1, 2, 0], wrong_every=1)
    probabilities = np.roll(found.probabilities, 1, axis=1)
    dataclasses.replace(found, probabilities=probabilities).save(run.predictions("test"))
    text = read(run).text
    for shown in (r"a\x0ab.png", r"\u202egnp.exe", r"c\xff.png"):
        assert shown in text
