"""Linear heads that compete for model 0 beside ridge regression: linear discriminants and logistic regression.

Each is fitted on standardised features and gives coefficients of logits. What is sharper or flatter than the images
bear out is put right by one factor, the temperature, fitted on images that the coefficients have not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[np.int64] | NDArray[np.bool_]  # [n] class indices, or [n, K] where an image may have several

STRENGTHS: Final = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: small is strong regularisation
_STEPS: Final = 100  # of L-BFGS; what is gained after them is noise, and 43 classes would take four times as long
CHUNK: Final = 2048  # rows in float64 at a time
_FACTORS: Final = (1e-4, 1e4)  # of a temperature


class Linear(NamedTuple):
    """Logits `x @ coefficients.T + intercepts`."""

    coefficients: Wide  # [K, D]
    intercepts: Wide  # [K]

    def __call__(self, x: NDArray[np.floating]) -> Wide:
        """Logits [n, K] of features [n, D]."""
        logits: Wide = x @ self.coefficients.T + self.intercepts
        return logits

    def sharpened(self, factor: float | Wide, shift: float | Wide = 0.0) -> Linear:
        """Logits times a factor plus a shift, one for all or one a class."""
        return Linear(self.coefficients * np.reshape(factor, (-1, 1)), self.intercepts * factor + shift)


@dataclass(frozen=True)
class Sample:
    """What a head is fitted on.

    Attributes:
        x: float32 [n, D], standardised.
        labels: int64 [n], or bool [n, K].
        units: int64 [n]; rows of one unit show the same part, patient or track.
        images: int64 [n]; mirrored, an image stands in several rows.
        weights: float32 [K], of the classes in the loss; for labels [n, K] of having the label against not having it.
        share: weight of a row; below one where an image stands in several rows.
    """

    x: Floats
    labels: Labels
    units: Ints
    images: Ints
    weights: Floats
    share: float = 1.0

    def __post_init__(self) -> None:
        n = len(self.x)
        shapes = [self.x.shape, self.labels.shape, self.units.shape, self.images.shape]
        if any(shape[:1] != (n,) for shape in shapes) or self.weights.ndim != 1:
            raise ValueError(f"features, labels, units and images of different length: {shapes}")

    def take(self, rows: Ints) -> Sample:
        """The sample of some rows."""
        return replace(self, x=self.x[rows], labels=self.labels[rows], units=self.units[rows], images=self.images[rows])

    def first(self, width: int) -> Sample:
        """The sample with the first `width` features alone."""
        return replace(self, x=self.x[:, :width])

    @property
    def multi(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    @property
    def targets(self) -> Wide:
        """float64 [n, K], 1 for a label that the image has."""
        if self.multi:
            return self.labels.astype(np.float64)
        one_hot: Wide = np.eye(len(self.weights))[self.labels]
        return one_hot

    @property
    def row_weights(self) -> Wide:
        """float64 [n]: the share, times the weight of the class where there is one class an image."""
        if self.multi:
            return np.full(len(self.x), self.share)
        return self.share * self.weights[self.labels].astype(np.float64)


def losses(logits: Wide, labels: Labels, weights: Floats, smoothing: float = 0.0) -> Wide:
    """Weighted negative log-likelihood of each image in nats, [n] for logits [n, K]; over several labels the mean.

    Args:
        logits: [n, K].
        labels: [n] or [n, K].
        weights: [K]; see :class:`Sample`.
        smoothing: probability that a label is another one.
    """
    if labels.ndim == 2:
        soft = labels * (1 - 2 * smoothing) + smoothing
        each = weights * soft * log_expit(logits) + (1 - soft) * log_expit(-logits)
        return np.asarray(-each.mean(axis=1), np.float64)
    log_p = log_softmax(logits, axis=1)
    own = log_p[np.arange(len(labels)), labels]
    others = (log_p.sum(axis=1) - own) / max(1, log_p.shape[1] - 1)
    return np.asarray(-weights[labels] * ((1 - smoothing) * own + smoothing * others), np.float64)


def temperature(logits: Wide, labels: Labels, weights: Floats, *, share: float = 1.0) -> float:
    """The factor that makes unseen logits [n, K] most likely.

    As if one image more were labelled wrongly (after Platt 1999, "Probabilistic outputs for support vector machines",
    section 2.2): a few images that are all told apart would ask for infinite certainty.

    Args:
        logits: [n, K].
        labels: [n] or [n, K].
        weights: [K]; see :class:`Sample`.
        share: of an image that a row counts for.
    """
    smoothing = 1 / (len(labels) * share + 2)

    def loss(log_factor: float) -> float:
        return float(losses(np.exp(log_factor) * logits, labels, weights, smoothing).mean())

    low, high = np.log(_FACTORS)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def discriminants(sample: Sample) -> tuple[Linear, float]:
    """Linear discriminant analysis; the covariance inside the classes is shrunk towards a multiple of the identity.

    Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices". The priors are the
    shares of the classes in the weighted loss. The logits are too sharp by far and want a temperature.

    Returns:
        The head, and the shrinkage in 0..1.

    Raises:
        ValueError: several labels an image.
    """
    if sample.multi:
        raise ValueError("linear discriminants take one label an image")
    (n, width), targets = sample.x.shape, sample.targets
    counts = np.maximum(targets.sum(axis=0), 1)
    means = sum(targets[rows].T @ sample.x[rows] for rows in chunks(n)) / counts[:, None]  # [K, D]

    def centred(rows: Ints) -> Wide:
        return np.asarray(sample.x[rows] - means[sample.labels[rows]])

    dual = n <= width
    whole = centred(np.arange(n)) if dual else np.empty((0, width))
    gram = whole @ whole.T if dual else gram_of(centred, n, width)
    fourth = sum(float(((centred(rows) ** 2).sum(axis=1) ** 2).sum()) for rows in chunks(n))
    mean_variance = max(float(np.trace(gram)) / n / width, 1e-12)
    squared = float((gram**2).sum()) / n**2
    apart = squared - width * mean_variance**2
    shrinkage = float(np.clip((fourth / n - squared) / n / apart, 1e-6, 1)) if apart > 0 else 1.0
    floor, gram = shrinkage * mean_variance, gram * ((1 - shrinkage) / n)
    gram[np.diag_indices_from(gram)] += floor
    if dual:  # Woodbury
        pulled = whole.T @ solve(gram, whole @ means.T, assume_a="pos") * ((1 - shrinkage) / n)
        coefficients = (means.T - pulled) / floor  # [D, K]
    else:
        coefficients = solve(gram, means.T, assume_a="pos")
    priors = counts * sample.weights
    intercepts = np.log(priors / priors.sum()) - 0.5 * (means.T * coefficients).sum(axis=0)
    return Linear(coefficients.T, intercepts), shrinkage


def logistic(sample: Sample, strength: float) -> Linear:
    """Multinomial logistic regression (L-BFGS), or one model a label.

    Args:
        sample: the images.
        strength: scikit-learn's C.
    """
    if sample.multi:
        rows = [
            binary(sample.x, sample.labels[:, k] > 0, strength * sample.share, sample.weights[k])
            for k in range(len(sample.weights))
        ]
        return Linear(np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows]))
    model = LogisticRegression(C=strength, max_iter=_STEPS)
    model.fit(sample.x, sample.labels, sample_weight=sample.row_weights)
    coefficients, intercepts = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(coefficients) == 1:  # scikit-learn keeps one row where there are two classes
        return Linear(
            np.vstack([-coefficients / 2, coefficients / 2]), np.concatenate([-intercepts / 2, intercepts / 2])
        )
    return Linear(coefficients, intercepts)


def binary(x: NDArray[np.floating], have: NDArray[np.bool_], strength: float, weight: float) -> Linear:
    """Coefficients [1, D] of one label; a label that all rows have, or none, is answered by its odds."""
    if have.all() or not have.any():
        odds = np.log((have.sum() + 0.5) / ((~have).sum() + 0.5))
        return Linear(np.zeros((1, x.shape[1])), np.array([odds]))
    weights = {0: 1.0, 1: float(weight)}
    model = LogisticRegression(C=strength, max_iter=_STEPS, class_weight=weights).fit(x, have.astype(np.int64))
    return Linear(model.coef_.astype(np.float64), model.intercept_.astype(np.float64))


def chunks(n: int) -> Iterator[Ints]:
    """Positions 0 to n, as many at a time as one may hold in float64."""
    yield from (np.arange(at, min(at + CHUNK, n)) for at in range(0, n, CHUNK))


def gram_of(centred: Callable[[Ints], Wide], n: int, width: int) -> Wide:
    """Transposed rows times rows, [D, D], without all of them in float64 at once."""
    total = np.zeros((width, width))
    for rows in chunks(n):
        part = centred(rows)
        total += part.T @ part
    return total
