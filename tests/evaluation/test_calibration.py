from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvtune.errors import RunError
from cvtune.evaluation.calibration import TEMPERATURES, Calibration, fit_temperature


def drawn(scale: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that claim `scale` times what they know, and truths drawn from what they know."""
    generator = np.random.default_rng(0)
    honest = generator.normal(0, 2, (n, 3))
    noise = generator.gumbel(size=(n, 3))
    return (honest * scale).astype(np.float32), (honest + noise).argmax(axis=1)


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


@pytest.mark.parametrize("text", ["{}", "[]", '{"temperature": "warm"}', "{"])
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


def test_a_few_images_without_a_mistake_do_not_call_for_certainty() -> None:
    truth = np.arange(18) % 3
    logits = np.eye(3)[truth] * 4.0
    assert 0.4 < fit_temperature(logits, truth).temperature < 1
