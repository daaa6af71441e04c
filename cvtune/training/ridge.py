"""Ridge regression on class labels; what leaving images out says about it comes from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from scipy.special import logit

from cvtune.training.candidates import (
    CHUNK,
    Floats,
    Ints,
    Linear,
    Sample,
    Wide,
    binary,
    chunks,
    gram_of,
    temperature,
)

PENALTIES: Final = tuple(10.0 ** np.arange(-1, 5.5, 0.5))  # large is strong regularisation
_PLATT: Final = 10.0  # scikit-learn's C for the factor of a label: 10 or so, where scores go from 0 to 1
_ASKED: Final = 5000  # rows that are left out to find a penalty
_LARGE: Final = 1000  # rows that are left out together; more take minutes


def ridge(sample: Sample) -> tuple[Linear, float]:
    """Least squares on the labels as 0 and 1; the penalty has the least squared error on units that are left out.

    Leaving out is exact and needs one fit (Allen 1974, PRESS): the residuals of left-out rows G are (I - H_GG)^-1
    times those of the fit, H being the hat matrix. The left-out scores then give the temperature; where an image may
    have several labels, a factor and a shift for each label (Platt 1999).

    Returns:
        The head, and the penalty that was picked.
    """
    if len(np.unique(sample.images)) < 2:
        return _constant(sample), PENALTIES[-1]
    spectrum, targets = _Spectrum(sample.x, sample.row_weights), sample.targets
    centre = spectrum.weights @ targets / spectrum.weights.sum()
    scaled = (targets - centre) * spectrum.root[:, None]
    projected = spectrum.project(scaled)
    rows, residuals = _left_out(spectrum, scaled, projected, _left_out_together(sample))
    best = int((residuals**2).sum(axis=(1, 2)).argmin())
    scores = targets[rows] - residuals[best] / spectrum.root[rows, None]
    coefficients = spectrum.unproject(projected / (spectrum.values + PENALTIES[best])[:, None])  # [D, K]
    raw = Linear(coefficients.T, centre - spectrum.mean @ coefficients)
    return _calibrated(raw, scores, sample.take(rows)), PENALTIES[best]


def _constant(sample: Sample) -> Linear:
    """The shares of the labels, whatever the picture."""
    shares = (sample.targets.sum(axis=0) + 0.5) / (len(sample.x) + 1)
    return Linear(np.zeros((len(shares), sample.x.shape[1])), logit(shares) if sample.multi else np.log(shares))


def _calibrated(raw: Linear, scores: Wide, sample: Sample) -> Linear:
    """`raw` with the factors that turn its scores on unseen rows, [n, K], into logits.

    The factor is one at least: of one image a class each is called another one when it is left out, and the head of all
    of them would say nothing.
    """
    if not sample.multi:
        return raw.sharpened(max(1.0, temperature(scores, sample.labels, sample.weights, share=sample.share)))
    heads = [
        binary(scores[:, [k]], sample.labels[:, k] > 0, _PLATT * sample.share, sample.weights[k])
        for k in range(scores.shape[1])
    ]
    factors = np.array([max(0.0, head.coefficients[0, 0]) for head in heads])
    return raw.sharpened(factors, np.array([head.intercepts[0] for head in heads]))


class _Spectrum:
    """Left singular vectors of weighted, centred features, from the smaller of the two Gram matrices.

    Args:
        x: float32 [n, D].
        weights: float64 [n].

    Attributes:
        root: [n], square roots of the weights.
        mean: [D], weighted.
        values: [r], squared singular values above zero.
    """

    def __init__(self, x: Floats, weights: Wide) -> None:
        self.weights, self.root = weights, np.sqrt(weights)
        self._x = x
        self.mean = sum((weights[rows] @ x[rows] for rows in chunks(len(x))), np.zeros(x.shape[1])) / weights.sum()
        self._dual = len(x) <= x.shape[1]
        if self._dual:
            centred = self._centred(np.arange(len(x)))
            gram = centred @ centred.T
        else:
            gram = gram_of(self._centred, *x.shape)
        values, vectors = np.linalg.eigh(gram)
        keep = values > 1e-10 * values[-1]
        self.values, self._vectors = values[keep], vectors[:, keep]

    def basis(self, rows: Ints) -> Wide:
        """Singular vectors at some rows, [m, r]."""
        if self._dual:
            return np.asarray(self._vectors[rows])
        return np.asarray(self._centred(rows) @ (self._vectors / np.sqrt(self.values)))

    def project(self, targets: Wide) -> Wide:
        """Singular vectors times targets [n, K]: [r, K]."""
        if self._dual:
            return np.asarray(self._vectors.T @ targets)
        crossed = sum(self._centred(rows).T @ targets[rows] for rows in chunks(len(self._x)))
        return np.asarray((self._vectors / np.sqrt(self.values)).T @ crossed)

    def unproject(self, z: Wide) -> Wide:
        """Transposed features times singular vectors times z [r, K]: [D, K]."""
        if self._dual:
            return np.asarray(self._centred(np.arange(len(self._x))).T @ (self._vectors @ z))
        return np.asarray(self._vectors @ (np.sqrt(self.values)[:, None] * z))

    def _centred(self, rows: Ints) -> Wide:
        return np.asarray((self._x[rows] - self.mean) * self.root[rows, None])


def _left_out_together(sample: Sample) -> Ints:
    """Parts [n] of the rows: the units.

    The images of a class that stand in one unit alone are left out one by one, else none of it were left; a unit of
    more than _LARGE rows in parts, because the time grows with the cube of their number.
    """
    if sample.multi:
        units = sample.units if len(np.unique(sample.units)) > 1 else sample.images
    else:
        pairs = np.unique(np.stack([sample.labels, sample.units]), axis=1)
        alone = np.bincount(pairs[0], minlength=len(sample.weights)) < 2
        units = np.where(alone[sample.labels], -1 - sample.images, sample.units)
    order = np.lexsort((sample.images, units))
    _, starts, sizes = np.unique(units[order], return_index=True, return_counts=True)
    rank = np.empty(len(units), np.int64)
    rank[order] = np.arange(len(units)) - np.repeat(starts, sizes)
    parts: Ints = np.unique(np.stack([units, rank // _LARGE]), axis=1, return_inverse=True)[1].reshape(-1)
    return parts


def _left_out(spectrum: _Spectrum, scaled: Wide, projected: Wide, units: Ints) -> tuple[Ints, Wide]:
    """Residuals [penalties, m, K] of m rows, each by a fit without its unit; of many rows every nth unit is asked."""
    found: list[Wide] = []
    order: list[Ints] = []
    for rows in _alike(units):  # [g, s]
        basis = spectrum.basis(rows.ravel()).reshape(*rows.shape, -1)  # [g, s, r]
        intercept = spectrum.root[rows][:, :, None] * spectrum.root[rows][:, None, :] / spectrum.weights.sum()
        rest = np.empty((len(PENALTIES), *rows.shape, scaled.shape[1]))
        for i, penalty in enumerate(PENALTIES):
            shrunk = spectrum.values / (spectrum.values + penalty)
            half = basis * np.sqrt(shrunk)
            without = np.eye(rows.shape[1]) - half @ half.transpose(0, 2, 1) - intercept  # I - H_GG
            rest[i] = np.linalg.solve(without, scaled[rows] - basis @ (shrunk[:, None] * projected))
        found.append(rest.reshape(len(PENALTIES), rows.size, -1))
        order.append(rows.ravel())
    return np.concatenate(order), np.concatenate(found, axis=1)


def _alike(units: Ints) -> Iterator[Ints]:
    """Rows of units that have the same number of them, [g, s], not many at once."""
    order = np.argsort(units, kind="stable")
    _, starts, sizes = np.unique(units[order], return_index=True, return_counts=True)
    asked = np.arange(0, len(starts), -(-len(units) // _ASKED))
    for size in np.unique(sizes[asked]).tolist():
        first = starts[asked[sizes[asked] == size]]
        rows = order[first[:, None] + np.arange(size)]
        step = max(1, CHUNK // size)
        yield from (rows[at : at + step] for at in range(0, len(rows), step))
