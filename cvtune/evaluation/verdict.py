"""What the decisions are worth, in the words of the factory: escapes, overkill, REVIEW, and what the data prove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cvtune_edge.decision import REVIEW, OperatingPoint
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from cvtune.evaluation.objective import LEVEL, Aim, Target
from cvtune.evaluation.rates import Rate

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# AIAG, Measurement Systems Analysis, 4th edition, attribute study: from here on, or up to here, a system is acceptable.
EFFECTIVENESS: Final = 0.90
MISS: Final = 0.02
FALSE_ALARM: Final = 0.05
KAPPA: Final = 0.75


@dataclass(frozen=True)
class Study:
    """An attribute study of the images that were decided, against their labels.

    Attributes:
        effectiveness: decided rightly, of those decided.
        miss: defective images decided OK, of the defective ones that were decided.
        false_alarm: good images decided NG, of the good ones that were decided.
        kappa: Cohen's, of OK and NG; None where only one of them occurs.
    """

    effectiveness: Rate
    miss: Rate
    false_alarm: Rate
    kappa: float | None

    @property
    def acceptable(self) -> Mapping[str, bool]:
        """Which of the usual limits it keeps."""
        return {
            "effectiveness": (self.effectiveness.value or 0.0) >= EFFECTIVENESS,
            "miss": (self.miss.value or 0.0) <= MISS,
            "false_alarm": (self.false_alarm.value or 0.0) <= FALSE_ALARM,
            "kappa": self.kappa is not None and self.kappa >= KAPPA,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values, null for what is undefined."""
        rates = {name: getattr(self, name).to_json() for name in ("effectiveness", "miss", "false_alarm")}
        return {**rates, "kappa": self.kappa, "acceptable": dict(self.acceptable)}


@dataclass(frozen=True)
class Inspection:
    """Decisions of a side where some classes are good.

    Attributes:
        escapes: defective images decided OK, of the defective ones.
        overkill: good images decided NG, of the good ones.
        review: images that a person has to look at, of all.
        review_defects: defective ones among them, of the defective ones.
        mixed_up: defective images decided NG under another defect's name, of the defective ones decided NG.
        by_class: escapes of each class that is not good.
        study: the attribute study.
    """

    escapes: Rate
    overkill: Rate
    review: Rate
    review_defects: Rate
    mixed_up: Rate
    by_class: Mapping[str, Rate]
    study: Study

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        names = ("escapes", "overkill", "review", "review_defects", "mixed_up")
        rates = {name: told(getattr(self, name)) for name in names}
        return {
            **rates,
            "by_class": {name: told(rate) for name, rate in self.by_class.items()},
            "study": self.study.to_json(),
        }


@dataclass(frozen=True)
class Sorting:
    """Decisions of a side where no class is good.

    Attributes:
        errors: wrong ones, of the images that were decided.
        review: images that a person has to look at, of all.
        by_class: wrong ones, of the decided images of each class.
        coverage: decided ones of each class.
    """

    errors: Rate
    review: Rate
    by_class: Mapping[str, Rate]
    coverage: Mapping[str, Rate]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        tables = {
            name: {key: told(rate) for key, rate in getattr(self, name).items()} for name in ("by_class", "coverage")
        }
        return {"errors": told(self.errors), "review": told(self.review), **tables}


@dataclass(frozen=True)
class LabelCounts:
    """Decisions of a side where an image may have several labels, over all labels.

    Attributes:
        escapes: labels that were missed, of those that images have.
        overkill: labels that were said wrongly, of those that images have not.
        review: labels that a person has to look at, of all.
        review_defects: those among them that images have.
        by_label: the same of each label, by its name.
    """

    escapes: Rate
    overkill: Rate
    review: Rate
    review_defects: Rate
    by_label: Mapping[str, LabelCounts]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rates = {name: told(getattr(self, name)) for name in ("escapes", "overkill", "review", "review_defects")}
        return {**rates, "by_label": {name: one.to_json() for name, one in self.by_label.items()}}


Decided = Inspection | Sorting | LabelCounts


def told(rate: Rate) -> dict[str, Any]:
    """A rate with its interval and what it is at most."""
    return {**rate.to_json(), "at_most": rate.at_most}


