"""Rows, times and snapshots of the comparison, and how a run of cvtune is watched."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import ROOT
from benchmarks.peers import rows, runs
from benchmarks.peers.load import Meter
from benchmarks.peers.rows import Row, Snapshot
from benchmarks.peers.sides import Prepared, Source
from benchmarks.peers.task import Log, Stopwatch, Task
from cvtune.errors import DataError, RunError


def row(*points: tuple[float, int], tool: str = "cvtune", variant: str = "end", seed: int = 0, **more: Any) -> Row:
    snapshots = tuple(
        Snapshot(seconds, f"epoch {number}", right, 100) for number, (seconds, right) in enumerate(points)
    )
    return Row(more.pop("folder", "parts"), 0, tool, variant, seed, points[-1][0] + 1, snapshots, more)


@pytest.mark.parametrize("seconds, right", [(0, None), (9.9, None), (10, 50), (29.9, 50), (30, 70), (1e6, 70)])
def test_the_model_at_hand_is_the_last_one_before(seconds: float, right: int | None) -> None:
    at = row((10, 50), (30, 70)).at(seconds)
    assert (at.right if at else None) == right


def test_the_mean_needs_a_model_of_every_seed() -> None:
    runs_of = [row((10, 50), (30, 70)), row((20, 60), seed=1)]
    assert rows.mean_at(runs_of, 15) is None
    assert rows.mean_at(runs_of, 20) == pytest.approx(0.55)
    assert rows.mean_at(runs_of, 30) == pytest.approx(0.65)
    assert rows.mean_at([], 30) is None


@pytest.mark.parametrize("accuracy, seconds", [(0.5, 20), (0.55, 20), (0.551, 30), (0.65, 30), (0.66, None)])
def test_time_to_an_accuracy(accuracy: float, seconds: float | None) -> None:
    assert rows.time_to([row((10, 50), (30, 70)), row((20, 60), seed=1)], accuracy) == seconds


def test_a_later_model_that_is_worse_does_not_undo_the_time() -> None:
    assert rows.time_to([row((10, 90), (30, 70))], 0.8) == 10


def test_the_first_variant_to_get_there_counts() -> None:
    found = [row((100, 90)), row((55, 85), variant="60s"), row((9, 40), variant="10s")]
    assert rows.best_time_to(found, 0.4) == (9, "10s")
    assert rows.best_time_to(found, 0.85) == (55, "60s")
    assert rows.best_time_to(found, 0.9) == (100, "end")
    assert rows.best_time_to(found, 0.91) is None


def test_the_better_run_is_by_its_end_and_then_the_shorter() -> None:
    peak = row((10, 99), (20, 80), tool="fastai", variant="1+5")  # its best epoch is nothing one could know of
    long, short = row((90, 85), tool="fastai", variant="1+20"), row((50, 85), tool="fastai", variant="1+5")
    assert rows.better([peak, long]) is long
    assert rows.better([long, short]) is short
    assert rows.better([]) is None


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (8.24, "8.2 s"), (38.4, "38 s"), (119.4, "119 s"), (120, "2.0 min"), (906, "15.1 min")],
)
def test_seconds_are_told(seconds: float, text: str) -> None:
    assert rows.told_seconds(seconds) == text


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "results" / "compare.jsonl"
    assert rows.read_rows(file) == []
    first, second = row((10, 50), (30, 70), date="today"), row((5, 1), tool="vyntri", variant="fit")
    rows.add_row(file, first)
    rows.add_row(file, second)
    assert rows.read_rows(file) == [first, second]
    assert [json.loads(line)["tool"] for line in file.read_text(encoding="utf-8").splitlines()] == ["cvtune", "vyntri"]


def test_a_crash_while_a_row_is_written_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "compare.jsonl"
    rows.add_row(file, row((10, 50)))
    before = file.read_bytes()

    def fail(*args: Any) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="power cut"):
        rows.add_row(file, row((20, 60), seed=1))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["compare.jsonl"]


@pytest.mark.parametrize("line", ["{", "[]", '{"folder": "a"}', '{"folder": "a", "strange": 1}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "compare.jsonl"
    rows.add_row(file, row((10, 50)))
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2 is no row"):
        rows.read_rows(file)


@pytest.mark.parametrize("points", [[], [(30, 1), (10, 2)]])
def test_a_row_has_snapshots_in_order(points: list[tuple[float, int]]) -> None:
    with pytest.raises(ValueError, match="expected some, ascending"):
        Row("a", 0, "plain", "8 epochs", 0, 1.0, tuple(Snapshot(s, "", r, 9) for s, r in points))


@pytest.mark.parametrize("wrong", [(1.0, 11, 10), (1.0, -1, 10), (-1.0, 1, 10), (1.0, 0, 0), (float("nan"), 1, 2)])
def test_a_snapshot_is_a_rate_at_a_time(wrong: tuple[float, int, int]) -> None:
    with pytest.raises(ValueError, match="is no snapshot"):
        Snapshot(wrong[0], "", *wrong[1:])


def test_the_clock_stands_still_while_test_images_are_scored(tmp_path: Path) -> None:
    now = [100.0]
    watch = Stopwatch(90.0, tmp_path / "held", lambda: now[0])
    assert watch.seconds == 10  # the interpreter and its imports
    with watch.stopped():
        now[0] += 50
    assert watch.seconds == 10
    now[0] += 3
    with contextlib.suppress(RuntimeError), watch.stopped():
        now[0] += 7
        raise RuntimeError
    assert watch.seconds == 13


def test_the_clock_stands_still_while_a_peer_is_held(tmp_path: Path) -> None:
    """A real process that counts by itself, stopped for a second."""
    count = """
