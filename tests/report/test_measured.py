"""Distances and reliability, read from files that may be missing, old or damaged."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cvtune.errors import RunError
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.reliability import reliability
from cvtune.report.facts import read_facts
from cvtune.report.measured import distances_of, read_distances, read_latency
from cvtune.rundir import RunDir, read_json, write_json
from tests.edge.test_bench import latency_tree
from tests.report.conftest import add_studies
from tests.report.test_page import read


def test_distances_are_in_the_order_of_the_answers(tmp_path: Path) -> None:
    table = tmp_path / "novelty.csv"
    table.write_text('path,distance\nb.png,0.25\n"a,1.png",0.1\nc.png,3\n', encoding="utf-8")
    known = read_distances(table)
    found = distances_of(("a,1.png", "b.png"), known)
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([0.1, 0.25])
    assert distances_of(("a,1.png", "gone.png"), known) is None


@pytest.mark.parametrize("text", ["path,distance\na.png,far\n", "path,distance\na.png,nan\n", "name,d\na.png,1\n"])
def test_damaged_distances_are_named(steel_copy: RunDir, text: str) -> None:
    steel_copy.distances.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"novelty\.csv: damaged") as error:
        read_facts(steel_copy)
    assert error.value.hint == "fit the run again"


def test_a_run_with_everything(steel_copy: RunDir) -> None:
    studies = add_studies(steel_copy)
    facts = read_facts(steel_copy)
    answers = Predictions.load(steel_copy.predictions("test"))
    assert facts.scored[0].novelty is not None
    assert len(facts.scored[0].novelty) == len(answers.paths)
    assert set(facts.reliability) == {"test"}
    assert facts.reliability["test"].after == reliability(answers.probabilities, answers.truth)
    assert facts.reliability["test"].before != facts.reliability["test"].after
    assert facts.studies is not None
    assert facts.studies.slices == studies.slices
    assert facts.calib is None


def test_what_calibration_did_to_the_log_loss_is_said(steel_copy: RunDir) -> None:
    add_studies(steel_copy)
    tree = read_json(steel_copy.metrics)
    assert "Log-loss by calibration" not in read(steel_copy).text  # a run from before it was kept
    for low, high, verdict in ((-0.05, -0.01, "better"), (-0.05, 0.01, "no clear change"), (0.01, 0.03, "worse by")):
        tree["reliability"]["test"]["change"] = {"name": "log-loss", "value": -0.02, "low": low, "high": high}
        write_json(steel_copy.metrics, tree)
        assert f"Log-loss by calibration: -0.020 [{low:+.3f}, {high:+.3f}], {verdict}" in read(steel_copy).text


def test_an_older_run_has_nothing_of_it(steel_copy: RunDir) -> None:
    facts = read_facts(steel_copy)
    assert facts.scored[0].novelty is None
    assert facts.reliability == {}
    assert facts.studies is None


@pytest.mark.parametrize("tree", [{"test": {"before": {}}}, {"test": 3}, [1], {"test": {"before": {"ece": "x"}}}])
def test_damaged_reliability_is_named(steel_copy: RunDir, tree: object) -> None:
    write_json(steel_copy.metrics, {"reliability": tree})
    with pytest.raises(RunError, match=r"metrics\.json: damaged, no reliability"):
        read_facts(steel_copy)


@pytest.mark.parametrize("key", ["explained", "slices", "novelty"])
def test_damaged_studies_are_named(steel_copy: RunDir, key: str) -> None:
    add_studies(steel_copy)
    write_json(steel_copy.studies, {**read_json(steel_copy.studies), key: 7})
    with pytest.raises(RunError, match=re.escape("studies.json: damaged")):
        read_facts(steel_copy)


def test_how_long_it_takes_stands_in_the_bundle_section(steel_copy: RunDir) -> None:
    assert "How long it takes" not in read(steel_copy).text
    write_json(steel_copy.latency, latency_tree(notes=["other programs used 1.5 cores meanwhile"]))
    page = read(steel_copy)
    text = page.text
    assert "How long it takes" in text
    assert "On A (AVX2), 2 of 4 cores, Linux x86_64, onnxruntime 1.32.0, provider cpu, 2025-01-31" in text
    start = page.cells.index("float32")
    times = ["2.0 ms", "3.0 ms", "4.0 ms"]
    assert page.cells[start : start + 12] == ["float32", "1", "1", "10", *times, "", "2.0 ms", "", "500", "90 MB"]
    assert "500 parts a second" in text
    assert "other programs used 1.5 cores meanwhile" in text


def test_further_models_stand_there_with_what_they_cost(steel_copy: RunDir) -> None:
    assert "Further models" not in read(steel_copy).text
    file = steel_copy.bundle / "manifest.json"
    tree = read_json(file)  # of a schema that knew neither limits nor these
    k = len(tree["classes"])
    limits = {"ok": [], "accept": [0.5] * k, "reject": [0.5] * k, "novelty": None, "several": False}
    tree |= {
        "reading": {"pixels": "uint8", "background": [0, 0, 0]},
        "window": None,
        "task": "single",
        "thresholds": [],
    }
    tree |= {"schema": 3, "limits": limits, "targets": [], "training": "", "novelty": None, "region": None}
    before = {"images": 40, "right": 39, "escaped": 2, "rejected": 0, "review": 3}
    loss = {"before": before, "after": {**before, "right": 38}, "same": 37, "worst": 0.1}
    plain = {"colour": "rgb", "shape": None, "heatmap": False}
    tree["variants"] = {
        "model.int8.onnx": {
            **plain,
            "precision": "int8",
            "made": "in float: <b>stem",
            "share": 0.62,
            "chosen": loss,
            "test": None,
        },
        "model.48x80.onnx": {**plain, "shape": [48, 80], "precision": "float32", "parity": {"images": 9, "equal": 9}},
    }
    tree["files"] |= dict.fromkeys(tree["variants"], "0" * 64)
    write_json(file, tree)
    page = read(steel_copy)
    assert "int8, R, G, B, frames of any size; 62 % of model.onnx's time" in page.text
    assert "in float: <b>stem" in page.text  # as text, not as a tag
    assert "frames of 48 x 80 (height x width); 9 of 9 decisions as model.onnx gives them" in page.text
    start = page.cells.index("model.int8.onnx")
    assert page.cells[start : start + 7] == ["model.int8.onnx", "val, calib", "40", "38 (39)", "2 (2)", "3 (3)", "37"]


@pytest.mark.parametrize("text", ["{}", "[1", '{"schema": 1, "rows": []}'])
def test_a_damaged_latency_is_named(steel_copy: RunDir, text: str) -> None:
    steel_copy.latency.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"latency\.json: damaged"):
        read_latency(steel_copy.latency)
    with pytest.raises(RunError, match=r"latency\.json: damaged"):
        read_facts(steel_copy)
