"""A run whose calibration has a scale and a shift for each class: every file of it says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import cvtune as library
from cvtune.data.index import build_index
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.evaluation.calibration import Calibration, fit_temperature
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.reliability import reliability
from cvtune.evaluation.task import SINGLE
from tests.e2e.conftest import tree

SCALES, SHIFTS = (0.5, 1.5, 1.0, 0.75), (0.5, -0.75, 0.25, 0.0)
FLAGS: dict[str, Any] = {
    "backbone": "test_efficientnet",
    "from_scratch": True,
    "size": 64,
    "train.workers": 0,
    "train.tail.steps": 0,
    "train.all.steps": 0,
    "seed": 7,
}


@pytest.fixture(scope="module")
def asked() -> list[tuple[int, int]]:
    """Images and seed, each time that a calibration was asked for."""
    return []


@pytest.fixture(scope="module")
def run(parts: Path, asked: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """Probe, folds and final fit; vector scaling has won each time, with numbers of our own."""

    def vector(logits: NDArray[np.float32], truth: NDArray[np.int64], *, seed: int) -> Calibration:
        asked.append((len(truth), seed))
        plain = fit_temperature(logits, truth)
        return Calibration(1.0, plain.log_loss_before, plain.log_loss_after, len(truth), SCALES, SHIFTS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvtune.book.fit_calibration", vector)
        return library.fit(parts, out=tmp_path_factory.mktemp("vector") / "run", **FLAGS)


def test_it_is_asked_for_with_the_runs_seed_and_the_unseen_images(
    run: library.Run, asked: list[tuple[int, int]]
) -> None:
    assert asked == [(16, 7), (80, 7)]  # calib of the probe, then the folds
    assert run.metrics["folds"]["n"] == 80


def test_every_file_has_the_same_numbers(run: library.Run) -> None:
    manifest, facts = run.bundle.manifest, tree(run.path / "model.json")
    assert (manifest.temperature, manifest.scales, manifest.shifts) == (1.0, SCALES, SHIFTS)
    assert (facts["temperature"], facts["scales"], facts["shifts"]) == (1.0, list(SCALES), list(SHIFTS))
    calibration = Calibration.load(run.path / "calibration.json")
    assert (calibration.method, calibration.scales, calibration.shifts) == ("vector", SCALES, SHIFTS)
    text = run.report().read_text(encoding="utf-8")
    assert "dent 0.500 and +0.500; ok 1.500 and -0.750; scratch 1.000 and +0.250; stain 0.750 and +0.000" in text


def torch_logits(run: library.Run, parts: Path, scratch: Path) -> dict[str, NDArray[np.float32]]:
    """What the trained network says of each image, by its path."""
    facts = tree(run.path / "model.json")
    pre = Preprocessing(size=facts["size"], interpolation="cubic")
    index = build_index(parts)
    pixels = fill_pixels(index, pre, pre.reading, scratch=scratch, cache_gb=0).pixels.batch(range(len(index)))
    mean, std = (torch.tensor(facts[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        logits = run.model()((torch.from_numpy(pixels).float() / 255 - mean) / std).numpy()
    return dict(zip((image.path for image in index.images), logits, strict=True))


def test_bundle_and_figures_are_of_the_calibrated_network(run: library.Run, parts: Path, tmp_path: Path) -> None:
    said = Predictions.load(run.path / "predictions-test.csv")
    by_path = torch_logits(run, parts, tmp_path)
    logits = np.stack([by_path[path] for path in said.paths])
    calibrated = SINGLE.probabilities(logits, Calibration.load(run.path / "calibration.json"))
    assert np.abs(calibrated - said.probabilities).max() < 1e-3
    assert np.abs(SINGLE.probabilities(logits) - said.probabilities).max() > 0.02
    found = run.metrics["reliability"]
    assert set(found) == {"test", "folds"}  # the final model has seen calib
    assert found["test"]["after"] == reliability(said.probabilities, said.truth).to_json()
    before = reliability(SINGLE.probabilities(logits), said.truth)
    assert found["test"]["before"]["log_loss"] == pytest.approx(before.log_loss, abs=1e-3)
    assert found["test"]["before"]["log_loss"] != pytest.approx(found["test"]["after"]["log_loss"], abs=1e-3)
    folds = Predictions.load(run.path / "predictions-folds.csv")
    assert found["folds"]["after"] == reliability(folds.probabilities, folds.truth).to_json()
