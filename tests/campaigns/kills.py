"""Kill a run again and again, resume it each time, and compare what it ends with: byte for byte, or it did not work."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cvtune.rundir import RunDir

_LOOK: Final = 0.005  # seconds between two looks at the clock and the files
_TAIL: Final = 3000  # characters of a log that are shown
_CHANCES: Final = 3  # rounds that a moment may miss: a file that is there for a millisecond is not always seen


@dataclass(frozen=True)
class Moment:
    """When to kill a process.

    Attributes:
        seconds: after its start, or after `file` has changed.
        file: a pattern below the run directory, "checkpoints/tail-*.json" for example; the clock starts when a file
            that fits appears, grows or is replaced. Empty: at the start.
    """

    seconds: float
    file: str = ""


@dataclass(frozen=True)
class Kill:
    """A kill that hit.

    Attributes:
        round: of the run; each is begun anew.
        stage: what it was doing, as `stage_of` says.
        seconds: since the process was started.
    """

    round: int
    stage: str
    seconds: float


def kill_and_resume(
    start: Sequence[str],
    resume: Sequence[str],
    run: Path,
    *,
    kills: int,
    seed: int,
    seconds: float,
    reference: bytes | Path,
    moments: Sequence[Moment] = (),
    per_round: int = 5,
    result: str = "weights.safetensors",
    where: Callable[[Path], str] | None = None,
    environment: dict[str, str] | None = None,
    limit: float = 600,
) -> list[Kill]:
    """Start a run, kill it with all its children at some moment, resume it, kill it again, until it ends by itself.

    Rounds follow each other until as many kills have hit as asked for; after each the result is compared.

    Args:
        start: command that begins the run in `run`, which is deleted before each round.
        resume: command that goes on with it. Where a kill left nothing to resume (no config.toml), `start` is used
            again.
        run: the run directory.
        kills: how many must hit a living process.
        seed: of the random moments.
        seconds: that an undisturbed run takes; moments are drawn evenly from it.
        reference: bytes of the file that an undisturbed run ends with, or its path.
        moments: used up first, one a kill and one after the other, so that every stage is hit. One that a round
            missed is waited for again in the next.
        per_round: kills of one run at most.
        result: the file that is compared, below `run`.
        where: names what a killed run was doing; `stage_of` when unset.
        environment: variables added to the process's own.
        limit: seconds that a process may take until it ends by itself.

    Returns:
        The kills that hit.

    Raises:
        AssertionError: a process failed by itself, hung, or the result differs.
    """
    wanted = reference if isinstance(reference, bytes) else reference.read_bytes()
    drawn, planned = random.Random(seed), list(moments)
    hits: list[Kill] = []
    rounds = missed = 0
    while len(hits) < kills:
        rounds += 1
        assert rounds <= 4 * kills, f"the run ends before it can be killed: {seconds} s is too long, {hits}"
        shutil.rmtree(run, ignore_errors=True)
        ended = False
        for _ in range(min(per_round, kills - len(hits))):
            moment = planned[0] if planned else Moment(drawn.uniform(0, seconds))
            lived = _run(_command(start, resume, run), run, environment, limit, moment)
            if lived is not None:
                planned, missed = planned[1:], 0
                hits.append(Kill(rounds, (where or stage_of)(run), lived))
            if ended := lived is None or (run / "DONE").is_file():
                break
        if not ended:
            _run(_command(start, resume, run), run, environment, limit, None)
        assert (run / result).read_bytes() == wanted, f"round {rounds}: other bytes after {hits}"
        missed += bool(planned) and ended
        assert missed < _CHANCES, f"{planned[0]} never came in {_CHANCES} rounds"
    return hits


def stage_of(run: Path) -> str:
    """What a killed run was doing.

    "reading" before there is a config.toml, then the unit of plan.json that is not in the ledger, "after tail" where
    all are (it exports, or chooses the next), "done" when DONE is there.
    """
    files = RunDir(run)
    if files.done.is_file():
        return "done"
    if not files.config.is_file():
        return "reading"
    finished = [name for _, name in files.units()]
    planned = list(json.loads(files.plan.read_text(encoding="utf-8"))["stages"]) if files.plan.is_file() else ["probe"]
    if not finished:
        return planned[0]
    left = [name for name in planned if name not in finished]
    return left[-1] if left else f"after {finished[-1]}"


def _command(start: Sequence[str], resume: Sequence[str], run: Path) -> Sequence[str]:
    if (run / "config.toml").is_file():
        return resume
    shutil.rmtree(run, ignore_errors=True)
    return start


def _run(
    command: Sequence[str], run: Path, environment: dict[str, str] | None, limit: float, moment: Moment | None
) -> float | None:
    """Run it until it ends (None) or is killed (the seconds that it lived)."""
    log = run.with_name(f"{run.name}.log")
    before = _seen(run, moment)
    with log.open("wb") as out:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # its own process group: loaders and decoders are killed with it
        )
    try:
        since = started
        waiting = bool(moment and moment.file)
        while process.poll() is None:
            now = time.monotonic()
            if waiting and _seen(run, moment) - before:
                since, waiting = now, False
            if moment and not waiting and now - since >= moment.seconds:
                break
            assert now - started < limit, f"still running after {limit} s:\n{_tail(log)}"
            time.sleep(_LOOK)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if code == -signal.SIGKILL:
        return time.monotonic() - started
    assert code == 0, f"exit code {code} of {' '.join(command)}:\n{_tail(log)}"
    return None


def _seen(run: Path, moment: Moment | None) -> set[tuple[str, int, int]]:
    """Name, size and time of what fits the moment's pattern."""
    seen = set()
    for path in run.glob(moment.file) if moment and moment.file else ():
        with contextlib.suppress(OSError):
            status = path.stat()
            seen.add((path.name, status.st_size, status.st_mtime_ns))
    return seen


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
