"""How many cores this process may use; without torch, for `cvtune doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_ROOT: Final = Path("/")


def seen() -> int:
    """Cores that this process is bound to, whatever a container grants: as many threads do torch and BLAS start."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores(root: Path = _ROOT) -> float:
    """Cores that this process may use: those it is bound to, and no more than any group above it is granted.

    A limit counts on every level between the process and the root of the cgroup tree (ninja issue 2805).

    Args:
        root: of the file system, where /proc and /sys lie.
    """
    return min([float(seen()), *_quotas(root)])


def _quotas(root: Path) -> Iterator[float]:
    # The last two lines look at the mounted trees' own roots: in a container /proc may name a path outside of it.
    for line in [*_read(root / "proc/self/cgroup").splitlines(), "0::/", "0:cpu:/"]:
        controllers, _, path = line.partition(":")[2].partition(":")
        parts = PurePosixPath(path).parts[1:]
        for tree in _trees(root / "sys/fs/cgroup", controllers):
            folders = [tree.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
            yield from (quota for folder in folders if (quota := _quota(folder)) is not None)


def _trees(base: Path, controllers: str) -> tuple[Path, ...]:
    """Where a line's groups are mounted; version 2 names no controllers, and is `unified` beside version 1."""
    if not controllers:
        return base, base / "unified"
    return (base / controllers, base / "cpu") if "cpu" in controllers.split(",") else ()


def _quota(folder: Path) -> float | None:
    text = _read(folder / "cpu.max") or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    try:
        quota, period = map(int, text.split())  # no limit is `max` in version 2, -1 in version 1
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
