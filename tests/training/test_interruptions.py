"""Every write, flush, fsync, rename and deletion of a checkpoint and of the ledger is interrupted once, in each way.

The points are counted while the whole thing runs, so new ones are covered without a change here. Afterwards what was
there before is there, or what is there now, and the next save works.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
import torch

from cvtune.rundir import RunDir
from cvtune.training.checkpoint import Ledger, Store

REPO: Final = Path(__file__).resolve().parents[2]


class InterruptedHere(OSError):
    """What a broken disk says."""


@dataclass
class Disk:
    """Stands between the code and the disk: counts every call that changes something, and stops at one of them.

    Attributes:
        stop_at: number of the call that is interrupted; -1 for none.
        how: "before" it does anything, "torn" in the middle of a write, or "after" it was done.
        stop: what happens there.
        calls: their names so far.
        events: what happened, for a `Platter`.
    """

    stop_at: int = -1
    how: str = "before"
    stop: Callable[[], None] = lambda: None
    calls: list[str] = field(default_factory=list)
    events: list[tuple[str, str, Any]] = field(default_factory=list)

    @contextmanager
    def between(self) -> Iterator[None]:
        """Patches the functions that every file goes through: `Path` calls them too."""
        self._open, self._files = io.open, dict[int, Path]()
        patches = [mock.patch.object(io, "open", self._opened), mock.patch.object(os, "open", self._os_open(os.open))]
        names = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "truncate", "link", "symlink")
        patches += [mock.patch.object(os, name, self._counted(name, getattr(os, name))) for name in names]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in reversed(patches):
                patch.stop()

    def point(self, name: str, act: Callable[[], Any], torn: Callable[[], Any] | None = None) -> Any:
        """One call; `torn` does half of it."""
        number = len(self.calls)
        self.calls.append(name)
        if number == self.stop_at and self.how == "torn" and torn is not None:
            torn()
        if number == self.stop_at and self.how != "after":
            self.stop()
        result = act()
        if number == self.stop_at and self.how == "after":
            self.stop()
        return result

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **kwargs: Any) -> Any:
            path = self._files[target] if isinstance(target, int) else Path(target)
            written = path.read_bytes() if name == "fsync" and path.is_file() else b""
            result = self.point(f"{name} {path.name}", lambda: real(target, *args, **kwargs))
            self.events.append((name, path.name, Path(args[0]).name if name == "replace" else written))
            return result

        return call

    def _os_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, *args: Any, **kwargs: Any) -> int:
            handle = real(path, *args, **kwargs)
            self._files[handle] = Path(path)
            return handle

        return call

    def _opened(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode in ("r", "rb"):
            return self._open(file, mode, *args, **kwargs)
        handle = self.point(f"open {Path(file).name}", lambda: self._open(file, mode, *args, **kwargs))
        self._files[handle.fileno()] = Path(file)
        self.events.append(("open", Path(file).name, b""))
        return _Handle(self, handle, Path(file))


class _Handle:
    """A file that is written: its writes and flushes are points."""

    def __init__(self, disk: Disk, real: Any, path: Path) -> None:
        self._disk, self._real, self._path = disk, real, path

    def write(self, data: Any) -> Any:
        def torn() -> None:
            self._real.write(data[: len(data) // 2])
            self._real.flush()

        return self._disk.point(f"write {self._path.name}", lambda: self._real.write(data), torn)

    def flush(self) -> Any:
        return self._disk.point(f"flush {self._path.name}", self._real.flush)

    def fileno(self) -> Any:
        return self._real.fileno()

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self._real.close()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder whose flushes cost nothing, where the system has one."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


# What is interrupted. Each state of the disk is told by a number: 0 for nothing.


def tensors(number: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((50, 50), float(number)), "n": torch.tensor(number)}


def save(run: RunDir, number: int) -> None:
    """A checkpoint, after reading what is there; the best epoch changes every other time."""
    store = Store(run, "tail")
    store.load_newest()
    store.save(number, tensors(number), {"number": number}, tensors(number // 2))


def saved(run: RunDir) -> int:
    found = Store(run, "tail").load_newest()
    if found is None:
        return 0
    assert found.best is not None
    numbers = {found.step, found.facts["number"], int(found.tensors["n"]), *torch.unique(found.tensors["w"]).tolist()}
    assert numbers == {found.step}
    assert set(torch.unique(found.best["w"]).tolist()) == {found.step // 2}
    return found.step


def enter(run: RunDir, number: int) -> None:
    Ledger(run).write(f"unit-{number}", {"number": number}, tensors(number))


def entered(run: RunDir) -> int:
    ledger = Ledger(run)
    for number, name in enumerate(ledger.names, start=1):
        unit = ledger.done(name)
        assert unit is not None
        assert {unit.facts["number"], int(unit.tensors["n"]), *torch.unique(unit.tensors["w"]).tolist()} == {number}
    return len(ledger.names)


def damaged(run: RunDir, number: int) -> None:
    """The last of the units, torn: the next one is written over it."""
    enter(run, number)
    file = run.unit(number - 1, f"unit-{number}").with_suffix(".safetensors")
    file.write_bytes(file.read_bytes()[:100])


Step = Callable[[RunDir, int], None]
Seen = Callable[[RunDir], int]
# name: what is done before, step by step; what is interrupted; how it is seen.
SCENARIOS: Final[dict[str, tuple[tuple[Step, ...], Step, Seen]]] = {
    "first checkpoint": ((), save, saved),
    "second checkpoint": ((save,), save, saved),
    "fifth checkpoint": (
        (save, save, save, save),
        save,
        saved,
    ),  # the third is deleted, with the best weights of its time
    "first unit": ((), enter, entered),
    "third unit": ((enter, enter), enter, entered),
    "unit over a damaged one": ((enter, damaged), lambda run, number: enter(run, number - 1), entered),
}


def ways(points: list[str]) -> list[tuple[int, str]]:
    """Each point's number and how it is interrupted there; after one is before the next."""
    torn = [(number, "torn") for number, point in enumerate(points) if point.startswith("write")]
    return [*((number, "before") for number in range(len(points))), *torn, (len(points) - 1, "after")]


