"""190 bundles from other hands and more: each is refused in words or harmless, and none of them does anything else.

A child process opens them, with an audit hook that sees what Python does; the system itself (inotify) tells what any
library does with the files outside. A crash of the child is a failure of the bundle that it was shown.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.edge import hostile
from tests.edge.hostile import Case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify, named pipes and limits of memory")

SECONDS = 20.0  # for three commands of one bundle; the slowest has a million fields to look at
ACTIVE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
CODES = (0, 2, 3, 4)
_WATCHED = 0x1 | 0x2 | 0x4 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200  # read, written, opened, moved, made, taken away


@dataclass(frozen=True)
class Shown:
    """What a bundle did: for each command what was said, and what was done beside it; or that the process died."""

    case: Case
    commands: tuple[dict[str, Any], ...]
    died: str


class Outside:
    """A folder that nobody is to look at."""

    def __init__(self, folder: Path, libc: Any) -> None:
        self._libc = libc
        self._file = libc.inotify_init1(os.O_NONBLOCK)
        # a file by itself, too: another name of it, a hard link, is told only so. The one that may be read is left out
        files = [path for path in folder.rglob("*") if path.name != "linked.bin"]
        for path in (folder, *files):
            assert libc.inotify_add_watch(self._file, os.fsencode(path), _WATCHED) >= 0

    def touched(self) -> bytes:
        """The system's notes since the beginning; none where nothing was touched."""
        try:
            return os.read(self._file, 1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._file)


@contextmanager
def watched(folder: Path) -> Iterator[Outside]:
    found = Outside(folder, ctypes.CDLL(None, use_errno=True))
    try:
        yield found
    finally:
        found.close()


def states(folder: Path) -> dict[str, tuple[int, ...]]:
    """Kind, size and time of everything in a folder."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (folder, *sorted(folder.rglob("*") if folder.is_dir() else ())):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def show(cases: Sequence[Case], base: Path) -> list[Shown]:
    """Make the bundles, and show them to a child process; to another one from the next on where it dies."""
    outside, picture, idle = base / "outside", base / "picture.png", base / "idle"
    hostile.fill_outside(outside)
    idle.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)).save(picture)
    of = hostile.fine(base / "fine")
    folders = {case.name: base / str(number) for number, case in enumerate(cases)}
    assert len(folders) == len(cases), "two cases of one name"
    for case in cases:
        hostile.make(case, of, folders[case.name], outside)
    before = {name: states(folder) for name, folder in folders.items()}
    found: list[Shown] = []
    with watched(outside) as secret:
        while len(found) < len(cases):
            left = {case.name: str(folders[case.name]) for case in cases[len(found) :]}
            found += list(_shown(cases, left, base, picture))
        assert secret.touched() == b"", "something outside was opened, read or written"
    assert not list(idle.rglob("*")), "a file was left in an empty home"
    assert not (outside / "executed").exists()
    changed = [name for name, folder in folders.items() if states(folder) != before[name]]
    assert not changed, "bundles that were written to"
    return found


def _shown(cases: Sequence[Case], left: dict[str, str], base: Path, picture: Path) -> Iterator[Shown]:
    task = base / "task.json"
    task.write_text(json.dumps({"picture": str(picture), "cases": left}), encoding="utf-8")
    command = [sys.executable, "-B", str(Path(__file__).with_name("hostile_child.py")), str(task)]
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {"HOME": str(base / "idle")}
    done = subprocess.run(
        command, cwd=base / "idle", env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    by_name = {case.name: case for case in cases}
    assert lines, f"the child did not begin: {done.stderr}"
    for line in lines:
        if "did" in line:
            yield Shown(by_name[line["name"]], tuple(line["did"]), "")
    if "begun" in lines[-1]:
        yield Shown(by_name[lines[-1]["begun"]], (), f"exit code {done.returncode}: {done.stderr[-500:]}")


def complaints(shown: Shown) -> Iterator[str]:
    """What is wrong with how a bundle was met."""
    if shown.died:
        yield f"the process died: {shown.died}"
    for one in shown.commands:
        said, verb = one["out"] + one["err"], one["verb"]
        if one["raised"] or "Traceback" in said or one["code"] not in CODES:
            yield f"{verb}: exit code {one['code']}, {one['raised'] or said[-300:]}"
            continue
        if one["did"]:
            yield f"{verb} did {one['did']}"
        if ACTIVE.search(said):
            yield f"{verb} sent to the terminal {ACTIVE.search(said)}"
        if one["seconds"] > SECONDS:
            yield f"{verb} took {one['seconds']:.1f} s"
        if one["code"] == 2:
            yield from (f"{verb}: {what}" for what in unclear(one["err"], one["out"]))
        yield from (f"{verb}: {what}" for what in unexpected(shown.case, one))


def unclear(err: str, out: str) -> Iterator[str]:
    """Whether a refusal is: one message, what is wrong and what to do, and nothing beside it."""
    lines = err.splitlines()
    if out or not lines or not lines[0].startswith("error: ") or not lines[-1].startswith("hint: "):
        yield f"no clear refusal: {out!r} {err[-500:]!r}"
    if (
        len(lines) > 40
        or max(map(len, lines), default=0) > 1200
        or sum(line.startswith("error: ") for line in lines) > 1
    ):
        yield f"a long refusal of {len(lines)} lines: {err[:300]!r}"


def unexpected(case: Case, one: dict[str, Any]) -> Iterator[str]:
    if case.says is None or (one["verb"] == "info" and case.info is None):
        return
    if one["verb"] == "info" and not case.info:
        if one["code"]:
            yield f"refused, though no model is run: {one['err']!r}"
    elif one["code"] not in (2, 3):
        yield f"not refused: {one['out'][:200]!r}"
    elif case.says not in one["err"]:
        yield f"said {one['err']!r}, expected {case.says!r}"


class TestTheWatchItself:
    def test_what_is_done_outside_is_told(self, tmp_path: Path) -> None:
        hostile.fill_outside(tmp_path / "outside")
        os.link(tmp_path / "outside" / "secret.txt", tmp_path / "another name")
        for act in (
            lambda: (tmp_path / "outside" / "weights.bin").read_bytes(),
            lambda: (tmp_path / "another name").read_bytes(),
            lambda: (tmp_path / "outside" / "executed").write_bytes(b""),
            lambda: (tmp_path / "outside" / "golden" / "00.bin").unlink(),
        ):
            with watched(tmp_path / "outside") as outside:
                assert outside.touched() == b""
                act()
                assert outside.touched()

    @pytest.mark.parametrize(
        "act",
        [
            "open('/etc/hosts').read()",
            "open('/a/bundle/../secret').read()",
            "open('/a/bundle/new', 'w')",
            "__import__('os').system('true')",
            "__import__('subprocess').run(['true'])",
            "__import__('pickle').loads(b'cos\\nsystem\\n.')",
            "__import__('socket').socket().connect(('127.0.0.1', 9))",
            "__import__('pytest')",
            "__import__('os').mkdir('/a/b')",
            "__import__('ctypes').CDLL('libc.so.6')",
        ],
    )
    def test_what_python_does_is_told(self, act: str, tmp_path: Path) -> None:
        place = str(Path(__file__).parent)
        code = f"""
