from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtune.errors import RunError
from cvtune.evaluation.calibration import TEMPERATURES, Calibration, Rivals, fit_calibration, fit_temperature
from cvtune.evaluation.task import MULTI, SINGLE, Task

GOOD = '"temperature": 1.3, "log_loss_before": 0.5, "log_loss_after": 0.4, "n": 60'
SCALES, SHIFTS = np.array([0.6, 1.0, 1.6]), np.array([0.5, -0.7, 0.2])


def drawn(scale: float, n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that claim `scale` times what they know, and truths drawn from what they know."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(0, 2, (n, 3))
    noise = generator.gumbel(size=(n, 3))
    return (honest * scale).astype(np.float32), (honest + noise).argmax(axis=1)


def planted(n: int, seed: int = 0, *, several: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Logits of which each class has to be scaled and shifted by numbers of its own, and truths drawn from that."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, 3))
    if several:
        return logits, generator.random((n, 3)) < 1 / (1 + np.exp(-SCALES * logits - SHIFTS))
    logits -= logits.mean(axis=1, keepdims=True)
    truth = (SCALES * logits + SHIFTS + generator.gumbel(size=(n, 3))).argmax(axis=1)
    return logits + generator.normal(0, 5, (n, 1)), truth  # what all logits of an image have in common says nothing


def loss(task: Task, logits: np.ndarray, truth: np.ndarray, calibration: Calibration) -> float:
    said = task.probabilities(logits, calibration).astype(float)
    return float(-np.log(np.where(truth, said, 1 - said) if truth.ndim == 2 else said[range(len(truth)), truth]).mean())


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_finds_the_factor_by_which_a_model_exaggerates(scale: float) -> None:
    calibration = fit_temperature(*drawn(scale))
    assert calibration.temperature == pytest.approx(scale, rel=0.08)
    assert calibration.log_loss_after <= calibration.log_loss_before
    assert calibration.n == 4000


@given(st.integers(1, 20), st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 1000.0]))
def test_never_worse_and_never_extreme(n: int, seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    calibration = fit_temperature(generator.normal(0, scale, (n, 3)), generator.integers(0, 3, n))
    assert TEMPERATURES[0] <= calibration.temperature <= TEMPERATURES[1]
    assert calibration.log_loss_after <= calibration.log_loss_before
    assert np.isfinite(calibration.log_loss_before)


def test_saved_and_loaded(tmp_path: Path) -> None:
    calibration = fit_temperature(*drawn(2.0, n=50))
    calibration.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == calibration


@pytest.mark.parametrize("text", ["{}", "[]", '{"temperature": "warm"}', "{", f'{{{GOOD}, "rivals": {{"vector": 1}}}}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(RunError, match=r"calibration\.json"):
        Calibration.load(tmp_path / "calibration.json")


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"expected logits \[N, K\]"):
        fit_temperature(np.zeros((3, 2)), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature(np.array([[np.inf, 0.0]]), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="outside"):
        Calibration(20.0, 1.0, 1.0, 3)


@pytest.mark.parametrize("several", [False, True])
def test_finds_the_scale_and_the_shift_of_each_class(several: bool) -> None:
    task = MULTI if several else SINGLE
    logits, truth = planted(5000, several=several)
    found = fit_calibration(logits, truth)
    assert (found.method, found.temperature) == ("vector", 1.0)
    assert found.scales == pytest.approx(SCALES, rel=0.1)
    assert found.shifts == pytest.approx(SHIFTS, abs=0.1)
    assert found.rivals is not None
    assert found.rivals.temperature - found.rivals.vector > 10 * found.rivals.standard_error
    gain, new = found.rivals.temperature - found.rivals.vector, planted(5000, 1, several=several)
    simple = fit_temperature(logits, truth)
    assert loss(task, *new, simple) - loss(task, *new, found) == pytest.approx(gain, rel=0.25)
    assert found.log_loss_after == pytest.approx(loss(task, logits, truth, found), abs=1e-5)


def test_the_simpler_one_stays_where_nothing_is_to_be_gained() -> None:
    sides = [drawn(2.0, n=240, seed=seed) for seed in range(40)]
    found = [fit_calibration(*side, seed=seed) for seed, side in enumerate(sides)]
    assert sum(one.method == "vector" for one in found) <= 40 / 6, "chance is above one standard error 1 time in 6"
    for one in found:
        assert one.rivals is not None
        assert one.rivals.vector_wins == (one.method == "vector")
    new = drawn(2.0, seed=99)
    harm = [
        loss(SINGLE, *new, one) - loss(SINGLE, *new, fit_temperature(*side))
        for one, side in zip(found, sides, strict=True)
    ]
    assert np.mean(harm) < 0.002
    assert max(harm) < 0.04
    large = drawn(2.0)
    simple = fit_temperature(*large)
    assert fit_calibration(*large) == replace(simple, rivals=fit_calibration(*large).rivals)


@pytest.mark.parametrize(("few", "asked"), [(9, False), (10, True)])
def test_with_too_few_images_of_a_class_nobody_asks(few: int, asked: bool) -> None:
    logits, truth = planted(2000)
    rare = np.flatnonzero(truth == 2)[few:]
    logits, truth = np.delete(logits, rare, axis=0), np.delete(truth, rare)
    found = fit_calibration(logits, truth)
    assert (found.rivals is not None) == asked
    assert asked or found == fit_temperature(logits, truth)


@pytest.mark.parametrize("had_by", [8, 392])
def test_a_label_that_says_little_counts_as_few_images(had_by: int) -> None:
    logits, truth = planted(400, several=True)
    truth[:, 1] = np.arange(400) < had_by
    assert fit_calibration(logits, truth).rivals is None


def test_ten_images_a_class_do_not_carry_a_class_away() -> None:
    """One class is never missed and never taken for another; the priors hold its numbers back."""
    truth = np.arange(30) % 3
    logits = np.random.default_rng(0).normal(0, 1, (30, 3))
    logits[:, 2] = np.where(truth == 2, 3.0, -3.0)
    found = fit_calibration(logits, truth)
    assert max((*found.scales, 1 / found.temperature)) < 3
    assert max((*map(abs, found.shifts), 0)) < 1.5


def test_the_folds_depend_on_the_seed_alone() -> None:
    logits, truth = planted(300)
    assert fit_calibration(logits, truth, seed=1) == fit_calibration(logits, truth, seed=1)
    assert fit_calibration(logits, truth, seed=1).rivals != fit_calibration(logits, truth, seed=2).rivals


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 1000.0]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_on_its_own_images_it_is_never_worse(seed: int, scale: float, several: bool) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.random((60, 3)) < 0.5 if several else np.arange(60) % 3
    found = fit_calibration(generator.normal(0, scale, (60, 3)), truth, seed=seed)
    assert found.log_loss_after <= found.log_loss_before
    assert found.rivals is not None
    assert all(1 / TEMPERATURES[1] <= one <= 1 / TEMPERATURES[0] for one in found.scales)


VECTOR = Calibration(1.0, 0.9, 0.7, 40, (0.5, 2.0), (0.25, -1.0), Rivals(0.8, 0.71, 0.02))


def test_what_logits_go_through() -> None:
    logits = np.array([[1.0, 2.0], [-4.0, 0.5]], np.float32)
    assert replace(VECTOR, scales=(), shifts=(), temperature=2.0).apply(logits).tolist() == [[0.5, 1.0], [-2.0, 0.25]]
    assert VECTOR.apply(logits, several=True).tolist() == [[0.75, 3.0], [-1.75, 0.0]]
    assert VECTOR.apply(logits).tolist() == [[0.0, 0.0], [-0.875, 3.5]]
    assert VECTOR.apply(logits + 3).tolist() == VECTOR.apply(logits).tolist()
    assert VECTOR.apply(logits).dtype == np.float32


def test_both_log_losses_and_the_method_are_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    VECTOR.save(path)
    tree = json.loads(path.read_text(encoding="utf-8"))
    assert tree["method"] == "vector"
    assert tree["rivals"] == {"temperature": 0.8, "vector": 0.71, "standard_error": 0.02, "folds": 5}
    assert Calibration.load(path) == VECTOR
    path.write_text(f"{{{GOOD}}}", encoding="utf-8")
    assert Calibration.load(path) == Calibration(1.3, 0.5, 0.4, 60), "of a run before vector scaling"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scales": (0.5,)}, r"scales \(0\.5,\) and shifts"),
        ({"scales": (0.5, 5.0)}, r"scales \(0\.5, 5\.0\) outside 0\.1\.\.4\.0"),
        ({"shifts": (0.0, float("nan"))}, "shifts"),
        ({"temperature": 1.5}, r"temperature 1\.5 beside scales"),
    ],
)
def test_refuses_numbers_that_are_no_calibration(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(VECTOR, **changes)


def test_a_few_images_without_a_mistake_do_not_call_for_certainty() -> None:
    truth = np.arange(18) % 3
    logits = np.eye(3)[truth] * 4.0
    assert 0.4 < fit_temperature(logits, truth).temperature < 1
