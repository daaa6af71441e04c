"""The section about probabilities: judged, drawn and counted as the answers say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cvtune.config import ObjectiveConfig
from cvtune.evaluation.conformal import fit_sets
from cvtune.evaluation.objective import build_objective
from cvtune.evaluation.operating import choose_point
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.reliability import reliability
from cvtune.report import build_report
from cvtune.report.facts import Facts, read_facts
from cvtune.report.trust import Trust, trust_of
from cvtune.rundir import RunDir, write_json
from tests.report.conftest import add_folds, answers, several, write_multi_run, write_run
from tests.report.pages import assert_inert

CLASSES = ("dent", "ok", "scratch")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    paths = [[f"{name}/{i}.png" for i in range(count)] for name, count in (("dent", 30), ("ok", 60), ("scratch", 30))]
    return write_run(tmp_path / "run", tmp_path, CLASSES, paths)


def add_point(run: RunDir, **settings: object) -> None:
    found = Predictions.load(run.predictions("test"))
    config = ObjectiveConfig.model_validate(settings)
    choose_point(build_objective(config, found.classes), found.probabilities, found.truth, "factory").save(run.point)


def trust(run: RunDir) -> tuple[Trust, Facts]:
    facts = read_facts(run)
    return trust_of(facts.scored[0], facts), facts


def labels(run: RunDir) -> list[str]:
    page = assert_inert(build_report(run).read_text(encoding="utf-8"))
    return [one["aria-label"] or "" for one in page.all("svg")]


# ---- reliability


def judged(run: RunDir, sharper: float) -> str:
    """Answers drawn from the probabilities that were given, which are then made sharper or blunter."""
    dice = np.random.default_rng(0)
    true = dice.dirichlet(np.ones(3), 400)
    truth = (true.cumsum(axis=1) < dice.random((400, 1))).sum(axis=1).clip(0, 2)
    said = true**sharper / (true**sharper).sum(axis=1, keepdims=True)
    measured = reliability(said, truth).to_json()
    write_json(run.metrics, {"reliability": {"test": {"before": measured, "after": measured}}})
    found, _ = trust(run)
    assert found.honest is not None
    return found.honest.verdict


def test_honest_probabilities_are_called_so(run: RunDir) -> None:
    said = judged(run, 1.0)
    assert said.startswith("After calibration they differ from the truth by no more than chance explains: mean ")
    assert " of 400 right (0." in said


@pytest.mark.parametrize("sharper, way", [(4.0, "too high"), (0.3, "too low")])
def test_dishonest_ones_with_their_direction(run: RunDir, sharper: float, way: str) -> None:
    assert f"by more than chance explains, and are {way} on the whole" in judged(run, sharper)


def test_both_diagrams_and_the_table_are_on_the_page(run: RunDir) -> None:
    judged(run, 2.0)
    assert [label.split(":")[0] for label in labels(run)][1:3] == [
        "Reliability before calibration",
        "Reliability after calibration",
    ]
    text = run.report.read_text(encoding="utf-8")
    assert "Expected calibration error" in text
    assert "what chance alone would give, at most" in text


def test_an_older_run_has_scores_but_no_diagram(run: RunDir) -> None:
    assert not [label for label in labels(run) if label.startswith("Reliability")]
    assert "Brier" not in run.report.read_text(encoding="utf-8")


# ---- scores and coverage


def test_where_a_class_is_good_the_score_is_that_of_a_defect(run: RunDir) -> None:
    add_point(run, target=("escape<=5%",))
    said = next(label for label in labels(run) if label.startswith("Probability of a defect"))
    assert [part.split(":")[0].strip() for part in said.split("; ")] == ["Probability of a defect", "dent", "scratch"]
    assert "Probability of a defect: ok: 60 images, limit" in said
    facts = read_facts(run)
    assert facts.point is not None
    low = facts.point.limits.accept[0]
    assert f"{low:.3f}" in said


def test_the_mark_is_what_the_limits_make_of_the_side(run: RunDir) -> None:
    add_point(run, target=("escape<=5%", "overkill<=5%"))
    found, facts = trust(run)
    answered = Predictions.load(run.predictions("test"))
    assert facts.point is not None
    decisions = facts.point.decide(answered.probabilities)
    decided = decisions != -1
    wrong = (decisions == 1) != (answered.truth == 1)
    assert found.coverage.point == (
        Rate(int((~decided).sum()), 120),
        Rate(int((wrong & decided).sum()), int(decided.sum())),
    )
    assert 0 < (found.coverage.point[0].value or 0) < 1
    score = 1 - answered.probabilities[:, 1].astype(np.float64)
    assert found.coverage.words.startswith(f"{((score >= 0.5) != (answered.truth != 1)).sum()} of 120 wrong, ")


def test_without_a_good_class_right_and_wrong_answers_are_told_apart(run: RunDir) -> None:
    add_point(run, ok=(), review_rate=0.1)
    answered = Predictions.load(run.predictions("test"))
    said = next(label for label in labels(run) if label.startswith("Probability of the answer"))
    dents = answered.labels == 0
    right = int((dents & answered.right).sum())
    assert f"dent: {right} right, {int(dents.sum()) - right} wrong, limits 0." in said
    found, _ = trust(run)
    assert found.coverage.words.startswith(f"{int((~answered.right).sum())} of 120 wrong")
    assert found.coverage.point is not None
    assert found.coverage.point[0] == Rate(12, 120)


@pytest.mark.parametrize("ok, rows", [((), "all answers"), (("c0",), "good")])
def test_many_classes_share_a_strip(tmp_path: Path, ok: tuple[str, ...], rows: str) -> None:
    classes = tuple(f"c{i}" for i in range(12))
    run = write_run(tmp_path / "many", tmp_path, classes, [[f"{i}.png"] * 6 for i in range(12)])
    add_point(run, ok=ok)
    said = next(label for label in labels(run) if label.startswith("Probability of "))
    assert f": {rows}: " in said
    assert said.count(";") == (1 if ok else 0)


def test_labels_are_told_by_those_who_have_them(tmp_path: Path) -> None:
    paths = [f"{i}.png" for i in range(40)]
    run = write_multi_run(tmp_path / "run", tmp_path, paths)
    answered = several(paths)
    objective = build_objective(ObjectiveConfig(), answered.classes, several=True)
    choose_point(objective, answered.probabilities, answered.truth, "factory").save(run.point)
    said = next(label for label in labels(run) if label.startswith("Probability of the label"))
    has = int(answered.truth[:, 1].sum())
    assert f"scratch: {40 - has} without it, {has} with the label, limits " in said
    found, _ = trust(run)
    assert found.coverage.words.startswith("8 of 40 wrong")
    assert found.coverage.point is None, "its REVIEW counts labels"
    assert found.sets is None


# ---- sets of classes


def test_sets_of_classes_are_counted_on_the_test_side(run: RunDir) -> None:
    kept = answers(CLASSES, [f"calib/{i}.png" for i in range(90)], [i % 3 for i in range(90)], wrong_every=20)
    kept.save(run.predictions("calib"))
    found, _ = trust(run)
    tested = Predictions.load(run.predictions("test"))
    sets = fit_sets(kept.probabilities, kept.truth, 0.95).sets(tested.probabilities)
    holds = sets[np.arange(120), tested.truth]
    assert found.sets is not None
    assert found.sets.fitted_on == 90
    assert found.sets.held == Rate(int(holds.sum()), 120)
    assert dict(found.sets.held_of)["ok"] == Rate(int(holds[30:90].sum()), 60)
    assert found.sets.size == pytest.approx(sets.sum(axis=1).mean())
    assert found.sets.single == Rate(int((sets.sum(axis=1) == 1).sum()), 120)
    assert found.sets.few == ()
    assert found.sets.by_class
    text = assert_inert(build_report(run).read_text(encoding="utf-8")).text
    assert f"{found.sets.held}" in text
    assert "limits from 90 images that training had not seen" in text


def test_folds_stand_in_for_a_calibration_side(run: RunDir) -> None:
    assert trust(run)[0].sets is None
    add_folds(run, answers(CLASSES, [f"all/{i}.png" for i in range(48)], [min(2, i // 20) for i in range(48)]))
    write_json(run.metrics, {"model": "final"})
    found, facts = trust(run)
    assert facts.scored[0].side == "test"
    assert found.sets is not None
    assert found.sets.fitted_on == 48
    assert found.sets.few == ("scratch",), "eight images"
    assert trust_of(facts.scored[1], facts).sets is None, "they would be counted where they were fitted"


def test_where_most_classes_are_too_small_one_limit_serves_all(run: RunDir) -> None:
    kept = answers(CLASSES, [f"calib/{i}.png" for i in range(45)], [i % 3 for i in range(45)], wrong_every=20)
    kept.save(run.predictions("calib"))
    found, _ = trust(run)
    tested = Predictions.load(run.predictions("test"))
    sets = fit_sets(kept.probabilities, kept.truth, 0.95, by_class=False).sets(tested.probabilities)
    assert found.sets is not None
    assert not found.sets.by_class, "fifteen of each class, nineteen are needed"
    assert found.sets.held == Rate(int(sets[np.arange(120), tested.truth].sum()), 120)
    assert found.sets.size == pytest.approx(sets.sum(axis=1).mean())
    assert found.sets.few == ()
    text = assert_inert(build_report(run).read_text(encoding="utf-8")).text
    assert "for 95 % of the images (split-conformal, one limit from 45 images" in text


def test_sets_of_other_classes_are_left_out(run: RunDir) -> None:
    kept = answers(CLASSES, [f"{i}.png" for i in range(60)], [i % 3 for i in range(60)])
    replace(kept, classes=("dent", "ok", "stain")).save(run.predictions("calib"))
    assert trust(run)[0].sets is None