import sys; sys.path.insert(0, {place!r})
from hostile_child import Watch
watch = Watch("/picture.png")
watch.folder = "/a/bundle"
try:
    {act}
except Exception:
    pass
watch.folder = ""
print(watch.seen)
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() != "[]"

    def test_a_process_that_dies_is_told_by_its_bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real, first, second = subprocess.run, *(list(hostile.mutations(range(2), sealed=True)))
        runs = []

        def dying(command: Any, **options: Any) -> Any:
            runs.append(command)
            if len(runs) > 1:
                return real(command, **options)
            return subprocess.CompletedProcess(command, -11, json.dumps({"begun": first.name}), "Segmentation fault")

        monkeypatch.setattr(subprocess, "run", dying)
        found = show([first, second], tmp_path)
        assert [shown.case for shown in found] == [first, second]
        assert list(complaints(found[0])) == ["the process died: exit code -11: Segmentation fault"]
        assert [one["verb"] for one in found[1].commands] == ["verify", "predict", "info"]


def test_none_of_190_bundles_does_anything_but_answer_or_be_refused(tmp_path: Path) -> None:
    cases = list(hostile.cases())
    assert len(cases) >= 190
    found = show(cases, tmp_path)
    assert [shown.case for shown in found] == cases
    wrong = [f"{shown.case.name}: {what}" for shown in found for what in complaints(shown)]
    assert not wrong, f"{len(wrong)} complaints about {len(cases)} bundles:\n" + "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 6000, 500))
def test_many_mutations(start: int, tmp_path: Path) -> None:
    cases = list(hostile.mutations(range(start, start + 500), sealed=True))
    wrong = [f"{shown.case.name}: {what}" for shown in show(cases, tmp_path) for what in complaints(shown)]
    assert not wrong, "\n".join(wrong)
