"""One label an image, or several: the two kinds of question, with the same verbs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from cvtune.data.index import DatasetIndex
from cvtune.evaluation.calibration import Calibration
from cvtune.evaluation.comparison import Comparison, better
from cvtune.evaluation.metrics import Metrics, score
from cvtune.evaluation.multilabel import (
    MultiMetrics,
    MultiPredictions,
    better_multi,
    score_multi,
)
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate

Floats = NDArray[np.float32]


class Figures(Protocol):
    """What the metrics of both tasks have in common."""

    @property
    def accuracy(self) -> Rate:
        """Images that are right altogether."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""


class Task(Protocol):
    """What differs between one label an image and several.

    Attributes:
        name: as in the manifest.
        figure: what decides between stages, in words.
        verdict: what "right" means for an image, in words.
    """

    name: ClassVar[Literal["single", "multi"]]
    figure: ClassVar[str]
    verdict: ClassVar[str]

    def truth(self, index: DatasetIndex) -> NDArray[Any]:
        """int64 [N] class positions, or bool [N, K]."""

    def probabilities(self, logits: Floats, calibration: Calibration | None = None) -> Floats:
        """float32 [N, K] of logits [N, K], which go through the calibration if there is one."""

    def predictions(
        self,
        paths: Sequence[str],
        truth: NDArray[Any],
        probabilities: Floats,
        classes: tuple[str, ...],
        thresholds: Sequence[float] = (),
    ) -> Any:
        """`Predictions` or `MultiPredictions`."""

    def load(self, path: Path) -> Any:
        """Predictions from their file."""

    def score(self, predictions: Any) -> Any:
        """`Metrics` or `MultiMetrics`."""

    def headline(self, figures: Any) -> float:
        """The figure that decides between stages."""

    def better(self, new: Any, old: Any) -> Comparison:
        """Whether a new model is better."""


class _Single:
    name: ClassVar[Literal["single", "multi"]] = "single"
    figure: ClassVar[str] = "balanced accuracy"
    verdict: ClassVar[str] = "right"

    def truth(self, index: DatasetIndex) -> NDArray[np.int64]:
        return index.labels

    def probabilities(self, logits: Floats, calibration: Calibration | None = None) -> Floats:
        moved = logits if calibration is None else calibration.apply(logits)
        return np.asarray(softmax(moved, axis=1), np.float32)

    def predictions(
        self,
        paths: Sequence[str],
        truth: NDArray[Any],
        probabilities: Floats,
        classes: tuple[str, ...],
        thresholds: Sequence[float] = (),
    ) -> Predictions:
        return Predictions(tuple(paths), truth, probabilities, classes)

    def load(self, path: Path) -> Predictions:
        return Predictions.load(path)

    def score(self, predictions: Predictions) -> Metrics:
        return score(predictions)

    def headline(self, figures: Metrics) -> float:
        return figures.balanced_accuracy

    def better(self, new: Predictions, old: Predictions) -> Comparison:
        return better(new, old)


class _Multi:
    name: ClassVar[Literal["single", "multi"]] = "multi"
    figure: ClassVar[str] = "mean average precision"
    verdict: ClassVar[str] = "with every label right"

    def truth(self, index: DatasetIndex) -> NDArray[np.bool_]:
        truth: NDArray[np.bool_] = index.targets > 0
        return truth

    def probabilities(self, logits: Floats, calibration: Calibration | None = None) -> Floats:
        moved = logits if calibration is None else calibration.apply(logits, several=True)
        return np.asarray(expit(moved), np.float32)

    def predictions(
        self,
        paths: Sequence[str],
        truth: NDArray[Any],
        probabilities: Floats,
        classes: tuple[str, ...],
        thresholds: Sequence[float] = (),
    ) -> MultiPredictions:
        said = probabilities >= np.array(thresholds or [0.5] * len(classes))
        return MultiPredictions(tuple(paths), truth, probabilities, said, classes)

    def load(self, path: Path) -> MultiPredictions:
        return MultiPredictions.load(path)

    def score(self, predictions: MultiPredictions) -> MultiMetrics:
        return score_multi(predictions)

    def headline(self, figures: MultiMetrics) -> float:
        return figures.mean_average_precision

    def better(self, new: MultiPredictions, old: MultiPredictions) -> Comparison:
        return better_multi(new, old)


SINGLE: Task = _Single()
MULTI: Task = _Multi()


def task_of(index: DatasetIndex) -> Task:
    """The task of a folder: several labels an image where its table says so."""
    return MULTI if index.multi else SINGLE


def task_named(name: str) -> Task:
    """The task by its name in a manifest or metrics.json."""
    return {"single": SINGLE, "multi": MULTI}[name]


def told(task: Task, rate: Rate) -> str:
    """59 of 61 right, 0.967 [0.887, 0.996]: images that are right altogether, as the task says it."""
    return f"{rate} {task.verdict}, {rate.with_interval}"
