"""Two models on the same images: what one has right that the other has not, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from cvtune.errors import DataError
from cvtune.evaluation.comparison import balanced_weights, check_same
from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate

Answers = Predictions | MultiPredictions
Wide = NDArray[np.float64]

DRAWS: Final = 10_000
CHANCE: Final = 0.05


@dataclass(frozen=True)
class Difference:
    """A figure of the second model less that of the first, with a 95 % interval by paired bootstrap."""

    name: str
    value: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Difference:
        """From :meth:`to_json`."""
        return cls(str(value["name"]), float(value["value"]), float(value["low"]), float(value["high"]))


@dataclass(frozen=True)
class Versus:
    """The second model against the first.

    Attributes:
        first: images that the first has right.
        second: likewise.
        newly_right: rows that the second alone has right, those first of which it is surest.
        newly_wrong: rows that the first alone has right, likewise.
        p: chance of so uneven a split of these rows, were the models equally good (McNemar, exact).
        differences: of accuracy, balanced accuracy and log-loss.
    """

    first: Rate
    second: Rate
    newly_right: tuple[int, ...]
    newly_wrong: tuple[int, ...]
    p: float
    differences: tuple[Difference, ...]

    @property
    def sentence(self) -> str:
        """What follows."""
        changed = f"{len(self.newly_right)} newly right, {len(self.newly_wrong)} newly wrong of {self.first.n}"
        if self.p >= CHANCE:
            return f"no difference is shown: {changed}, chance alone does that {100 * self.p:.0f} times in 100"
        better = "second" if len(self.newly_right) > len(self.newly_wrong) else "first"
        rarely = f"{100 * self.p:.1f} times in 100" if self.p >= 0.001 else "less than once in 1,000 times"
        return f"the {better} is better: {changed}, chance alone does that {rarely}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the rows."""
        counts = {"newly_right": len(self.newly_right), "newly_wrong": len(self.newly_wrong), "p": self.p}
        rates = {"first": self.first.to_json(), "second": self.second.to_json()}
        return {**rates, **counts, "differences": [one.to_json() for one in self.differences]}


def aligned(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    """The answers of both about the images that both were asked about, in one order of images.

    Raises:
        DataError: other classes, another truth of the same image, or no image in common.
    """
    if type(first) is not type(second) or set(first.classes) != set(second.classes):
        raise DataError(
            f"the two models know other classes: {', '.join(first.classes)} and {', '.join(second.classes)}",
            hint="compare models of the same classes",
        )
    places = {path: row for row, path in enumerate(second.paths)}
    common = [row for row, path in enumerate(first.paths) if path in places]
    if not common:
        raise DataError(
            "the two runs have no test image in common",
            hint="name a labelled folder that both are to be asked about: --data FOLDER",
        )
    columns = [second.classes.index(name) for name in first.classes]
    a, b = _rows(first, common), _rows(second, [places[first.paths[row]] for row in common], columns, first.classes)
    if not np.array_equal(a.truth, b.truth):
        path = a.paths[int(np.flatnonzero(np.reshape(a.truth != b.truth, (len(a.paths), -1)).any(axis=1))[0])]
        raise DataError(f"{path} has another label in the second run", hint="fit both on the same labels")
    return a, b


def _rows(
    answers: Any, rows: list[int], columns: list[int] | None = None, classes: tuple[str, ...] | None = None
) -> Any:
    names, order = classes or answers.classes, columns or list(range(len(answers.classes)))
    paths, probabilities = tuple(answers.paths[row] for row in rows), answers.probabilities[np.ix_(rows, order)]
    if isinstance(answers, MultiPredictions):
        truth, said = answers.truth[np.ix_(rows, order)], answers.said[np.ix_(rows, order)]
        return MultiPredictions(paths, truth, probabilities, said, names)
    place = np.argsort(order)  # where each of its classes stands now
    return Predictions(paths, place[answers.truth[rows]].astype(np.int64), probabilities, names)


def versus(first: Answers, second: Answers, *, seed: int = 0) -> Versus:
    """Compare two models on the same images.

    Args:
        first: the one at hand.
        second: the other one, about the same images in the same order (:func:`aligned`).
        seed: of the bootstrap.

    Raises:
        ValueError: other images.
    """
    check_same(first, second)
    right, left = second.right & ~first.right, first.right & ~second.right
    sure = second.probabilities.max(axis=1)
    return Versus(
        Rate(int(first.right.sum()), len(first.paths)),
        Rate(int(second.right.sum()), len(first.paths)),
        _surest(right, sure),
        _surest(left, sure),
        mcnemar(int(right.sum()), int(left.sum())),
        _differences(first, second, seed),
    )


def mcnemar(one: int, other: int) -> float:
    """Chance of so uneven a split of the images that changed sides, were both ways equally likely (McNemar, exact)."""
    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def _surest(changed: NDArray[np.bool_], sure: NDArray[np.float32]) -> tuple[int, ...]:
    rows = np.flatnonzero(changed)
    return tuple(rows[np.argsort(-sure[rows], kind="stable")].tolist())


def _differences(first: Answers, second: Answers, seed: int) -> tuple[Difference, ...]:
    change = second.right.astype(float) - first.right.astype(float)
    figures: dict[str, tuple[Wide, Wide]] = {"accuracy": (change, np.ones(len(change)))}
    if isinstance(first, Predictions):
        figures["balanced accuracy"] = (change, balanced_weights(first))
    found = [_bootstrap(name, *figure, seed=seed) for name, figure in figures.items()]
    return (*found, log_loss_change(first, second, seed=seed))


def log_loss_change(first: Answers, second: Answers, *, seed: int = 0) -> Difference:
    """Log-loss of the second less that of the first, in nats, paired by image.

    Args:
        first: of one model, or of one way to calibrate it.
        second: of the other, about the same images in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: other images.
    """
    check_same(first, second)
    change = second.losses - first.losses
    return _bootstrap("log-loss", change, np.ones(len(change)), seed=seed)


def _bootstrap(name: str, change: Wide, weights: Wide, *, seed: int) -> Difference:
    """Of a weighted mean of each image's change (Efron 1979, percentiles); images are drawn, both answers together."""
    dice = np.random.default_rng(seed)
    mean: Callable[[Any], Any] = lambda rows: (change * weights)[rows].sum(-1) / weights[rows].sum(-1)  # noqa: E731
    chunk = max(1, 4_000_000 // len(change))
    sizes = [(min(chunk, DRAWS - at), len(change)) for at in range(0, DRAWS, chunk)]
    drawn = [mean(dice.integers(0, len(change), size)) for size in sizes]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return Difference(name, float(mean(np.arange(len(change)))), float(low), float(high))
