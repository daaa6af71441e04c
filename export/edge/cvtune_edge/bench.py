"""How long does a bundle take on this machine, by threads, batches and precisions; with the memory and the start."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from cvtune_edge import machine
from cvtune_edge.bench_child import Child, ask
from cvtune_edge.bench_files import Material, gather
from cvtune_edge.bench_steps import read_profile, steps_of
from cvtune_edge.bench_timed import Ask, Setting, Timed, frame_size, in_turns, timed
from cvtune_edge.errors import CvtuneError
from cvtune_edge.latency import FEW, Decoded, Latency, Row, Startup, Times
from cvtune_edge.manifest import Manifest
from cvtune_edge.runtime import Bundle

BATCHES: Final = (1, 2, 4, 8, 16, 32)
SECONDS: Final = 20.0
_EACH: Final = 4  # cores; with more of them threads are doubled from one setting to the next
_SINGLE: Final = 3.0  # share of the time for one frame at a time, against 1 for a batch: p99 needs many runs
_PROFILED, _READING = 0.15, 0.1  # shares of the time
_MOST_PROFILED: Final = 100  # runs; each writes some 70 kB into the profile


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        threads: of the network; None for 1 up to the cores that this process may use.
        batches: frames at once.
        seconds: for all of it, about; large batches may need more.
        size: (width, height) of a drawn frame; None for what the bundle takes, 640 x 480 where it takes any.
        images: files and folders whose reading is timed, and whose pictures the network is shown.
        provider: who computes.
        spin: whether threads wait actively.

    Raises:
        CvtuneError: a number that is none.
    """

    threads: tuple[int, ...] | None = None
    batches: tuple[int, ...] = BATCHES
    seconds: float = SECONDS
    size: tuple[int, int] | None = None
    images: tuple[Path, ...] = ()
    provider: str = "cpu"
    spin: bool = False

    def __post_init__(self) -> None:
        numbers = (*(self.threads or (1,)), *self.batches, *(self.size or (1,)))
        if min(numbers, default=0) < 1 or not self.batches or self.threads == () or not self.seconds > 0:
            told = f"threads {self.threads}, batches {self.batches}, {self.seconds} seconds, size {self.size}"
            raise CvtuneError(f"{told}: expected numbers of at least 1")
        if self.size is not None and self.images:
            raise CvtuneError("pictures have a size of their own", hint="leave out --size, or the pictures")


def bench(path: Path | str, plan: Plan | None = None, *, progress: Callable[[str], None] = lambda _: None) -> Latency:
    """Measure a bundle; nothing is written.

    Args:
        path: of the bundle.
        plan: what is measured.
        progress: told what is being done.

    Raises:
        BundleError: not a bundle, or one that was changed.
        CvtuneError: a provider that does not run here, or pictures that cannot be read.
    """
    plan = plan or Plan()
    began, others = time.monotonic(), machine.Others()
    bundle = Bundle(path, threads=1, verify=False, provider=plan.provider)
    plan = replace(plan, threads=plan.threads or _threads(plan.provider))
    material = gather(bundle, plan.images, frame_size(bundle.manifest, plan.size))
    work = _Work(bundle.path, plan, material, tuple(_settings(bundle.manifest, plan)))
    progress("memory and start")
    children = _children(work)
    progress("reading files")
    decoded = _decode(material, _READING * plan.seconds)
    progress("steps")
    profiled = _profile(work)
    progress(f"{len(work.settings)} settings in turns")
    totals = _time(work, max(plan.seconds - (time.monotonic() - began), plan.seconds / 2))
    rows = tuple(_row(one, totals[one], profiled[one], children.get(one)) for one in work.settings)
    return Latency(
        date=datetime.now(UTC).date().isoformat(),
        machine=machine.facts(_computed_by(bundle, plan), spin=plan.spin),
        frames=material.said,
        size=material.size,
        rows=rows,
        decoded=decoded,
        startup=_startup(children),
        notes=(*machine.settings_notes(), *others.notes(), *material.notes, *_notes(rows)),
    )


@dataclass(frozen=True)
class _Work:
    """What is measured of which bundle, in which settings, with what to show it."""

    path: Path
    plan: Plan
    material: Material
    settings: tuple[Setting, ...]

    def open(self, setting: Setting, *, profile: Path | None = None) -> Timed:
        """The bundle in a setting."""
        return Timed(self.path, setting, provider=self.plan.provider, spin=self.plan.spin, profile=profile)


def _threads(provider: str) -> tuple[int, ...]:
    """1 up to the cores that are granted; what another provider computes with is its own affair."""
    cores = machine.granted()
    if provider.lower() != "cpu":
        return (cores,)
    doubled = (2**power for power in range(cores.bit_length()))
    return tuple(range(1, cores + 1)) if cores <= _EACH else tuple(sorted({*doubled, cores}))


