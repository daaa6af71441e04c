"""What a run's files say beside its answers: how strange images are, how honest probabilities, how long it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cvtune_edge.latency import Latency
from numpy.typing import NDArray

from cvtune.errors import RunError
from cvtune.evaluation.paired import Difference
from cvtune.evaluation.reliability import Reliability
from cvtune.report.training import read_csv
from cvtune.rundir import read_json


@dataclass(frozen=True)
class Honesty:
    """Confidence against truth on one side, before the calibration and after it.

    Attributes:
        before: of the probabilities as the network gives them.
        after: of the calibrated ones.
        change: of the log-loss, paired by image; None in runs from before it was kept.
    """

    before: Reliability
    after: Reliability
    change: Difference | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Honesty:
        """From the tree of metrics.json."""
        before, after = (Reliability.from_json(value[key]) for key in ("before", "after"))
        return cls(before, after, Difference.from_json(value["change"]) if "change" in value else None)


def read_honesty(metrics: Mapping[str, Any], path: Path) -> Mapping[str, Honesty]:
    """By side, from the tree of metrics.json; empty where it has none.

    Raises:
        RunError: damaged.
    """
    try:
        return {str(side): Honesty.from_json(one) for side, one in metrics.get("reliability", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: damaged, no reliability ({error!r})", hint="fit the run again") from error


def read_distances(path: Path) -> Mapping[str, float]:
    """How far each image lies from those that were trained on, by its path.

    Raises:
        RunError: damaged.
    """
    try:
        found = {row["path"]: float(row["distance"]) for row in read_csv(path)}
    except (KeyError, ValueError) as error:
        raise RunError(f"{path}: damaged, no distances ({error!r})", hint="fit the run again") from error
    if not all(map(math.isfinite, found.values())):
        raise RunError(f"{path}: damaged, a distance is no number", hint="fit the run again")
    return found


def read_latency(path: Path) -> Latency:
    """How long the model takes, as `cvtune bench` wrote it.

    Raises:
        RunError: damaged.
    """
    try:
        return Latency.from_json(read_json(path))
    except ValueError as error:
        raise RunError(f"{path}: damaged, no latency ({error})", hint="measure again: `cvtune bench RUN`") from error


def distances_of(paths: Sequence[str], known: Mapping[str, float]) -> NDArray[np.float32] | None:
    """Those of some images, float32 [N] in their order; None where one of them is not known."""
    if not all(path in known for path in paths):
        return None
    return np.array([known[path] for path in paths], np.float32)
