"""What a run's files say, read once for the report; a file that is not there yet leaves its part empty."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cvtune_edge.latency import Latency
from cvtune_edge.manifest import MANIFEST_FILE, Manifest
from numpy.typing import NDArray

from cvtune.audit import Finding, Suspect, load_audit, load_suspects
from cvtune.data.index import natural_order
from cvtune.errors import RunError
from cvtune.evaluation.calibration import Calibration
from cvtune.evaluation.metrics import Metrics
from cvtune.evaluation.multilabel import MultiMetrics, MultiPredictions
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.studies import Studies
from cvtune.evaluation.task import task_named
from cvtune.evaluation.verdict import Decided
from cvtune.report.measured import Honesty, distances_of, read_distances, read_honesty, read_latency
from cvtune.report.training import Epoch, Fold, Stage, read_csv, read_epochs, read_folds, read_stages
from cvtune.rundir import SIDES, RunDir, images_root, read_json, read_text

T = TypeVar("T")


@dataclass(frozen=True)
class SideCounts:
    """One side: `images`, and how many of them have each class, in class order (of several labels they overlap)."""

    name: str
    images: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """Answers with their figures.

    Attributes:
        side: "test", or "folds" where each image was answered by a model that had not seen it.
        answers: `Predictions`, or `MultiPredictions` of several labels an image.
        metrics: `Metrics` or `MultiMetrics` likewise.
        novelty: float32 [N], how far each image lies from those that were trained on; None where that is not known.
    """

    side: str
    answers: Predictions | MultiPredictions
    metrics: Metrics | MultiMetrics
    novelty: NDArray[np.float32] | None = None

    def decided(self, point: ChosenPoint) -> Decided:
        """What limits make of these answers."""
        return point.counted(self.answers.probabilities, self.answers.truth, self.novelty)


@dataclass(frozen=True)
class Leak:
    """Test images with a copy or a picture of the same group among those trained on.

    Attributes:
        images: how many.
        without: what was right of the others; None where there are none.
    """

    images: int
    without: Rate | None


@dataclass(frozen=True)
class Facts:
    """Everything the report shows; empty or None where the run does not have it (yet).

    Attributes:
        task: "single" or "multi".
        folder: where the paths start.
        scored: the cross-validation where there was one, then the test side where there is one; the other way round
            where the folds belong to a final fit.
        calib: the answers that the limits were chosen on, where a side was kept for that.
        reliability: by side.
        untrusted: the images are read by child processes.
    """

    run: RunDir
    task: str
    classes: tuple[str, ...]
    folder: Path | None
    sides: tuple[SideCounts, ...]
    findings: tuple[Finding, ...]
    suspects: tuple[Suspect, ...]
    skipped: tuple[tuple[str, str], ...]
    stages: tuple[Stage, ...]
    epochs: tuple[Epoch, ...]
    folds: tuple[Fold, ...]
    scored: tuple[Scored, ...]
    leak: Leak | None
    calib: Predictions | MultiPredictions | None
    calibration: Calibration | None
    reliability: Mapping[str, Honesty]
    studies: Studies | None
    point: ChosenPoint | None
    manifest: Manifest | None
    model_bytes: int
    latency: Latency | None
    config: str
    summary: str
    environment: tuple[tuple[str, str], ...]
    untrusted: bool

    @property
    def crossed(self) -> bool:
        """Whether a cross-validation stands in for a test side."""
        return bool(self.folds) and self.scored[0].side == "folds"

    @property
    def final(self) -> bool:
        """Whether the bundle is a final fit, on all images outside test."""
        return bool(self.folds) and not self.crossed

    @property
    def unfolded(self) -> bool:
        """Whether in a final fit the model that was chosen on the sides stands in for the folds."""
        return self.final and len(self.folds) == 1

    @property
    def multi(self) -> bool:
        """Whether an image may have several labels."""
        return self.task == "multi"

    @property
    def figure(self) -> str:
        """What decides between stages, in words."""
        return task_named(self.task).figure


def read_facts(run: RunDir) -> Facts:
    """Read the files of a run.

    Raises:
        RunError: a file is there but damaged.
    """
    manifest = _if_there(run.bundle / MANIFEST_FILE, lambda path: Manifest.from_json(read_json(path), str(path)))
    metrics = _if_there(run.metrics, _read_tree) or {}
    task = _task(run, metrics, manifest)
    order = ("test", "folds") if metrics.get("model") == "final" else ("folds", "test")
    distances = _if_there(run.distances, read_distances) or {}
    scored = tuple(one for side in order for one in _scored(run, side, task, distances))
    rows = _if_there(run.split, read_csv) or []
    labels = [_labels(row.get("label", ""), task) for row in rows]
    classes = scored[0].answers.classes if scored else natural_order({name for some in labels for name in some})
    findings = _if_there(run.audit, load_audit) or ()
    audit = _if_there(run.audit, read_json) or {}
    environment = _if_there(run.environment, _read_tree) or {}
    config = _if_there(run.config, read_text) or ""
    model = run.bundle / "model.onnx"
    return Facts(
        run=run,
        task=task,
        classes=classes,
        folder=_folder(audit, environment),
        sides=_count_sides([row.get("side", "") for row in rows], labels, classes),
        findings=findings,
        suspects=_if_there(run.audit, load_suspects) or (),
        skipped=tuple((item["path"], item["reason"]) for item in audit.get("skipped", ())),
        stages=_if_there(run.stages, read_stages) or (),
        epochs=_if_there(run.curves, read_epochs) or (),
        folds=next((read_folds(run, one.answers) for one in scored if one.side == "folds"), ()),
        scored=scored,
        leak=_leak(run, metrics, findings, scored),
        calib=_if_there(run.predictions("calib"), task_named(task).load),
        calibration=_if_there(run.calibration, Calibration.load),
        reliability=read_honesty(metrics, run.metrics),
        studies=_if_there(run.studies, Studies.load),
        point=_if_there(run.point, ChosenPoint.load),
        manifest=manifest,
        model_bytes=model.stat().st_size if model.is_file() else 0,
        latency=_if_there(run.latency, read_latency),
        config=config,
        summary=_if_there(run.summary, read_text) or "",
        environment=tuple((key, _plain(value)) for key, value in environment.items()),
        untrusted=_untrusted(config),
    )


def _if_there(path: Path, read: Callable[[Path], T]) -> T | None:
    return read(path) if path.is_file() else None


def _read_tree(path: Path) -> Mapping[str, Any]:
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise RunError(f"{path}: damaged (no names in it)", hint="fit the run again")
    return tree


def _task(run: RunDir, metrics: Mapping[str, Any], manifest: Manifest | None) -> str:
    task = str(metrics.get("task") or (manifest.task if manifest else "single"))
    if task not in ("single", "multi"):
        raise RunError(f"{run.metrics}: damaged (task '{task}')", hint="fit the run again")
    return task


def _scored(run: RunDir, side: str, task: str, distances: Mapping[str, float]) -> tuple[Scored, ...]:
    verbs = task_named(task)
    answers = _if_there(run.predictions(side), verbs.load)
    if answers is None:
        return ()
    return (Scored(side, answers, verbs.score(answers), distances_of(answers.paths, distances)),)


def _leak(
    run: RunDir, metrics: Mapping[str, Any], findings: Sequence[Finding], scored: Sequence[Scored]
) -> Leak | None:
    """From the figures without the leaked images; where there are none the audit tells that all are leaked."""
    test = next((one.metrics for one in scored if one.side == "test"), None)
    if test is None:
        return None
    if "test_without_leaks" not in metrics:
        told = next((finding.count for finding in findings if finding.code == "leakage"), 0)
        return Leak(test.n, None) if told >= test.n else None
    try:
        without = Rate(metrics["test_without_leaks"]["right"], metrics["test_without_leaks"]["n"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run.metrics}: damaged ({error!r})", hint="fit the run again") from error
    return Leak(test.n - without.n, without)


def _labels(cell: str, task: str) -> tuple[str, ...]:
    return tuple(filter(None, cell.split(";"))) if task == "multi" else (cell,)


def _untrusted(config: str) -> bool:
    try:
        return bool(tomllib.loads(config).get("data", {}).get("untrusted", False))
    except tomllib.TOMLDecodeError:  # shown as it is; its images are read as if they were hostile
        return True


def _folder(audit: Mapping[str, Any], environment: Mapping[str, Any]) -> Path | None:
    if "root" in audit:
        return Path(audit["root"])
    return images_root(Path(environment["folder"])) if "folder" in environment else None


def _count_sides(
    sides: Sequence[str], labels: Sequence[tuple[str, ...]], classes: tuple[str, ...]
) -> tuple[SideCounts, ...]:
    images = Counter(sides)
    found = Counter((side, name) for side, some in zip(sides, labels, strict=True) for name in some)
    counted = (SideCounts(side, images[side], tuple(found[side, name] for name in classes)) for side in SIDES)
    return tuple(side for side in counted if side.images)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
