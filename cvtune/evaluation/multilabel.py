"""Several labels an image: predictions, figures and thresholds, a decision for each label."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from cvtune_edge import table
from cvtune_edge.manifest import LABEL_SEPARATOR
from cvtune_edge.results import Prediction
from numpy.typing import NDArray
from sklearn import metrics as sk

from cvtune.errors import RunError
from cvtune.evaluation.comparison import Comparison, check_same, compare
from cvtune.evaluation.predictions import FIRST_PROBABILITY, TRUTH, csv_line, read_table
from cvtune.evaluation.rates import Rate
from cvtune.rundir import write_bytes

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

_LABEL: Final = 2  # path,truth,label,probability,p:...
_FEW: Final = 5  # images with a label; with fewer a threshold would be luck


@dataclass(frozen=True)
class MultiPredictions:
    """Predictions for N images of which each may have any of K labels, with the truth.

    Args:
        paths: N names.
        truth: bool [N, K], which labels the image has.
        probabilities: float32 [N, K], each between 0 and 1, independent of each other.
        said: bool [N, K], which labels were given: probability at or above the label's threshold.
        classes: K names in class order.

    Raises:
        ValueError: no images, shapes that do not fit together, or values out of range.
    """

    paths: tuple[str, ...]
    truth: Bools
    probabilities: Floats
    said: Bools
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = (len(self.paths), len(self.classes))
        if not shape[0]:
            raise ValueError("predictions of no images: expected at least one")
        found = [array.shape for array in (self.truth, self.probabilities, self.said)]
        if any(one != shape for one in found):
            raise ValueError(f"expected truth, probabilities and said of {list(shape)}, got {found}")
        if self.truth.dtype != bool or self.said.dtype != bool or self.probabilities.dtype != np.float32:
            raise ValueError("expected bool truth, float32 probabilities and bool said")
        if not bool(((self.probabilities >= 0) & (self.probabilities <= 1)).all()):  # False for NaN too
            raise ValueError("probabilities outside 0..1")

    @property
    def right(self) -> Bools:
        """Where every label is right, bool [N]."""
        right: Bools = (self.said == self.truth).all(axis=1)
        return right

    @property
    def log_loss(self) -> float:
        """Mean binary cross-entropy over images and labels, in nats."""
        return float(self.losses.mean())

    @property
    def losses(self) -> NDArray[np.float64]:
        """Each image's [N], mean over the labels; probabilities held off 0 and 1 by 1.2e-7."""
        eps = float(np.finfo(np.float32).eps)
        p = np.clip(self.probabilities.astype(np.float64), eps, 1 - eps)
        return np.asarray(-np.where(self.truth, np.log(p), np.log1p(-p)).mean(axis=1))

    @property
    def mean_average_precision(self) -> float:
        """Mean over the labels that occur and are missing somewhere; 0 where there is none."""
        defined = [
            float(sk.average_precision_score(truth, scores))
            for truth, scores in zip(self.truth.T, self.probabilities.T, strict=True)
            if truth.any() and not truth.all()
        ]
        return float(np.mean(defined)) if defined else 0.0

    def save(self, path: Path) -> None:
        """Write the CSV of `cvtune_edge.table` with the truth; several labels in a cell are joined by `;`."""
        lines = [csv_line(table.header(self.classes, truth=True))]
        for i, name in enumerate(self.paths):
            said = self.names(self.said[i])
            best = float(self.probabilities[i].max())
            prediction = Prediction(name, LABEL_SEPARATOR.join(said), best, self.probabilities[i], labels=said)
            lines.append(csv_line(table.row(prediction, truth=LABEL_SEPARATOR.join(self.names(self.truth[i])))))
        write_bytes(path, "".join(lines).encode("utf-8", "surrogateescape"))

    def names(self, row: Bools) -> tuple[str, ...]:
        """The labels that a row of truth or said names."""
        return tuple(name for name, on in zip(self.classes, row, strict=True) if on)

    @classmethod
    def load(cls, path: Path) -> MultiPredictions:
        """Read a file that :meth:`save` wrote.

        Raises:
            RunError: the file is missing or damaged.
        """
        try:
            rows, classes = read_table(path)
            return cls(
                paths=tuple(row[0] for row in rows),
                truth=np.array([_flags(row[TRUTH], classes) for row in rows], bool).reshape(-1, len(classes)),
                probabilities=np.array([row[FIRST_PROBABILITY:] for row in rows], np.float32),
                said=np.array([_flags(row[_LABEL], classes) for row in rows], bool).reshape(-1, len(classes)),
                classes=classes,
            )
        except (OSError, ValueError, IndexError, csv.Error) as error:
            raise RunError(f"{path}: cannot be read ({error})", hint="fit the run again") from error


@dataclass(frozen=True)
class LabelMetrics:
    """One label; `average_precision` and `auroc` are None where all images have it, or none."""

    name: str
    precision: Rate
    recall: Rate
    specificity: Rate
    f1: float | None
    average_precision: float | None
    auroc: float | None

    @property
    def n(self) -> int:
        """Images that have the label."""
        return self.recall.n

    def to_json(self) -> dict[str, Any]:
        """Plain values, null for what is undefined."""
        return {
            "n": self.n,
            "precision": self.precision.to_json(),
            "recall": self.recall.to_json(),
            "specificity": self.specificity.to_json(),
            "f1": self.f1,
            "average_precision": self.average_precision,
            "auroc": self.auroc,
        }


