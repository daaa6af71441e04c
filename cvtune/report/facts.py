"""What a run's files say, read once for the report; a file that is not there yet leaves its part empty."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from cvtune_edge.manifest import MANIFEST_FILE, Manifest

from cvtune.audit import Finding, load_audit
from cvtune.data.index import natural_order
from cvtune.errors import RunError
from cvtune.evaluation.calibration import Calibration
from cvtune.evaluation.metrics import Metrics, score
from cvtune.evaluation.predictions import Predictions
from cvtune.rundir import SIDES, RunDir, read_json

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
class SideCounts:
    """Images a class on one side, in class order."""

    name: str
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """Everything the report shows; empty or None where the run does not have it (yet)."""

    run: RunDir
    classes: tuple[str, ...]
    folder: Path | None
    sides: tuple[SideCounts, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[tuple[str, str], ...]
    stages: tuple[Stage, ...]
    epochs: tuple[Epoch, ...]
    test: Predictions | None
    metrics: Metrics | None
    calibration: Calibration | None
    manifest: Manifest | None
    model_bytes: int
    config: str
    environment: tuple[tuple[str, str], ...]


def read_facts(run: RunDir) -> Facts:
    """Read the files of a run.

    Raises:
        RunError: a file is there but damaged.
    """
    test = _if_there(run.predictions("test"), Predictions.load)
    manifest = _if_there(run.bundle / MANIFEST_FILE, lambda path: Manifest.from_json(read_json(path), str(path)))
    rows = _if_there(run.split, _read_csv) or []
    classes = test.classes if test else natural_order({row["label"] for row in rows})
    audit = _if_there(run.audit, read_json) or {}
    environment = _if_there(run.environment, read_json) or {}
    folder = audit.get("root") or environment.get("folder")
    model = run.bundle / "model.onnx"
    return Facts(
        run=run,
        classes=classes,
        folder=Path(folder) if folder else None,
        sides=_count_sides(rows, classes),
        findings=_if_there(run.audit, load_audit) or (),
        skipped=tuple((item["path"], item["reason"]) for item in audit.get("skipped", ())),
        stages=_if_there(run.stages, _read_stages) or (),
        epochs=tuple(_epoch(row) for row in _if_there(run.curves, _read_csv) or ()),
        test=test,
        metrics=score(test) if test else None,
        calibration=_if_there(run.calibration, Calibration.load),
        manifest=manifest,
        model_bytes=model.stat().st_size if model.is_file() else 0,
        config=_if_there(run.config, _read_text) or "",
        environment=tuple((key, _plain(value)) for key, value in environment.items()),
    )


def _if_there(path: Path, read: Callable[[Path], T]) -> T | None:
    return read(path) if path.is_file() else None


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
            return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(handle)]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error})", hint="fit the run again") from error


def _read_stages(path: Path) -> tuple[Stage, ...]:
    names = [field.name for field in fields(Stage)]
    try:
        return tuple(Stage(**{name: row[name] for name in names}) for row in read_json(path))
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error!r})", hint="fit the run again") from error


def _count_sides(rows: list[dict[str, str]], classes: tuple[str, ...]) -> tuple[SideCounts, ...]:
    found = Counter((row.get("side"), row.get("label")) for row in rows)
    sides = (SideCounts(side, tuple(found[side, name] for name in classes)) for side in SIDES)
    return tuple(side for side in sides if any(side.counts))


def _epoch(row: Mapping[str, str]) -> Epoch:
    names = ("train_loss", "val_loss", "val_balanced_accuracy")
    return Epoch(row.get("stage", ""), *(_number(row.get(name, "")) for name in names))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
