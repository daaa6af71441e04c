"""Which head model 0 gets: the candidates answer for images that they have not seen, and the best answer wins."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from cvtune.training.candidates import (
    STRENGTHS,
    Ints,
    Labels,
    Linear,
    Sample,
    Wide,
    discriminants,
    logistic,
    losses,
    temperature,
)
from cvtune.training.ridge import ridge

Kind = Literal["ridge", "lda", "logistic"]
KINDS: Final[tuple[Kind, ...]] = ("ridge", "lda", "logistic")  # of heads that are equally good the first one wins
FOLDS: Final = 3


@dataclass(frozen=True)
class Entry:
    """A head that competes.

    Attributes:
        kind: how it is fitted.
        width: features it takes, from the first on.
        strength: C of logistic regression; the closed forms find their own.
    """

    kind: Kind
    width: int
    strength: float = 0.0

    def fit(self, sample: Sample) -> tuple[Linear, float]:
        """The head, and the strength of its regularisation."""
        sample = sample.first(self.width)
        if self.kind == "ridge":
            return ridge(sample)
        if self.kind == "lda":
            return discriminants(sample)
        return logistic(sample, self.strength), self.strength


@dataclass(frozen=True)
class Result:
    """How an entry did.

    Attributes:
        factor: temperature of its logits on images it has not seen.
        losses: float64 [n], of each image that was asked.
    """

    entry: Entry
    factor: float
    losses: Wide

    @property
    def score(self) -> float:
        """Mean loss in nats."""
        return float(self.losses.mean())


def entries(widths: Sequence[int], *, multi: bool) -> list[Entry]:
    """Everything that is tried.

    Args:
        widths: numbers of first features to try, ascending.
        multi: whether an image may have several labels, of which discriminant analysis knows nothing.
    """
    kinds = [kind for kind in KINDS if not (multi and kind == "lda")]
    return [
        Entry(kind, width, strength)
        for width in widths
        for kind in kinds
        for strength in (STRENGTHS if kind == "logistic" else (0.0,))
    ]


def compete(
    sample: Sample, views: int, folds: Sequence[tuple[Ints, Ints]], tried: Sequence[Entry], *, workers: int
) -> list[Result]:
    """Let every entry answer for the images of each fold; of entries that differ in their strength the best is left.

    Args:
        sample: n images, and behind them as many rows for each further view of them.
        views: rows of an image; only the first one is asked about.
        folds: rows below n to fit on and to ask about.
        tried: the entries.
        workers: threads; the answers do not depend on them.
    """
    n = len(sample.x) // views
    asked = np.concatenate([score_on for _, score_on in folds])

    def answers(entry: Entry, fit_on: Ints, score_on: Ints) -> Wide:
        rows = np.concatenate([fit_on + view * n for view in range(views)])
        head, _ = entry.fit(sample.take(rows))
        return head(sample.x[score_on][:, : entry.width])

    with ThreadPoolExecutor(workers) as pool:
        waiting = [[pool.submit(answers, entry, *fold) for fold in folds] for entry in tried]
        logits = [np.concatenate([one.result() for one in row]) for row in waiting]
    labels, weights = sample.labels[asked], sample.weights
    best: dict[tuple[Kind, int], Result] = {}
    for entry, said in zip(tried, logits, strict=True):
        factor = 1.0 if entry.kind == "ridge" else temperature(said, labels, weights)  # ridge has found its own
        result = Result(entry, factor, losses(factor * said, labels, weights))
        rival = best.setdefault((entry.kind, entry.width), result)
        if result.score < rival.score:
            best[entry.kind, entry.width] = result
    return list(best.values())


def winner(results: Sequence[Result], units: Ints) -> Result:
    """The best result, or the first in line of those that are not worse by more than a standard error.

    Args:
        results: in the order in which ties are settled.
        units: [n] of the images that were asked; pictures of one unit are one observation.
    """
    best = min(results, key=lambda result: result.score)
    return next(result for result in results if result is best or _tied(result.losses - best.losses, units))


def _tied(worse: Wide, units: Ints) -> bool:
    """Whether a mean difference of losses [n] is within its standard error, units taken as a whole."""
    _, at = np.unique(units, return_inverse=True)
    sums = np.bincount(at, weights=worse)
    count = len(sums)
    error = np.sqrt(count / max(1, count - 1) * ((sums - sums.mean()) ** 2).sum())
    return bool(sums.sum() <= error)


def split(labels: Labels, units: Ints, seed: int) -> list[tuple[Ints, Ints]]:
    """Folds in which every class occurs on the fitting part; none where there are too few images or units."""
    grouped = len(np.unique(units)) < len(units)
    names = units if grouped else None
    if len(np.unique(units)) < FOLDS:
        return []
    if labels.ndim == 2:
        plain = GroupKFold if grouped else KFold
        return list(plain(FOLDS, shuffle=True, random_state=seed).split(labels, groups=names))
    if np.bincount(labels).min() < FOLDS:
        return []
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    folds = list(kind(FOLDS, shuffle=True, random_state=seed).split(labels, labels, names))
    whole = len(np.unique(labels))
    return [fold for fold in folds if len(np.unique(labels[fold[0]])) == whole and len(fold[1])]
