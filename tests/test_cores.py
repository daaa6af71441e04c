from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cvtune.cores import cores

Files = dict[str, str]
MakeRoot = Callable[[Files], Path]


GROUP = "sys/fs/cgroup"
MACHINES: dict[str, tuple[Files, float]] = {
    "no cgroups": ({}, 16),
    "no limit": ({"proc/self/cgroup": "0::/", f"{GROUP}/cpu.max": "max 100000"}, 16),
    "container": ({"proc/self/cgroup": "0::/", f"{GROUP}/cpu.max": "250000 100000"}, 2.5),
    "another period": ({f"{GROUP}/cpu.max": "30000 20000"}, 1.5),
    "more than there is": ({"proc/self/cgroup": "0::/", f"{GROUP}/cpu.max": "6400000 100000"}, 16),
    "its own group, nested": (
        {
            "proc/self/cgroup": "0::/kubepods/pod 7/run",
            f"{GROUP}/kubepods/cpu.max": "800000 100000",
            f"{GROUP}/kubepods/pod 7/cpu.max": "300000 100000",
            f"{GROUP}/kubepods/pod 7/run/cpu.max": "max 100000",
            f"{GROUP}/kubepods/pod 8/cpu.max": "100000 100000",
        },
        3,
    ),
    "the least is in the middle": (
        {
            "proc/self/cgroup": "0::/a/b/c",
            f"{GROUP}/a/cpu.max": "400000 100000",
            f"{GROUP}/a/b/cpu.max": "150000 100000",
            f"{GROUP}/a/b/c/cpu.max": "600000 100000",
        },
        1.5,
    ),
    "a path outside of the container": (
        {"proc/self/cgroup": "0::/../../docker/4f1", f"{GROUP}/cpu.max": "200000 100000"},
        2,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/docker/4f1\n1:name=systemd:/docker/4f1",
            f"{GROUP}/cpu,cpuacct/docker/4f1/cpu.cfs_quota_us": "50000",
            f"{GROUP}/cpu,cpuacct/docker/4f1/cpu.cfs_period_us": "100000",
            f"{GROUP}/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            f"{GROUP}/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        0.5,
    ),
    "version 1 in a container": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/4f1",
            f"{GROUP}/cpu/cpu.cfs_quota_us": "400000",
            f"{GROUP}/cpu/cpu.cfs_period_us": "100000",
        },
        4,
    ),
    "version 1, /proc hidden": (
        {f"{GROUP}/cpu/cpu.cfs_quota_us": "300000", f"{GROUP}/cpu/cpu.cfs_period_us": "100000"},
        3,
    ),
    "both versions": (
        {
            "proc/self/cgroup": "1:cpu:/a\n0::/b",
            f"{GROUP}/cpu/a/cpu.cfs_quota_us": "700000",
            f"{GROUP}/cpu/a/cpu.cfs_period_us": "100000",
            f"{GROUP}/unified/b/cpu.max": "500000 100000",
        },
        5,
    ),
    "another controller's limit": (
        {
            "proc/self/cgroup": "3:cpuset:/a",
            f"{GROUP}/cpuset/a/cpu.cfs_quota_us": "100000",
            f"{GROUP}/cpuset/a/cpu.cfs_period_us": "100000",
        },
        16,
    ),
    "broken files": (
        {"proc/self/cgroup": "what\n0::", f"{GROUP}/cpu.max": "lots", f"{GROUP}/cpu/cpu.cfs_quota_us": "1"},
        16,
    ),
    "nothing a period": ({f"{GROUP}/cpu.max": "100000 0"}, 16),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_cores_are_the_least_that_any_group_grants(machine: str, make_root: MakeRoot) -> None:
    files, wanted = MACHINES[machine]
    assert cores(make_root(files)) == wanted


def test_cores_that_the_process_is_bound_to_count_first(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root({f"{GROUP}/cpu.max": "800000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert cores(root) == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores(root) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(root) == 1


def test_this_machine_has_cores() -> None:
    assert 0 < cores() <= (os.cpu_count() or 1)
