"""A bundle that is to be timed: in one setting, with frames to show it, run after run in turns with the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.manifest import Manifest
from cvtune_edge.opening import open_model
from cvtune_edge.runtime import Bundle

Ask = Callable[[], object]

SIZE: Final = (640, 480)
_ROUNDS: Final = 3  # at least: fewer would not show that the machine changed meanwhile
_LONG: Final = 0.1  # seconds; from there on a run does not suffer from the caches that the one before it left
_EVER: Final = 32  # drawn frames of 16 bits and of float numbers stay within the window, or within this where none is


@dataclass(frozen=True)
class Setting:
    """What is timed: a model of the bundle, by its precision, with some threads and frames at once."""

    precision: str
    threads: int
    batch: int


class Timed(Bundle):
    """A bundle in one setting; the golden frames are not asked about.

    Args:
        path: of the bundle.
        setting: which of its models, with how many threads.
        provider: who computes.
        spin: whether threads wait actively.
        profile: where onnxruntime writes the times of the nodes.
    """

    def __init__(
        self, path: Path | str, setting: Setting, *, provider: str, spin: bool, profile: Path | None = None
    ) -> None:
        self.setting, self._profile = setting, profile
        super().__init__(
            path, threads=setting.threads, verify=False, provider=provider, spin=spin, precision=setting.precision
        )

    def _load(self, threads: int | None, *, provider: str | Sequence[str], spin: bool) -> Any:
        options = {"threads": threads, "provider": provider, "spin": spin, "profile": self._profile}
        return open_model(self.path, self._file, self.manifest, **options)

    def asker(self, frames: Sequence[NDArray[Any]], batch: int = 0) -> Ask:
        """A function that answers once: as the line does where it is one frame, else the graph for all of them.

        Args:
            frames: [H, W, 3] of one size, one or more, taken in turns.
            batch: frames at once; the setting's when 0.
        """
        batch = batch or self.setting.batch
        turns = cycle(frames)
        if batch == 1:
            answer = self.decide if self.manifest.decides else self.predict
            return lambda: answer(next(turns))
        feed = {"image": np.stack([next(turns) for _ in range(batch)])}
        return lambda: self._session.run(self._asked, feed)

    def end_profiling(self) -> Path:
        """Write the profile; the session writes no more."""
        return Path(self._session.end_profiling())


def drawn(manifest: Manifest, size: tuple[int, int]) -> NDArray[Any]:
    """A frame of noise, the same at every call: what a network computes takes as long for any picture.

    Args:
        manifest: of the bundle that is to take it.
        size: width and height.
    """
    random = np.random.default_rng(0)
    shape, kind = (size[1], size[0], 3), manifest.reading["pixels"]
    if kind == "uint8":
        return random.integers(0, 256, shape, np.uint8)
    low, high = manifest.window or (0, _EVER)
    values = random.uniform(low, high, shape)
    return values.astype(np.float32) if kind == "float32" else values.clip(0, 65535).astype(np.uint16)


def frame_size(manifest: Manifest, asked: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of a frame for a bundle: as asked, or what its mask or region needs, or 640 x 480."""
    if asked is not None:
        return asked
    if manifest.frame_size is not None:
        return manifest.frame_size[1], manifest.frame_size[0]
    x, y, width, height = manifest.roi or (0, 0, 1, 1)
    return max(SIZE[0], x + width), max(SIZE[1], y + height)


def in_turns(asks: Sequence[Ask], weights: Sequence[float], seconds: float) -> list[list[float]]:
    """Time several things in turns, so that whatever else the machine does hits all of them alike.

    In each turn a thing is done several times without a break, once before that untimed where it is short: on the line
    too a frame follows a frame, and finds the network in the processor's caches.

    Args:
        asks: each does its thing once.
        weights: shares of the time.
        seconds: for all of it; three turns are made in any case.

    Returns:
        Seconds of each run, for each thing.
    """
    deadline = time.perf_counter() + seconds
    estimates = [_estimate(ask) for ask in asks]
    turn = seconds / _ROUNDS / 2 / sum(weights)
    counts = [max(1, int(turn * weight / once)) for weight, once in zip(weights, estimates, strict=True)]
    found: list[list[float]] = [[] for _ in asks]
    rounds = 0
    while rounds < _ROUNDS or time.perf_counter() < deadline:
        for ask, once, count, times in zip(asks, estimates, counts, found, strict=True):
            if once < _LONG:
                ask()
            times.extend(timed(ask) for _ in range(count))
        rounds += 1
    return found


def timed(ask: Ask) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def _estimate(ask: Ask) -> float:
    """Seconds of a run, after those in which memory is taken; the first of all takes longest."""
    ask()
    return max(min(timed(ask) for _ in range(2)), 1e-6)
