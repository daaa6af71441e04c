"""Several labels an image: figures, thresholds, the file, and the rule for keeping a stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from cvtune.errors import RunError
from cvtune.evaluation.calibration import fit_temperature
from cvtune.evaluation.multilabel import MultiPredictions, better_multi, pick_thresholds, score_multi
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.task import MULTI, SINGLE, task_named

CLASSES = ("dent", "scratch", "stain")


def make(truth: list[list[int]], p: list[list[float]], thresholds: tuple[float, ...] = ()) -> MultiPredictions:
    paths = tuple(f"{i}.png" for i in range(len(truth)))
    found = MULTI.predictions(paths, np.array(truth, bool), np.array(p, np.float32), CLASSES, thresholds)
    assert isinstance(found, MultiPredictions)
    return found


FOUR = make(
    [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], [[0.9, 0.2, 0.1], [0.8, 0.4, 0.1], [0.1, 0.6, 0.2], [0.3, 0.7, 0.1]]
)


def test_counts_label_by_label() -> None:
    figures = score_multi(FOUR)
    assert figures.accuracy == Rate(2, 4)  # the second lacks scratch, the third has one too many
    dent, scratch, stain = figures.per_class
    assert (dent.recall, dent.precision, dent.specificity) == (Rate(2, 2), Rate(2, 2), Rate(2, 2))
    assert (scratch.recall, scratch.precision, scratch.specificity) == (Rate(1, 2), Rate(1, 2), Rate(1, 2))
    assert (stain.recall, stain.average_precision, stain.auroc, stain.f1) == (Rate(0, 0), None, None, None)


def test_figures_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((60, 3)) < 0.4
    p = np.clip(truth * 0.3 + rng.random((60, 3)) * 0.7, 0.01, 0.99).astype(np.float32)
    found = MultiPredictions(tuple(map(str, range(60))), truth, p, p >= 0.5, CLASSES)
    figures = score_multi(found)
    assert figures.mean_average_precision == pytest.approx(sk.average_precision_score(truth, p, average="macro"))
    assert figures.macro_f1 == pytest.approx(sk.f1_score(truth, p >= 0.5, average="macro"))
    assert figures.log_loss == pytest.approx(
        np.mean([sk.log_loss(truth[:, k], p[:, k].astype(float)) for k in range(3)])
    )
    assert figures.accuracy.value == pytest.approx(sk.accuracy_score(truth, p >= 0.5))


def test_reads_back_bit_for_bit(tmp_path: Path) -> None:
    FOUR.save(tmp_path / "p.csv")
    read = MultiPredictions.load(tmp_path / "p.csv")
    assert (read.paths, read.classes) == (FOUR.paths, FOUR.classes)
    for name in ("truth", "said", "probabilities"):
        assert np.array_equal(getattr(read, name), getattr(FOUR, name)), name
    lines = (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith("1.png,dent;scratch,dent,0.8,")
    assert lines[3].startswith("2.png,,scratch,0.6,")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    FOUR.save(tmp_path / "p.csv")
    text = (tmp_path / "p.csv").read_text(encoding="utf-8")
    (tmp_path / "p.csv").write_text(text.replace("dent;scratch,dent", "dent;rust,dent"), encoding="utf-8")
    with pytest.raises(RunError, match="unknown label 'rust'"):
        MultiPredictions.load(tmp_path / "p.csv")


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="expected truth, probabilities and said of"):
        MultiPredictions(("a",), np.zeros((1, 2), bool), np.zeros((1, 3), np.float32), np.zeros((1, 3), bool), CLASSES)


def test_thresholds_take_the_best_f1() -> None:
    truth = np.zeros((20, 3), bool)
    truth[:6, 0] = truth[:3, 1] = True
    p = np.full((20, 3), 0.05, np.float32)
    p[:6, 0], p[6:8, 0] = 0.3, 0.1  # a timid model: nothing reaches 0.5
    first, few, none = pick_thresholds(p, truth)
    assert first == pytest.approx(0.2)
    assert (few, none) == (0.5, 0.5)  # three images with a label, and none: no evidence
    assert (
        score_multi(MULTI.predictions([str(i) for i in range(20)], truth, p, CLASSES, (first, few, none)))
        .per_class[0]
        .f1
        == 1
    )


@given(st.integers(0, 10_000))
def test_thresholds_are_never_worse_than_a_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, p = rng.random((30, 3)) < 0.5, rng.random((30, 3)).astype(np.float32)
    names = [str(i) for i in range(30)]
    picked = score_multi(MULTI.predictions(names, truth, p, CLASSES, pick_thresholds(p, truth)))
    plain = score_multi(MULTI.predictions(names, truth, p, CLASSES))
    for mine, half in zip(picked.per_class, plain.per_class, strict=True):
        assert (mine.f1 or 0) >= (half.f1 or 0) - 1e-12


def test_saying_none_to_everything_gains_nothing() -> None:
    truth = [[1, 0, 0]] * 2 + [[0, 0, 0]] * 18
    none = make(truth, [[0.1, 0.1, 0.1]] * 20)
    right = make(truth, [[0.9, 0.1, 0.1]] * 2 + [[0.1, 0.1, 0.1]] * 18)
    verdict = better_multi(right, none)
    assert verdict.keep
    assert verdict.gain == pytest.approx(2 * 1 / (4 * 2))  # four kinds: dent and not dent, no scratch, no stain
    assert "2 newly right and 0 newly wrong of 60 label decisions" in verdict.reason
    assert not better_multi(none, right).keep


def test_temperature_of_sigmoids() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((400, 3)) < 0.5
    logits = (np.where(truth, 1.0, -1.0) + rng.normal(0, 1.0, (400, 3))).astype(np.float32)
    honest = fit_temperature(2 * logits, truth)  # log-odds of two unit Gaussians a distance of 2 apart
    loud = fit_temperature(8 * logits, truth)
    assert honest.temperature == pytest.approx(1.0, abs=0.15)
    assert loud.temperature == pytest.approx(4.0, rel=0.15)
    assert loud.log_loss_after < loud.log_loss_before


def test_tasks_by_name() -> None:
    assert task_named("single") is SINGLE
    assert task_named("multi") is MULTI
