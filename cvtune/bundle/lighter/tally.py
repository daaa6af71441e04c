"""What a lighter model may lose: right answers within a bound, one escape more at most, and no flood of REVIEW."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from cvtune_edge.decision import OperatingPoint
from numpy.typing import NDArray

from cvtune.bundle.gate import Said
from cvtune.evaluation.verdict import count_labels, inspect, sort

COSTS: Final = 2.0  # points of images that may be rejected or go to REVIEW besides: they cost time, nothing escapes


@dataclass(frozen=True)
class Tally:
    """Answers of a side, counted.

    Attributes:
        images: how many.
        right: with the right label; of several labels those with all of them.
        escaped: defects decided OK; wrong decisions where no class is good; of several labels those missed.
        rejected: good images decided NG, labels said wrongly; 0 where no class is good.
        review: images, or labels, that go to REVIEW.
    """

    images: int
    right: int
    escaped: int
    rejected: int
    review: int

    @classmethod
    def of(cls, said: Said, truth: NDArray[Any], point: OperatingPoint) -> Tally:
        """Count.

        Args:
            said: about n images.
            truth: int64 [n], or bool [n, K] of several labels.
            point: the limits.
        """
        n, k = said.probabilities.shape
        names = tuple(map(str, range(k)))
        if point.several:
            labels = count_labels(said.decisions, truth, names)
            right = (said.probabilities >= np.array(point.reject)) == truth
            return cls(n, int(right.all(axis=1).sum()), labels.escapes.k, labels.overkill.k, labels.review.k)
        right = said.probabilities.argmax(axis=1) == truth
        if not point.ok:
            sorted_ = sort(said.decisions, truth, names)
            return cls(n, int(right.sum()), sorted_.errors.k, 0, sorted_.review.k)
        found = inspect(point, said.decisions, truth, names)
        return cls(n, int(right.sum()), found.escapes.k, found.overkill.k, found.review.k)


@dataclass(frozen=True)
class Loss:
    """The same images, before and after.

    Attributes:
        before: by model.onnx.
        after: by the lighter model.
        same: decided alike.
        worst: largest difference of a probability.
    """

    before: Tally
    after: Tally
    same: int
    worst: float

    @classmethod
    def between(cls, before: Said, after: Said, truth: NDArray[Any], point: OperatingPoint) -> Loss:
        """Count both."""
        alike = (before.decisions == after.decisions).reshape(len(truth), -1).all(axis=1)
        worst = float(np.abs(before.probabilities - after.probabilities).max(initial=0))
        return cls(Tally.of(before, truth, point), Tally.of(after, truth, point), int(alike.sum()), worst)

    def problems(self, most: float) -> Iterator[str]:
        """What is lost beyond the bounds.

        Args:
            most: points of images that may be right no more; one image in any case.
        """
        before, after, n = self.before, self.after, self.before.images
        if before.right - after.right > _images(most, n):
            yield f"{after.right} of {n} right, {before.right} before"
        if after.escaped > before.escaped + 1:
            yield f"{after.escaped} escapes or wrong decisions, {before.escaped} before"
        if after.rejected > before.rejected + _images(max(most, COSTS), n):
            yield f"{after.rejected} good ones rejected, {before.rejected} before"
        if after.review > before.review + _images(max(most, COSTS), n):
            yield f"{after.review} of {n} to REVIEW, {before.review} before"
        if not self.worst <= 1:
            yield "probabilities that are no numbers"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _images(points: float, n: int) -> int:
    return max(1, int(points / 100 * n))
