"""The plan of training: probe, tail, all. A generator, so that each better model can be exported before the next."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from cvtune.config import Config, StageConfig
from cvtune.data.augment import Augmentation, build_augmentation
from cvtune.data.pixels import PixelCache
from cvtune.models.features import batches, embed
from cvtune.models.head import Classifier, HeadFactory, build_head
from cvtune.models.normalize import Normalize
from cvtune.training.datamodule import PixelDataModule, PixelDataset
from cvtune.training.module import FineTuner
from cvtune.training.probe import Labels, class_weights, fit_probe
from cvtune.training.stop import StopRequest
from cvtune.training.trainer import Epoch, Extras, Progress, seconds_per_step, train_stage

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """Whether a model replaces the one before, from their answers on the validation side."""

    keep: bool
    reason: str
    score: float
    log_loss: float


Choices = Mapping[str, float | int]  # what a stage chose by measuring, saved before it trains

Judge = Callable[[Floats, Floats | None], Judgement]  # new logits, old logits [n_val, K]


@dataclass(frozen=True)
class Material:
    """What training sees of the folder.

    Attributes:
        pixels: cache of all images.
        labels: [N] class indices, or bool [N, K] where an image may have several.
        groups: [N] names of parts, patients or tracks.
        train: rows of the training side.
        val: rows of the validation side.
        held: rows of val, calib and test, ascending: those whose answers the parity gate compares.
        classes: K.
        window: raw values that are black and white, for deep images.
        table: float32 [N, D], embeddings of the pretrained backbone where they are known already.
    """

    pixels: PixelCache
    labels: Labels
    groups: tuple[str, ...]
    train: Ints
    val: Ints
    held: Ints
    classes: int
    window: tuple[float, float] | None = None
    table: Floats | None = None


@dataclass(frozen=True)
class StageResult:
    """One stage that has ended.

    Attributes:
        logits: float32 [len(held), K] of the model that stands after this stage; None where it was dropped.
        schedule: steps that the schedule was made for, and those after which the weights were kept.
    """

    name: str
    kept: bool
    reason: str
    score: float
    log_loss: float
    seconds: float
    steps: int
    trainable: int
    epochs: tuple[Epoch, ...] = ()
    logits: Floats | None = None
    schedule: tuple[int, int] = (0, 0)


@dataclass
class Session:
    """Everything the stages share; the classifier always holds the best model so far.

    Attributes:
        replay: choices of an earlier run by stage; their steps are taken instead of measuring again.
        planned: called with a stage's choices before it trains.
        left_out: called with a stage that is not run and why.
        recipe: for the final fit after a cross-validation, (steps of the schedule, steps to take) of each stage that
            was worth it; nothing is judged then, since no image is held back.
        deadline: `time.monotonic()` at which training ends.
        best_val: float32 [n_val, K], logits of the best model so far.
    """

    config: Config
    classifier: Classifier
    normalize: Normalize
    material: Material
    judge: Judge
    stop: StopRequest
    progress: Progress
    extras: Extras = field(default_factory=Extras)
    head: HeadFactory | None = None
    augmentation: Augmentation | None = None
    replay: Mapping[str, Choices] = field(default_factory=dict)
    planned: Callable[[str, Choices], None] = lambda name, choices: None
    left_out: Callable[[str, str], None] = lambda name, reason: None
    recipe: Mapping[str, tuple[int, int]] | None = None
    deadline: float = math.inf
    best_val: Floats | None = None


def stages(session: Session) -> Iterator[StageResult]:
    """Run the stages one by one; one that is not better on the validation side is undone and is the last.

    Yields:
        The result of each stage. Between two of them `session.classifier` is the best model so far, in eval mode.
    """
    if session.config.train.budget is not None:
        session.deadline = time.monotonic() + session.config.train.budget
    yield run_probe(session)
    kept = True
    for name, stage, first_group in _plan(session):
        if session.stop:
            return
        if reason := _why_not(session, name, stage, kept):
            session.left_out(name, reason)
            continue
        result = run_stage(session, name, stage, first_group)
        kept = result.kept
        yield result


def _why_not(session: Session, name: str, stage: StageConfig, kept: bool) -> str:
    if session.recipe is not None:
        return "" if name in session.recipe else "not worth it in the folds"
    if not stage.steps:
        return "no steps are asked for"
    if not kept:  # where the last layers have nothing to learn, the first ones have less
        return "the stage before gained nothing"
    return "the budget is used up" if time.monotonic() > session.deadline else ""


def _plan(session: Session) -> Iterator[tuple[str, StageConfig, int]]:
    train, groups = session.config.train, len(session.classifier.backbone.groups)
    cut = min(groups - 1, round(train.cut * groups))
    if cut > 0:  # a backbone that cannot be cut trains whole
        yield "tail", train.tail, cut
    yield "all", train.all, 0


def run_probe(session: Session) -> StageResult:
    """Stage 0: one pass of the frozen backbone over all images, then a linear head."""
    started, material = time.monotonic(), session.material
    rows = np.concatenate([material.train, material.held])
    table = _embeddings(session, rows)
    at = {int(row): i for i, row in enumerate(rows)}
    head, strength = fit_probe(
        table[: len(material.train)],
        material.labels[material.train],
        [material.groups[row] for row in material.train],
        weights=_weights(session),
        seed=session.config.seed,
    )
    session.planned("probe", {"C": strength})
    session.classifier.head = head
    with torch.inference_mode():
        logits = head(torch.from_numpy(table)).numpy()
    session.best_val = logits[[at[int(row)] for row in material.val]]
    verdict = session.judge(session.best_val, None)
    return StageResult(
        "probe",
        True,
        verdict.reason,
        verdict.score,
        verdict.log_loss,
        time.monotonic() - started,
        steps=0,
        trainable=_count(head.parameters()),
        logits=logits[[at[int(row)] for row in material.held]],
    )


def _embeddings(session: Session, rows: Ints) -> Floats:
    """float32 [len(rows), D] of the pretrained backbone."""
    if session.material.table is not None:
        return session.material.table[rows]
    progress = lambda done, of: session.progress("probe", done, of)  # noqa: E731
    return embed(session.classifier.backbone, session.material.pixels, session.normalize, rows, progress=progress)


def run_stage(session: Session, name: str, stage: StageConfig, first_group: int) -> StageResult:
    """Fine-tune from `first_group` on; keep the result only if it is better on the validation side."""
    started = time.monotonic()
    data = _data(session)
    candidate = _candidate(session)
    tuner = _tuner(session, candidate, data, name=name, stage=stage, first_group=first_group)
    session.planned(name, {"first_group": first_group, "steps": tuner.total_steps, "batch_size": data.batch_size})
    trained = train_stage(
        name,
        tuner,
        data,
        seed=session.config.seed,
        stop=session.stop,
        deadline=session.deadline,
        progress=session.progress,
        extras=session.extras,
        stop_at=session.recipe[name][1] if session.recipe else None,
    )
    val = predict_logits(session, candidate, session.material.val)
    verdict = session.judge(val, session.best_val)
    if verdict.keep:
        session.classifier, session.best_val, session.head = candidate, val, None
    return StageResult(
        name,
        verdict.keep,
        verdict.reason,
        verdict.score,
        verdict.log_loss,
        time.monotonic() - started,
        steps=trained.rows[-1].step if trained.rows else trained.best_step,
        trainable=_count(p for p in candidate.parameters() if p.requires_grad),
        epochs=trained.rows,
        logits=predict_logits(session, candidate, session.material.held) if verdict.keep else None,
        schedule=(tuner.total_steps, trained.best_step),
    )


def predict_logits(session: Session, classifier: Classifier, rows: Ints) -> Floats:
    """Answers of a classifier in eval mode, float32 [len(rows), K]."""
    classifier.eval()
    said = batches(
        session.material.pixels,
        session.normalize,
        rows,
        progress=lambda done, of: session.progress("answers", done, of),
    )
    with torch.inference_mode():
        none = np.empty((0, session.material.classes), np.float32)  # no validation side in a final fit
        return np.concatenate([none, *(classifier(x).float().numpy() for x in said)])


def _data(session: Session) -> PixelDataModule:
    material, config = session.material, session.config
    labels = material.labels.astype(np.float32) if material.labels.ndim == 2 else material.labels
    transform = session.augmentation or build_augmentation(config.augment, material.pixels.size)
    return PixelDataModule(
        PixelDataset(
            material.pixels,
            material.train,
            labels[material.train],
            transform=transform,
            seed=config.seed,
            window=material.window,
        ),
        PixelDataset(material.pixels, material.val, labels[material.val]),
        batch_size=config.train.batch_size,
        seed=config.seed,
        workers=config.train.workers,
    )


def _weights(session: Session) -> Floats:
    """Weight of each class in the loss, float32 [K]."""
    material = session.material
    return class_weights(material.labels[material.train], material.classes, mode=session.config.train.class_weights)


def _candidate(session: Session) -> Classifier:
    """A copy of the best model to train on; the user's own head stands in it until a stage with it is kept."""
    candidate = copy.deepcopy(session.classifier)
    if session.head is not None:
        width = candidate.backbone.width
        candidate.head = build_head(session.head, width, session.material.classes, seed=session.config.seed)
    return candidate


def _tuner(
    session: Session,
    candidate: Classifier,
    data: PixelDataModule,
    *,
    name: str,
    stage: StageConfig,
    first_group: int,
) -> FineTuner:
    weights = torch.from_numpy(_weights(session))

    def make(steps: int) -> FineTuner:
        return FineTuner(
            candidate,
            session.normalize,
            first_group=first_group,
            stage=stage,
            train=session.config.train,
            class_weights=weights,
            total_steps=steps,
        )

    if session.recipe is not None:
        return make(session.recipe[name][0])
    if name in session.replay:
        return make(int(session.replay[name]["steps"]))
    steps = max(1, round(stage.steps / data.batches)) * data.batches if stage.steps > data.batches else stage.steps
    if session.deadline == math.inf:
        return make(steps)
    affordable = 0.9 * (session.deadline - time.monotonic()) / seconds_per_step(make(steps), data)
    return make(max(1, min(steps, int(affordable))))


def _count(parameters: Iterator[torch.nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
