"""How long a bundle takes on a machine, and on which: the values that `bench` measures, and their JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, quantiles
from typing import Any, Final, Self

SCHEMA: Final = 1
STEPS: Final = ("preprocess", "network", "decision")
FEW: Final = 100  # runs; below, p99 is the slowest of them or nearly


@dataclass(frozen=True)
class Times:
    """How long something took, n times.

    Attributes:
        n: how often it was measured.
        mean: milliseconds, as all the others.
        p50: half of the runs took no longer.
        p95: 95 of 100 took no longer.
        p99: 99 of 100 took no longer.

    Raises:
        ValueError: numbers that are no times, or out of order.
    """

    n: int
    mean: float
    p50: float
    p95: float
    p99: float

    def __post_init__(self) -> None:
        whole = isinstance(self.n, int) and not isinstance(self.n, bool) and self.n > 0
        if not whole or not all(map(_is_time, (self.mean, self.p50, self.p95, self.p99))):
            raise ValueError(f"{self}: expected a count and milliseconds")
        if not self.p50 <= self.p95 <= self.p99:
            raise ValueError(f"{self}: expected p50 <= p95 <= p99")

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Of measured times.

        Args:
            seconds: of each run, one or more.
        """
        several = [*seconds] * 2 if len(seconds) == 1 else seconds
        cuts = quantiles(several, n=100, method="inclusive")  # linear between two runs, as numpy.percentile
        p50, p95, p99 = (round(1000 * cuts[at - 1], 3) for at in (50, 95, 99))
        return cls(len(seconds), round(1000 * fmean(seconds), 3), p50, p95, p99)

    @property
    def steady(self) -> bool:
        """Whether the slow runs are near the usual one: p99 at most 1.5 times p50."""
        return self.p99 <= 1.5 * self.p50


@dataclass(frozen=True)
class Row:
    """One setting: from the frame in memory to the decision.

    Attributes:
        precision: "float32", "int8", ...
        threads: of the network.
        batch: frames at once; the line takes one at a time.
        total: of the whole batch.
        steps: preprocess, network and decision within it, where they could be told apart.
        peak_mb: most memory of a process that does only this; None where it was not measured.

    Raises:
        ValueError: a setting that there cannot be, or a step longer than the whole.
    """

    precision: str
    threads: int
    batch: int
    total: Times
    steps: Mapping[str, Times]
    peak_mb: float | None = None

    def __post_init__(self) -> None:
        if not self.precision or not all(isinstance(n, int) and n > 0 for n in (self.threads, self.batch)):
            raise ValueError(f"{self.precision!r}, {self.threads} threads, batch {self.batch}: no setting")
        if any(name not in STEPS or times.p50 > self.total.p50 for name, times in self.steps.items()):
            raise ValueError(f"steps {dict(self.steps)} of {self.total}: expected some of {STEPS}, none longer")
        if self.peak_mb is not None and not _is_time(self.peak_mb):
            raise ValueError(f"peak of {self.peak_mb} MB")

    @property
    def per_second(self) -> float:
        """Frames a second, one batch after the other."""
        return 1000 * self.batch / self.total.mean


@dataclass(frozen=True)
class Decoded:
    """Reading a file into a frame; `what` says which files."""

    what: str
    times: Times


@dataclass(frozen=True)
class Startup:
    """Seconds until a new process can answer, its files being in the system's cache.

    Attributes:
        libraries: loading numpy, OpenCV and onnxruntime.
        opened: verifying the files and opening the model.
        golden: asking about the golden frames.
        frames: how many those are.

    Raises:
        ValueError: no times.
    """

    libraries: float
    opened: float
    golden: float
    frames: int

    def __post_init__(self) -> None:
        if not all(map(_is_time, (self.libraries, self.opened, self.golden, self.frames))):
            raise ValueError(f"{self}: expected seconds")

    @property
    def total(self) -> float:
        """Seconds of all three."""
        return self.libraries + self.opened + self.golden


