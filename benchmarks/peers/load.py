"""What else the machine did while something was timed: a figure taken beside another program is not one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cvtune_edge.machine import own_seconds, processor_seconds

BUSY = 1.5  # cores used by others; beyond that a row is warned of

_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Load:
    """The machine around one row.

    Attributes:
        start: load average of the last minute, before the row; None where the system has none.
        end: likewise, after it.
        others: cores that other programs used meanwhile, None where the system does not tell.
    """

    start: float | None
    end: float | None
    others: float | None

    @property
    def busy(self) -> bool:
        """Others took so much that the times are not to be trusted."""
        return self.others is not None and self.others > BUSY


class Meter:
    """Measures from its making to :meth:`read`; what this process and its finished children used is no one else's."""

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._start = average()
        self._began = time.monotonic()
        self._busy, self._own = busy_seconds(stat), own_seconds()

    @contextmanager
    def held(self) -> Iterator[None]:
        """What other programs do inside does not count, nor does its time."""
        began, busy = time.monotonic(), busy_seconds(self._stat)
        try:
            yield
        finally:
            self._began += time.monotonic() - began
            now = busy_seconds(self._stat)
            if self._busy is not None and busy is not None and now is not None:
                self._busy += now - busy

    def read(self) -> Load:
        """The load until now."""
        busy, wall = busy_seconds(self._stat), time.monotonic() - self._began
        if busy is None or self._busy is None or wall <= 0:
            return Load(self._start, average(), None)
        others = (busy - self._busy - (own_seconds() - self._own)) / wall
        return Load(self._start, average(), round(max(0.0, others), 2))


def average() -> float | None:
    """The load average of the last minute; None where the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def busy_seconds(stat: Path = _STAT) -> float | None:
    """Seconds of all cores together that were not idle since the machine started; None without /proc."""
    found = processor_seconds(stat)
    return None if found is None else sum(found)  # what the host took was not ours either


def warn_if_busy(seconds: float = 1.0) -> None:
    """Look at the machine for a moment before anything is timed, and say so where others are using it."""
    meter = Meter()
    time.sleep(seconds)
    load = meter.read()
    if load.busy:
        print(
            f"warning: other programs use {load.others:.1f} cores now (more than {BUSY}): the times will be too long",
            file=sys.stderr,
        )
