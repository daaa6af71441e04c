"""The audit's benchmark: run by hand with 10,000 images (a quarter of an hour), here with 60, and its kept result.

How fast a slice is says nothing: what takes its time once is not spread over many images, and tests share the cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import audit

KEPT: dict[str, Any] = {
    "images": 10_000,
    "files_seconds": 59.0,
    "ratio": 1.25,
    "growth_kb_an_image": 20.0,
}


def test_a_slice(tmp_path: Path) -> None:
    result = audit.measure(60, tmp_path, share=2)
    seconds = result["steps"]
    assert result["images"] == 60
    assert result["files_seconds"] == pytest.approx(seconds["index"] + seconds["read"], abs=0.02)
    assert all(seconds[name] > 0 for name in ("read", "network", "examine", "all", "forward"))
    assert sum(seconds[name] for name in audit.STEPS) <= seconds["all"] + 0.05
    assert result["check_seconds"] - result["files_seconds"] == pytest.approx(
        result["ratio"] * result["forward_seconds"], rel=0.05, abs=0.05
    )
    assert list(result["memory_mb"]) == ["30", "60"]
    if Path("/proc/self/status").is_file():
        assert all(100 < value < 8000 for value in result["memory_mb"].values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts-60", "parts-60.json"]  # caches are gone
    drawn = next((tmp_path / "parts-60" / "ok").iterdir())
    before = drawn.stat().st_mtime_ns
    assert audit.draw(60, tmp_path) == tmp_path / "parts-60"
    assert drawn.stat().st_mtime_ns == before


def test_the_kept_result_keeps_the_bounds() -> None:
    if not audit.FILE.is_file():
        pytest.skip("no result is kept: python -m benchmarks.audit --images 10000")
    result = json.loads(audit.FILE.read_text(encoding="utf-8"))
    assert result["images"] == audit.FULL
    assert result["size"] == [640, 480]
    assert audit.missed(result) == []
    assert result["date"]
    assert result["machine"]["cores"] <= 2


@pytest.mark.parametrize(
    "change, said",
    [
        ({}, []),
        ({"growth_kb_an_image": None}, []),
        ({"files_seconds": 61.0}, ["files took 61.0 s, at most 60.0 s"]),
        ({"images": 2000}, ["files took 59.0 s, at most 12.0 s"]),
        ({"ratio": 1.31}, ["the audit took 1.31 times the forward pass, at most 1.3"]),
        ({"ratio": float("nan")}, ["the audit took nan times the forward pass, at most 1.3"]),
        ({"growth_kb_an_image": 150.0}, ["memory grew by 150.0 kB an image, at most 40 kB"]),
    ],
)
def test_what_is_missed_is_said(change: dict[str, Any], said: list[str]) -> None:
    assert audit.missed(KEPT | change) == said


def test_growth_is_what_one_image_more_costs() -> None:
    few, many = {"images": 2000, "memory_mb": 1000.0}, {"images": 10_000, "memory_mb": 1100.0}
    assert audit.growth(few, many) == 12.8
    assert audit.growth(few, many | {"memory_mb": None}) is None


def test_steps_are_timed_and_put_back() -> None:
    def step(text: str) -> str:
        return text * 2

    steps, seconds = SimpleNamespace(step=step), {"step": 0.0}
    with audit.timed_steps(steps, seconds):
        assert steps.step("a") == "aa"
        first = seconds["step"]
        steps.step("b")
    assert 0 < first < seconds["step"]
    assert steps.step is step


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_mapped_files_are_not_counted(tmp_path: Path) -> None:
    """64 MB in a mapped file, every page of it touched, and 64 MB of its own: only the second counts."""
    (tmp_path / "file").write_bytes(bytes(64 << 20))
    mapped = (
        "import mmap; f = open('file', 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); sum(m[::4096])"
    )
    held = "held = bytearray(b'1') * (64 << 20)"
    peaks = {}
    for name, code in (("mapped", mapped), ("held", held)):
        command = [sys.executable, "-W", "ignore", "-c", f"import time; {code}; time.sleep(0.5)"]
        with subprocess.Popen(command, cwd=tmp_path) as process:
            peaks[name] = audit.watch(process)
        assert process.returncode == 0
    assert peaks["mapped"] is not None
    assert peaks["held"] is not None
    assert peaks["mapped"] < 40
    assert peaks["held"] > 64


def test_a_table_names_the_first_of_each_class(tmp_path: Path) -> None:
    for label in ("dent", "ok"):
        (tmp_path / label).mkdir()
        for number in (3, 1, 2):
            (tmp_path / label / f"{number}.png").write_bytes(b"")
    table = audit.write_table(tmp_path, 4)
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines == ["path,label", "dent/1.png,dent", "dent/2.png,dent", "ok/1.png,ok", "ok/2.png,ok"]