@dataclass(frozen=True)
class Machine:
    """What was measured on; nothing in it tells which machine of its kind.

    Attributes:
        processor: its model.
        flags: of the instructions that matter here, "avx2", "avx512_vnni", ...
        cores: that this process may use.
        processors: that the machine has.
        system: operating system and kind of processor.
        versions: of Python and the libraries.
        provider: who computed.
        spin: whether threads wait actively.

    Raises:
        ValueError: it is none.
    """

    processor: str
    flags: tuple[str, ...]
    cores: int
    processors: int
    system: str
    versions: Mapping[str, str]
    provider: str
    spin: bool

    def __post_init__(self) -> None:
        texts = (self.processor, self.system, self.provider, *self.flags)
        pairs = self.versions.items() if isinstance(self.versions, Mapping) else ((0, 0),)
        counts = (self.cores, self.processors)
        if not all(isinstance(one, str) for one in (*texts, *(text for pair in pairs for text in pair))):
            raise ValueError("a machine is told in texts")
        if not all(isinstance(count, int) and count > 0 for count in counts) or not isinstance(self.spin, bool):
            raise ValueError(f"{counts} cores, spin {self.spin!r}: expected numbers, and whether")

    def __str__(self) -> str:
        flags = ", ".join(flag.upper().replace("_", "-") for flag in self.flags)
        cores = f"{self.cores} of {self.processors} cores"
        runtime = f"onnxruntime {self.versions.get('onnxruntime', '?')}"
        spin = ", spinning threads" if self.spin else ""
        named = f"{self.processor}{f' ({flags})' if flags else ''}"
        return f"{named}, {cores}, {self.system}, {runtime}, provider {self.provider}{spin}"


@dataclass(frozen=True)
class Latency:
    """What `bench` found.

    Attributes:
        date: ISO 8601, of the day.
        machine: what was measured on.
        frames: what the network was shown, in words.
        size: (width, height) of these frames.
        rows: one a setting, the first with one thread and one frame.
        decoded: reading files.
        startup: of a new process.
        notes: why the figures may be worse than they have to be.

    Raises:
        ValueError: no row.
    """

    date: str
    machine: Machine
    frames: str
    size: tuple[int, int]
    rows: tuple[Row, ...]
    decoded: tuple[Decoded, ...]
    startup: Startup
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.rows or not self.date or len(self.size) != 2:
            raise ValueError("expected a date, a size and at least one row")

    def to_json(self) -> dict[str, Any]:
        """A tree for `json.dump`."""
        return {"schema": SCHEMA, **asdict(self), "said": list(self.said())}

    @classmethod
    def from_json(cls, tree: Any) -> Self:
        """From :meth:`to_json`.

        Raises:
            ValueError: it is none, or of another schema.
        """
        try:
            if tree["schema"] != SCHEMA:
                raise ValueError(f"schema {tree['schema']!r}, expected {SCHEMA}")
            machine = {**tree["machine"], "flags": tuple(tree["machine"]["flags"])}
            return cls(
                date=str(tree["date"]),
                machine=Machine(**_known(Machine, machine)),
                frames=str(tree["frames"]),
                size=(int(tree["size"][0]), int(tree["size"][1])),
                rows=tuple(map(_row, tree["rows"])),
                decoded=tuple(Decoded(str(one["what"]), _times(one["times"])) for one in tree["decoded"]),
                startup=Startup(**_known(Startup, tree["startup"])),
                notes=tuple(map(str, tree["notes"])),
            )
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"no latency ({error!r})") from error

    @property
    def singles(self) -> tuple[Row, ...]:
        """One frame at a time, as the line has them."""
        return tuple(row for row in self.rows if row.batch == 1)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Of the models that were timed."""
        return tuple(dict.fromkeys(row.precision for row in self.rows))

    def headlines(self) -> Iterator[str]:
        """One frame at a time, a sentence for each precision."""
        width, height = self.size
        for precision in self.precisions:
            singles = [_single(row) for row in self.singles if row.precision == precision]
            if singles:
                yield f"one frame of {width} x {height} takes {'; '.join(singles)} ({precision})"

    def said(self) -> Iterator[str]:
        """What all of it means, in sentences."""
        yield from self.headlines()
        for precision in self.precisions:
            best = max((row for row in self.rows if row.precision == precision), key=lambda row: row.per_second)
            if best.batch > 1:
                yield (
                    f"most frames a second with batches of {best.batch} on {_threads(best.threads)}: "
                    f"{math.floor(best.per_second)} ({precision})"
                )
        for one in self.decoded:
            yield f"reading a file adds {one.times.p50:.1f} ms (p99 {one.times.p99:.1f} ms): {one.what}"
        start = self.startup
        yield (
            f"a new process answers after {start.total:.1f} s: libraries {start.libraries:.2f} s, opening "
            f"{start.opened:.2f} s, {start.frames} golden frames {start.golden:.2f} s"
        )


def _single(row: Row) -> str:
    times = f"{row.total.p50:.1f} ms (p99 {row.total.p99:.1f} ms) on {_threads(row.threads)}"
    return f"{times}: {math.floor(row.per_second)} parts a second"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _row(tree: Mapping[str, Any]) -> Row:
    steps = {str(name): _times(times) for name, times in tree["steps"].items()}
    return Row(**{**_known(Row, tree), "total": _times(tree["total"]), "steps": steps})


def _times(tree: Mapping[str, Any]) -> Times:
    return Times(**_known(Times, tree))


def _known(kind: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a dataclass; what later versions add is passed over."""
    return {one.name: tree[one.name] for one in fields(kind) if one.name in tree}


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
