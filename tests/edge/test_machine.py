"""What a machine is and what keeps it busy, read from files of a machine that is not this one."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest
from cvtune_edge import machine

INTEL = (
    "processor\t: 0\nmodel name\t: Intel(R)  Xeon(R) CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 sse\n\n" * 2
)
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n\nModel\t\t: Raspberry Pi 5 Model B\n"


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "text, processor, flags",
    [
        (INTEL, "Intel(R) Xeon(R) CPU", ("avx2", "avx512f", "avx512_vnni", "amx_int8")),
        (ARM, "Raspberry Pi 5 Model B", ("asimddp", "i8mm")),
    ],
)
def test_processor_and_what_it_can(text: str, processor: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", text)
    found = machine.facts("cpu", spin=True, root=tmp_path)
    assert (found.processor, found.flags) == (processor, flags)
    assert found.spin
    assert 1 <= found.cores <= found.processors
    assert os.uname().nodename not in str(found) if hasattr(os, "uname") else True


def test_without_such_files_it_is_told_what_python_knows(tmp_path: Path) -> None:
    found = machine.facts("cpu", spin=False, root=tmp_path)
    assert found.processor
    assert found.flags == ()


def test_settings_that_make_times_uneven(tmp_path: Path) -> None:
    assert list(machine.settings_notes(tmp_path)) == []
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    governor, quota = machine.settings_notes(tmp_path)
    assert governor.startswith("the processor's governor is 'powersave'")
    assert quota.startswith("the container may use 1.5 cores")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    for fine in ("200000 100000\n", "max 100000\n"):
        write(tmp_path, "sys/fs/cgroup/cpu.max", fine)
        assert list(machine.settings_notes(tmp_path)) == []


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="no ticks")
@pytest.mark.parametrize(
    "ticks, stolen, notes",
    [
        (5, 0, []),  # what it did itself
        (155, 0, ["other programs used 1.5 cores meanwhile: measure again when the machine is idle"]),
        (5, 20, ["the host of this virtual machine took 0.2 cores away meanwhile"]),
    ],
)
def test_others_at_work(
    ticks: int, stolen: int, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One second, in which this process worked for 0.05 s."""
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    monkeypatch.setattr(time, "monotonic", iter([10.0, 11.0]).__next__)
    own = (os.times_result((value, 0, 0, 0, 0)) for value in itertools.count(3.0, 0.05))
    monkeypatch.setattr(os, "times", own.__next__)
    write(tmp_path, "proc/stat", "cpu  1000 0 500 9000 0 0 0 30 0 0\ncpu0 1 1 1 1\n")
    others = machine.Others(tmp_path)
    write(tmp_path, "proc/stat", f"cpu  {1000 + ticks} 0 500 9100 0 0 0 {30 + stolen} 0 0\ncpu0 1 1 1 1\n")
    assert list(others.notes()) == notes


def test_nothing_is_said_where_the_system_tells_nothing(tmp_path: Path) -> None:
    assert list(machine.Others(tmp_path).notes()) == []


def test_memory_at_its_most() -> None:
    peak = machine.peak_mb()
    if peak is not None:
        block = bytearray(200_000_000)
        block[::4096] = b"x" * len(block[::4096])
        assert 200 < (machine.peak_mb() or 0) < 20_000
        assert (machine.peak_mb() or 0) >= peak
