"""The wheel of cvtune-edge, by itself: it runs a bundle that fit made, and says what the training side says.

Here the wheel's own files run with the libraries of this environment, and everything that the line does not have is
refused; a new environment with nothing else in it is made by the slow test, which asks the package index of pip.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cvtune_edge.results import Decision

import cvtune
from benchmarks.latency import bare_environment, fresh

# numpy, onnxruntime and OpenCV load none of these; a module that asks for one is told that it is not there.
ALONE = """
import json, sys, time
place, bundle, *pictures = sys.argv[1:]
sys.path.insert(0, place)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "timm", "lightning", "onnx", "scipy", "sklearn", "PIL",
                                  "cvtune", "matplotlib", "pydantic", "typer", "pytest"}:
            raise ModuleNotFoundError(f"the line has no {name}", name=name)

sys.meta_path.insert(0, Absent())
import cvtune_edge
with cvtune_edge.Bundle(bundle) as model:
    answers = [[one.said, one.label, one.probability, one.novelty] for one in model.decisions(pictures)]
time.sleep(1)  # onnxruntime writes its telemetry from a thread of its own
print(json.dumps({"from": cvtune_edge.__file__, "answers": answers}))
"""


@pytest.fixture(scope="module")
def unpacked(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the wheel, built from a copy: setuptools leaves folders in the source."""
    base = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
    shutil.copytree(repo / "export" / "edge", base / "source", ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(base), str(base / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = base.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(base / "unpacked")
    return base / "unpacked"


@pytest.fixture(scope="module")
def said_in_the_lab(quick_run: Path, parts: Path) -> dict[str, list[Any]]:
    """What the training side answers for its test images, by path."""
    run = cvtune.load_run(quick_run)
    with run.directory.predictions("test").open(newline="", encoding="utf-8") as handle:
        trained = {str(parts / row["path"]): row for row in csv.DictReader(handle)}
    answers = {}
    for answer, row in zip(run.decide(trained), trained.values(), strict=True):
        assert isinstance(answer, Decision)
        assert answer.label == row["label"]
        assert answer.probability == pytest.approx(float(row["probability"]), abs=1e-4)
        answers[answer.path] = [answer.said, answer.label, answer.probability, answer.novelty]
    assert len(answers) == 16
    return answers


def test_the_wheel_says_what_the_training_side_says(
    unpacked: Path, quick_run: Path, said_in_the_lab: dict[str, list[Any]], tmp_path: Path
) -> None:
    command = [sys.executable, "-I", "-c", ALONE, str(unpacked), str(quick_run / "bundle"), *said_in_the_lab]
    environment = bare_environment(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["from"]).is_relative_to(unpacked)
    assert found["answers"] == list(said_in_the_lab.values())
    assert list(tmp_path.rglob("*")) == [], "a file was left in an empty home, CI unset: telemetry?"


@pytest.mark.slow
def test_a_new_environment_says_what_the_training_side_says(
    quick_run: Path, said_in_the_lab: dict[str, list[Any]], tmp_path: Path
) -> None:
    found = fresh(quick_run / "bundle", tmp_path, [Path(path) for path in said_in_the_lab])
    assert found["said"] == [said for said, *_ in said_in_the_lab.values()]
    assert (found["equal"], found["frames"]) == (32, 32)
    assert found["left_in_home"] == found["heavy"] == []
    assert found["installed_mb"] < 300
    assert found["import_seconds"] < 0.5
    needed = {"cvtune-edge", "numpy", "onnxruntime", "opencv-python-headless"}
    assert needed <= set(found["packages"])
    assert not {"torch", "onnx", "pillow", "scipy", "openvino", "openvino-telemetry"} & set(found["packages"])
