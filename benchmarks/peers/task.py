"""What the peers' scripts share: their arguments, a clock that stands still while test images are scored, the result.

Runs in the peers' environment, without cvtune. Torch is imported late: imports belong to the measured time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

NETWORK = "tf_efficientnet_lite0"
SIZE = 224  # pixels, what its weights were trained at
MEAN = STD = (0.5, 0.5, 0.5)


class Stopwatch:
    """Seconds since the process was asked for, without scoring test images and without standing still.

    Args:
        began: `time.time()` of the parent just before it started the process, so that imports count.
        held: file in which the parent notes for how many seconds it has stopped this process so far; missing for none.
        clock: seconds since 1970; the one clock that two processes share on every system.
    """

    def __init__(self, began: float, held: Path, clock: Callable[[], float] = time.time) -> None:
        self._began, self._held, self._clock = began, held, clock

    @property
    def seconds(self) -> float:
        """What has counted so far."""
        return self._now() - self._began

    def _now(self) -> float:
        held = float(self._held.read_text(encoding="utf-8")) if self._held.is_file() else 0.0
        return self._clock() - held

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens inside does not count."""
        at = self._now()
        try:
            yield
        finally:
            self._began += self._now() - at


@dataclass(frozen=True)
class Task:
    """One run of a peer.

    Attributes:
        folder: train/, val/ and test/ above the classes.
        weights: safetensors with timm's names.
        out: where the result goes.
        scratch: for whatever the tool keeps.
        epochs: of training; each tool's own meaning.
        seed: of torch, numpy and Python.
        threads: of torch.
        watch: running.
    """

    folder: Path
    weights: Path
    out: Path
    scratch: Path
    epochs: int
    seed: int
    threads: int
    watch: Stopwatch

    def test_files(self) -> list[Path]:
        """The test images, in a fixed order; the folder's name is the class."""
        return sorted(file for file in (self.folder / "test").glob("*/*") if file.is_file())


def read_task(argv: Sequence[str] | None = None) -> Task:
    """The task that the parent gave on the command line; sets torch's threads and all seeds."""
    parser = argparse.ArgumentParser()
    for name in ("folder", "weights", "out", "scratch", "held"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("epochs", "seed", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--began", type=float, required=True)
    args = vars(parser.parse_args(argv))
    watch = Stopwatch(args.pop("began"), args.pop("held"))
    task = Task(**args, watch=watch)
    _prepare(task)
    return task


def _prepare(task: Task) -> None:
    import random

    import numpy as np
    import torch

    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    np.random.seed(task.seed)
    random.seed(task.seed)


@dataclass(frozen=True)
class Scored:
    """How many of n test images a model had right, so many seconds after the start."""

    seconds: float
    what: str
    right: int
    n: int


class Log:
    """Collects the snapshots of a run and writes the result."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._snapshots: list[Scored] = []

    def snapshot(self, what: str, answer: Callable[[Sequence[Path]], Sequence[str]]) -> None:
        """Score the model at hand on the test images, with the clock stopped.

        Args:
            what: the model, `epoch 3`.
            answer: gives the class of each file.
        """
        seconds = self._task.watch.seconds
        with self._task.watch.stopped():
            files = self._task.test_files()
            right = sum(name == file.parent.name for name, file in zip(answer(files), files, strict=True))
        self._snapshots.append(Scored(round(seconds, 2), what, int(right), len(files)))

    def close(self, *packages: str) -> None:
        """Write the result: seconds, snapshots and versions; by renaming, so that half of one is never read."""
        result = {
            "seconds": round(self._task.watch.seconds, 2),
            "snapshots": [asdict(one) for one in self._snapshots],
            "versions": {name: _version(name) for name in ("torch", "torchvision", "timm", *packages)},
        }
        part = self._task.out.with_suffix(".part")
        part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        part.replace(self._task.out)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def load_network(task: Task, classes: int) -> Any:
    """The timm network with the ImageNet weights and a new classifier; 0 classes leave the embedding."""
    import timm

    return timm.create_model(
        NETWORK, pretrained=True, num_classes=classes, pretrained_cfg_overlay={"file": str(task.weights)}
    )
