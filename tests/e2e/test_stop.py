"""Ctrl-C and SIGTERM: a run with a model ends well, one without leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cvtune
from tests.e2e.conftest import tree

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of this kind are POSIX")

Stopped = tuple[Path, dict[str, int], str]  # folder of the runs, exit codes by name, stderr
CODES = {"SIGINT": 130, "SIGTERM": 143}
# Steps of which each asks for the end of its own run as soon as it is called.
_AT_A_STEP = """
import json, os, signal, sys
import cvtune.book, cvtune.steps
from cvtune.cli import main
folder, config, out = sys.argv[1:]

def interrupted(step, number):
    def call(*args, **kwargs):
        os.kill(os.getpid(), number)
        return step(*args, **kwargs)
    return call

for module, name in ((cvtune.steps, "prepare"), (cvtune.book, "export_bundle")):
    for number in (signal.SIGINT, signal.SIGTERM):
        step = getattr(module, name)
        setattr(module, name, interrupted(step, number))
        try:
            main(["fit", folder, "--config", config, "--out", f"{out}/{name}-{number.name}", "--quiet"])
        except SystemExit as end:
            print(json.dumps([name, number.name, end.code]), flush=True)
        setattr(module, name, step)
"""


@pytest.fixture(scope="module")
def stopped(parts: Path, quick_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    out: Path = tmp_path_factory.mktemp("stopped")
    command = [sys.executable, "-c", _AT_A_STEP, str(parts), str(quick_config), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, timeout=300)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return out, {f"{name}-{number}": code for name, number, code in answers}, done.stderr


def check_complete(path: Path) -> None:
    assert (path / "DONE").read_text(encoding="utf-8") == "stopped on request\n"
    assert "stopped   on request; this is the best model so far" in (path / "summary.txt").read_text(encoding="utf-8")
    assert (path / "report.html").is_file()
    assert not (path / ".scratch").exists()
    run = cvtune.load_run(path)
    assert run.bundle.manifest.parity["images"] == sum(run.metrics[side]["n"] for side in ("val", "calib", "test"))
    assert run.model()


@pytest.mark.parametrize(
    "number",
    ["SIGINT", "SIGTERM"],
)
def test_before_the_first_model_nothing_is_kept(number: str, stopped: Stopped) -> None:
    out, codes, err = stopped
    assert not (out / f"prepare-{number}").exists()
    assert "interrupted: nothing is kept of a run that had no model yet" in err
    assert codes[f"prepare-{number}"] == CODES[number]


@pytest.mark.parametrize("number", CODES)
def test_during_the_first_export_it_is_finished(number: str, stopped: Stopped) -> None:
    out, codes, _ = stopped
    assert codes[f"export_bundle-{number}"] == CODES[number]
    check_complete(out / f"export_bundle-{number}")
    assert [stage["name"] for stage in tree(out / f"export_bundle-{number}" / "stages.json")] == ["probe"]


@pytest.mark.parametrize("number", CODES)
def test_during_training_the_best_model_is_kept(number: str, parts: Path, quick_config: Path, tmp_path: Path) -> None:
    """Model 0 is out and a stage of a hundred thousand steps runs."""
    text = quick_config.read_text(encoding="utf-8").replace("steps = 4", "steps = 100000\npatience = 100000")
    (tmp_path / "long.toml").write_text(text, encoding="utf-8")
    arguments = ["fit", str(parts), "--config", str(tmp_path / "long.toml"), "--out", str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, "-m", "cvtune", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as fit:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.json").is_file():
            assert fit.poll() is None, fit.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1.0)  # into the stage: only there Lightning has its own handlers
        fit.send_signal(getattr(signal, number))
        out, err = fit.communicate(timeout=120)
    assert (fit.returncode, err) == (CODES[number], "")
    check_complete(tmp_path / "run")
    assert [stage["name"] for stage in tree(tmp_path / "run" / "stages.json")] == ["probe", "tail"]
    assert "stopped " in out
