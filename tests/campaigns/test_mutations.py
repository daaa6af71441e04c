"""Damaged files of every format: 10,000 of them in `make test-slow`, the first 500 in `make test`.

None may crash or hang the decoder, take more than 512 MB, or be refused without a reason: in a child process, and in
this one (as a process of its own, so that a crash is a failed test and not the end of the suite).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from cvtune_edge import ImageError
from cvtune_edge.child import ChildDecoder

from tests import hostile
from tests.mutants import ALL, mutant, options_of, problem_of

FEW: Final = 500
SECONDS: Final = 5.0
MEGABYTES: Final = 512

few_and_all = pytest.mark.parametrize(
    "count", [pytest.param(FEW, id="500"), pytest.param(ALL, id="10000", marks=pytest.mark.slow)]
)


def memory(pid: int) -> tuple[int, int]:
    """Most that a process had, and what it has now, in MB; zeros where there is no /proc."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():
        return 0, 0
    fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
    return int(fields["VmHWM"].split()[0]) >> 10, int(fields["VmRSS"].split()[0]) >> 10


def test_mutants_are_the_same_each_time() -> None:
    assert [mutant(number) for number in range(20)] == [mutant(number) for number in range(20)]
    good = set(hostile.good().values())
    assert not [name for name, data in map(mutant, range(FEW)) if data in good][5:]  # a few get a number they had
    assert len({name.split()[1] for name, _ in map(mutant, range(FEW))}) == len(hostile.good())


@few_and_all
def test_in_a_child(count: int) -> None:
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with ExitStack() as stack:
        children = {
            options.pixels: stack.enter_context(ChildDecoder(options, seconds=SECONDS, megabytes=MEGABYTES))
            for options in map(options_of, range(4))
        }
        at_first = {}
        for pixels, child in children.items():
            child.decode(hostile.good()["colour.png"], "warm")
            assert child.pid is not None
            at_first[pixels] = child.pid, memory(child.pid)[1]
        for number in range(count):
            name, data = mutant(number)
            start = time.perf_counter()
            outcome = in_child(children[options_of(number).pixels], name, data, number)
            slowest = max(slowest, time.perf_counter() - start)
            outcomes[outcome.partition(":")[0]] += 1
            if outcome not in ("read", "refused"):
                wrong.append(f"{name}: {outcome}")
        for pixels, child in children.items():
            pid, before = at_first[pixels]
            assert child.pid == pid, "a child died"
            assert memory(pid)[0] - before <= MEGABYTES
    assert not wrong, "\n".join(wrong)
    assert slowest < SECONDS
    assert outcomes["read"] > count / 20  # they are not only refused by their first bytes
    assert outcomes["refused"] > count / 5


CRASHERS: Final = {
    # OpenCV 5.0 dies of the fault in a frame, where the still picture is no frame of the animation (found by mutant
    # 23,293 of an earlier count)
    "a frame with a filter that does not exist": hostile.animated_png(
        still=hostile.packed_rows(1), frame=hostile.packed_rows(2, filter_of_row_10=77), counts=False
    ),
    "a picture with a filter that does not exist": hostile.animated_png(
        still=hostile.packed_rows(1, filter_of_row_10=77), frame=hostile.packed_rows(2)
    ),
}


@pytest.mark.parametrize("kind", CRASHERS)
def test_what_once_crashed_is_answered(kind: str) -> None:
    with ChildDecoder() as child:
        assert in_child(child, kind, CRASHERS[kind], 0) in ("read", "refused")


def in_child(child: ChildDecoder, name: str, data: bytes, number: int) -> str:
    """`read`, `refused`, or what is wrong."""
    try:
        problem = problem_of(child.decode(data, name), number)
    except ImageError as error:
        if error.path != name or not error.reason or not error.reason.isprintable():
            return f"refused with {error.message!r}"
        given_up = error.reason.startswith(("the decoder crashed", "took longer"))
        return error.reason if given_up else "refused"
    return problem or "read"


@few_and_all
def test_in_the_process_itself(count: int, repo: Path) -> None:
    """Without a child there is no second line: decode() gives a frame or an ImageError, whatever it is given."""
    wrong: list[str] = []
    done: list[dict[str, Any]] = []
    while len(done) < count:
        for answer in decoded(repo, len(done), count - len(done)):
            done.append(answer)
            if answer["problem"]:
                wrong.append(f"{answer['name']}: {answer['problem']}")
        if len(wrong) > 20:
            break
    assert not wrong, "\n".join(wrong)
    assert max(answer["seconds"] for answer in done) < SECONDS
    assert len([answer for answer in done if answer["read"]]) > count / 20


def decoded(repo: Path, first: int, count: int) -> Iterator[dict[str, Any]]:
    """The answers of one process; a mutant that kills it is the last."""
    command = [sys.executable, "-m", "tests.mutants", str(first), str(count)]
    trying = None
    with subprocess.Popen(command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            trying = answer.get("trying")
            if trying is None:
                yield answer
    if trying is not None:
        yield {"name": mutant(trying)[0], "problem": f"exit code {process.returncode}", "seconds": 0.0, "read": False}
    else:
        assert process.returncode == 0
