"""What the user sees while it runs: one line a step on stdout, progress with time left on stderr."""

from __future__ import annotations

import math
import re
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LABEL_WIDTH = 9
PLAIN_EVERY = 10.0  # seconds between two progress lines where there is no terminal


class Console:
    """Prints steps and progress.

    Args:
        quiet: print nothing.
        verbose: print details as well.
        out: where steps go, stdout when unset.
        err: where progress goes, stderr when unset; a bar on a terminal, plain lines elsewhere.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet, self._verbose, self._clock = quiet, verbose, clock
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._bar: Progress | None = None
        self._task: Any = None
        self._what = ""
        self._began = self._said = 0.0
        self.lines: list[str] = []  # everything that was told in steps, also when quiet

    def step(self, name: str, text: str, *, more: tuple[str, ...] = ()) -> None:
        """One line of the summary; `more` are lines below it."""
        self.end_progress()
        lines = [f"  {name:<{LABEL_WIDTH}} {text}"]
        for line in more:
            wrapped = textwrap.wrap(line, 106, break_on_hyphens=False, break_long_words=False)
            lines += textwrap.indent("\n".join(wrapped), " " * (LABEL_WIDTH + 5)).splitlines()
        self.lines += lines
        if not self._quiet:
            print("\n".join(lines), file=self._out, flush=True)

    def detail(self, name: str, text: str) -> None:
        """A line that is printed with -v only."""
        if self._verbose:
            self.step(name, text)

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total`; a new `what` starts a new bar."""
        if self._quiet:
            return
        if what != self._what:
            self.end_progress()
            self._what, self._began = what, self._clock()
            self._said = self._began
        if self._err.isatty():
            self._draw(what, done, total)
        elif self._clock() - self._said >= PLAIN_EVERY:
            self._said = self._clock()
            print(f"  {what:<{LABEL_WIDTH}} {done} of {total}{self._left(done, total)}", file=self._err, flush=True)
        if done >= total:
            self.end_progress()

    def end_progress(self) -> None:
        """Remove the bar."""
        self._what = ""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            columns = (TextColumn("  {task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=RichConsole(file=self._err), transient=True)
            self._task = self._bar.add_task(what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done)

    def _left(self, done: int, total: int) -> str:
        spent = self._clock() - self._began
        return f", about {duration(spent / done * (total - done))} left" if done else ""


def duration(seconds: float) -> str:
    """Seconds in words: "42 s", "3 min 02 s", "1 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def parse_duration(text: str) -> float:
    """Words into seconds: "30s", "5m", "2h", "90".

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", text.strip())
    seconds = float(match[1]) * {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"'{text}' is no duration; expected 30s, 5m or 2h")
    return seconds