def inspect(point: OperatingPoint, decisions: Ints, truth: Ints, classes: tuple[str, ...]) -> Inspection:
    """Count.

    Args:
        point: by which was decided, with good classes.
        decisions: int64 [N].
        truth: int64 [N].
        classes: K names.
    """
    good, fine, looked = np.isin(truth, point.ok), point.is_ok(decisions), decisions == REVIEW
    bad, defect = ~fine & ~looked, ~good
    others = [k for k in range(len(classes)) if k not in point.ok]
    return Inspection(
        escapes=_rate(fine, defect),
        overkill=_rate(bad, good),
        review=_rate(looked, np.ones_like(looked)),
        review_defects=_rate(looked, defect),
        mixed_up=_rate(decisions != truth, defect & bad),
        by_class={classes[k]: _rate(fine, truth == k) for k in others},
        study=Study(
            effectiveness=_rate(fine == good, ~looked),
            miss=_rate(fine, defect & ~looked),
            false_alarm=_rate(bad, good & ~looked),
            kappa=_kappa(fine[~looked], good[~looked]),
        ),
    )


def sort(decisions: Ints, truth: Ints, classes: tuple[str, ...]) -> Sorting:
    """Count, where no class is good."""
    looked = decisions == REVIEW
    wrong = ~looked & (decisions != truth)
    own = {name: truth == k for k, name in enumerate(classes) if (truth == k).any()}
    return Sorting(
        errors=_rate(wrong, ~looked),
        review=_rate(looked, np.ones_like(looked)),
        by_class={name: _rate(wrong, rows & ~looked) for name, rows in own.items()},
        coverage={name: _rate(~looked, rows) for name, rows in own.items()},
    )


def count_labels(decisions: Ints, truth: Bools, classes: tuple[str, ...]) -> LabelCounts:
    """Count, where an image may have several labels; decisions and truth are [N, K]."""

    def counts(own: Ints, has: Bools, by_label: Mapping[str, LabelCounts]) -> LabelCounts:
        looked = own == REVIEW
        everything = np.ones_like(looked)
        rates = _rate(own == 0, has), _rate(own == 1, ~has), _rate(looked, everything), _rate(looked, has)
        return LabelCounts(*rates, by_label)

    each = {name: counts(decisions[:, k], truth[:, k], {}) for k, name in enumerate(classes)}
    return counts(decisions, truth, each)


def count(point: OperatingPoint, decisions: Ints, truth: NDArray[Any], classes: tuple[str, ...]) -> Decided:
    """Count decisions int64 [N], or [N, K] with several labels, against the truth, as the limits mean them."""
    if point.several:
        return count_labels(decisions, truth, classes)
    if point.ok:
        return inspect(point, decisions, truth, classes)
    return sort(decisions, truth, classes)


def proof(rate: Rate, target: Target | None, words: tuple[str, str]) -> str:
    """What a count proves of a rate, and how many images without a mistake would prove the target.

    Args:
        rate: the mistakes, of the images of their kind.
        target: None says what is proven alone.
        words: the mistake and the images, in the plural: "escapes", "defective images".
    """
    mistakes, images = words
    if not rate.n:
        return f"no {images}: nothing is known of {mistakes}"
    said = f"{rate} {mistakes}: at most {100 * rate.at_most:.1f} % ({100 * LEVEL:.0f} % sure)"
    return said if target is None else f"{said}; {judged(rate, target, str(target), images)}"


def judged(rate: Rate, target: Target, name: str, images: str) -> str:
    """Whether a count proves a target.

    Args:
        rate: as for :func:`proof`.
        target: the bound of the rate.
        name: what to call it.
        images: of their kind, in the plural.
    """
    if rate.n and rate.at_most <= target.share:
        return f"{name} is proven"
    if rate.n and rate.k / rate.n > target.share:
        return f"{name} is missed"
    return f"{name} is not proven: {target.needed} {images} without a mistake would prove it"


NAMES: Final[Mapping[Aim, tuple[str, str]]] = {
    "escape": ("escapes", "defective images"),
    "overkill": ("good images rejected", "good images"),
    "error": ("wrong decisions", "decided images"),
}


def _rate(hit: Bools, of: Bools) -> Rate:
    return Rate(int((hit & of).sum()), int(of.sum()))


def _kappa(said: Bools, truth: Bools) -> float | None:
    if len({*said.tolist(), *truth.tolist()}) < 2:
        return None
    return float(cohen_kappa_score(said, truth))
