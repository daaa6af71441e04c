"""Keeps the books of a run: after each stage its row, and for each model that is kept a bundle with its figures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save as save_tensors

from cvtune.bundle.enclose import enclose
from cvtune.bundle.export import Product, export_bundle
from cvtune.bundle.gate import Parity
from cvtune.config import Config
from cvtune.console import Console, duration
from cvtune.data.index import write_rows
from cvtune.data.split import Leaks, Split
from cvtune.evaluation.calibration import Calibration, fit_calibration
from cvtune.evaluation.objective import Objective
from cvtune.evaluation.operating import ChosenPoint, choose_point
from cvtune.evaluation.paired import log_loss_change
from cvtune.evaluation.reliability import reliability
from cvtune.evaluation.studies import Studies
from cvtune.evaluation.task import Figures, task_of
from cvtune.evaluation.verdict import Decided
from cvtune.models.head import Classifier, LinearHead
from cvtune.models.weights import WeightsInfo
from cvtune.report import CARD, build_card, build_report, read_facts
from cvtune.rundir import COMPLETE, RunDir, Terminated, write_bytes, write_json, write_text
from cvtune.steps import Crossed, Data, Evidence, FinalFit, Shown, Strange, wants_final
from cvtune.summary import Findings, bundle_line
from cvtune.training.checkpoint import sweep
from cvtune.training.session import Answers, Floats, StageResult

CURVES = "stage,epoch,step,train_loss,val_loss,val_balanced_accuracy,learning_rate"


@dataclass(frozen=True)
class Outcome:
    """How a fit ended: its run directory, and 0, or 130 / 143 when it was asked to stop."""

    run: RunDir
    exit_code: int


@dataclass
class Book:
    """The books of one run; all files are written as soon as they are known.

    Attributes:
        held: rows whose answers the session gives, ascending.
        leaks: test images that have a partner on the training side.
        objective: what the decisions are for.
        crossed: the answers of a cross-validation, where one took the place of a test side.
        strangeness: how strange the images are to a model.
    """

    run: RunDir
    config: Config
    data: Data
    split: Split
    weights: WeightsInfo
    console: Console
    held: NDArray[np.int64]
    leaks: Leaks
    objective: Objective
    crossed: Crossed | None
    strangeness: Callable[..., Strange | None]

    def __post_init__(self) -> None:
        index = self.data.index
        self._stages: list[dict[str, Any]] = []
        self._curves = [CURVES]
        self._metrics: dict[str, Figures] = {}
        self._decided: dict[str, Decided] = {}
        self._point: ChosenPoint | None = None
        self._parity: Parity | None = None
        self._strange: Strange | None = None
        self._novelty: Floats | None = None
        self._answers: dict[str, Any] = {}
        self._shipped: Classifier | None = None
        self._frozen = True
        self._studies = Studies()
        self._task = task_of(index)
        self._paths = [image.path for image in index.images]
        self._truth = self._task.truth(index)
        both = wants_final(self.config, self.split) and not self.split.calib_is_val
        self._chosen_on = "val and calib" if both else "val"

    def add(self, stage: StageResult, classifier: Classifier) -> None:
        """Write a stage down; export and evaluate the model if the stage was kept."""
        self._write_stage(stage)
        verdict = "kept" if stage.kept else "dropped"
        on_val = f"{self._task.figure} {stage.score:.3f} on {self._chosen_on}"
        figure = f"trained on {len(self.split.indices('train')):,} images" if self.crossed else on_val
        text = f"{figure}   {duration(stage.seconds):<12} {verdict}"
        self.console.step(stage.name, text, more=(stage.reason,) if len(self._stages) > 1 else ())
        if stage.picked:
            self.console.detail(stage.name, f"log-loss on val of the {stage.picked}")
        if stage.kept and stage.answers is not None:
            self._ship(stage, classifier, stage.answers)

    def add_final(self, final: FinalFit) -> None:
        """The model that was trained on all images but the test ones takes the place of the one before.

        Its figures are those of the folds and of the test side: it has seen val and calib.
        """
        self.crossed, self.split, self.leaks = final.crossed, final.split, final.leaks
        for kept in (self._metrics, self._decided, self._answers):
            kept.clear()
        self.add(final.stage, final.classifier)
        for side in ("val", "calib"):
            self.run.predictions(side).unlink(missing_ok=True)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Whatever goes wrong in a later stage, the model of the stage before keeps its figures and its report."""
        try:
            yield
        except Terminated:  # who sends SIGTERM does not wait for a report
            self.console.step("ended", f"by SIGTERM; go on with: cvtune fit --resume {self.run.root}")
            raise
        except BaseException:
            if self._metrics:
                self._summarise("ended", "early; the last model that was kept is the one above")
            raise

    def close(self, *, stopped: int) -> Outcome:
        """The summary, the report and the mark that the run is complete."""
        early = "on request; this is the best model so far", f"go on with: cvtune fit --resume {self.run.root}"
        self._summarise(*(("stopped", *early) if stopped else ()))
        write_text(self.run.done, "stopped on request\n" if stopped else f"{COMPLETE}\n")
        if not stopped:
            sweep(self.run)
        return Outcome(self.run, stopped)

    def _summarise(self, *early: str) -> None:
        assert self._point is not None
        assert self._parity is not None
        folds, leaked = self.crossed.k if self.crossed else 0, len(self.leaks.rows)
        counted = self._metrics, self._decided, self._point
        findings = Findings(self._task, *counted, self.objective, folds, leaked, self._studies)
        for line in (*findings.lines(), bundle_line(str(self.run.bundle), self._parity)):
            self.console.step(line.name, line.text, more=line.more)
        self.console.step("report", str(self.run.report))
        if early:
            self.console.step(*early[:2], more=early[2:])
        write_text(self.run.summary, "\n".join(self.console.lines) + "\n")
        facts = read_facts(self.run)  # the summary too, which the report shows
        enclose(self.run.bundle, CARD, build_card(facts).encode("utf-8", "replace"))
        build_report(self.run, facts)

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
                "picked": stage.picked,
            }
        )
        self._curves += [",".join(str(value) for value in asdict(epoch).values()) for epoch in stage.epochs]
        write_json(self.run.stages, self._stages)
        write_text(self.run.curves, "\n".join(self._curves) + "\n")

    def _ship(self, stage: StageResult, classifier: Classifier, said: Answers) -> None:
        calibration, point = self._calibrate(said.logits)
        self._frozen, self._shipped = stage.plan is None, classifier
        self._strange = self._compare(classifier, said.embeddings)
        if self._strange and math.isfinite(limit := self._strange.study.limit):
            notes = (*point.notes, str(self._strange.study))
            point = replace(point, limits=replace(point.limits, novelty=limit), notes=notes)
        product = self._product(calibration, point)
        exported = export_bundle(
            self.run.bundle,
            product,
            classifier,
            logits=said.logits,
            embeddings=said.embeddings,
            root=self.data.index.root,
            paths=[self._paths[row] for row in self.held],
            untrusted=self.config.data.untrusted,
            limits=self.data.options,
            progress=lambda done, of: self.console.progress("parity", done, of),
        )
        self._parity, self._novelty, self._point = exported.parity, exported.novelty, point
        calibration.save(self.run.calibration)
        point.save(self.run.point)
        if self._strange is None:
            self.run.novelty.unlink(missing_ok=True)
        else:
            self._strange.novelty.save(self.run.novelty)
        self._save_weights(classifier, calibration)
        self._score_sides(exported.probabilities, calibration, product.thresholds)
        figures = {side: metrics.to_json() for side, metrics in self._metrics.items()}
        decisions = {side: found.to_json() for side, found in self._decided.items()}
        about = {"model": stage.name, "task": self._task.name}
        honesty = self._reliability(said.logits)
        write_json(self.run.metrics, {**about, **figures, "decisions": decisions, "reliability": honesty})
        of = self._metrics.get("test") or self._metrics["folds"]
        self.console.detail("exported", f"{stage.name}: {of.accuracy} images right")

    def _calibrate(self, logits: Floats) -> tuple[Calibration, ChosenPoint]:
        """Calibration and limits of the decisions, from images that were not trained on."""
        rows = self.crossed.rows if self.crossed else self.split.indices("calib")
        unseen = self.crossed.logits if self.crossed else logits[self._at(rows)]
        calibration = fit_calibration(unseen, self._truth[rows], seed=self.config.seed)
        probabilities = self._task.probabilities(unseen, calibration)
        truth, words = self._truth[rows], self.config.objective.words
        return calibration, choose_point(self.objective, probabilities, truth, words)

    def _compare(self, classifier: Classifier, embeddings: Floats) -> Strange | None:
        """How strange the images are to the model that is shipped."""
        trial = self.crossed.trial if self.crossed else None
        if self.crossed and trial is None and self._strange:  # the model that was chosen stands for the folds
            trial = self._strange.trial
        if self.crossed and trial is None:
            return None
        unseen = self.split.choosing if wants_final(self.config, self.split) else self.split.indices("calib")
        shown = Shown(self.split.indices("train"), unseen, self.held, embeddings)
        return self.strangeness(classifier.backbone, shown, frozen=self._frozen, trial=trial)

    def _distances(self, side: str, rows: NDArray[np.int64]) -> Floats | None:
        """How strange the images of a side are; those of the folds to models that had not seen them."""
        if self._strange is None or self._novelty is None:
            return None
        if side == "folds":
            return self._strange.trial.distances[self._strange.trial.best]
        return self._novelty[self._at(rows)]

    def _write_distances(self) -> None:
        """novelty.csv: of the images whose decisions the report counts."""
        told: list[tuple[str, str]] = []
        for side, rows in self._reported.items():
            distances = self._distances(side, rows)
            if distances is not None:
                told += zip((self._paths[row] for row in rows), map(repr, distances.tolist()), strict=True)
        write_rows(self.run.distances, ("path", "distance"), told)

    @property
    def evidence(self) -> Evidence:
        """What the report shows of the model that is shipped."""
        side = "test" if "test" in self._answers else "folds"
        rows, strange = self._reported[side], self._strange
        assert self._shipped is not None
        answers, distances = self._answers[side], self._distances(side, rows)
        return Evidence(self._shipped, side, rows, answers, distances, strange, self._frozen)

    def studied(self, studies: Studies) -> None:
        """Write down what else was found out about it."""
        studies.save(self.run.studies)
        self._studies = studies

    @property
    def _reported(self) -> dict[str, NDArray[np.int64]]:
        """Rows of the sides that the report shows."""
        folds = {"folds": self.crossed.rows} if self.crossed else {}
        return {**folds, "test": self.split.indices("test")}

    def _at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows of the index stand among the held ones."""
        return np.searchsorted(self.held, rows)

    def _score_sides(self, answers: Floats, calibration: Calibration, thresholds: tuple[float, ...]) -> None:
        if self.crossed:
            unseen = self._task.probabilities(self.crossed.logits, calibration)
            self._score("folds", self.crossed.rows, unseen, thresholds, keep=True)
        for side in ("val", "calib", "test"):
            rows = self.split.indices(side)
            if len(rows):
                self._score(side, rows, answers[self._at(rows)], thresholds, keep=True)
        self._write_distances()
        rows = np.setdiff1d(self.split.indices("test"), np.array(self.leaks.rows, np.int64))
        if self.leaks.rows and len(rows):
            self._score("test_without_leaks", rows, answers[self._at(rows)], thresholds, keep=False)

    def _score(
        self, side: str, rows: NDArray[np.int64], answers: Floats, thresholds: tuple[float, ...], *, keep: bool
    ) -> None:
        paths = tuple(self._paths[row] for row in rows)
        predictions = self._task.predictions(paths, self._truth[rows], answers, self.data.index.classes, thresholds)
        if keep:
            predictions.save(self.run.predictions(side))
            self._answers[side] = predictions
        self._metrics[side] = self._task.score(predictions)
        assert self._point is not None
        distances = self._distances(side, rows)
        self._decided[side] = self._point.counted(answers, self._truth[rows], distances)

    def _reliability(self, logits: Floats) -> dict[str, Any]:
        """Of the sides that were not trained on, before the calibration and after; calib's own flatters the latter."""
        raw = {side: logits[self._at(self.split.indices(side))] for side in ("test", "calib")}
        if self.crossed:
            raw["folds"] = self.crossed.logits
        found: dict[str, Any] = {}
        for side in (side for side in raw if side in self._answers):
            after = self._answers[side]
            before = replace(after, probabilities=self._task.probabilities(raw[side]))
            found[side] = {
                "before": reliability(before.probabilities, before.truth).to_json(),
                "after": reliability(after.probabilities, after.truth).to_json(),
                "change": log_loss_change(before, after).to_json(),
            }
        return found

    def _product(self, calibration: Calibration, point: ChosenPoint) -> Product:
        made_from = (self.run.config, self.run.index, self.run.split)
        return Product(
            name=self.run.root.resolve().name,
            classes=self.data.index.classes,
            backbone=self.weights.backbone,
            weights=self.weights.record(),
            preprocessing=self.data.frame,
            calibration=calibration,
            point=point.limits,
            novelty=self._strange.novelty if self._strange else None,
            task=self._task.name,
            targets=tuple(map(str, point.targets)),
            training=hashlib.sha256(b"".join(file.read_bytes() for file in made_from)).hexdigest(),
        )

    def _save_weights(self, classifier: Classifier, calibration: Calibration) -> None:
        tensors = {name: value.contiguous() for name, value in classifier.state_dict().items()}
        write_bytes(self.run.weights, save_tensors(tensors))
        write_json(
            self.run.model,
            {
                "backbone": self.weights.backbone,
                "taps": list(classifier.backbone.taps),
                "classes": list(self.data.index.classes),
                "size": self.data.frame.size,
                "mean": list(self.data.frame.mean),
                "std": list(self.data.frame.std),
                "window": self.data.frame.window,
                "head": "linear" if isinstance(classifier.head, LinearHead) else type(classifier.head).__qualname__,
                "temperature": calibration.temperature,
                "scales": list(calibration.scales),
                "shifts": list(calibration.shifts),
            },
        )
