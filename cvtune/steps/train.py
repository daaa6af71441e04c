"""From the sides to the session of the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvtune.config import Config
from cvtune.console import Console
from cvtune.data.augment import Augmentation
from cvtune.data.split import Split
from cvtune.evaluation.task import Task, task_of
from cvtune.models.backbone import Backbone
from cvtune.models.head import Classifier, HeadFactory, LinearHead, build_head
from cvtune.models.normalize import Normalize
from cvtune.rundir import RunDir, write_json
from cvtune.steps.examine import Seen
from cvtune.steps.read import Data
from cvtune.training.loggers import build_loggers
from cvtune.training.stages import Choices, Floats, Judgement, Material, Session
from cvtune.training.stop import StopRequest
from cvtune.training.trainer import Extras


@dataclass(frozen=True)
class Plugins:
    """What a user plugs into a fit.

    Attributes:
        head: called with (width D, classes K), gives a module from [N, D] to logits [N, K]; from the tail on.
        augmentation: an albumentations transform for uint8 [S, S, 3] (float32 0..1 for deep images), in place of the
            preset's.
        callbacks: Lightning callbacks.
        loggers: Lightning loggers, beside the run's own metrics.csv.
        trainer: further arguments of `lightning.Trainer`.
    """

    head: HeadFactory | None = None
    augmentation: Augmentation | None = None
    callbacks: tuple[Any, ...] = ()
    loggers: tuple[Any, ...] = ()
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Crossed:
    """What a cross-validation gave.

    Attributes:
        k: folds.
        rows: int64 [n], positions of the images that were divided, ascending: all but a given test side.
        logits: float32 [n, K], the answer for each by the model of the fold that it was held out of.
        recipe: (steps of the schedule, steps to take) of each stage that most folds kept, for all n images.
        score: mean over the folds of the figure that decides between stages, on the held-out images.
        log_loss: likewise.
    """

    k: int
    rows: NDArray[np.int64]
    logits: Floats
    recipe: Mapping[str, tuple[int, int]]
    score: float
    log_loss: float


def prepare(
    run: RunDir,
    config: Config,
    data: Data,
    seen: Seen,
    split: Split,
    backbone: Backbone,
    *,
    plugins: Plugins,
    replay: Mapping[str, Choices],
    stop: StopRequest,
    console: Console,
    quiet: bool = False,
    crossed: Crossed | None = None,
) -> Session:
    """The classifier with pretrained backbone, and everything the stages share.

    Args:
        run: where plan.json goes.
        config: all settings.
        data: the folder, read.
        seen: embeddings that are known already.
        split: the sides.
        backbone: pretrained; it stays as it is.
        plugins: the user's own parts.
        replay: choices of an earlier run.
        stop: asks for an early end.
        console: progress.
        quiet: a fold: no plan is written and no stage that is left out is told.
        crossed: the final fit after a cross-validation: stages and steps are those of the folds, and their figures
            stand for those of a validation side.
    """
    index = data.index
    loggers = (*plugins.loggers, *build_loggers(config.train.loggers, run.root))
    if plugins.head is not None:
        build_head(plugins.head, backbone.width, len(index.classes))  # a head that does not fit is known at once
    val = split.indices("val")
    task = task_of(index)
    truth = task.truth(index)
    return Session(
        config=config,
        classifier=Classifier(backbone, LinearHead(backbone.width, len(index.classes))),
        normalize=Normalize(data.frame.mean, data.frame.std, data.frame.window),
        material=Material(
            pixels=data.pixels,
            labels=truth,
            groups=tuple(image.group for image in index.images),
            train=split.indices("train"),
            val=val,
            held=split.held if crossed is None else np.arange(len(index)),
            classes=len(index.classes),
            window=data.frame.window,
            table=seen.table if seen.window == data.frame.window else None,
        ),
        judge=(
            _Judge(task, tuple(index.images[row].path for row in val), truth[val], index.classes)
            if crossed is None
            else lambda new, old: Judgement(True, "as in most of the folds", crossed.score, crossed.log_loss)
        ),
        stop=stop,
        progress=console.progress,
        extras=Extras(plugins.callbacks, loggers, plugins.trainer),
        head=plugins.head,
        augmentation=plugins.augmentation,
        replay=replay,
        planned=(lambda name, choices: None) if quiet else _PlanWriter(run.plan),
        left_out=(lambda name, reason: None)
        if quiet
        else lambda name, reason: console.step(name, f"left out: {reason}"),
        recipe=None if crossed is None else crossed.recipe,
    )


class _PlanWriter:
    """Writes plan.json before each stage, so that the run can be repeated even if the stage never ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stages: dict[str, Choices] = {}

    def __call__(self, stage: str, choices: Choices) -> None:
        self._stages[stage] = choices
        write_json(self._path, {"stages": self._stages})


@dataclass(frozen=True)
class _Judge:
    """Compares two models on the validation side."""

    task: Task
    paths: tuple[str, ...]
    truth: Any  # int64 [n_val], or bool [n_val, K]
    classes: tuple[str, ...]

    def __call__(self, new: Floats, old: Floats | None) -> Judgement:
        fresh = self._predictions(new)
        figure = self.task.headline(self.task.score(fresh))
        if old is None:
            return Judgement(True, "the first model", figure, fresh.log_loss)
        verdict = self.task.better(fresh, self._predictions(old))
        return Judgement(verdict.keep, verdict.reason, figure, fresh.log_loss)

    def _predictions(self, logits: Floats) -> Any:
        return self.task.predictions(self.paths, self.truth, self.task.probabilities(logits), self.classes)