def prepare(scenario: str, folder: Path) -> RunDir:
    run = RunDir(folder)
    folder.mkdir()
    for number, step in enumerate(SCENARIOS[scenario][0], start=1):
        step(run, number)
    return run


def count(scenario: str, folder: Path) -> list[str]:
    """The points of a scenario, by name."""
    before, step, _ = SCENARIOS[scenario]
    run, disk = prepare(scenario, folder), Disk()
    with disk.between():
        step(run, len(before) + 1)
    return disk.calls


def check(scenario: str, run: RunDir) -> str:
    """What is wrong after an interruption, or an empty text; the next save has to work, and to leave nothing behind."""
    before, step, seen = SCENARIOS[scenario]
    new = len(before) + 1 - (damaged in before)
    now = seen(run)
    if now not in (new - 1, new):
        return f"{now} is there, expected {new - 1} or {new}"
    if seen is entered and now == new:
        return ""
    step(run, len(before) + 1)
    if seen(run) != new:
        return f"the next save gives {seen(run)}"
    left = sorted(path.name for path in run.checkpoints.iterdir())
    clean = prepare(scenario, run.root.with_name(f"{run.root.name}-clean"))
    step(clean, len(before) + 1)
    wanted = sorted(path.name for path in clean.checkpoints.iterdir())
    shutil.rmtree(clean.root)
    return "" if left == wanted else f"files {left}, expected {wanted}"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_error_at_any_point(scenario: str, memory: Path) -> None:
    def fail() -> None:
        raise InterruptedHere(5, "the disk is broken")

    points = count(scenario, memory / "count")
    assert len(points) > 10
    before, step, _ = SCENARIOS[scenario]
    swallowed = []
    for number, how in ways(points):
        run = prepare(scenario, memory / f"{number}")
        disk = Disk(number, how, fail)
        with disk.between():
            try:
                step(run, len(before) + 1)
                swallowed.append(points[number])
            except InterruptedHere:
                pass
        assert not (problem := check(scenario, run)), f"{how} {points[number]}: {problem}"
        shutil.rmtree(run.root)
    assert all(point.startswith("unlink") for point in swallowed), "a deletion is tried again the next time"


def test_the_points_are_those_that_are_there(tmp_path: Path) -> None:
    assert count("second checkpoint", tmp_path / "run") == [
        *_written(".tail-000002.safetensors.part", tensors=2),
        *_written(".tail-000002.best.safetensors.part", tensors=2),
        *_written(".tail-000002.json.part"),
    ]
    points = count("fifth checkpoint", tmp_path / "five")
    assert [point for point in points if point.startswith("unlink")] == [
        *("unlink tail-000003.json", "unlink tail-000002.best.safetensors", "unlink tail-000003.safetensors")
    ]


def _written(part: str, tensors: int = 0) -> list[str]:
    writes = [f"write {part}"] * (1 + tensors)
    return [f"open {part}", *writes, f"flush {part}", f"fsync {part}", f"replace {part}", "fsync checkpoints"]


