"""What a run's files say about its training: stages, epochs and the folds of a cross-validation."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from cvtune.errors import RunError
from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate
from cvtune.rundir import RunDir, read_json

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """A row of stages.json: what a training stage cost and whether it was kept."""

    name: str
    seconds: float
    score: float
    log_loss: float
    kept: bool
    reason: str
    steps: int
    epochs: int
    trainable: int


@dataclass(frozen=True)
class Epoch:
    """A row of metrics.csv; None where the stage did not measure it."""

    stage: str
    train_loss: float | None
    val_loss: float | None
    val_balanced_accuracy: float | None


@dataclass(frozen=True)
class Fold:
    """A row of folds.json.

    Attributes:
        images: held out of it.
        trained_on: images that its model learned from.
        stages: that it kept.
        score: what decides between stages, on the images held out.
        log_loss: likewise, before calibration.
        right: images held out that are right, None without folds.csv.
    """

    images: int
    trained_on: int
    stages: tuple[str, ...]
    score: float
    log_loss: float
    right: Rate | None


def read_stages(path: Path) -> tuple[Stage, ...]:
    """Read stages.json.

    Raises:
        RunError: damaged.
    """
    names = [field.name for field in fields(Stage)]
    return _parsed(path, lambda rows: tuple(Stage(**{name: row[name] for name in names}) for row in rows))


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """Read metrics.csv.

    Raises:
        RunError: damaged.
    """
    return tuple(_epoch(row) for row in read_csv(path))


def read_folds(run: RunDir, answers: Predictions | MultiPredictions) -> tuple[Fold, ...]:
    """Read folds.json, and from folds.csv which of the answers are of which fold.

    Raises:
        RunError: damaged.
    """
    if not run.folds.is_file():
        return ()
    right = dict(zip(answers.paths, answers.right.tolist(), strict=True))
    table = run.folds.with_suffix(".csv")
    found: dict[str, list[bool]] = {}
    for row in read_csv(table) if table.is_file() else []:
        if row.get("path") in right:
            found.setdefault(row.get("fold", ""), []).append(right[row["path"]])
    rates = {number: Rate(sum(some), len(some)) for number, some in found.items()}
    return _parsed(
        run.folds, lambda rows: tuple(_fold(row, rates.get(str(number))) for number, row in enumerate(rows, start=1))
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows by column.

    Raises:
        RunError: missing or damaged.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")  # a CR in a file name stays one
        lines = csv.DictReader(io.StringIO(text, newline=""))
        return [{key: value or "" for key, value in row.items() if key} for row in lines]
    except (OSError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read ({error})", hint="fit the run again") from error


def _parsed(path: Path, parse: Callable[[Any], T]) -> T:
    try:
        return parse(read_json(path))
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error!r})", hint="fit the run again") from error


def _fold(row: Mapping[str, Any], right: Rate | None) -> Fold:
    figures = (row["images"], row["trained_on"], tuple(row["stages"]), row["score"], row["log_loss"])
    return Fold(*figures, right)


def _epoch(row: Mapping[str, str]) -> Epoch:
    names = ("train_loss", "val_loss", "val_balanced_accuracy")
    return Epoch(row.get("stage", ""), *(_number(row.get(name, "")) for name in names))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
