"""The comparison's campaign: which rows, resumption, Ctrl-C, and what it says when something is wrong.

No peer runs here; that all four tools work is tried by hand: `--images 60 --epochs 1 --results FILE`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as front
from benchmarks import compare
from benchmarks.peers import environment, load
from benchmarks.peers.rows import Snapshot, read_rows
from benchmarks.peers.runs import EPOCHS, LEFT_OUT, TOOLS, VARIANTS, Measured
from benchmarks.peers.sides import Prepared, Source
from benchmarks.peers.table import BEGIN, FINISH, NAMES
from cvtune.errors import ConfigError, RunError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, one empty file each; nothing here reads them."""
    for label in ("dent", "ok"):
        (tmp_path / "parts" / label).mkdir(parents=True)
        (tmp_path / "parts" / label / "a.png").write_bytes(b"")
    return tmp_path / "parts"


@pytest.fixture
def campaign(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[str]]]:
    """`campaign("--rows", "2")`: the exit code and the runs that were started; each run takes no time."""
    started: list[str] = []

    def run(tool: str, variant: str, seed: int, *rest: Any) -> Measured:
        started.append(f"{tool} {variant} {seed}")
        if (tmp_path / "stop").exists():
            raise KeyboardInterrupt
        if (tmp_path / f"fail-{variant}").exists():
            raise RunError(f"{tool} ended with exit code 1:\nTraceback")
        return Measured(3.0, (Snapshot(2.0, "probe", 7, 10),), f"{tool} ...", {"torch": "2"})

    prepared = Prepared(tmp_path / "work", {"train": 20, "val": 5, "test": 10}, "abc", grouped=False)
    monkeypatch.setattr(compare, "run_tool", run)
    monkeypatch.setattr(compare, "prepare", lambda *args, **more: prepared)
    monkeypatch.setattr(compare, "warm_up", lambda *args: None)
    monkeypatch.setattr(compare, "warn_if_busy", lambda: None)
    monkeypatch.setattr(compare, "python_of", lambda place: Path("python"))

    def main(*flags: str) -> tuple[int, list[str]]:
        started.clear()
        places = ["--data", str(folder), "--results", str(tmp_path / "rows.jsonl"), "--work", str(tmp_path / "work")]
        return compare.main([*places, "--threads", "1", *flags]), list(started)

    return main


def test_every_seed_for_cvtune_and_the_first_for_the_peers(campaign: Any) -> None:
    code, started = campaign("--seeds", "3", "4")
    assert code == 0
    assert started == [
        *("cvtune 10s 3", "cvtune 60s 3", "cvtune 5m 3", "cvtune end 3"),
        *("fastai 1+5 3", "fastai 1+20 3", "vyntri fit 3", "plain 8 epochs 3"),
        *("cvtune 10s 4", "cvtune 60s 4", "cvtune 5m 4", "cvtune end 4"),
    ]