def test_the_process_ends_at_any_point(memory: Path) -> None:
    """One process imports torch; a child of it, which ends without a word, for each point and way."""
    command = [sys.executable, "-c", "from tests.training.test_interruptions import main; main()", str(memory)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["problems"] == []
    assert answer["ended"] == answer["points"] > 15 * len(SCENARIOS)


def main() -> None:
    """In the process of the test above."""
    folder, ended, problems = Path(sys.argv[1]), list[bool](), list[str]()
    for scenario, (before, step, _) in SCENARIOS.items():
        points = count(scenario, folder / f"count {scenario}")
        for number, how in ways(points):
            run = prepare(scenario, folder / "run")
            if not (child := os.fork()):
                with Disk(number, how, lambda: os._exit(9)).between():
                    step(run, len(before) + 1)
                os._exit(0)
            ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9)
            if problem := check(scenario, run):
                problems.append(f"{scenario}, {how} {points[number]}: {problem}")
            shutil.rmtree(run.root)
    print(json.dumps({"points": len(ended), "ended": sum(ended), "problems": problems}))


# Power cuts: what the disk holds is less than what the system showed.

Change = tuple[str, str, str]  # "replace" or "unlink", name, new name


class Platter:
    """What a power cut may leave of the folder `checkpoints`, as the calls of a `Disk` go on.

    A file that was not flushed is empty; of the renames and deletions since the folder was last flushed any may be
    lost. Real file systems are kinder.

    Args:
        start: the folder as it is before the first call, all of it on the disk.
    """

    def __init__(self, start: Path) -> None:
        self._durable = {path.name: path.read_bytes() for path in start.glob("*")}
        self._flushed: dict[str, bytes] = {}
        self._pending: list[Change] = []

    def goes_on(self, event: str, name: str, other: Any) -> None:
        """Take note of a call; `other` is what was written, or the new name."""
        if event == "open":
            self._flushed[name] = b""
        elif event == "fsync" and name == "checkpoints":
            self._durable, self._pending = self._after(self._pending), []
        elif event == "fsync" and name in self._flushed:
            self._flushed[name] = other
        elif event in ("replace", "unlink"):
            self._pending.append((event, name, str(other)))

    def states(self) -> Iterator[dict[str, bytes]]:
        """Each state that a power cut now could leave: contents by name."""
        for chosen in itertools.product((True, False), repeat=len(self._pending)):
            yield self._after([change for change, there in zip(self._pending, chosen, strict=True) if there])

    def _after(self, changes: list[Change]) -> dict[str, bytes]:
        names = dict(self._durable)
        for event, name, new in changes:
            if event == "replace":
                names[new] = self._flushed[name]
            else:
                names.pop(name, None)
        return names


def power_cuts(scenario: str, folder: Path, *, without: str = "") -> list[str]:
    """What is wrong in any state that a power cut could leave during two saves, the first of which is durable then.

    Args:
        scenario: of the first of the two saves.
        folder: where the run is.
        without: "files" or "folder": these are not flushed.
    """
    before, step, seen = SCENARIOS[scenario]
    run, new = prepare(scenario, folder), len(before) + 1 - (damaged in before)
    platter, problems = Platter(run.checkpoints), []
    for number in (0, 1):
        disk = Disk()
        with disk.between():
            step(run, len(before) + 1 + number)
        for event, name, other in disk.events:
            if event == "fsync" and without == ("folder" if name == "checkpoints" else "files"):
                continue
            platter.goes_on(event, name, other)
            for state in platter.states():
                now = seen(_built(state, folder.with_name(f"{folder.name}-cut")))
                if now not in (new - 1 + number, new + number):
                    problems.append(f"save {number}, after {event} {name}: {now} of {sorted(state)}")
    return problems


def _built(state: dict[str, bytes], folder: Path) -> RunDir:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "checkpoints").mkdir(parents=True)
    for name, data in state.items():
        (folder / "checkpoints" / name).write_bytes(data)
    return RunDir(folder)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_power_cut_at_any_point(scenario: str, memory: Path) -> None:
    assert power_cuts(scenario, memory / "run") == []


@pytest.mark.parametrize("without", ["files", "folder"])
@pytest.mark.parametrize("scenario", ["fifth checkpoint", "third unit"])
def test_without_flushing_a_power_cut_loses_something(scenario: str, without: str, memory: Path) -> None:
    """So the model of the disk above would notice."""
    assert power_cuts(scenario, memory / "run", without=without)
