"""What two models decide about the same images, each by its own limits: whose escapes are fewer, and is it chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cvtune_edge.decision import REVIEW, OperatingPoint
from numpy.typing import NDArray

from cvtune.evaluation.paired import mcnemar
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Judged:
    """Answers of a model and what its limits make of them.

    Attributes:
        answers: of N images, one class each.
        point: the limits.
        decisions: int64 [N].
    """

    answers: Predictions
    point: OperatingPoint
    decisions: Ints

    @property
    def good(self) -> frozenset[str]:
        """Names of the good classes."""
        return frozenset(self.answers.classes[k] for k in self.point.ok)

    def rows(self, paths: tuple[str, ...]) -> Judged:
        """Those of some images, in their order."""
        at = {path: row for row, path in enumerate(self.answers.paths)}
        rows = np.array([at[path] for path in paths], np.int64)
        truth, probabilities = self.answers.truth[rows], self.answers.probabilities[rows]
        answers = Predictions(paths, truth, probabilities, self.answers.classes)
        return Judged(answers, self.point, self.decisions[rows])

    def kinds(self) -> Mapping[str, tuple[Bools, Bools]]:
        """By name which images were decided so, and which could have been: bool [N] each."""
        truth, looked = self.answers.truth, self.decisions == REVIEW
        everything = np.ones(len(truth), bool)
        review = {"REVIEW": (looked, everything)}
        if not self.point.ok:
            return {"wrong": (~looked & (self.decisions != truth), everything), **review}
        good, fine = np.isin(truth, self.point.ok), self.point.is_ok(self.decisions)
        return {"escapes": (fine & ~good, ~good), "overkill": (~fine & ~looked & good, good), **review}


@dataclass(frozen=True)
class Outcome:
    """One kind of decision of both.

    Attributes:
        name: escapes, overkill, REVIEW; wrong where no class is good.
        first: of the images that could have been decided so.
        second: likewise, of the same images.
        new: rows that the second alone decides so.
        gone: rows that the first alone decides so.
        p: chance of so uneven a split of these rows, were the models equally good (McNemar, exact).
    """

    name: str
    first: Rate
    second: Rate
    new: tuple[int, ...]
    gone: tuple[int, ...]
    p: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the rows."""
        rates = {"first": self.first.to_json(), "second": self.second.to_json()}
        return {"name": self.name, **rates, "new": len(self.new), "gone": len(self.gone), "p": self.p}


def outcomes(first: Judged, second: Judged) -> tuple[Outcome, ...]:
    """Compare the decisions of two models about the same images in the same order.

    Raises:
        ValueError: other images, or other good classes: an escape of one would be none of the other.
    """
    if first.answers.paths != second.answers.paths or first.good != second.good:
        raise ValueError("other images or other good classes")
    theirs = second.kinds()
    return tuple(_outcome(name, mine, theirs[name]) for name, mine in first.kinds().items())


def _outcome(name: str, first: tuple[Bools, Bools], second: tuple[Bools, Bools]) -> Outcome:
    (one, of), (other, _) = first, second
    new, gone = np.flatnonzero(other & ~one), np.flatnonzero(one & ~other)
    images = int(of.sum())
    rates = Rate(int(one.sum()), images), Rate(int(other.sum()), images)
    return Outcome(name, *rates, tuple(new.tolist()), tuple(gone.tolist()), mcnemar(len(new), len(gone)))
