"""The final fit: folds answer for every image outside test, then the model is trained on all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cvtune as library
from cvtune.evaluation.comparison import Comparison
from cvtune.models.head import Classifier
from cvtune.rundir import RunDir, Terminated
from cvtune.steps import final
from cvtune.training.checkpoint import Ledger
from tests.e2e.conftest import rows, tree

FLAGS: dict[str, Any] = {
    "backbone": "test_efficientnet",
    "from_scratch": True,
    "size": 64,
    "train.workers": 0,
    "train.cut": 0.67,
    "train.tail.steps": 12,
    "train.all.steps": 0,
}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage counts as better, and so do the folds: what happens then is the matter here."""
    monkeypatch.setattr("cvtune.evaluation.task.better", lambda new, old: Comparison(0.1, 0.0, True, "kept"))


@pytest.fixture(scope="module")
def run(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """A small folder, and nothing asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvtune.evaluation.task.better", lambda new, old: Comparison(0.1, 0.0, True, "kept"))
        return library.fit(parts, out=tmp_path_factory.mktemp("final") / "run", **FLAGS)


def test_every_image_outside_test_is_answered_by_a_model_that_has_not_seen_it(run: library.Run) -> None:
    sides = {row["path"]: row["side"] for row in rows(run.path / "split.csv")}
    answers = rows(run.path / "predictions-folds.csv")
    outside = {path for path, side in sides.items() if side != "test"}
    assert {row["path"] for row in answers} == outside
    assert len(answers) == len(outside) == run.metrics["folds"]["n"]
    folds = rows(run.path / "folds.csv")
    assert {row["path"] for row in folds} == outside
    assert {row["fold"] for row in folds} == set("12345")
    facts = tree(run.path / "folds.json")
    assert [fold["stages"] for fold in facts] == [["probe", "tail"]] * 5
    assert all(fold["images"] + fold["trained_on"] == len(outside) for fold in facts)


def test_the_final_model_is_the_bundle_and_its_figures_are_of_the_folds_and_of_test(run: library.Run) -> None:
    assert run.metrics["model"] == "final"
    assert {"folds", "test"} <= run.metrics.keys()
    assert not {"val", "calib"} & run.metrics.keys()  # it was trained on them
    assert not run.directory.predictions("val").exists()
    assert not run.directory.predictions("calib").exists()
    assert [stage["name"] for stage in tree(run.path / "stages.json")] == ["probe", "tail", "final"]
    summary = (run.path / "summary.txt").read_text(encoding="utf-8")
    outside = run.metrics["folds"]["n"]
    assert f"trained on {outside} images" in summary
    assert "5 folds" in summary
    manifest = tree(run.path / "bundle" / "manifest.json")
    trained = sum(row["side"] == "train" for row in rows(run.path / "split.csv"))
    assert manifest["parity"]["equal"] == manifest["parity"]["images"] == 96 - trained


def test_as_many_epochs_on_more_images(run: library.Run) -> None:
    plan = tree(run.path / "plan.json")["stages"]
    assert plan["final"] == {"folds": 5}
    trained = sum(row["side"] == "train" for row in rows(run.path / "split.csv"))
    outside = run.metrics["folds"]["n"]
    assert plan["final-tail"]["steps"] == round(plan["tail"]["steps"] * outside / trained)
    same = ("first_group", "batch_size", "learning_rate", "views", "every")
    assert {key: plan["final-tail"][key] for key in same} == {key: plan["tail"][key] for key in same}


def test_the_report_says_what_the_bundle_was_trained_on(run: library.Run) -> None:
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert f"The bundle was trained on the {run.metrics['folds']['n']} images outside test" in page
    assert "test images right" in page
    assert page.index('id="test"') < page.index('id="folds"')


def test_the_temperature_is_that_of_the_folds(run: library.Run) -> None:
    calibration = tree(run.path / "calibration.json")
    assert calibration["n"] == run.metrics["folds"]["n"]
    assert calibration["log_loss_after"] == pytest.approx(run.metrics["folds"]["log_loss"], rel=1e-4)


@pytest.mark.parametrize("unit", ["final-fold-2", "final-tail"])
def test_interrupted_in_a_fold_or_behind_it_ends_in_the_same_bytes(
    run: library.Run, unit: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Ledger.write

    def ends(self: Ledger, name: str, *rest: Any) -> None:
        if name == unit:
            raise Terminated
        write(self, name, *rest)

    monkeypatch.setattr(Ledger, "write", ends)
    with pytest.raises(Terminated):
        library.fit(parts, out=tmp_path / "run", plan=run.path, **FLAGS)
    monkeypatch.setattr(Ledger, "write", write)
    before = Ledger(RunDir(tmp_path / "run"), key="").names
    again = library.fit(resume=tmp_path / "run")
    assert before == []  # of another key
    for name in ("weights.safetensors", "predictions-folds.csv", "predictions-test.csv", "metrics.json", "folds.json"):
        assert (again.path / name).read_bytes() == (run.path / name).read_bytes(), name
    assert not again.directory.predictions("val").exists()


@pytest.fixture(scope="module")
def unfolded(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """A budget with time for the final fit, but not for folds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvtune.evaluation.task.better", lambda new, old: Comparison(0.1, 0.0, True, "kept"))
        patch.setattr(final, "_FOLDS", (10**9, 1))
        return library.fit(parts, out=tmp_path_factory.mktemp("unfolded") / "run", budget=700, **FLAGS)


def test_without_time_for_folds_the_model_that_was_chosen_stands_in_for_them(unfolded: library.Run) -> None:
    sides = {row["path"]: row["side"] for row in rows(unfolded.path / "split.csv")}
    answers = {row["path"] for row in rows(unfolded.path / "predictions-folds.csv")}
    assert answers == {path for path, side in sides.items() if side in ("val", "calib")}
    assert unfolded.metrics["model"] == "final"
    assert tree(unfolded.path / "plan.json")["stages"]["final"] == {"folds": 1}
    (fold,) = tree(unfolded.path / "folds.json")
    trained = sum(side == "train" for side in sides.values())
    assert (fold["images"], fold["trained_on"], fold["stages"]) == (len(answers), trained, ["probe", "tail"])
    assert tree(unfolded.path / "calibration.json")["n"] == len(answers)


def test_the_summary_and_the_report_say_who_answered(unfolded: library.Run) -> None:
    (fold,) = tree(unfolded.path / "folds.json")
    outside = fold["images"] + fold["trained_on"]
    summary = (unfolded.path / "summary.txt").read_text(encoding="utf-8")
    assert f"trained on {outside} images" in summary
    assert "held back" in summary
    assert "balanced accuracy" in summary
    assert "on val and calib" in summary
    page = (unfolded.path / "report.html").read_text(encoding="utf-8")
    assert f"The bundle was trained on the {outside} images outside test, after a model of" in page
    assert "Images held back" in page
    assert "1 folds" not in page
    assert "Groups and copies stay in one fold" not in page


def test_a_short_budget_trains_on_what_would_have_been_calib(parts: Path, tmp_path: Path) -> None:
    run = library.fit(parts, out=tmp_path / "run", budget=300, **FLAGS)
    sides = [row["side"] for row in rows(run.path / "split.csv")]
    assert set(sides) == {"train", "val", "test"}
    again = library.fit(parts, out=tmp_path / "again", final_fit="train", budget=300, **FLAGS)
    before = [row["side"] for row in rows(again.path / "split.csv")]
    assert sides == ["train" if side == "calib" else side for side in before]  # the sides are remembered as they were
    assert "the budget is too short for the folds" in (run.path / "summary.txt").read_text(encoding="utf-8")


def test_on_request_the_sides_stay_as_they_are(parts: Path, tmp_path: Path) -> None:
    run = library.fit(parts, out=tmp_path / "run", final_fit="train", **FLAGS)
    assert {"val", "calib", "test"} <= run.metrics.keys()
    assert "folds" not in run.metrics
    assert "final" not in tree(run.path / "plan.json")["stages"]


def test_a_budget_that_is_used_up_leaves_it_out(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(final, "_FOLDS", (10**9,))
    run = library.fit(parts, out=tmp_path / "run", budget=600, **FLAGS)
    assert run.metrics["model"] == "tail"
    assert tree(run.path / "plan.json")["stages"]["final"] == {"folds": 0}
    assert "final     left out: the budget is used up" in (run.path / "summary.txt").read_text(encoding="utf-8")


def test_folds_that_are_worse_on_val_leave_it_out(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worse = {True: Comparison(-0.2, 0.05, False, "worse"), False: Comparison(0.1, 0.0, True, "kept")}
    cross = final._cross
    state = {"folded": False}

    def crossed(*arguments: Any) -> Any:
        state["folded"] = True
        return cross(*arguments)

    monkeypatch.setattr(final, "_cross", crossed)
    monkeypatch.setattr("cvtune.evaluation.task.better", lambda new, old: worse[state["folded"]])
    run = library.fit(parts, out=tmp_path / "run", **FLAGS)
    assert run.metrics["model"] == "tail"
    assert "left out: its folds are worse on the images of val: -0.200" in (run.path / "summary.txt").read_text("utf-8")


def test_every_layer_is_not_trained_in_folds_unasked(parts: Path, tmp_path: Path) -> None:
    more = {"train.tail.steps": 0, "train.all.steps": 2, "train.all.rounds": 1}
    run = library.fit(parts, out=tmp_path / "run", **{**FLAGS, **more})
    assert run.metrics["model"] == "all"
    assert "--final-fit all does it" in (run.path / "summary.txt").read_text(encoding="utf-8")


def test_the_shipped_model_is_there_for_those_who_go_on_with_torch(run: library.Run) -> None:
    assert isinstance(run.model(), Classifier)
    final_row = tree(run.path / "stages.json")[-1]
    assert final_row["reason"].startswith("probe and tail repeated on the ")
    assert 0 <= final_row["score"] <= 1
