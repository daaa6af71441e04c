"""Whether a new model is better than the one at hand: DESIGN's rule for keeping a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvtune.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Comparison:
    """A new model against the old one on the same images.

    Attributes:
        gain: difference in balanced accuracy, new minus old.
        standard_error: of the gain, paired by image.
        keep: whether the new model replaces the old one.
        reason: the same in words, with counts.
    """

    gain: float
    standard_error: float
    keep: bool
    reason: str


def better(new: Predictions, old: Predictions) -> Comparison:
    """Compare two models image by image.

    A gain in balanced accuracy above one standard error keeps the new model, a loss above one drops it. Between the
    two the lower log-loss wins where it is lower by more than its own standard error. Where neither is clear the higher
    balanced accuracy wins, and of equals the old model, which is the cheaper one. The standard error of the gain is
    that of McNemar (Psychometrika 12, 1947), sqrt(sum of w_i^2 over the images that changed sides), w_i = 1 / (classes
    x images of the class): unlike the sample's own variance it isn't zero when all changes go one way.

    Raises:
        ValueError: the two are not about the same images in the same order.
    """
    check_same(new, old)
    change = new.right.astype(np.int64) - old.right.astype(np.int64)
    return compare(change, balanced_weights(new), new.losses, old.losses)


def check_same(new: Any, old: Any) -> None:
    """Make sure that two models' `Predictions` or `MultiPredictions` are about the same images.

    Raises:
        ValueError: other images, another order, other classes or another truth.
    """
    if new.paths != old.paths or new.classes != old.classes or not np.array_equal(new.truth, old.truth):
        raise ValueError("the two models were not asked about the same images in the same order")


def balanced_weights(predictions: Predictions) -> NDArray[np.float64]:
    """Of each image in balanced accuracy, [N]: 1 / (classes x images of the class); they add up to 1."""
    counts = np.bincount(predictions.truth, minlength=len(predictions.classes))
    weights: NDArray[np.float64] = 1.0 / (np.count_nonzero(counts) * counts[predictions.truth])
    return weights


def compare(
    change: NDArray[np.int64],
    weights: NDArray[np.float64],
    new_losses: NDArray[np.float64],
    old_losses: NDArray[np.float64],
    *,
    of: str = "",
) -> Comparison:
    """The rule itself.

    Args:
        change: 1 for an answer that is newly right, -1 for one that is newly wrong, else 0; any shape.
        weights: of each answer in the figure that is compared, the same shape.
        new_losses: [N] of the new model, in nats.
        old_losses: of the old one.
        of: what the answers are, where they are not images.
    """
    gain = float((weights * change).sum())
    error = float(np.linalg.norm(weights[change != 0]))
    keep, reason = _verdict(gain, error, new_losses, old_losses)
    newly = f"{(change > 0).sum()} newly right and {(change < 0).sum()} newly wrong of {change.size}"
    return Comparison(gain, error, keep, f"{reason}; {newly}{f' {of}' if of else ''}")


def _verdict(
    gain: float, error: float, new_losses: NDArray[np.float64], old_losses: NDArray[np.float64]
) -> tuple[bool, str]:
    margin = error * (1 + 1e-9)  # one changed image has gain == error but for rounding
    if gain > margin:
        return True, f"gain {gain:+.3f}, above one standard error of {error:.3f}"
    if gain < -margin:
        return False, f"loss {gain:+.3f}, above one standard error of {error:.3f}"
    close = f"no clear gain ({gain:+.3f}, standard error {error:.3f})"
    less = old_losses - new_losses
    clear = abs(less.mean()) > less.std() / np.sqrt(len(less)) * (1 + 1e-9)
    losses = f"{new_losses.mean():.3f} after {old_losses.mean():.3f}"
    if clear and less.mean() > 0:
        return True, f"{close}, but a lower log-loss: {losses}"
    if clear:
        return False, f"{close} and a higher log-loss: {losses}"
    kept = "more is right" if gain > 0 else "nothing more is right"
    return gain > 0, f"{close} and no clear difference in log-loss ({losses}): {kept}"
