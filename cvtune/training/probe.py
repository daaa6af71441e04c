"""Stage 0: a linear head on frozen features, seconds after the first pass over the images.

Several heads compete (`competition`), on the network's own embedding and on that with features of earlier layers beside
it. The scaling is folded into the winner: model 0 is one linear layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from cvtune.models.head import LinearHead
from cvtune.training.candidates import Floats, Ints, Labels, Linear, Sample, Wide, chunks
from cvtune.training.competition import Entry, Kind, Result, compete, entries, split, winner

_ENOUGH: Final = 4000  # images that are enough to choose a head; the winner is fitted on all


@dataclass(frozen=True)
class HeadPlan:
    """Which head won, so that it can be fitted again to other images without a competition.

    Attributes:
        kind: of head.
        depths: whether it takes the features of earlier layer groups too.
        strength: C of logistic regression; the closed forms find their own.
        factor: that its logits were sharpened with.
    """

    kind: Kind
    depths: bool
    strength: float
    factor: float


@dataclass(frozen=True)
class ProbeFit:
    """Model 0 and how it was found.

    Attributes:
        head: for embeddings as they come from a backbone with these taps.
        taps: layer groups whose features it takes beside the network's own embedding: all that were offered, or none.
        plan: to fit such a head again.
        strength: the penalty of ridge regression, the shrinkage of lda, the C of logistic regression.
        scores: cross-validated weighted log-loss in nats of each head that competed, "ridge/own" or "ridge/depths";
            empty where there are too few images for folds.
    """

    head: LinearHead
    taps: tuple[int, ...]
    plan: HeadPlan
    strength: float
    scores: Mapping[str, float] = field(default_factory=dict)


def fit_probe(
    features: Floats,
    labels: Labels,
    groups: Sequence[str],
    *,
    weights: Floats,
    seed: int,
    taps: Mapping[int, int] | None = None,
    flipped: Floats | None = None,
    known: HeadPlan | None = None,
) -> ProbeFit:
    """Fit model 0.

    Where there are too few images or groups for folds (fewer than three of a class), ridge regression on all features
    is taken: leaving one out tells its penalty without folds, and of 30 images it makes the best head (neu_steel, five
    a class: 0.949 balanced accuracy, lda 0.951, logistic 0.942 to 0.947, on the own embedding 0.917 to 0.926).

    Args:
        features: float32 [N, D] embeddings of the training side.
        labels: [N] class indices, every class occurs; or bool [N, K].
        groups: [N] names; pictures of one group stay in one fold.
        weights: float32 [K] of the classes in the loss.
        seed: of the folds.
        taps: widths of the features of earlier layer groups, which are the last columns, by group.
        flipped: embeddings [N, D] of the same images mirrored: further rows to fit on, never asked about.
        known: the head that won before; nothing competes then.

    Returns:
        The best head.
    """
    taps, tables = dict(taps or {}), [features] if flipped is None else [features, flipped]
    widths = sorted({features.shape[1] - sum(taps.values()), features.shape[1]})
    units = np.unique(groups, return_inverse=True)[1]
    mean, std = spread(features, (widths[0], *taps.values()))

    def sample(rows: Ints, width: int) -> Sample:
        return Sample(
            x=_scaled(tables, rows, mean[:width], std[:width]),
            labels=np.concatenate([labels[rows]] * len(tables)),
            units=np.tile(units[rows], len(tables)),
            images=np.tile(rows, len(tables)),
            weights=weights,
            share=1 / len(tables),
        )

    with _one_core_each():
        if known is None:
            best, scores = _best(sample(_enough(labels, units, seed), widths[-1]), len(tables), widths, seed)
        else:
            entry = Entry(known.kind, widths[-1] if known.depths else widths[0], known.strength)
            best, scores = Result(entry, known.factor, np.empty(0)), {}
        head, strength = best.entry.fit(sample(np.arange(len(features)), best.entry.width))
    width = best.entry.width
    return ProbeFit(
        _fold_in(head.sharpened(best.factor), mean[:width], std[:width]),
        tuple(taps) if width > widths[0] else (),
        HeadPlan(best.entry.kind, width > widths[0], best.entry.strength, best.factor),
        strength,
        scores,
    )


def spread(features: Floats, widths: Sequence[int]) -> tuple[Wide, Wide]:
    """Means and divisors [D]: each feature's standard deviation with the mean variance of its block added.

    Plain standardisation blows up features that hardly vary (0.0003 to 1.8 on ELPV), and the head leans on noise: when
    the tail's BatchNorm saw its first training batches, the loss of such a head rose from 0.4 to 9.4; with this floor
    it is 0.8, at the same loss on validation images.

    Args:
        features: float32 [N, D].
        widths: of the blocks; layers of different depth differ in scale.
    """
    n = len(features)
    mean = sum((features[rows].sum(axis=0, dtype=np.float64) for rows in chunks(n)), np.zeros(features.shape[1])) / n
    variance = sum((((features[rows] - mean) ** 2).sum(axis=0) for rows in chunks(n)), np.zeros(len(mean))) / n
    floor = [np.full(width, block.mean()) for width, block in zip(widths, _blocks(variance, widths), strict=True)]
    return mean, np.sqrt(variance + np.concatenate(floor) + 1e-12)


def _blocks(row: Wide, widths: Sequence[int]) -> list[Wide]:
    return np.split(row, np.cumsum(widths)[:-1])


def _scaled(tables: Sequence[Floats], rows: Ints, mean: Wide, std: Wide) -> Floats:
    """Some rows of the tables, standardised and below each other; as many of the first columns as there are means."""
    scaled = np.empty((len(tables), len(rows), len(mean)), np.float32)
    for whole, part in zip(tables, scaled, strict=True):
        for at in chunks(len(rows)):
            part[at] = (whole[rows[at], : len(mean)] - mean) / std
    return scaled.reshape(-1, len(mean))


@contextmanager
def _one_core_each() -> Iterator[None]:
    """Fits that run beside each other, each with one BLAS thread: the same bytes on any number of cores.

    On busy machines BLAS threads wait for each other: fits of 4 s took 60.
    """
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _best(sample: Sample, views: int, widths: Sequence[int], seed: int) -> tuple[Result, dict[str, float]]:
    """The head to take, and the score of each that competed."""
    n = len(sample.x) // views
    folds = split(sample.labels[:n], sample.units[:n], seed)
    if not folds:
        return Result(Entry("ridge", widths[-1]), 1.0, np.empty(0)), {}
    results = compete(sample, views, folds, entries(widths, multi=sample.multi), workers=torch.get_num_threads())
    asked = np.concatenate([score_on for _, score_on in folds])
    names = dict(zip(widths, ("own", "depths"), strict=False))
    scores = {f"{one.entry.kind}/{names[one.entry.width]}": one.score for one in results}
    return winner(results, sample.units[asked]), scores


def _enough(labels: Labels, units: Ints, seed: int) -> Ints:
    """Rows that are enough to choose a head: of each class its share, and at least 30."""
    n = len(labels)
    if n <= _ENOUGH:
        return np.arange(n)
    turn = np.random.default_rng(seed).permutation(int(units.max()) + 1)[units]  # whole units one after the other
    order = np.argsort(turn, kind="stable")
    kinds = np.zeros(n, np.int64) if labels.ndim == 2 else labels
    kept = [
        own[: max(30, _ENOUGH * len(own) // n)] for kind in np.unique(kinds) if len(own := order[kinds[order] == kind])
    ]
    return np.sort(np.concatenate(kept))


def _fold_in(linear: Linear, mean: Wide, std: Wide) -> LinearHead:
    coefficients = linear.coefficients / std
    head = LinearHead(coefficients.shape[1], coefficients.shape[0])
    head.set(torch.from_numpy(coefficients), torch.from_numpy(linear.intercepts - coefficients @ mean))
    head.eval()
    return head