import sys, time
from pathlib import Path
from benchmarks.peers.task import Stopwatch
watch = Stopwatch(float(sys.argv[1]), Path("held"))
while watch.seconds < 2:
    time.sleep(0.01)
"""
    hold, held, meter = tmp_path / "HOLD", tmp_path / "held", Meter()
    timer = threading.Timer(1.0, lambda: hold.unlink())
    hold.touch()
    timer.start()
    began = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", count, repr(time.time())]
    with subprocess.Popen(command, cwd=tmp_path, env=env, start_new_session=True) as process:
        runs.attend(process, hold, held, meter)
    assert process.returncode == 0
    assert 0.9 < float(held.read_text(encoding="utf-8")) < 1.5
    assert 2.9 < time.monotonic() - began < 4


def test_a_peer_writes_what_its_models_had_right(tmp_path: Path) -> None:
    for label in ("dent", "ok"):
        (tmp_path / "test" / label).mkdir(parents=True)
        for name in ("b.png", "a.png"):
            (tmp_path / "test" / label / name).touch()
    now = [0.0]
    out = tmp_path / "out.json"
    task = Task(tmp_path, tmp_path, out, tmp_path, 2, 0, 1, Stopwatch(0.0, tmp_path / "held", lambda: now[0]))
    log = Log(task)

    def answer(files: Any) -> list[str]:
        now[0] += 100
        assert [file.name for file in files] == ["a.png", "b.png"] * 2
        return ["dent"] * len(files)

    now[0] = 5.0
    log.snapshot("epoch 1", answer)
    now[0] += 4
    log.snapshot("epoch 2", answer)
    log.close("timm", "no-such-package")
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["snapshots"] == [
        {"seconds": 5.0, "what": "epoch 1", "right": 2, "n": 4},
        {"seconds": 9.0, "what": "epoch 2", "right": 2, "n": 4},
    ]
    assert result["seconds"] == 9.0
    assert result["versions"]["timm"]
    assert result["versions"]["no-such-package"] == ""


RUN = """
import json, os, sys, time
def write(model, right):
    with open("part", "w") as file:
        json.dump({"model": model, "task": "single", "test": {"right": right, "n": 10}}, file)
    os.replace("part", "metrics.json")
time.sleep(0.3); write("probe", 6); time.sleep(0.6); write("tail", 9); time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("rest", [0.0, 0.3])
def test_a_run_is_watched_until_it_ends(tmp_path: Path, rest: float) -> None:
    """The last model counts too where the process ends right behind it."""
    (tmp_path / "run.py").write_text(RUN, encoding="utf-8")
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "run.py", str(rest)], cwd=tmp_path) as process:
        seen = list(runs.watch(process, tmp_path / "metrics.json", began))
    assert [(one.what, one.right, one.n) for one in seen] == [("probe", 6, 10), ("tail", 9, 10)]
    assert 0.3 <= seen[0].seconds <= seen[1].seconds - 0.4


def test_a_process_is_gone_with_its_children_when_the_block_is_left(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with (
        contextlib.suppress(KeyboardInterrupt),
        runs.started([sys.executable, "-c", child], {}, tmp_path / "log") as process,
    ):
        time.sleep(0.3)
        raise KeyboardInterrupt
    assert process.returncode == -9


def test_a_failing_tool_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = Prepared(tmp_path, {}, "", grouped=False)
    setting = runs.Setting(tmp_path / "work", 1, tmp_path, Path(sys.executable))
    monkeypatch.setattr(runs, "ROOT", tmp_path)  # where there is no such module
    with pytest.raises(RunError, match=r"plain ended with exit code 1:\n.*No module named 'benchmarks"):
        runs.run_tool("plain", "8 epochs", 0, Source("a", "a", tmp_path), prepared, setting, Meter())
    assert list((tmp_path / "work").iterdir()) == []


def test_every_tool_has_the_same_threads_no_network_and_empty_caches(tmp_path: Path) -> None:
    env = runs.environment(runs.Setting(tmp_path, 3, tmp_path), tmp_path)
    assert env["OMP_NUM_THREADS"] == env["MKL_NUM_THREADS"] == "3"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["CVTUNE_CACHE"] == str(tmp_path / "cache")
    assert env["CVTUNE_DATA"] == str(tmp_path / "data")
