"""What was found out about the model, on the page: unknown things, slices, spoilt pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.robustness import Spoilt
from cvtune.evaluation.slices import Slice
from cvtune.evaluation.studies import Foreign, NoveltyStudy, Studies
from cvtune.report import build_report
from cvtune.report.facts import read_facts
from cvtune.report.studied import studied_of
from cvtune.rundir import RunDir
from tests.report.conftest import add_folds, add_studies, answers, write_run
from tests.report.pages import Page, assert_inert


def read(run: RunDir) -> Page:
    return assert_inert(build_report(run).read_text(encoding="utf-8"))


def sections(page: Page) -> set[str]:
    return {one.get("id") or "" for one in page.all("section")}


def flat(page: Page) -> str:
    return " ".join(page.text.split())


def test_every_study_has_its_section(steel_copy: RunDir) -> None:
    studies = add_studies(steel_copy)
    page = read(steel_copy)
    assert sections(page) >= {"unknown", "weak"}
    links = {link for link in page.links if link.startswith("#")}
    assert links >= {"#unknown", "#weak", "#probabilities", "#pictures"}
    for words in ("Slices", "Spoilt pictures", "Other folders", "Classes as unknown things"):
        assert words in page.text
    assert studies.novelty is not None
    distances = np.array([float(line.split(",")[1]) for line in steel_copy.distances.read_text().split()[1:]])
    beyond = Rate(int((distances > 1.25).sum()), 120)
    assert beyond.k > 0
    assert f"Of the images of the test side it happens to {beyond}, {beyond.with_interval}." in flat(page)
    chart = [one["aria-label"] or "" for one in page.all("svg") if "Distances" in (one["aria-label"] or "")]
    assert chart == [f"Distances of 120 known images: {beyond.k} beyond the limit of 1.25"]


def test_a_run_without_studies_has_none_of_these_sections(steel_copy: RunDir) -> None:
    page = read(steel_copy)
    assert sections(page).isdisjoint({"unknown", "weak"})
    assert "Never seen" not in page.text
    assert "Slices" not in page.text
    Studies().save(steel_copy.studies)
    assert sections(read(steel_copy)).isdisjoint({"unknown", "weak"})


def test_classes_left_out_begin_with_the_worst(steel_copy: RunDir) -> None:
    add_studies(steel_copy)
    found = studied_of(read_facts(steel_copy))
    assert found is not None
    assert found.unknown is not None
    assert [name for name, _ in found.unknown.left_out][::5] == ["scratches", "crazing"]
    assert found.unknown.mean == pytest.approx(np.mean([0.7 + 0.2 / (k + 1) for k in range(6)]))
    page = read(steel_copy)
    row = page.cells.index("Class left out")
    assert page.cells[row + 2 : row + 4] == ["scratches", "0.733"]


def test_without_a_limit_nothing_is_beyond_it(steel_copy: RunDir) -> None:
    studies = add_studies(steel_copy)
    assert studies.novelty is not None
    foreign = (Foreign("<b>nuts</b> & bolts", Rate(0, 20), 0.5),)
    unlimited = NoveltyStudy("mahalanobis", np.inf, 0.0, 0, foreign=foreign)
    replace(studies, novelty=unlimited).save(steel_copy.studies)
    page = read(steel_copy)
    assert "There is no limit: nothing goes to REVIEW for being strange." in page.text
    assert "in units of the spread inside the classes" in page.text
    assert "Of the images of the test side it happens" not in page.text
    assert "Classes as unknown things" not in page.text
    assert "<b>nuts</b> & bolts" in page.cells


def test_distances_that_are_gone_leave_their_chart_out(steel_copy: RunDir) -> None:
    add_studies(steel_copy)
    steel_copy.distances.unlink()
    page = read(steel_copy)
    assert "unknown" in sections(page)
    assert "Known images" not in page.text


def test_slices_that_are_worse_come_first_with_a_warning(steel_copy: RunDir) -> None:
    studies = add_studies(steel_copy)
    assert "No slice is significantly worse: 11 were looked at." in flat(read(steel_copy))
    worse = Slice("camera", "<script>2", Rate(12, 20), Rate(5, 100), 1e-7, worse=True)
    many = tuple(Slice("group", f"g{i}", Rate(1, 10), Rate(16, 110), 0.5 + i / 100) for i in range(14))
    replace(studies, slices=(*many, worse)).save(steel_copy.studies)
    page = read(steel_copy)
    assert "Warning: 1 of 15 slices is significantly worse than the rest of the images." in flat(page)
    start = page.cells.index("What they have in common")
    assert page.cells[start + 4].startswith("camera <script>2 worse")
    assert "12 of 200.600 [0.361, 0.809]" in page.cells[start + 6]
    html = steel_copy.report.read_text(encoding="utf-8")
    assert html.index("g10</th>") < html.index("The other 3 slices") < html.index("g11</th>")


def test_spoilt_pictures_have_a_row_a_way_and_the_worst_in_words(steel_copy: RunDir) -> None:
    add_studies(steel_copy)
    page = read(steel_copy)
    assert "Worst is strong rotation: 29 of 40 right, 0.725 [0.561, 0.854], 9 of 40 answers changed." in flat(page)
    row = page.cells.index("noise")
    assert page.cells[row : row + 4] == ["noise", "40 of 400 changed", "37 of 402 changed", "34 of 404 changed"]


def test_a_strength_that_is_missing_leaves_its_cell_empty(steel_copy: RunDir) -> None:
    studies = add_studies(steel_copy)
    replace(studies, slices=(), robustness=(Spoilt("<i>fog", "medium", Rate(3, 9), Rate(1, 9)),)).save(
        steel_copy.studies
    )
    page = read(steel_copy)
    row = page.cells.index("<i>fog")
    assert page.cells[row : row + 4] == ["<i>fog", "", "3 of 91 changed", ""]
    assert "Slices" not in page.text


def test_studies_of_the_folds_say_so(tmp_path: Path) -> None:
    classes = ("ok", "dent")
    run = write_run(tmp_path / "run", tmp_path, classes, [[f"{i}.png"] for i in range(2)])
    run.predictions("test").unlink()
    add_folds(run, answers(classes, [f"all/{i}.png" for i in range(60)], [i % 2 for i in range(60)]))
    add_studies(run, side="folds")
    text = flat(read(run))
    assert "Of the images of the folds it happens to" in text
    assert "Some of the images of the folds, spoilt" in text
    facts = read_facts(run)
    assert set(facts.reliability) == {"folds"}


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    classes = ("</style><script>alert(1)</script>", '"><img onerror=alert(1)>', "=cmd|' /C calc'!A0")
    paths = [[f"{i}/{name.replace('/', '_')}{n}.png" for n in range(20)] for i, name in enumerate(classes)]
    run = write_run(tmp_path / "run", tmp_path, classes, paths)
    Predictions.load(run.predictions("test")).save(run.predictions("calib"))
    add_studies(run, near=('<img src=x onerror="alert(1)">.png', "\u202egnp.exe"))
    page = read(run)
    assert not page.all("img")
    assert {f"folder {i}" for i in range(3)} <= {cell.strip() for cell in page.cells}
    assert set(classes) <= set(page.cells)
    assert page.text.count(f"{classes[0]} 0.900") == page.text.count(f"{classes[0]} 0.800") > 0, "nearest images"
