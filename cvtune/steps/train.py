"""From the sides to the session of the stages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cvtune.config import Config
from cvtune.console import Console
from cvtune.data.augment import Augmentation, build_augmentation
from cvtune.data.split import Split
from cvtune.evaluation.calibration import fit_temperature
from cvtune.evaluation.novelty import BANK, Trial
from cvtune.evaluation.task import Task, task_of
from cvtune.models.backbone import Backbone
from cvtune.models.features import mirror_of
from cvtune.models.head import Classifier, HeadFactory, LinearHead, build_head
from cvtune.models.normalize import Normalize
from cvtune.rundir import RunDir, write_json
from cvtune.steps.examine import Seen
from cvtune.steps.read import Data
from cvtune.training.checkpoint import Ledger, Store
from cvtune.training.loggers import build_loggers
from cvtune.training.session import Choices, Floats, Ints, Judgement, Material, Recipe, Session
from cvtune.training.stop import StopRequest
from cvtune.training.trainer import Extras
from cvtune.training.views import Views

SMALL: Final = 2000  # images outside test; below, sides that are held back cost more than a final fit
SHARE: Final = 0.6  # of what is left of a budget before the stages, for them where a final fit follows,
TIGHT: Final = 600.0  # seconds of a budget; below, they take what they need: there is no time for folds
CLOSING: Final = 10.0  # seconds of a budget for studies and the report,
CLOSING_SHARE: Final = 0.05  # or so much of a short one
MIRRORS_FROM: Final = 600.0  # seconds of a budget: mirrored features take as long as the plain ones, for half a point


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
        recipe: how each stage that was worth it is repeated on all n images.
        score: mean over the folds of the figure that decides between stages, on the held-out images.
        log_loss: likewise.
        trial: how strange the images were to those models; None where the model that was chosen stands for them, or
            was never asked.
    """

    k: int
    rows: NDArray[np.int64]
    logits: Floats
    recipe: Mapping[str, Recipe]
    score: float
    log_loss: float
    trial: Trial | None = None


@dataclass(frozen=True)
class Lab:
    """What every session of a run is made of.

    Attributes:
        run: where plan.json and checkpoints go.
        config: all settings.
        data: the folder, read.
        seen: embeddings that are known already.
        backbone: pretrained; it stays as it is.
        scratch: a folder for what only this process needs.
        plugins: the user's own parts.
        replay: choices of an earlier run, or of this one before it was interrupted.
        ledger: what is finished.
        stop: asks for an early end.
        console: progress.
        began: `time.monotonic()` when the fit began, for the budget.
    """

    run: RunDir
    config: Config
    data: Data
    seen: Seen
    backbone: Backbone
    scratch: Path
    plugins: Plugins
    replay: Mapping[str, Choices]
    ledger: Ledger
    stop: StopRequest
    console: Console
    began: float

    @property
    def left(self) -> float:
        """Seconds of the budget that are left, infinite without one."""
        budget = self.config.train.budget
        return math.inf if budget is None else self.began + budget - time.monotonic()

    @property
    def to_train(self) -> float:
        """The same without what is kept for studies and the report."""
        budget = self.config.train.budget
        return self.left - (0.0 if budget is None else min(CLOSING, CLOSING_SHARE * budget))


