"""The bounds of training: what is measured takes hours, how results are judged is checked here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bounds
from benchmarks.figures import RESULTS


def runs(*accuracies: float, seconds: float = 100.0) -> dict[str, Any]:
    rows = [{"accuracy": one, "seconds": seconds} for one in accuracies]
    return {"runs": rows, "mean_accuracy": sum(accuracies) / len(accuracies)}


def test_results_that_keep_their_bounds_are_not_named() -> None:
    results = {
        "model0": {"cold_seconds": 40.0, "cached_seconds": 15.0},
        "elpv": runs(0.87, 0.9, seconds=300.0),
        "few": runs(0.92),
        "backbones": {"runs": [{"backbone": "resnet18", "gain": 0.02}]},
        "memory": {"peak_mb": 2048.0, "first_third_mb": 900.0, "last_third_mb": 950.0},
    }
    assert bounds.missed(results) == []
    assert bounds.missed({}) == []


@pytest.mark.parametrize(
    ("name", "result", "said"),
    [
        ("model0", {"cold_seconds": 41.0, "cached_seconds": 9.0}, "model0: seconds cold 41, at most 40"),
        ("model0", {"cold_seconds": 30.0, "cached_seconds": 15.4}, "model0: seconds cached 15.4, at most 15"),
        ("elpv", runs(0.88), "elpv: mean accuracy 0.88, at least 0.885"),
        ("elpv", runs(0.9, seconds=307.0), "elpv: seconds 307, at most 300"),
        ("few", runs(0.9), "few: mean accuracy 0.9, at least 0.92"),
        (
            "backbones",
            {"runs": [{"backbone": "resnet18", "gain": 0.01}]},
            "backbones: gain of resnet18 0.01, at least 0.02",
        ),
        (
            "memory",
            {"peak_mb": 900.0, "first_third_mb": 700.0, "last_third_mb": 800.0},
            "memory: growth in MB 100, at most 50",
        ),
    ],
)
def test_what_is_missed_is_said_with_its_figure(name: str, result: dict[str, Any], said: str) -> None:
    assert bounds.missed({name: result}) == [said]


def test_few_images_to_learn_from_and_the_others_to_be_asked_about(parts: Path, tmp_path: Path) -> None:
    first, again, other = (bounds._drawn(parts, tmp_path / str(i), draw) for i, draw in enumerate((0, 0, 1)))
    for folder in sorted(path for path in parts.iterdir() if path.is_dir()):
        names = {file.name for file in folder.iterdir()}
        drawn = [{file.name for file in (root / "train" / folder.name).iterdir()} for root in (first, again, other)]
        assert len(drawn[0]) == bounds.SHOTS
        assert drawn[0] == drawn[1] != drawn[2]
        assert {file.name for file in (first / "test" / folder.name).iterdir()} == names - drawn[0]


def test_stored_results_are_those_of_the_questions() -> None:
    kept = {file.stem.removeprefix("bounds-"): file for file in RESULTS.glob("bounds-*.json")}
    assert kept.keys() <= bounds.QUESTIONS.keys()
    for file in kept.values():
        assert {"date", "machine"} <= json.loads(file.read_text(encoding="utf-8")).keys()
