"""The bounds of the line runtime: what is measured takes minutes, how it is measured and judged is checked here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cvtune_edge.session import open_session

from benchmarks import latency

KEPT: dict[str, dict[str, Any]] = {
    "whole": {"ratio": 1.35},
    "int8": {"left_out": "this bundle has no int8 model"},
    "steady": {"p99_to_p50": 1.5},
    "idle": {f"{spin}_{when}_percent": 2 for spin in ("quiet", "spin") for when in ("fresh", "after_100")},
    "start": {"seconds": 0.5},
    "fresh": {"installed_mb": 300, "equal": 32, "frames": 32, "heavy": [], "left_in_home": []},
}


def test_results_that_keep_their_bounds_are_not_named() -> None:
    assert latency.missed(KEPT) == []
    assert latency.missed({}) == []
    assert KEPT.keys() == latency.QUESTIONS.keys()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("whole", {"ratio": 1.36}, "whole: ratio 1.36, at most 1.35"),
        ("int8", {"ratio": 1.7}, "int8: ratio 1.7, at most 1.6"),
        ("steady", {"p99_to_p50": 1.51}, "steady: p99_to_p50 1.51, at most 1.5"),
        ("idle", {"spin_after_100_percent": 2.5}, "idle: spin_after_100_percent 2.5, at most 2"),
        ("start", {"seconds": 0.6}, "start: seconds 0.6, at most 0.5"),
        ("fresh", {"installed_mb": 301}, "fresh: installed_mb 301, at most 300"),
        ("fresh", {"equal": 31}, "fresh: 31 of 32 golden frames decided as in the lab"),
        ("fresh", {"heavy": ["torch"]}, "fresh: torch was imported"),
        ("fresh", {"left_in_home": [".cache/x"]}, "fresh: .cache/x was left in the empty home"),
    ],
)
def test_what_is_missed_is_said_with_its_figure(name: str, change: dict[str, Any], said: str) -> None:
    assert latency.missed({name: {**KEPT[name], **change}}) == [said]


def test_a_frame_against_the_bare_network(quick_run: Path) -> None:
    found = latency.against_bare(quick_run / "bundle", "float32", rounds=3)
    assert found["rounds"] == 3
    assert 0 < found["bare_ms"] < found["whole_ms"]
    low, high = found["ratio_10_to_90"]
    assert 1 < low <= found["ratio"] <= high
    assert latency.int8(quick_run / "bundle", quick_run) == {"left_out": "this bundle has no int8 model"}


def test_the_bare_network_is_the_bundles_own_without_resize_and_decision(quick_run: Path) -> None:
    model = quick_run / "bundle" / "model.onnx"
    bare, whole = open_session(latency.bare_network(model.parent, "float32"), threads=1), open_session(model, threads=1)
    assert [(one.name, one.shape) for one in bare.get_inputs()] == [("pixels", ["N", 3, 64, 64])]
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)  # of its size: the resize copies
    names = ["probabilities", "embedding"]
    pixels = np.ascontiguousarray(frame.transpose(0, 3, 1, 2))
    for one, other in zip(bare.run(names, {"pixels": pixels}), whole.run(names, {"image": frame}), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_ratios_are_those_of_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = iter(
        value for turn in (0.004, 0.009, 0.002) for value in (turn, *[turn] * latency.IN_A_ROUND)
    )  # one to warm up
    monkeypatch.setattr(latency, "timed", lambda ask: ask())  # what is asked says how long it took
    found = latency.paired(lambda: next(slow), lambda: 0.001, 3)
    assert found["ratio"] == 4
    assert found["ratio_10_to_90"] == [2.4, 8]
    assert (found["whole_ms"], found["bare_ms"]) == (4, 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
def test_one_core_and_then_all_again() -> None:
    before = os.sched_getaffinity(0)
    with latency.one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_an_environment_as_somebody_has_it_who_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CIRCLE", "kept")
    found = latency.bare_environment(tmp_path)
    assert not {"CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "PYTHONPATH"} & set(found)
    assert found["CIRCLE"] == "kept"
    assert found["HOME"] == found["TMPDIR"] == str(tmp_path)


def test_stored_results_are_those_of_the_questions() -> None:
    if not latency.RESULT.is_file():
        pytest.skip("nothing was measured yet")
    kept = json.loads(latency.RESULT.read_text(encoding="utf-8"))
    assert kept.keys() <= latency.QUESTIONS.keys()
    for one in kept.values():
        assert {"date", "machine", "backbone", "notes"} <= one.keys()
