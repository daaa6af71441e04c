"""Stage 0: a linear head on frozen features, seconds after the first pass over the images.

Multinomial logistic regression (scikit-learn, L-BFGS) on scaled embeddings; its regularisation is picked by
cross-validation that keeps groups together. The scaling is folded into the head: model 0 is one linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cvtune.models.head import LinearHead

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: small is strong regularisation
FOLDS = 3


def class_weights(labels: Ints, classes: int, *, mode: str = "auto") -> Floats:
    """Weight of each class in the loss, mean 1 over the images: one over the square root of its count.

    The square root stands between no weights (rare defects are ignored) and full balancing (a handful of pictures
    rules the loss).

    Args:
        labels: [N] class indices of the training side.
        classes: K.
        mode: "auto", or "none" for equal weights.

    Returns:
        float32 [K].
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.ones(classes) if mode == "none" else 1 / np.sqrt(np.maximum(counts, 1))
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)


def fit_probe(
    features: Floats, labels: Ints, groups: Sequence[str], *, weights: Floats, seed: int
) -> tuple[LinearHead, float]:
    """Fit model 0.

    Args:
        features: [N, D] embeddings of the training side.
        labels: [N] class indices; every class occurs.
        groups: [N] names; pictures of one group stay in one fold.
        weights: [K] of the classes in the loss.
        seed: of the folds.

    Returns:
        The head, D -> K, for embeddings as they come from the backbone, and the C that was picked.
    """
    mean, std = features.mean(axis=0, dtype=np.float64), _spread(features)
    scaled = ((features - mean) / std).astype(np.float32)
    strength = _pick_strength(scaled, labels, groups, weights=weights, seed=seed)
    model = _logistic(strength, weights).fit(scaled, labels)
    coefficients, intercept = _softmax_form(model)
    return _fold_in(coefficients, intercept, mean, std), strength


def _spread(features: Floats) -> NDArray[np.float64]:
    """Divisors [D]: each feature's standard deviation with the mean variance of all added.

    Plain standardisation blows up features that hardly vary (0.0003 to 1.8 on ELPV), and the head leans on noise: when
    the tail's BatchNorm saw its first training batches, the loss of such a head rose from 0.4 to 9.4; with this floor
    it is 0.8, at the same loss on validation images.
    """
    variance = features.var(axis=0, dtype=np.float64)
    spread: NDArray[np.float64] = np.sqrt(variance + variance.mean() + 1e-12)
    return spread


def _logistic(strength: float, weights: Floats) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=300, class_weight={i: float(w) for i, w in enumerate(weights)})


def _pick_strength(features: Floats, labels: Ints, groups: Sequence[str], *, weights: Floats, seed: int) -> float:
    folds = _folds(labels, groups, seed)
    if not folds:
        return 1e-2
    sums = dict.fromkeys(STRENGTHS, 0.0)
    every = np.arange(len(weights))
    for fit_on, score_on in folds:
        for strength in STRENGTHS:
            model = _logistic(strength, weights).fit(features[fit_on], labels[fit_on])
            sums[strength] += log_loss(labels[score_on], model.predict_proba(features[score_on]), labels=every)
    return min(STRENGTHS, key=lambda strength: sums[strength])


def _folds(labels: Ints, groups: Sequence[str], seed: int) -> list[tuple[Ints, Ints]]:
    """Folds in which every class occurs on the fitting part; none where there are too few images or groups."""
    grouped = len(set(groups)) < len(groups)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    if np.bincount(labels).min() < FOLDS or len(set(groups)) < FOLDS:
        return []
    folds = list(
        kind(FOLDS, shuffle=True, random_state=seed).split(labels, labels, np.asarray(groups) if grouped else None)
    )
    whole = len(np.unique(labels))
    return [fold for fold in folds if len(np.unique(labels[fold[0]])) == whole and len(fold[1])]


def _softmax_form(model: LogisticRegression) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients [K, D] and intercepts [K]; scikit-learn keeps one row where there are two classes."""
    coefficients, intercept = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(coefficients) == 1:
        return np.vstack([-coefficients / 2, coefficients / 2]), np.concatenate([-intercept / 2, intercept / 2])
    return coefficients, intercept


def _fold_in(
    coefficients: NDArray[np.float64],
    intercept: NDArray[np.float64],
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
) -> LinearHead:
    head = LinearHead(coefficients.shape[1], coefficients.shape[0])
    head.set(torch.from_numpy(coefficients / std), torch.from_numpy(intercept - (coefficients / std) @ mean))
    head.eval()
    return head
