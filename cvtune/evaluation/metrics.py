"""The figures of a model on one side, each with its counts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from cvtune.evaluation.comparison import Comparison, better
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate, mean_interval

__all__ = ["ClassMetrics", "Comparison", "Metrics", "Rate", "better", "positive_class", "score"]

# Names of the class that is not looked for, letters only; the other one of two is the positive class.
_NEGATIVE_NAMES: Final = (
    "ok okay good normal functional free pass passed accept accepted healthy negative clean intact fine io gut "
    "defectfree nodefect nodefects undamaged perfect background"
)


@dataclass(frozen=True)
class ClassMetrics:
    """One class against the rest; `auroc` is None where the side holds only this class or none of it."""

    name: str
    precision: Rate
    recall: Rate
    f1: float | None
    auroc: float | None

    @property
    def n(self) -> int:
        """Images of the class."""
        return self.recall.n

    def to_json(self) -> dict[str, Any]:
        """Plain values, null for what is undefined."""
        return {
            "n": self.n,
            "precision": self.precision.to_json(),
            "recall": self.recall.to_json(),
            "f1": self.f1,
            "auroc": self.auroc,
        }


@dataclass(frozen=True)
class Metrics:
    """The figures of one side; means run over the classes that occur in it.

    Attributes:
        accuracy: images with the right label, of all.
        balanced_accuracy: mean recall; its interval is that of :func:`~cvtune.evaluation.rates.mean_interval`.
        auroc: of the positive class for two classes, else the mean of one-vs-rest; None where undefined.
        positive: the class that sensitivity counts, for two classes only.
        confusion: counts [K, K], a row for each true class, a column for each predicted one.
    """

    accuracy: Rate
    balanced_accuracy: float
    balanced_accuracy_interval: tuple[float, float]
    macro_f1: float
    auroc: float | None
    log_loss: float
    per_class: tuple[ClassMetrics, ...]
    positive: str | None
    confusion: tuple[tuple[int, ...], ...]

    @property
    def n(self) -> int:
        """Images scored."""
        return self.accuracy.n

    @property
    def sensitivity(self) -> Rate | None:
        """Recall of the positive class; None unless there are two classes."""
        return next((one.recall for one in self.per_class if one.name == self.positive), None)

    @property
    def specificity(self) -> Rate | None:
        """Recall of the class that is not the positive one; None unless there are two classes."""
        return next((one.recall for one in self.per_class if self.positive not in (None, one.name)), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values for metrics.json, null for what is undefined."""
        sensitivity, specificity = self.sensitivity, self.specificity
        return {
            "n": self.n,
            "right": self.accuracy.k,
            "accuracy": self.accuracy.value,
            "accuracy_interval": [self.accuracy.low, self.accuracy.high],
            "balanced_accuracy": self.balanced_accuracy,
            "balanced_accuracy_interval": list(self.balanced_accuracy_interval),
            "macro_f1": self.macro_f1,
            "auroc": self.auroc,
            "log_loss": self.log_loss,
            "positive": self.positive,
            "sensitivity": sensitivity.to_json() if sensitivity else None,
            "specificity": specificity.to_json() if specificity else None,
            "per_class": {one.name: one.to_json() for one in self.per_class},
            "confusion": [list(row) for row in self.confusion],
        }


def score(predictions: Predictions) -> Metrics:
    """Count what is right and wrong."""
    truth, labels, classes = predictions.truth, predictions.labels, predictions.classes
    confusion = sk.confusion_matrix(truth, labels, labels=range(len(classes)))
    per_class = tuple(_score_class(predictions, confusion, c) for c in range(len(classes)))
    present = [one.recall for one in per_class if one.n]
    positive = positive_class(classes) if len(classes) == 2 else None
    return Metrics(
        accuracy=Rate(int(predictions.right.sum()), len(truth)),
        balanced_accuracy=float(np.mean([rate.k / rate.n for rate in present])),
        balanced_accuracy_interval=mean_interval(present),
        macro_f1=float(sk.f1_score(truth, labels, average="macro", zero_division=0.0)),
        auroc=_auroc(per_class, positive),
        log_loss=predictions.log_loss,
        per_class=per_class,
        positive=positive,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def positive_class(classes: tuple[str, ...]) -> str:
    """The class of two that is looked for: the one not named like ok, good, normal; else the second."""
    return classes[0] if [is_good_name(name) for name in classes] == [False, True] else classes[1]


def is_good_name(name: str) -> bool:
    """Whether a class is called like what nobody looks for: ok, good, normal, functional, free."""
    return re.sub(r"[\W_]", "", name).lower() in _NEGATIVE_NAMES.split()


def _score_class(predictions: Predictions, confusion: NDArray[np.int64], c: int) -> ClassMetrics:
    hit, said, true = int(confusion[c, c]), int(confusion[:, c].sum()), int(confusion[c].sum())
    both = 0 < true < len(predictions.truth)
    return ClassMetrics(
        name=predictions.classes[c],
        precision=Rate(hit, said),
        recall=Rate(hit, true),
        f1=2 * hit / (said + true) if said + true else None,
        auroc=float(sk.roc_auc_score(predictions.truth == c, predictions.probabilities[:, c])) if both else None,
    )


def _auroc(per_class: tuple[ClassMetrics, ...], positive: str | None) -> float | None:
    if positive is not None:
        return next(one.auroc for one in per_class if one.name == positive)
    defined = [one.auroc for one in per_class if one.auroc is not None]
    return float(np.mean(defined)) if defined else None
