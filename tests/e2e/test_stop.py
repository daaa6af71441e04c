"""Ctrl-C and SIGTERM: a run with a model ends well, one without leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import cvtune
from tests.e2e.conftest import tree

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of this kind are POSIX")

Command = Callable[..., tuple[object, str, str]]
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


@pytest.mark.parametrize("number", CODES)
def test_before_the_first_model(number: str, stopped: Stopped) -> None:
    out, codes, err = stopped
    run = out / f"prepare-{number}"
    assert codes[run.name] == CODES[number]
    if number == "SIGINT":
        assert not run.exists()
        assert "interrupted: nothing is kept of a run that had no model yet" in err
    else:  # what was decided so far is there for --resume
        assert {"config.toml", "index.csv", "split.csv"} <= {path.name for path in run.iterdir()}
        assert not (run / "DONE").exists()


def test_ctrl_c_during_the_first_export_lets_it_finish(stopped: Stopped) -> None:
    out, codes, _ = stopped
    assert codes["export_bundle-SIGINT"] == 130
    check_complete(out / "export_bundle-SIGINT")
    assert [stage["name"] for stage in tree(out / "export_bundle-SIGINT" / "stages.json")] == ["probe"]


def test_sigterm_during_the_first_export_ends_at_once(stopped: Stopped, cvtune_command: Command) -> None:
    out, codes, _ = stopped
    run = out / "export_bundle-SIGTERM"
    assert codes[run.name] == 143
    assert not (run / "DONE").exists()
    assert not (run / "bundle" / "manifest.json").exists()
    assert cvtune_command("fit", "--resume", run, "--quiet")[0] == 0
    assert (run / "DONE").read_text(encoding="utf-8") == "complete\n"
    assert not (run / "checkpoints").exists()


@pytest.fixture
def long_run(parts: Path, quick_config: Path, tmp_path: Path) -> list[str]:
    """Arguments of a fit whose tail takes a hundred thousand steps."""
    text = quick_config.read_text(encoding="utf-8").replace("steps = 4", "steps = 100000\npatience = 100000")
    (tmp_path / "long.toml").write_text(text, encoding="utf-8")
    return ["fit", str(parts), "--config", str(tmp_path / "long.toml"), "--out", str(tmp_path / "run")]


def stopped_in_the_tail(arguments: list[str], run: Path, number: str) -> tuple[int, str, str, float]:
    """Exit code, both outputs and the seconds from the signal to the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "cvtune", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as fit:
        deadline = time.monotonic() + 120
        while not list((run / "checkpoints").glob("tail-*.json")):
            assert fit.poll() is None, fit.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        sent = time.monotonic()
        fit.send_signal(getattr(signal, number))
        out, err = fit.communicate(timeout=120)
    return fit.returncode, out, err, time.monotonic() - sent


def test_ctrl_c_during_training_keeps_the_best_model(long_run: list[str], tmp_path: Path) -> None:
    """Model 0 is out and a stage of a hundred thousand steps runs."""
    code, out, err, _ = stopped_in_the_tail(long_run, tmp_path / "run", "SIGINT")
    assert (code, err) == (130, "")
    check_complete(tmp_path / "run")
    assert [stage["name"] for stage in tree(tmp_path / "run" / "stages.json")] == ["probe", "tail"]
    assert "stopped " in out
    assert f"go on with: cvtune fit --resume {tmp_path / 'run'}" in " ".join(out.split())


def test_sigterm_during_training_saves_and_leaves_within_ten_seconds(long_run: list[str], tmp_path: Path) -> None:
    code, out, err, seconds = stopped_in_the_tail(long_run, tmp_path / "run", "SIGTERM")
    assert (code, err) == (143, "")
    assert seconds < 10
    assert f"go on with: cvtune fit --resume {tmp_path / 'run'}" in " ".join(out.split())
    assert not (tmp_path / "run" / "DONE").exists()
    assert [stage["name"] for stage in tree(tmp_path / "run" / "stages.json")] == ["probe"]
    assert cvtune.load_run(tmp_path / "run").bundle  # model 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("nothing", "is complete: there is nothing to resume"),
        ("run", "there is no run to resume"),
        ("folder", "its files, labels or sides are not those with which"),
        ("flag", "goes on with its own settings"),
    ],
)
def test_what_cannot_be_resumed_says_why(
    change: str, said: str, quick_run: Path, tmp_path: Path, parts: Path, cvtune_command: Command
) -> None:
    run, more = shutil.copytree(quick_run, tmp_path / "run"), []
    if change == "run":
        run = tmp_path / "elsewhere"
    if change == "folder":
        copy = shutil.copytree(parts, tmp_path / "parts")
        next(iter(sorted(copy.rglob("*.png")))).unlink()
        facts = tree(run / "environment.json") | {"folder": str(copy)}
        (run / "environment.json").write_text(json.dumps(facts), encoding="utf-8")
        (run / "DONE").unlink()
    if change == "flag":
        more = ["--seed", "3"]
    code, _, err = cvtune_command("fit", "--resume", run, "--quiet", *more)
    assert code == 2
    assert said in err
    assert "hint:" in err
