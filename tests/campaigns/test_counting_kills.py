"""The kill campaign's own tools, on a run that only counts: it resumes, and what does not resume is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.kills import Moment, kill_and_resume, stage_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to kill")

# Two stages of 40 steps with an optimizer; what is random follows from (stage, step).
_COUNT = """
import sys, time
import torch
from cvtune.rundir import RunDir, write_json, write_text
from cvtune.training.checkpoint import *
from cvtune.training.records import write_tensors

run = RunDir(sys.argv[1])
resume = "--resume" in sys.argv

def stage(name, weight):
    store, optimizer = Store(run, name), torch.optim.AdamW([weight], lr=0.1)
    step, best, rows = 0, None, []
    if saved := store.load_newest():
        step, best, rows = saved.step, saved.best, saved.facts["rows"]
        weight.data.copy_(saved.tensors["weight/w"])
        restore_optimizer(optimizer, part_of(saved.tensors, "optimizer"))
    while step < 40:
        target = torch.randn(20, 20, generator=torch.Generator().manual_seed(1000 * len(name) + step))
        optimizer.zero_grad()
        ((weight - target) ** 2).sum().backward()
        optimizer.step()
        step += 1
        time.sleep(0.01)
        if step % 8 == 0:
            rows.append(float(weight.detach().sum()))
            best = {"w": weight.detach().clone()} if rows[-1] == max(rows) else best
        if step % 4 == 0:
            tensors = joined(weight={"w": weight}, optimizer=flatten_optimizer(optimizer))
            store.save(step, tensors, {"rows": rows}, best)
    return store, best, rows

with run.locked(resume=resume):
    if not resume:
        write_text(run.config, "seed = 0")
    ledger, weight = Ledger(run), torch.nn.Parameter(torch.zeros(20, 20))
    planned = {}
    for name in ("probe", "tail", "all"):
        planned[name] = {}
        write_json(run.plan, {"stages": planned})
        unit = ledger.done(name)
        if unit is None and name == "probe":
            time.sleep(0.2)
            ledger.write(name, {}, {"w": torch.ones(20, 20)})
        elif unit is None:
            store, best, rows = stage(name, weight)
            ledger.write(name, {"rows": rows}, best)
            store.clear()
        weight.data.copy_(ledger.done(name).tensors["w"])
    write_tensors(run.weights, {"w": weight})
    write_json(run.bundle / "manifest.json", {})
    write_text(run.done, "complete")
    sweep(run)
"""


def command(script: str, run: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", script, str(run), *more]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run ends with."""
    run: Path = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(_COUNT, run), check=True, timeout=120)
    assert stage_of(run) == "done"
    assert not (run / "checkpoints").exists()
    return run / "weights.safetensors"


def test_a_run_that_is_killed_everywhere_ends_in_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    moments = [
        Moment(0.1, "config.toml"),
        Moment(0.05, "checkpoints/unit-00-probe.json"),
        Moment(0.0, "checkpoints/.tail-*.part"),
        Moment(0.0, "checkpoints/all-*.json"),
    ]
    kills = kill_and_resume(
        command(_COUNT, run),
        command(_COUNT, run, "--resume"),
        run,
        kills=5,
        seed=0,
        seconds=3,
        reference=reference,
        moments=moments,
    )
    assert [kill.stage for kill in kills[:4]] == ["probe", "tail", "tail", "all"]
    assert len(kills) == 5


# Runs without torch, one for each thing that must not pass.

_BEGIN = "import os, sys, time; os.makedirs(sys.argv[1], exist_ok=True); os.chdir(sys.argv[1])\n"
_FORGETS = (
    _BEGIN
    + """
with open("config.toml", "a") as file:
    file.write("x")
time.sleep(0.5)
open("weights.safetensors", "wb").write(open("config.toml", "rb").read())
"""
)
_FAILS = _BEGIN + "open('config.toml', 'w'); time.sleep(60 if '--resume' not in sys.argv else 0); sys.exit('no way')"
_HANGS = _BEGIN + "open('config.toml', 'w'); print('here', flush=True); time.sleep(60)"
_CHILDREN = (
    _BEGIN
    + """
import subprocess
if not os.path.exists("config.toml"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    open("child", "w").write(str(child.pid))
    open("config.toml", "w").close()
    time.sleep(60)
open("weights.safetensors", "w").close()
"""
)


def killed(script: str, run: Path, moment: Moment, limit: float = 10) -> None:
    start, resume = command(script, run), command(script, run, "--resume")
    wanted = {"kills": 1, "seed": 0, "seconds": 1.0, "reference": b"x"}
    kill_and_resume(start, resume, run, moments=[moment], limit=limit, **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "moment", "sentence"),
    [
        (_FORGETS, Moment(0, "config.toml"), r"round 1: other bytes after \[Kill\(round=1, stage='probe'"),
        (_FORGETS, Moment(5), r"Moment\(seconds=5, file=''\) never came in 3 rounds"),
        (_FAILS, Moment(0, "config.toml"), r"(?s)exit code 1 of .*no way"),
        (_HANGS, Moment(0, "config.toml"), r"(?s)still running after 1 s:.*here"),
    ],
    ids=["forgets", "ends too early", "fails", "hangs"],
)
def test_what_does_not_resume_is_noticed(script: str, moment: Moment, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=sentence):
        killed(script, tmp_path / "run", moment, limit=1 if script == _HANGS else 10)


def test_children_are_killed_too(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="other bytes"):
        killed(_CHILDREN, tmp_path / "run", Moment(0, "config.toml"))
    child = Path("/proc") / (tmp_path / "run" / "child").read_text(encoding="utf-8")
    assert not child.exists() or "State:\tZ" in (child / "status").read_text(encoding="utf-8")


def test_stages_of_killed_runs(tmp_path: Path) -> None:
    assert stage_of(tmp_path) == "reading"
    (tmp_path / "config.toml").touch()
    assert stage_of(tmp_path) == "probe"
    (tmp_path / "plan.json").write_text('{"stages": {"probe": {}, "tail": {}}}', encoding="utf-8")
    assert stage_of(tmp_path) == "probe"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "unit-00-probe.json").touch()
    assert stage_of(tmp_path) == "tail"
    (tmp_path / "checkpoints" / "unit-01-tail.json").touch()
    assert stage_of(tmp_path) == "after tail"
    (tmp_path / "DONE").touch()
    assert stage_of(tmp_path) == "done"