def test_a_row_is_measured_once(campaign: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign("--tools", "cvtune", "--seeds", "0", "--rows", "3") == (
        0,
        ["cvtune 10s 0", "cvtune 60s 0", "cvtune 5m 0"],
    )
    assert campaign("--tools", "cvtune", "--seeds", "0") == (0, ["cvtune end 0"])
    assert campaign("--tools", "cvtune", "--seeds", "0") == (0, [])
    assert "4 rows asked for, 0 to measure" in capsys.readouterr().err
    assert campaign("--tools", "cvtune", "--seeds", "0", "--split-seed", "1", "--rows", "1")[1] == ["cvtune 10s 0"]


def test_a_row_says_what_it_is_of(campaign: Any, tmp_path: Path) -> None:
    campaign("--tools", "vyntri")
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert row.key == ("parts", 0, "vyntri", "fit", 0)
    facts = row.facts
    assert facts["files"] == {"train": 20, "val": 5, "test": 10, "digest": "abc"}
    assert {"date", "machine", "versions", "commit", "load", "threads", "command"} <= set(facts)
    assert set(facts["load"]) == {"start", "end", "others"}


def test_ctrl_c_loses_only_the_row_in_progress(
    campaign: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign("--tools", "cvtune", "--seeds", "0", "--rows", "1")
    (tmp_path / "stop").touch()
    assert campaign("--tools", "cvtune", "--seeds", "0") == (130, ["cvtune 60s 0"])
    assert "the row in progress is lost" in capsys.readouterr().err
    assert len(read_rows(tmp_path / "rows.jsonl")) == 1
    (tmp_path / "stop").unlink()
    assert campaign("--tools", "cvtune", "--seeds", "0")[1] == ["cvtune 60s 0", "cvtune 5m 0", "cvtune end 0"]


def test_a_tool_that_fails_does_not_stop_the_others(
    campaign: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fail-60s").touch()
    assert campaign("--tools", "cvtune", "--seeds", "0")[0] == 2
    assert capsys.readouterr().err.endswith(
        "error: not measured: parts, split 0: cvtune 60s, seed 0\nhint: run it again: finished rows are kept\n"
    )
    assert [row.variant for row in read_rows(tmp_path / "rows.jsonl")] == ["10s", "5m", "end"]


def test_rows_of_other_files_are_not_compared(
    campaign: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign("--tools", "vyntri")
    file = tmp_path / "rows.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace('"abc"', '"xyz"'), encoding="utf-8")
    assert campaign("--tools", "plain")[0] == 2
    assert "1 rows of parts, split 0, were measured on other files" in capsys.readouterr().err


def test_what_is_missing_is_listed(campaign: Any, capsys: pytest.CaptureFixture[str]) -> None:
    campaign("--tools", "vyntri")
    capsys.readouterr()
    assert campaign("--tools", "vyntri,plain", "--dry") == (0, [])
    assert capsys.readouterr().out == "parts, split 0: plain 8 epochs, seed 0\n"
    campaign("--tools", "vyntri", "--dry")
    assert capsys.readouterr().out == "all of it is measured\n"


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--sets", "gtsrb"], "no data set gtsrb; there are parts"),
        (["--variants", "70s"], "no variant 70s; there are 10s, 60s, 5m, end, 1+5, 1+20, fit, 8 epochs"),
        (["--images", "60", "--results", str(compare.FILE)], "need --results FILE of their own"),
        (["--table", "nowhere.md"], "no row of split 0 yet\nhint: measure first"),
    ],
)
def test_wrong_flags_are_told(campaign: Any, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign(*flags) == (2, [])
    assert said in capsys.readouterr().err


def test_an_unknown_tool_is_told(campaign: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        campaign("--tools", "cvtune,keras")
    assert "no tool keras; there are cvtune, fastai, vyntri, plain" in capsys.readouterr().err


def test_a_missing_environment_is_told_before_anything_runs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = tmp_path / "env"
    flags = ["--data", str(folder), "--results", str(tmp_path / "rows.jsonl"), "--peers-env", str(env)]
    assert compare.main([*flags, "--tools", "plain", "--threads", "1"]) == 2
    assert capsys.readouterr().err.endswith(
        f"error: {env}: the peers' environment is not there\n"
        f"hint: make it with: python -m benchmarks compare --setup --peers-env {env}\n"
    )


def test_an_environment_of_other_versions_is_told(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("fastai==1\n", encoding="utf-8")
    (tmp_path / environment.STAMP).write_text("0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="made from other versions"):
        environment.python_of(tmp_path, requirements)


def test_setup_installs_and_says_when_it_could_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Sequence[str]] = []
    code = 1

    def run(command: Sequence[str], **more: Any) -> argparse.Namespace:
        called.append(command)
        return argparse.Namespace(returncode=code)

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("venv.create", lambda place, **more: None)
    with pytest.raises(ConfigError, match="pip could not install"):
        environment.set_up(tmp_path)
    assert not (tmp_path / environment.STAMP).exists()
    code = 0
    environment.set_up(tmp_path)
    assert called[-1][1:] == ["-m", "pip", "install", "--requirement", str(environment.REQUIREMENTS)]
    assert environment.python_of(tmp_path).name.startswith("python")


def test_each_tool_has_a_script_a_name_and_its_variants(repo: Path) -> None:
    assert TOOLS == ("cvtune", "fastai", "vyntri", "plain")
    for tool in TOOLS[1:]:
        assert (repo / "benchmarks" / "peers" / f"run_{tool}.py").is_file()
    assert set(NAMES) == set(EPOCHS)
    assert {variant for own in VARIANTS.values() for variant in own} >= {"10s", "60s", "5m", "end"}
    chest = Source("chest_xray_pneumonia", "", Path())
    args = argparse.Namespace(tools=["fastai"], variants=None, seeds=[0], split_seed=0)
    assert [job.variant for job in compare.jobs([chest], args)] == ["1+5"]
    assert len(LEFT_OUT) == 1


def test_tables_and_curve_are_written(campaign: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    campaign("--seeds", "0")
    readme, svg = tmp_path / "README.md", tmp_path / "curve.svg"
    readme.write_text(f"before\n{BEGIN}\nstale\n{FINISH}\nafter\n", encoding="utf-8")
    assert campaign("--table", str(readme), "--svg", str(svg)) == (0, [])
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n| folder |")
    assert text.endswith(f"\n{FINISH}\nafter\n")
    assert "stale" not in text
    assert svg.read_text(encoding="utf-8").startswith("<svg ")
    assert "parts: fastai's accuracy is reached after 0.67 of its time, at most 0.2" in capsys.readouterr().err


def test_the_kept_rows_are_whole(repo: Path) -> None:
    rows = read_rows(compare.FILE)
    if not rows:
        pytest.skip("no rows are kept: python -m benchmarks compare")
    assert len({row.key for row in rows}) == len(rows)
    assert all(row.facts["date"] and row.facts["machine"]["cores"] for row in rows)
    assert len({(row.folder, row.split_seed, row.facts["files"]["digest"]) for row in rows}) == len(
        {(row.folder, row.split_seed) for row in rows}
    )
    assert "/" not in json.dumps([row.facts["machine"] for row in rows])


def test_the_benchmarks_are_found_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.names() == ("audit", "bounds", "compare", "exported", "figures", "latency", "tail", "unknowns")
    assert front.main(["wrong"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: no benchmark wrong\nusage: python -m benchmarks {audit,bounds,compare,"
    )
    assert front.main(["--help"]) == 0
    assert front.main([]) == 2


@pytest.mark.parametrize("call", [["benchmarks", "compare"], ["benchmarks.compare"]])
def test_both_ways_of_calling_it(call: list[str], repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *call, "--help"], cwd=repo, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--peers-env" in done.stdout
    assert done.stderr == ""


def test_what_others_use_is_what_is_busy_and_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, clock = tmp_path / "stat", {"wall": 100.0, "own": 5.0}
    ticks = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr("time.monotonic", lambda: clock["wall"])
    monkeypatch.setattr(load, "own_seconds", lambda: clock["own"])

    def write(user: float, idle: float) -> None:
        stat.write_text(f"cpu  {int(user * ticks)} 0 0 {int(idle * ticks)} 77 0 0 0 9 9\ncpu0 1 2\n", encoding="utf-8")

    write(50, 10)
    meter = load.Meter(stat)
    write(66, 14)
    clock.update(wall=110.0, own=9.0)
    seen = meter.read()
    assert seen.others == 1.2  # 16 s busy, 4 of them ours, in 10 s
    assert not seen.busy
    with meter.held():  # ten seconds of both cores, while nothing of ours was measured
        write(86, 14)
        clock["wall"] += 10
    assert meter.read().others == 1.2
    write(94, 14)
    assert meter.read().busy
    stat.unlink()
    assert meter.read().others is None
    assert not meter.read().busy


def test_a_busy_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(load.Meter, "read", lambda meter: load.Load(2.0, 2.0, 1.8))
    load.warn_if_busy(0)
    assert "warning: other programs use 1.8 cores now (more than 1.5)" in capsys.readouterr().err
