"""Stage 0: a linear head on frozen features, seconds after the first pass over the images.

Multinomial logistic regression (scikit-learn, L-BFGS) on scaled embeddings; its regularisation is picked by
cross-validation that keeps groups together. The scaling is folded into the head: model 0 is one linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_expit, log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from cvtune.models.head import LinearHead

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Labels = NDArray[np.int64] | NDArray[np.bool_]  # [N] class indices, or [N, K] where an image may have several
Linear = tuple[NDArray[np.float64], NDArray[np.float64]]  # coefficients [K, D] and intercepts [K]
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: small is strong regularisation
FOLDS = 3


def class_weights(labels: Labels, classes: int, *, mode: str = "auto") -> Floats:
    """Weight of each class in the loss, mean 1 over the images: one over the square root of its count.

    The square root stands between no weights (rare defects are ignored) and full balancing (a handful of pictures
    rules the loss). Where an image may have several labels it is the weight of having the label against not having it,
    the square root of how many more do not.

    Args:
        labels: [N] class indices of the training side, or bool [N, K].
        classes: K.
        mode: "auto", or "none" for equal weights.

    Returns:
        float32 [K].
    """
    if labels.ndim == 2:
        have = np.maximum(labels.sum(axis=0), 1)
        return np.asarray(np.ones(classes) if mode == "none" else np.sqrt((len(labels) - have + 1) / have), np.float32)
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.ones(classes) if mode == "none" else 1 / np.sqrt(np.maximum(counts, 1))
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)


def fit_probe(
    features: Floats, labels: Labels, groups: Sequence[str], *, weights: Floats, seed: int
) -> tuple[LinearHead, float]:
    """Fit model 0.

    Args:
        features: [N, D] embeddings of the training side.
        labels: [N] class indices, every class occurs; or bool [N, K].
        groups: [N] names; pictures of one group stay in one fold.
        weights: [K] of the classes in the loss.
        seed: of the folds.

    Returns:
        The head, D -> K, for embeddings as they come from the backbone, and the C that was picked.
    """
    mean, std = features.mean(axis=0, dtype=np.float64), _spread(features)
    scaled = ((features - mean) / std).astype(np.float32)
    strength = _pick_strength(scaled, labels, groups, weights=weights, seed=seed)
    return _fold_in(*_fit(scaled, labels, strength, weights), mean, std), strength


def _spread(features: Floats) -> NDArray[np.float64]:
    """Divisors [D]: each feature's standard deviation with the mean variance of all added.

    Plain standardisation blows up features that hardly vary (0.0003 to 1.8 on ELPV), and the head leans on noise: when
    the tail's BatchNorm saw its first training batches, the loss of such a head rose from 0.4 to 9.4; with this floor
    it is 0.8, at the same loss on validation images.
    """
    variance = features.var(axis=0, dtype=np.float64)
    spread: NDArray[np.float64] = np.sqrt(variance + variance.mean() + 1e-12)
    return spread


def _fit(features: Floats, labels: Labels, strength: float, weights: Floats) -> Linear:
    """One multinomial model, or one model a label."""
    if labels.ndim == 1:
        return _softmax_form(_logistic(strength, dict(enumerate(weights))).fit(features, labels))
    rows = [_binary(features, labels[:, k] > 0, strength, float(weights[k])) for k in range(labels.shape[1])]
    return np.stack([row[0] for row in rows]), np.array([row[1] for row in rows])


def _logistic(strength: float, weights: Mapping[int, float]) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=300, class_weight={k: float(w) for k, w in weights.items()})


def _binary(
    features: Floats, have: NDArray[np.bool_], strength: float, weight: float
) -> tuple[NDArray[np.float64], float]:
    """Coefficients [D] and intercept of one label; a label that all images have, or none, is answered by its odds."""
    if have.all() or not have.any():
        return np.zeros(features.shape[1]), float(np.log((have.sum() + 0.5) / ((~have).sum() + 0.5)))
    model = _logistic(strength, {0: 1.0, 1: weight}).fit(features, have.astype(np.int64))
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def _pick_strength(features: Floats, labels: Labels, groups: Sequence[str], *, weights: Floats, seed: int) -> float:
    folds = _folds(labels, groups, seed)
    if not folds:
        return 1e-2
    sums = dict.fromkeys(STRENGTHS, 0.0)
    for fit_on, score_on in folds:
        for strength in STRENGTHS:
            coefficients, intercepts = _fit(features[fit_on], labels[fit_on], strength, weights)
            sums[strength] += _loss(features[score_on] @ coefficients.T + intercepts, labels[score_on])
    return min(STRENGTHS, key=lambda strength: sums[strength])


def _loss(logits: NDArray[np.float64], labels: Labels) -> float:
    """Mean negative log-likelihood in nats, of logits [N, K]."""
    if labels.ndim == 2:
        return float(-log_expit(np.where(labels, logits, -logits)).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _folds(labels: Labels, groups: Sequence[str], seed: int) -> list[tuple[Ints, Ints]]:
    """Folds in which every class occurs on the fitting part; none where there are too few images or groups."""
    grouped = len(set(groups)) < len(groups)
    names = np.asarray(groups) if grouped else None
    if len(set(groups)) < FOLDS:
        return []
    if labels.ndim == 2:
        plain = (
            GroupKFold(FOLDS, shuffle=True, random_state=seed)
            if grouped
            else KFold(FOLDS, shuffle=True, random_state=seed)
        )
        return list(plain.split(labels, groups=names))
    if np.bincount(labels).min() < FOLDS:
        return []
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    folds = list(kind(FOLDS, shuffle=True, random_state=seed).split(labels, labels, names))
    whole = len(np.unique(labels))
    return [fold for fold in folds if len(np.unique(labels[fold[0]])) == whole and len(fold[1])]


def _softmax_form(model: LogisticRegression) -> Linear:
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
