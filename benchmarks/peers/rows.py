"""What was measured: one row a run of a tool, one JSON line each, and the questions that are asked of rows."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cvtune.errors import DataError
from cvtune.rundir import write_text

Key = tuple[str, int, str, str, int]

END = "end"  # cvtune without a budget
BUDGETS: Mapping[str, float] = {"10s": 10.0, "60s": 60.0, "5m": 300.0}


@dataclass(frozen=True)
class Snapshot:
    """A model on its way.

    Attributes:
        seconds: from the start of the process until the model was there, scoring of test images taken out for peers.
        what: `epoch 3`, or cvtune's stage.
        right: of the test images.
        n: test images.

    Raises:
        ValueError: no such count, or a time before the start.
    """

    seconds: float
    what: str
    right: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.n or self.n < 1 or not self.seconds >= 0:
            raise ValueError(f"{self.right} of {self.n} after {self.seconds} s is no snapshot")

    @property
    def accuracy(self) -> float:
        """The share of the test images that are right."""
        return self.right / self.n


@dataclass(frozen=True)
class Row:
    """One run of one tool on one folder.

    Attributes:
        folder: the source's name.
        split_seed: of the sides.
        tool: cvtune, fastai, vyntri or plain.
        variant: cvtune's budget or `end`, `1+5`, `8 epochs`.
        seed: of the tool.
        seconds: from the start of the process to the tool's own end.
        snapshots: ascending in time, at least one; the last is what the tool ends with.
        facts: date, machine, versions, commit, files, load and whatever else is good to know.

    Raises:
        ValueError: no snapshot, not in order, or not of the same number of test images.
    """

    folder: str
    split_seed: int
    tool: str
    variant: str
    seed: int
    seconds: float
    snapshots: tuple[Snapshot, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        times = [one.seconds for one in self.snapshots]
        if not times or times != sorted(times) or len({one.n for one in self.snapshots}) != 1:
            raise ValueError(f"{self.key}: snapshots {self.snapshots}, expected some, ascending, of one test side")

    @property
    def key(self) -> Key:
        """What tells a row from others; a row is measured once."""
        return self.folder, self.split_seed, self.tool, self.variant, self.seed

    @property
    def last(self) -> Snapshot:
        """The model that the tool ends with."""
        return self.snapshots[-1]

    def at(self, seconds: float) -> Snapshot | None:
        """The model at hand after so many seconds, None before the first."""
        there = [one for one in self.snapshots if one.seconds <= seconds]
        return there[-1] if there else None

    def to_json(self) -> dict[str, Any]:
        """One flat object; the facts are behind the rest."""
        return {**asdict(self), "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        """The row of :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        return cls(**{**value, "snapshots": tuple(Snapshot(**one) for one in value["snapshots"])})


def read_rows(file: Path) -> list[Row]:
    """All rows of a file of results; none where it is not there yet.

    Raises:
        DataError: a line that is no row.
    """
    if not file.is_file():
        return []
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(Row.from_json(json.loads(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: line {number} is no row ({error})", hint="remove the line") from error
    return rows


def add_row(file: Path, row: Row) -> None:
    """Append a row; whatever happens, the file has it whole or not at all."""
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    write_text(file, f"{before}{json.dumps(row.to_json(), ensure_ascii=False, allow_nan=False)}\n")


def check_files(rows: Iterable[Row], digest: str, *, file: Path) -> None:
    """Refuse to measure on other files than those of the rows that are there.

    Args:
        rows: of one folder and split.
        digest: of the prepared files.
        file: where the rows are from, for the message.

    Raises:
        DataError: they differ.
    """
    other = [row for row in rows if row.facts.get("files", {}).get("digest", digest) != digest]
    if other:
        what = f"{other[0].folder}, split {other[0].split_seed}"
        raise DataError(
            f"{file}: {len(other)} rows of {what}, were measured on other files",
            hint="compare on one set of files: remove these rows, or name another file with --results",
        )


def mean_at(rows: Sequence[Row], seconds: float) -> float | None:
    """The mean accuracy, over runs, of the models at hand after so many seconds; None where one run has none yet."""
    found = [row.at(seconds) for row in rows]
    there = [one.accuracy for one in found if one is not None]
    return statistics.fmean(there) if rows and len(there) == len(rows) else None


def time_to(rows: Sequence[Row], accuracy: float) -> float | None:
    """Seconds until the mean accuracy of these runs' models at hand reaches `accuracy`; None where it never does."""
    for seconds in sorted({one.seconds for row in rows for one in row.snapshots}):
        mean = mean_at(rows, seconds)
        if mean is not None and mean >= accuracy - 1e-12:
            return seconds
    return None


def best_time_to(rows: Sequence[Row], accuracy: float) -> tuple[float, str] | None:
    """The variant that reaches an accuracy first, in the mean over its seeds, and its seconds; None where none does."""
    by_variant = grouped(rows, lambda row: row.variant)
    times = {variant: time_to(own, accuracy) for variant, own in by_variant.items()}
    reached = [(seconds, variant) for variant, seconds in times.items() if seconds is not None]
    return min(reached, default=None)


def better(rows: Sequence[Row]) -> Row | None:
    """Of runs of one tool the one that ends with more test images right, the shorter of equals; None of none."""
    return max(rows, key=lambda row: (row.last.accuracy, -row.seconds), default=None)


def grouped(rows: Iterable[Row], of: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by some text, in the order in which the texts come up."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(of(row), []).append(row)
    return found


def told_seconds(seconds: float) -> str:
    """`8.2 s`, `38 s`, `15.1 min`, as long as it takes to be read at a glance."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if round(seconds) < 120 else f"{math.floor(seconds / 6 + 0.5) / 10:.1f} min"
