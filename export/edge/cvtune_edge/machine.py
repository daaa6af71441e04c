"""What a machine is, as far as it decides how fast it is, and what else keeps it busy."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from cvtune_edge.latency import Machine
from cvtune_edge.session import granted_threads, runtime_facts

# Instructions that onnxruntime's kernels are written for; the others change little.
_FLAGS: Final = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
)
_ROOT: Final = Path("/")
_BUSY: Final = 0.1  # of a core


def facts(provider: str, *, spin: bool, root: Path = _ROOT) -> Machine:
    """This machine.

    Args:
        provider: who computes.
        spin: whether threads wait actively.
        root: of the file system, where /proc lies.
    """
    text = _read(root / "proc/cpuinfo")
    named = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    flags = set(listed[1].split()) if listed else set()
    return Machine(
        processor=" ".join(named[1].split()) if named else platform.processor() or platform.machine(),
        flags=tuple(flag for flag in _FLAGS if flag in flags),
        cores=granted(),
        processors=os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        versions=_versions(),
        provider=provider,
        spin=spin,
    )


def granted() -> int:
    """Cores that this process may use."""
    return granted_threads() or os.cpu_count() or 1


def peak_mb() -> float | None:
    """Most memory that this process ever held in MB (10^6 bytes); None where the system does not tell."""
    kilobytes = re.search(r"^VmHWM:\s*(\d+) kB", _read(_ROOT / "proc/self/status"), flags=re.MULTILINE)
    if kilobytes:
        return round(int(kilobytes[1]) * 1024 / 1e6, 1)
    if sys.platform == "darwin":
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
    return None


def settings_notes(root: Path = _ROOT) -> Iterator[str]:
    """What about a machine's settings makes times longer than they have to be, or uneven."""
    governor = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    if governor and governor != "performance":
        yield f"the processor's governor is '{governor}': it slows down between frames; 'performance' does not"
    quota, _, period = _read(root / "sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(quota) % int(period):
        cores = int(quota) / int(period)
        yield f"the container may use {cores:g} cores: when that is used up, all threads stand still for a while"


class Others:
    """How many cores other programs used between the beginning and :meth:`cores`.

    Args:
        root: of the file system, where /proc lies.
    """

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self._began, self._busy, self._stolen, self._own = self._now()

    def notes(self) -> Iterator[str]:
        """That it was busy, or that the host gave its cores to others."""
        began, busy, stolen, own = self._now()
        seconds = max(began - self._began, 1e-9)
        others = (busy - self._busy - (own - self._own)) / seconds
        if others > _BUSY:
            yield f"other programs used {others:.1f} cores meanwhile: measure again when the machine is idle"
        lost = (stolen - self._stolen) / seconds
        if lost > _BUSY:
            yield f"the host of this virtual machine took {lost:.1f} cores away meanwhile"

    def _now(self) -> tuple[float, float, float, float]:
        """Seconds: of the clock, of all cores at work, stolen, and at work for this process and its children."""
        own = own_seconds()
        busy, stolen = processor_seconds(self._root / "proc/stat") or (own, 0.0)
        return time.monotonic(), busy, stolen, own


def processor_seconds(stat: Path) -> tuple[float, float] | None:
    """Seconds since the machine started, of all cores together: at work, and taken by the host; None without /proc."""
    line = re.search(r"^cpu +(.+)$", _read(stat), flags=re.MULTILINE)
    if line is None:
        return None
    user, nice, system, _, _, irq, softirq, stolen = (int(field) for field in line[1].split()[:8])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, stolen / tick


def own_seconds() -> float:
    """Seconds of the processor that this process and its finished children used."""
    return sum(os.times()[:4])


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "onnxruntime": runtime_facts()[0]}
    for name in ("cvtune-edge", "numpy", "opencv-python-headless"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from its folder, or OpenCV under another name
            continue
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
