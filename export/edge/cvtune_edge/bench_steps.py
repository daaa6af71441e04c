"""Which part of an answer goes into the resize, into the network, into the decision: from onnxruntime's profiler.

The nodes of a bundle's graph have names: those of the frame's way to the network begin with `frame_`, those behind it
with `last_`. The profiler writes how long each took in each run. (Timing frames that need no resize against frames that
do would leave turning and copying them with the network, and cannot be done where a mask asks for one size of frame.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from cvtune_edge.latency import STEPS, Times

_ENDING: Final = "_kernel_time"
_PREFIXES: Final = {"frame_": "preprocess", "net_": "network", "last_": "decision", "output_": "network"}


def read_profile(path: Path) -> list[dict[str, float]]:
    """Seconds of each step in each run that onnxruntime profiled, in their order.

    Args:
        path: what `end_profiling` of a session returned.

    Returns:
        One a run, with the seconds of the steps; empty where the graph's names do not tell them apart.
    """
    events = json.loads(path.read_text(encoding="utf-8"))
    return list(_runs(sorted(events, key=lambda event: event.get("ts", 0))))


def _runs(events: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, float]]:
    """An event of a run comes before those of its nodes: it begins earlier."""
    run = _Run()
    for event in events:
        if event.get("name") == "model_run":
            yield from run.done()
            run = _Run()
        elif event.get("cat") == "Node" and event["name"].endswith(_ENDING):
            run.add(event["name"], event["dur"] / 1e6)
    yield from run.done()


class _Run:
    """The nodes of one run, as they come."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STEPS, 0.0)
        self._step = STEPS[0]
        self._named: set[str] = set()

    def add(self, name: str, seconds: float) -> None:
        """A node that onnxruntime put in itself, without a prefix, belongs to the step it stands in."""
        for prefix, step in _PREFIXES.items():
            if name.startswith(prefix):
                self._step = step
                self._named.add(step)
        self._seconds[self._step] += seconds

    def done(self) -> Iterator[dict[str, float]]:
        if self._named or any(self._seconds.values()):
            yield self._seconds if self._named == set(STEPS) else {}


def steps_of(runs: Sequence[Mapping[str, float]], total: Times) -> dict[str, Times]:
    """The steps' times, brought to the time of the runs that were not profiled.

    The profiler takes a few percent itself, and what onnxruntime does between the nodes belongs to none of them: both
    are spread over the steps, so that their shares of a run are kept.

    Args:
        runs: from :func:`read_profile`, of one setting.
        total: of the same setting without the profiler.
    """
    sums = [sum(run.values()) for run in runs]
    if not sums or not all(sums):
        return {}
    scale = total.p50 / 1000 / median(sums)
    return {name: Times.of([run[name] * scale for run in runs]) for name in STEPS}
