"""What the report says of decisions: the counts of the predictions, in the words that were asked for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cvtune.config import ObjectiveConfig
from cvtune.errors import RunError
from cvtune.evaluation.objective import build_objective
from cvtune.evaluation.operating import choose_point
from cvtune.evaluation.predictions import Predictions
from cvtune.report import build_report
from cvtune.rundir import RunDir, read_json, write_json
from tests.report.conftest import several, write_multi_run, write_run
from tests.report.pages import Page, assert_inert

CLASSES = ("dent", "ok", "<script>")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    paths = [[f"{name}/{i}.png" for i in range(count)] for name, count in (("dent", 30), ("ok", 60), ("x", 30))]
    return write_run(tmp_path / "run", tmp_path, CLASSES, paths)


def add_point(run: RunDir, **settings: object) -> None:
    answers = Predictions.load(run.predictions("test"))
    config = ObjectiveConfig.model_validate(settings)
    objective = build_objective(config, answers.classes)
    choose_point(objective, answers.probabilities, answers.truth, config.words).save(run.point)


def page(run: RunDir) -> Page:
    return assert_inert(build_report(run).read_text(encoding="utf-8"))


def test_escapes_and_overkill_are_on_top_and_in_a_table(run: RunDir) -> None:
    add_point(run, target=("escape<=5%", "overkill<=5%"))
    found = page(run)
    answers = Predictions.load(run.predictions("test"))
    decided = read_json(run.point)
    assert decided["ok"] == ["ok"]
    lead = found.text[: found.text.index("Attribute study")]
    assert "Decisions: escape " in lead
    assert " of 60 (at most " in lead
    assert "A person has to look at " in lead
    assert re.search(r"escape<=5% is (missed|proven|not proven: 59 .*); overkill<=5% is ", lead)
    assert "found, " not in lead, "figures of other limits would contradict"
    assert "Good is ok (by its name). Aim: escape<=5%, overkill<=5%." in found.text
    assert "chosen on 120 images" in found.text
    row = found.cells.index("Escapes: defective, decided OK")
    limit = decided["accept"]
    score = 1 - answers.probabilities[:, 1].astype(np.float64)
    likely = np.where(answers.probabilities[:, 0] > answers.probabilities[:, 2], limit["dent"], limit["<script>"])
    escapes = ((answers.truth != 1) & (score < likely)).sum()
    assert found.cells[row + 2] == f"{escapes} of 60"
    assert {"Effectiveness", "Miss", "False alarm", "Kappa"} <= set(found.cells)
    assert "at least 90 %" in found.cells


def test_a_clinic_reads_sensitivity(run: RunDir) -> None:
    add_point(run, words="clinic")
    assert "Decisions: sensitivity " in page(run).text


def test_without_a_good_class_errors_and_review_are_counted(run: RunDir) -> None:
    add_point(run, ok=(), review_rate=0.1)
    found = page(run)
    assert "Wrong decisions" in found.cells
    assert "12 of 120" in found.cells
    assert "Attribute study" not in found.text
    assert "Escapes" not in found.text


def test_labels_are_counted(tmp_path: Path) -> None:
    paths = [f"{i}.png" for i in range(40)]
    run = write_multi_run(tmp_path / "run", tmp_path, paths)
    answers = several(paths)
    objective = build_objective(ObjectiveConfig(), answers.classes, several=True)
    choose_point(objective, answers.probabilities, answers.truth, "factory").save(run.point)
    found = page(run)
    assert "Missed labels" in found.cells
    assert "Labels said wrongly" in found.cells


def test_an_older_run_has_none(run: RunDir) -> None:
    found = page(run)
    assert "Decisions" not in found.text


def test_a_damaged_point_is_named(run: RunDir) -> None:
    add_point(run)
    write_json(run.point, {key: value for key, value in read_json(run.point).items() if key != "notes"})
    with pytest.raises(RunError, match=r"operating_point\.json: damaged"):
        build_report(run)
