"""A fit is killed at random moments and gone on with, and ends in the weights of an undisturbed one, byte for byte.

Five kills in `make test`, fifty in `make test-slow`; at least one while the probe, the tail and the last stage run. All
runs follow the plan of the undisturbed one: what was chosen by a clock is no part of what is compared.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

import cvtune
from cvtune.rundir import RunDir
from tests.campaigns.kills import Moment, kill_and_resume

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of this kind are POSIX")

# Each stage is kept, so that the weights are those of all of them; a few hundred steps, so that there is time to kill.
_FIT = """
import sys
import cvtune.evaluation.task
from cvtune.evaluation.comparison import Comparison
from cvtune.training import trainer

cvtune.evaluation.task.better = lambda new, old: Comparison(0.1, 0.0, True, "kept for the test")
trainer.SAVE_EVERY = 0.2
from cvtune.cli import main

main(["fit", "--quiet", *sys.argv[1:]])
"""
_LONG = {"steps = 4": "steps = 160\npatience = 1000", "steps = 2": "steps = 60\npatience = 1000"}


def stage(run: Path) -> str:
    """What a killed run was doing, by what is on its disk."""
    files = RunDir(run)
    if files.done.is_file() or not files.config.is_file():
        return "done" if files.done.is_file() else "reading"
    finished = [name for _, name in files.units()]
    for name in ("tail", "all"):
        if name not in finished:
            return name if files.checkpoint_steps(name) or "tail" in finished else "probe"
    return "after all"


@pytest.mark.parametrize(
    ("kills", "final"),
    [
        pytest.param(5, "train", id="5"),
        pytest.param(50, "train", id="50", marks=pytest.mark.slow),
        pytest.param(20, "all", id="20 with a final fit", marks=pytest.mark.slow),
    ],
)
def test_killed_runs_end_in_the_same_weights(
    kills: int, final: str, parts: Path, quick_config: Path, tmp_path: Path
) -> None:
    text = quick_config.read_text(encoding="utf-8")
    for old, new in _LONG.items():
        text = text.replace(old, new)
    config, whole, run = tmp_path / "long.toml", tmp_path / "whole", tmp_path / "run"
    config.write_text(text, encoding="utf-8")
    fit = [sys.executable, "-c", _FIT]
    begin = [*fit, str(parts), "--config", str(config), "--final-fit", final]
    started = time.monotonic()
    assert os.spawnv(os.P_WAIT, sys.executable, [*begin, "--out", str(whole)]) == 0
    seconds = time.monotonic() - started
    hits = kill_and_resume(
        [*begin, "--plan", str(whole), "--out", str(run)],
        [*fit, "--resume", str(run)],
        run,
        kills=kills,
        seed=kills,
        seconds=seconds,
        reference=whole / "weights.safetensors",
        where=stage,
        moments=[
            Moment(0.05, "config.toml"),
            Moment(0.3, "checkpoints/tail-*.json"),
            Moment(0.1, "checkpoints/all-*.json"),
            *([Moment(0.0, "checkpoints/unit-*-final-fold-2.json")] if final == "all" else []),
        ],
    )
    assert len(hits) >= kills
    assert {"probe", "tail", "all"} <= {hit.stage for hit in hits}, hits
    assert cvtune.load_run(run).metrics == cvtune.load_run(whole).metrics