def _settings(manifest: Manifest, plan: Plan) -> Iterator[Setting]:
    """Every number of threads with one frame at a time, and all batches with the most threads."""
    threads = plan.threads or (1,)
    for precision in manifest.models:
        if 1 in plan.batches:
            yield from (Setting(precision, count, 1) for count in threads)
        yield from (Setting(precision, max(threads), batch) for batch in plan.batches if batch > 1)


def _children(work: _Work) -> dict[Setting, Child]:
    """What new processes measure: one a setting, where one frame is answered at a time or most at once."""
    largest = max(setting.batch for setting in work.settings)
    plan, size = work.plan, work.material.size
    common = {"bundle": str(work.path.resolve()), "size": size, "provider": plan.provider, "spin": plan.spin}
    return {
        one: ask({**common, "precision": one.precision, "threads": one.threads, "batch": one.batch})
        for one in work.settings
        if one.batch in (1, largest)
    }


def _startup(children: Mapping[Setting, Child]) -> Startup:
    """Of the model proper, one frame at a time and with as many threads as there are cores where that was measured."""
    proper = [one for one in children if one.precision == "float32"]
    child: Mapping[str, Any] = children[max(proper, key=lambda one: (one.batch == 1, one.threads))]
    libraries, opened, golden = (round(child[name], 3) for name in ("libraries", "opened", "golden"))
    return Startup(libraries, opened, golden, child["frames"])


def _profile(work: _Work) -> dict[Setting, list[dict[str, float]]]:
    """Seconds of the steps in each of some runs of each setting; none where another provider computes.

    Its nodes run while onnxruntime goes on, so that their times do not add up to the answer's.
    """
    found: dict[Setting, list[dict[str, float]]] = {setting: [] for setting in work.settings}
    if work.plan.provider.lower() != "cpu":
        return found
    seconds = _PROFILED * work.plan.seconds / len(work.settings)
    with tempfile.TemporaryDirectory(prefix="cvtune-bench-") as folder:
        for number, ours in enumerate(_by_session(work.settings)):
            model = work.open(ours[0], profile=Path(folder) / f"{number}-")
            counts = [_run_some(model, one, work.material.frames, seconds) for one in ours]
            runs = iter(read_profile(model.end_profiling()))
            for one, (warm, count) in zip(ours, counts, strict=True):
                found[one] = [next(runs, {}) for _ in range(warm + count)][warm:]
    return found


def _by_session(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Settings that one session serves: batches differ, model and threads do not."""
    keys = dict.fromkeys((one.precision, one.threads) for one in settings)
    return [[one for one in settings if (one.precision, one.threads) == key] for key in keys]


def _run_some(model: Timed, setting: Setting, frames: Sequence[NDArray[Any]], seconds: float) -> tuple[int, int]:
    """How many runs were made to warm up, and how many more."""
    answer = model.asker(frames, setting.batch)
    answer()
    count = max(3, min(_MOST_PROFILED, int(seconds / timed(answer))))
    for _ in range(count):
        answer()
    return 2, count


def _decode(material: Material, seconds: float) -> tuple[Decoded, ...]:
    asks = [one.read for one in material.files]
    times = in_turns(asks, [1.0] * len(asks), seconds)
    return tuple(Decoded(one.what, Times.of(found)) for one, found in zip(material.files, times, strict=True))


def _time(work: _Work, seconds: float) -> dict[Setting, Times]:
    asks: dict[Setting, Ask] = {}
    for ours in _by_session(work.settings):
        model = work.open(ours[0])
        asks |= {one: model.asker(work.material.frames, one.batch) for one in ours}
    weights = [_SINGLE if one.batch == 1 else 1.0 for one in asks]
    found = in_turns(list(asks.values()), weights, seconds)
    return {one: Times.of(times) for one, times in zip(asks, found, strict=True)}


def _row(setting: Setting, total: Times, profiled: Sequence[Mapping[str, float]], child: Child | None) -> Row:
    peak = None if child is None else child["peak_mb"]
    return Row(setting.precision, setting.threads, setting.batch, total, steps_of(profiled, total), peak)


def _computed_by(bundle: Bundle, plan: Plan) -> str:
    nodes = bundle.nodes
    every = sum(nodes.values())
    return ", ".join(f"{name} ({count} of {every} nodes)" for name, count in nodes.items()) or plan.provider.lower()


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.batch == 1 and not row.total.steady:
            yield (
                f"{row.precision}, threads {row.threads}: p99 is {row.total.p99 / row.total.p50:.1f} times p50; "
                "on a quiet machine it is at most 1.5 times"
            )
    few = [row for row in rows if row.total.n < FEW]
    if few:
        yield f"{len(few)} of {len(rows)} settings ran less than {FEW} times: their p99 is nearly their slowest run"
    if not any(row.steps for row in rows):
        yield "preprocess, network and decision could not be told apart here"
