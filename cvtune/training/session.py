"""What the stages of a run share: the images they see, the choices made by measuring, and the best model so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvtune.config import Config
from cvtune.data.pixels import PixelCache
from cvtune.models.engine import Frozen
from cvtune.models.head import Classifier, HeadFactory
from cvtune.models.normalize import Normalize
from cvtune.training.checkpoint import Ledger, Store
from cvtune.training.losses import Labels, Loss, build_loss
from cvtune.training.probe import HeadPlan
from cvtune.training.stop import StopRequest
from cvtune.training.trainer import Epoch, Extras, Progress
from cvtune.training.views import Views

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """Whether a model replaces the one before, from their answers on the validation side."""

    keep: bool
    reason: str
    score: float
    log_loss: float


Choices = Mapping[str, Any]  # what a stage chose by measuring, as plain values for plan.json, saved before it trains

Judge = Callable[[Floats, Floats | None], Judgement]  # new logits, old logits [n_val, K]


@dataclass(frozen=True)
class Material:
    """What training sees of the folder.

    Attributes:
        pixels: cache of all images.
        labels: [N] class indices, or bool [N, K] where an image may have several.
        groups: [N] names of parts, patients or tracks.
        train: rows of the training side.
        val: rows of the validation side, ascending.
        held: rows of val, calib and test, all of them, ascending: those whose answers the parity gate compares.
        classes: K.
        window: raw values that are black and white, for deep images.
        table: float32 [N, D], embeddings of the pretrained backbone with its taps, where they are known already.
        mirrored: gives the same of some rows' mirrored images, [n, D]; None where mirrors are not allowed.
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
    mirrored: Callable[[Ints], Floats] | None = None


@dataclass(frozen=True)
class Plan:
    """What was chosen for a stage by measuring; plan.json holds it.

    Attributes:
        first_group: index of the first layer group that learns.
        steps: of the optimizer, for which the schedule is made.
        batch_size: images a step.
        learning_rate: of the last layer group.
        views: augmented views of an image in the cache of activations; 0 for live augmentation.
        every: epochs after which other views take their place.
        half: whether the training step is in bfloat16, on a processor that has it (`hardware.mixed`).
        frozen: how the frozen layers before the cache run.
        small: side in pixels of the first steps' images (`module.side_at`); 0 for the full one all along.
    """

    first_group: int
    steps: int
    batch_size: int
    learning_rate: float
    views: int = 0
    every: int = 1
    half: bool = False
    frozen: Frozen = "float32"
    small: int = 0


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of n images.

    Attributes:
        logits: float32 [n, K].
        embeddings: float32 [n, D], what its head saw.
    """

    logits: Floats
    embeddings: Floats


@dataclass(frozen=True)
class StageResult:
    """One stage that has ended.

    Attributes:
        answers: for the held images, of the model that stands after this stage; None where it was dropped.
        plan: what was chosen before; None for the probe.
        best_step: after which the weights were kept.
        picked: which weights were taken, and the log-loss of each that could have been.
        weights: "best epoch", "last", "EMA", "mean of the last 3".
        way: how far from the model before to these weights, 1 for all of it (WiSE-FT).
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
    answers: Answers | None = None
    plan: Plan | None = None
    best_step: int = 0
    picked: str = ""
    weights: str = "last"
    way: float = 1.0

    @property
    def recipe(self) -> Recipe:
        """How to repeat it.

        Raises:
            ValueError: it is the probe, which has no plan.
        """
        if self.plan is None:
            raise ValueError("the probe has no recipe but its head")
        if self.weights == "best epoch":
            return Recipe(self.plan, self.best_step, way=self.way)
        return Recipe(self.plan, self.steps, self.weights, self.way)


@dataclass(frozen=True)
class Recipe:
    """How a stage is repeated on other images, without a validation side that would say when it is enough.

    Attributes:
        plan: with the steps of the schedule.
        take: steps to take of them.
        weights: which of the stage's are taken: "last", "EMA" or "mean of the last 3".
        way: how far from the model before to these weights, 1 for all of it (WiSE-FT).
    """

    plan: Plan
    take: int
    weights: str = "last"
    way: float = 1.0

    def scaled(self, factor: float) -> Recipe:
        """For so many times the images: as many epochs."""
        steps = max(1, round(factor * self.plan.steps))
        return replace(self, plan=replace(self.plan, steps=steps), take=max(1, round(factor * self.take)))


@dataclass
class Session:
    """Everything the stages share; the classifier always holds the best model so far.

    Attributes:
        views: the augmentation, and activations of the frozen layers for augmented views.
        replay: choices of an earlier run by stage; they are taken instead of measuring again.
        planned: called with a stage's choices before it trains.
        left_out: called with a stage that is not run and why.
        told: called with a stage and a sentence about what it chose.
        recipe: the stages to repeat and how; nothing is judged then, since no image is held back.
        probe: the head that won, and is fitted again where a recipe is followed.
        keep_views: a final fit follows; activations are left for its sessions.
        results: what `stages` has yielded.
        deadline: `time.monotonic()` at which training ends.
        exporting: seconds that exporting a model took, as far as that does not depend on what was trained.
        compared: training images that are shown once more to a model that was trained, when it is exported.
        answer: seconds that its answer for one takes, 0 before that is measured.
        ledger: finished stages, which are not run again; None keeps none.
        store: checkpoints of a stage; None keeps none.
        best_val: float32 [n_val, K], logits of the best model so far.
        score: of the probe on the validation side.
    """

    config: Config
    classifier: Classifier
    normalize: Normalize
    material: Material
    judge: Judge
    stop: StopRequest
    progress: Progress
    views: Views
    extras: Extras = field(default_factory=Extras)
    head: HeadFactory | None = None
    replay: Mapping[str, Choices] = field(default_factory=dict)
    planned: Callable[[str, Choices], None] = lambda name, choices: None
    left_out: Callable[[str, str], None] = lambda name, reason: None
    told: Callable[[str, str], None] = lambda name, text: None
    recipe: Mapping[str, Recipe] | None = None
    probe: HeadPlan | None = None
    keep_views: bool = False
    deadline: float = math.inf
    exporting: float = 0.0
    compared: int = 0
    answer: float = 0.0
    ledger: Ledger | None = None
    store: Callable[[str], Store | None] = lambda name: None
    best_val: Floats | None = None
    score: float = 0.0
    results: list[StageResult] = field(default_factory=list)

    @property
    def reserve(self) -> float:
        """Seconds kept free before the deadline: answers of a trained model for what is held back, and its export."""
        return self.exporting + (len(self.material.held) + self.compared) * self.answer

    @property
    def seconds(self) -> float:
        """Time that is left to train, infinite without a budget."""
        return self.deadline - time.monotonic() - self.reserve

    def choose(self, stage: str, measure: Callable[[], Choices]) -> Choices:
        """The choices of a stage: those of an earlier run, or measured now; written down before anything is trained."""
        choices = self.replay[stage] if stage in self.replay else measure()
        self.planned(stage, choices)
        return choices

    def loss(self) -> Loss:
        """The loss of the training side."""
        train, material = self.config.train, self.material
        return build_loss(
            material.labels[material.train],
            material.classes,
            kind=train.loss,
            weights=train.class_weights,
            smoothing=train.label_smoothing,
        )
