"""Keeps the books of a run: after each stage its row, and for each model that is kept a bundle with its figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from safetensors.torch import save as save_tensors

from cvtune.bundle.export import Product, export_bundle
from cvtune.bundle.gate import Parity
from cvtune.config import Config
from cvtune.console import Console, duration
from cvtune.data.index import DatasetIndex
from cvtune.data.preprocess import Preprocessing
from cvtune.data.split import Split
from cvtune.evaluation.calibration import fit_temperature
from cvtune.evaluation.metrics import Metrics, score
from cvtune.evaluation.predictions import Predictions
from cvtune.models.head import Classifier, LinearHead
from cvtune.models.weights import WeightsInfo
from cvtune.report import build_report
from cvtune.rundir import RunDir, write_bytes, write_json, write_text
from cvtune.training.stages import Floats, StageResult

CURVES = "stage,epoch,step,train_loss,val_loss,val_balanced_accuracy,learning_rate"


@dataclass(frozen=True)
class Outcome:
    """How a fit ended: its run directory, and 0, or 130 / 143 when it was asked to stop."""

    run: RunDir
    exit_code: int


@dataclass
class Book:
    """The books of one run; all files are written as soon as they are known."""

    run: RunDir
    config: Config
    index: DatasetIndex
    split: Split
    weights: WeightsInfo
    frame: Preprocessing
    console: Console

    def __post_init__(self) -> None:
        self._stages: list[dict[str, Any]] = []
        self._curves = [CURVES]
        self._metrics: dict[str, Metrics] = {}
        self._parity: Parity | None = None
        self._paths = [image.path for image in self.index.images]
        self._labels = self.index.labels
        self._held = self.split.held

    def add(self, stage: StageResult, classifier: Classifier) -> None:
        """Write a stage down; export and evaluate the model if the stage was kept."""
        self._write_stage(stage)
        verdict = "kept" if stage.kept else "dropped"
        text = f"balanced accuracy {stage.score:.3f} on val   {duration(stage.seconds):<12} {verdict}"
        self.console.step(stage.name, text, more=(stage.reason,) if len(self._stages) > 1 else ())
        if stage.kept and stage.logits is not None:
            self._ship(stage, classifier, stage.logits)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Whatever goes wrong in a later stage, the model of the stage before keeps its figures and its report."""
        try:
            yield
        except BaseException:
            if self._metrics:
                self._summarise()
                self.console.step("ended", "early; the last model that was kept is the one above")
                write_text(self.run.summary, "\n".join(self.console.lines) + "\n")
            raise

    def close(self, *, stopped: int) -> Outcome:
        """The summary, the report and the mark that the run is complete."""
        self._summarise()
        if stopped:
            self.console.step("stopped", "on request; this is the best model so far")
        write_text(self.run.summary, "\n".join(self.console.lines) + "\n")
        write_text(self.run.done, "stopped on request\n" if stopped else "complete\n")
        return Outcome(self.run, stopped)

    def _summarise(self) -> None:
        accuracy = self._metrics["test"].accuracy
        self.console.step("test", f"{accuracy} right, {accuracy.with_interval}")
        build_report(self.run)
        assert self._parity is not None
        self.console.step(
            "bundle",
            f"{self.run.bundle}   parity {self._parity.equal} of {self._parity.images}, "
            f"largest difference of a probability {self._parity.worst:.1e}",
        )
        self.console.step("report", str(self.run.report))

    def _write_stage(self, stage: StageResult) -> None:
        self._stages.append(
            {
                "name": stage.name,
                "seconds": round(stage.seconds, 2),
                "score": stage.score,
                "log_loss": stage.log_loss,
                "kept": stage.kept,
                "reason": stage.reason,
                "steps": stage.steps,
                "epochs": len(stage.epochs),
                "trainable": stage.trainable,
            }
        )
        self._curves += [",".join(str(value) for value in asdict(epoch).values()) for epoch in stage.epochs]
        write_json(self.run.stages, self._stages)
        write_text(self.run.curves, "\n".join(self._curves) + "\n")

    def _ship(self, stage: StageResult, classifier: Classifier, logits: Floats) -> None:
        at = {int(row): i for i, row in enumerate(self._held)}
        calib = self.split.indices("calib")
        calibration = fit_temperature(logits[[at[int(row)] for row in calib]], self._labels[calib])
        self._parity, answers = export_bundle(
            self.run.bundle,
            self._product(calibration.temperature),
            classifier,
            logits=logits,
            root=self.index.root,
            paths=[self._paths[row] for row in self._held],
            progress=lambda done, of: self.console.progress("parity", done, of),
        )
        calibration.save(self.run.calibration)
        self._save_weights(classifier, calibration.temperature)
        for side in ("val", "calib", "test"):
            rows = self.split.indices(side)
            self._score(side, Predictions(*self._asked(rows), answers[[at[int(r)] for r in rows]], self.index.classes))
        write_json(
            self.run.metrics,
            {"model": stage.name, **{side: metrics.to_json() for side, metrics in self._metrics.items()}},
        )
        test = self._metrics["test"].accuracy
        self.console.detail("exported", f"{stage.name}: {test} test images right")

    def _asked(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[tuple[str, ...], Any]:
        return tuple(self._paths[row] for row in rows), self._labels[rows]

    def _score(self, side: str, predictions: Predictions) -> None:
        predictions.save(self.run.predictions(side))
        self._metrics[side] = score(predictions)

    def _product(self, temperature: float) -> Product:
        return Product(
            name=self.run.root.resolve().name,
            classes=self.index.classes,
            backbone=self.weights.backbone,
            weights=self.weights.record(),
            preprocessing=self.frame,
            temperature=temperature,
        )

    def _save_weights(self, classifier: Classifier, temperature: float) -> None:
        tensors = {name: value.contiguous() for name, value in classifier.state_dict().items()}
        write_bytes(self.run.weights, save_tensors(tensors))
        write_json(
            self.run.model,
            {
                "backbone": self.weights.backbone,
                "classes": list(self.index.classes),
                "size": self.frame.size,
                "mean": list(self.frame.mean),
                "std": list(self.frame.std),
                "head": "linear" if isinstance(classifier.head, LinearHead) else type(classifier.head).__qualname__,
                "temperature": temperature,
            },
        )
