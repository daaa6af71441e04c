"""Folds for the audit's cross-validation: no image is judged by its own twin, part or patient."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cvtune.audit.duplicates import exact_clusters
from cvtune.data.index import DatasetIndex
from cvtune.data.units import link

Ints = NDArray[np.int64]

FOLDS: Final = 5  # also the units that a class needs: one for each fold


def stand_together(index: DatasetIndex, near: Sequence[Sequence[int]] = ()) -> Ints:
    """Numbers of the units that share a fold, int64 [N]: groups joined with identical files and near-duplicates.

    Args:
        index: the images.
        near: clusters of positions that show the same picture; those that would swallow a class are cut, as in a split.
    """
    linked = link(index, range(len(index)), exact_clusters(index), near)
    return np.array(linked.whole, np.int64)


def too_small(index: DatasetIndex, units: Ints) -> frozenset[int]:
    """Classes with fewer than `FOLDS` units that have the label, or, among several labels, that do not."""
    having: dict[int, set[int]] = defaultdict(set)
    for unit, labels in zip(units.tolist(), index.label_sets, strict=True):
        for label in labels:
            having[label].add(unit)
    classes = range(len(index.classes))
    few = {label for label in classes if len(having[label]) < FOLDS}
    if index.multi:
        few |= {label for label in classes if len(np.unique(units[index.targets[:, label] == 0])) < FOLDS}
    return frozenset(few)


def strata(index: DatasetIndex) -> Ints:
    """What folds are balanced by, int64 [N]: the label, of several the rarest, K where there is none."""
    counts = Counter(label for labels in index.label_sets for label in labels)
    nothing = len(index.classes)
    rarest = [min(labels, key=lambda label: counts[label], default=nothing) for labels in index.label_sets]
    return np.array(rarest, np.int64)


def split_folds(labels: Ints, units: Ints, seed: int) -> list[tuple[Ints, Ints]]:
    """Rows to fit on and rows to judge, at most five times; every row is judged once, and never with its own unit.

    None where there are fewer than five units.
    """
    apart = len(np.unique(units))
    if apart < FOLDS:
        return []
    if np.bincount(labels).max() < FOLDS:  # nothing to balance
        labels = np.zeros_like(labels)
    alone = apart == len(units)
    # the group-aware one takes a second for every 10,000 groups
    folds = (StratifiedKFold if alone else StratifiedGroupKFold)(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # the rarest sets of several labels
        parts = list(folds.split(labels, labels, None if alone else units))
    return [(fit_on, judged) for fit_on, judged in parts if len(fit_on) and len(judged)]