@dataclass(frozen=True)
class MultiMetrics:
    """The figures of one side.

    Attributes:
        accuracy: images with every label right, of all.
        mean_average_precision: over the labels for which it is defined.
        macro_f1: mean over the labels that occur or were given; 0 where there is none.
        per_class: one row a label.
    """

    accuracy: Rate
    mean_average_precision: float
    macro_f1: float
    log_loss: float
    per_class: tuple[LabelMetrics, ...]

    @property
    def n(self) -> int:
        """Images scored."""
        return self.accuracy.n

    def to_json(self) -> dict[str, Any]:
        """Plain values for metrics.json, null for what is undefined."""
        return {
            "n": self.n,
            "right": self.accuracy.k,
            "accuracy": self.accuracy.value,
            "accuracy_interval": [self.accuracy.low, self.accuracy.high],
            "mean_average_precision": self.mean_average_precision,
            "macro_f1": self.macro_f1,
            "log_loss": self.log_loss,
            "per_class": {one.name: one.to_json() for one in self.per_class},
        }


def score_multi(predictions: MultiPredictions) -> MultiMetrics:
    """Count what is right and wrong, label by label."""
    per_class = tuple(_score_label(predictions, k) for k in range(len(predictions.classes)))
    f1 = [one.f1 for one in per_class if one.f1 is not None]
    return MultiMetrics(
        accuracy=Rate(int(predictions.right.sum()), len(predictions.paths)),
        mean_average_precision=predictions.mean_average_precision,
        macro_f1=float(np.mean(f1)) if f1 else 0.0,
        log_loss=predictions.log_loss,
        per_class=per_class,
    )


def better_multi(new: MultiPredictions, old: MultiPredictions) -> Comparison:
    """Compare two models label by label; the rule of :func:`cvtune.evaluation.comparison.better`.

    What stands for the balanced accuracy is the mean over labels of sensitivity and specificity at p >= 0.5, so that
    saying "none" to everything gains nothing.

    Raises:
        ValueError: the two are not about the same images in the same order.
    """
    check_same(new, old)
    change = _right(new).astype(np.int64) - _right(old).astype(np.int64)
    positive = new.truth.sum(axis=0)
    sizes = np.where(new.truth, positive, len(new.truth) - positive)  # (N, K), images of the same kind
    kinds = np.count_nonzero(positive) + np.count_nonzero(len(new.truth) - positive)
    return compare(change, 1.0 / (kinds * sizes), new.losses, old.losses, of="label decisions")


def pick_thresholds(probabilities: Floats, truth: Bools) -> tuple[float, ...]:
    """For each label the threshold with the best F1, the one nearest to 0.5 among equals.

    Args:
        probabilities: float32 [N, K] of images that were not trained on.
        truth: bool [N, K].

    Returns:
        K numbers; 0.5 where fewer than five images have the label.
    """
    return tuple(
        _best_threshold(scores, label) if label.sum() >= _FEW else 0.5
        for scores, label in zip(probabilities.T, truth.T, strict=True)
    )


def _best_threshold(scores: Floats, label: Bools) -> float:
    order = np.sort(np.unique(scores.astype(np.float64)))
    candidates = np.round((order[1:] + order[:-1]) / 2, 4)  # between two answers, as people write them
    candidates = np.unique(np.append(candidates[(candidates > 0) & (candidates < 1)], 0.5))
    said = scores[:, None].astype(np.float64) >= candidates  # (N, candidates)
    f1 = 2 * (said & label[:, None]).sum(axis=0) / (said.sum(axis=0) + label.sum())
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])


def _right(predictions: MultiPredictions) -> Bools:
    right: Bools = (predictions.probabilities >= 0.5) == predictions.truth
    return right


def _score_label(predictions: MultiPredictions, k: int) -> LabelMetrics:
    truth, said, scores = predictions.truth[:, k], predictions.said[:, k], predictions.probabilities[:, k]
    hit, given, true = int((truth & said).sum()), int(said.sum()), int(truth.sum())
    both = 0 < true < len(truth)
    return LabelMetrics(
        name=predictions.classes[k],
        precision=Rate(hit, given),
        recall=Rate(hit, true),
        specificity=Rate(int((~truth & ~said).sum()), len(truth) - true),
        f1=2 * hit / (given + true) if given + true else None,
        average_precision=float(sk.average_precision_score(truth, scores)) if both else None,
        auroc=float(sk.roc_auc_score(truth, scores)) if both else None,
    )


def _flags(cell: str, classes: Sequence[str]) -> list[bool]:
    names = set(cell.split(LABEL_SEPARATOR)) if cell else set()
    unknown = names - set(classes)
    if unknown:
        raise ValueError(f"unknown label '{min(unknown)}'")
    return [name in names for name in classes]
