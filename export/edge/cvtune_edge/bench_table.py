"""What `bench` found, as a table for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from cvtune_edge.errors import CvtuneError
from cvtune_edge.latency import STEPS, Latency, Row, Times
from cvtune_edge.terminal import inert

_TOTAL = ("precision", "threads", "batch", "runs", "p50 ms", "p95 ms", "p99 ms", "mean ms", "frames/s", "peak MB")
_STEPS = ("precision", "threads", "step", "runs", "p50 ms", "p95 ms", "p99 ms", "mean ms")
_TEXTS = ("precision", "step", "what")


def lines(found: Latency, name: str) -> Iterator[str]:
    """Line by line, without colour.

    Args:
        found: by `bench`.
        name: of the bundle.
    """
    yield f"{name} on {found.machine}, {found.date}"
    yield f"from a frame in memory to the decision: {found.frames}"
    yield ""
    yield from _aligned([_TOTAL, *(_total(row) for row in found.rows)])
    steps = [cells for row in found.singles for cells in _steps(row)]
    if steps:
        yield ""
        yield "where the time of one frame goes (by runs with onnxruntime's profiler, brought to those without it)"
        yield from _aligned([_STEPS, *steps])
    yield ""
    yield "reading a file"
    files = [(one.what, *_cells(one.times)) for one in found.decoded]
    yield from _aligned([("what", *_STEPS[3:]), *files])
    yield ""
    yield from found.said()
    yield from (f"note: {note}" for note in found.notes)


def _total(row: Row) -> tuple[str, ...]:
    peak = "-" if row.peak_mb is None else f"{row.peak_mb:.0f}"
    return (row.precision, str(row.threads), str(row.batch), *_cells(row.total), f"{row.per_second:.1f}", peak)


def _steps(row: Row) -> Iterator[tuple[str, ...]]:
    for name in STEPS:
        if name in row.steps:
            yield row.precision, str(row.threads), name, *_cells(row.steps[name])


def _cells(times: Times) -> tuple[str, ...]:
    return (str(times.n), *(f"{value:.2f}" for value in (times.p50, times.p95, times.p99, times.mean)))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of one width, the head being the first row; texts to the left and numbers to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        texts = (name in _TEXTS for name in rows[0])
        cells = (c.ljust(w) if text else c.rjust(w) for c, w, text in zip(row, widths, texts, strict=True))
        yield "  ".join(cells).rstrip()


def save(found: Latency, path: Path) -> None:
    """Write everything as JSON.

    Raises:
        CvtuneError: it cannot be written.
    """
    try:
        path.write_text(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CvtuneError(f"{path}: cannot be written ({error.strerror})", hint="name another file") from error


def show(found: Latency, name: str, out: TextIO | None = None) -> None:
    """Print it."""
    for line in lines(found, name):
        print(inert(line), file=out or sys.stdout)