def prepare(
    lab: Lab,
    split: Split,
    *,
    crossed: Crossed | None = None,
    fold: Mapping[str, Choices] | None = None,
    deadline: float | None = None,
) -> Session:
    """The classifier with pretrained backbone, and everything the stages share.

    Args:
        lab: the parts.
        split: the sides.
        crossed: the final fit after a cross-validation: stages and steps are those of the folds, and their figures
            stand for those of a validation side.
        fold: a fold: the choices that the folds before made. No plan is written, no stage that is left out is told,
            and the fold is finished as a whole or not at all.
        deadline: `time.monotonic()` at which training ends; from the budget when unset.
    """
    config, data, index, plugins = lab.config, lab.data, lab.data.index, lab.plugins
    loggers = (*plugins.loggers, *build_loggers(config.train.loggers, lab.run.root))
    if plugins.head is not None:
        build_head(plugins.head, lab.backbone.width, len(index.classes))  # a head that does not fit is known at once
    task = task_of(index)
    final = crossed is None and fold is None and wants_final(config, split)
    # What the folds of a final fit calibrate with is every image, so that calib may help to choose.
    val = split.choosing if final else split.indices("val")
    truth = task.truth(index)
    material = Material(
        pixels=data.pixels,
        labels=truth,
        groups=tuple(image.group for image in index.images),
        train=split.indices("train"),
        val=val,
        held=split.held if crossed is None else np.arange(len(index)),
        classes=len(index.classes),
        window=data.frame.window,
        table=lab.seen.table if lab.seen.window == data.frame.window else None,
        mirrored=_mirrored(lab),
    )
    quiet, key = fold is not None, lab.ledger.key
    viewed = split.outside_test if final else np.union1d(material.train, val)
    return Session(
        config=config,
        classifier=Classifier(lab.backbone, LinearHead(lab.backbone.width, len(index.classes))),
        normalize=data.normalize,
        material=material,
        views=_views(lab, material, data.normalize, viewed),
        judge=(
            _Judge(task, tuple(index.images[row].path for row in val), truth[val], index.classes)
            if crossed is None
            else lambda new, old: Judgement(True, "as in most of the folds", crossed.score, crossed.log_loss)
        ),
        stop=lab.stop,
        progress=lab.console.progress,
        extras=Extras(plugins.callbacks, loggers, plugins.trainer),
        head=plugins.head,
        replay=lab.replay if fold is None else fold,
        planned=nothing if quiet else PlanWriter(lab.run.plan, lab.replay),
        left_out=nothing if quiet else lambda name, reason: lab.console.step(name, f"left out: {reason}"),
        told=nothing if quiet else lab.console.detail,
        recipe=None if crossed is None else crossed.recipe,
        compared=min(len(material.train), BANK),
        deadline=deadline or time.monotonic() + lab.to_train * (SHARE if final and not is_tight(config) else 1),
        keep_views=final,
        ledger=None if quiet else lab.ledger,
        store=nothing if quiet else lambda name: Store(lab.run, name, key=key),
    )


def wants_final(config: Config, split: Split) -> bool:
    """Whether the model is trained once more at the end, on all images but the test ones."""
    if config.data.folds:
        return False  # where the last model is that one anyway
    return len(split.outside_test) < SMALL if config.train.final_fit == "auto" else config.train.final_fit == "all"


def is_tight(config: Config) -> bool:
    """Whether the budget leaves no time for the folds of a final fit."""
    return config.train.budget is not None and config.train.budget < TIGHT


def nothing(*_: Any) -> None:
    """In place of what a session tells or keeps, where it is to do neither."""
    return


def _mirrored(lab: Lab) -> Callable[[Ints], Floats] | None:
    """Gives embeddings of mirrored images, where the augmentation says that a mirror changes no class."""
    mirror = mirror_of(lab.config.augment)
    short = lab.config.train.budget is not None and lab.config.train.budget < MIRRORS_FROM
    if mirror is None or lab.plugins.augmentation is not None or short:
        return None
    embedder = lab.data.embedder(lab.data.frame.window, lab.config)
    progress = lambda done, of: lab.console.progress("mirrored", done, of)  # noqa: E731
    return lambda rows: embedder(lab.backbone, rows, mirror=mirror, progress=progress)


def _views(lab: Lab, material: Material, normalize: Normalize, rows: Ints) -> Views:
    config = lab.config
    transform = lab.plugins.augmentation or build_augmentation(config.augment, material.pixels.size)
    return Views(
        lab.scratch,
        lab.backbone,
        normalize,
        pixels=material.pixels,
        rows=rows,
        transform=transform,
        seed=config.seed,
        window=material.window,
        stop=lab.stop,
        progress=lab.console.progress,
    )


class PlanWriter:
    """Writes plan.json before each stage, so that the run can be repeated even if the stage never ends.

    Args:
        path: of the file.
        known: choices of an earlier run, or of this one before it was interrupted.
    """

    def __init__(self, path: Path, known: Mapping[str, Choices]) -> None:
        self._path = path
        self._stages = dict(known)

    def __call__(self, stage: str, choices: Choices) -> None:
        """Write down what a stage chose."""
        self._stages[stage] = choices
        write_plan(self._path, self._stages)


def write_plan(path: Path, stages: Mapping[str, Choices]) -> None:
    """Write plan.json."""
    write_json(path, {"stages": dict(stages)})


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
        """After the best temperature, as the model would be used: which one is surer by itself counts for nothing."""
        probabilities = self.task.probabilities(logits, fit_temperature(logits, self.truth))
        return self.task.predictions(self.paths, self.truth, probabilities, self.classes)
