"""From probabilities to a decision: a class, or REVIEW where the evidence does not suffice. Lab and line share it.

Where some classes are good, what decides is how probable any other class is: below one limit the image is OK, from
another one on it is NG, and between the two a person looks. Where none is, the most probable class is the decision if
it is probable enough. Where an image may have several labels, each label is decided by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.manifest import LABEL_SEPARATOR

REVIEW: Final = -1
NEVER: Final = 2.0  # a limit that no probability reaches

Wide = NDArray[np.float64]
Decisions = NDArray[np.int64]
Probabilities = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class OperatingPoint:
    """The limits by which probabilities are decided; compared as doubles.

    Attributes:
        ok: positions of the good classes, ascending; empty where none is good.
        accept: K limits. With good classes: below it, for the most probable of the others, the image is OK. With
            several labels: below it the image has not the label. Else without meaning.
        reject: K limits, none below `accept`. With good classes: from it on the image is NG. With several labels: from
            it on the image has the label. Else the class needs so much.
        novelty: distance from what was trained on, beyond which an image goes to REVIEW; None for no such limit.
        several: whether an image may have several labels.

    Raises:
        ValueError: limits that do not fit together.
    """

    ok: tuple[int, ...]
    accept: tuple[float, ...]
    reject: tuple[float, ...]
    novelty: float | None = None
    several: bool = False

    def __post_init__(self) -> None:
        k = len(self.reject)
        if len(self.accept) != k or any(low > high for low, high in zip(self.accept, self.reject, strict=False)):
            raise ValueError(f"limits {self.accept} to accept and {self.reject} to reject: expected K each, none below")
        if self.ok and (
            self.several or list(self.ok) != sorted(set(self.ok)) or not 0 <= self.ok[0] <= self.ok[-1] < k
        ):
            raise ValueError(f"good classes {self.ok} of {k}")
        if len(self.ok) == k > 0:
            raise ValueError("every class is good: there is nothing to decide")

    def decide(
        self, probabilities: NDArray[np.floating[Any]], novelty: NDArray[np.floating[Any]] | None = None
    ) -> Decisions:
        """Decide.

        Args:
            probabilities: [N, K].
            novelty: [N]; needed where there is a limit.

        Returns:
            int64 [N] class positions, or -1 for REVIEW; with several labels [N, K] of 1, 0 and -1.

        Raises:
            ValueError: another number of classes, or no novelty where there is a limit.
        """
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.reject):
            raise ValueError(f"probabilities {list(probabilities.shape)}, expected [N, {len(self.reject)}]")
        wide = probabilities.astype(np.float64)
        decisions = self._several(wide) if self.several else self._one(wide)
        if self.novelty is not None:
            if novelty is None:
                raise ValueError("this operating point has a limit of novelty, and no novelty was given")
            decisions[self.is_strange(novelty)] = REVIEW
        return decisions

    def is_strange(self, novelty: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Whether distances [N] are beyond the limit or no numbers, bool [N]; none is where there is no limit."""
        limit = np.inf if self.novelty is None else self.novelty
        known: NDArray[np.bool_] = np.asarray(novelty, np.float64) <= limit
        return ~known

    def is_ok(self, decisions: Decisions) -> NDArray[np.bool_]:
        """Whether a decision is a good class, bool [N]."""
        return np.isin(decisions, self.ok)

    def said(self, decision: NDArray[np.int64], classes: Sequence[str]) -> str:
        """A decision in words: OK, "NG (dent)", a class, REVIEW.

        Several labels are those that the image has, joined by ";"; unsure ones have a question mark.

        Args:
            decision: [], or [K] with several labels.
            classes: K names.
        """
        if self.several:
            marks = {1: "", REVIEW: "?"}
            told = zip(classes, decision.tolist(), strict=True)
            return LABEL_SEPARATOR.join(name + marks[one] for name, one in told if one in marks)
        if decision == REVIEW:
            return "REVIEW"
        name = classes[int(decision)]
        return name if not self.ok else "OK" if int(decision) in self.ok else f"NG ({name})"

    def reason(
        self,
        decision: NDArray[np.int64],
        probabilities: Probabilities,
        novelty: float | None,
        classes: Sequence[str],
    ) -> str:
        """Why an image, or one of its labels, goes to REVIEW; empty where it does not.

        Args:
            decision: [], or [K] with several labels.
            probabilities: [K].
            novelty: its distance.
            classes: K names.
        """
        if not (decision == REVIEW).any():
            return ""
        if self.novelty is not None and novelty is not None and self.is_strange(np.array([novelty]))[0]:
            return f"never seen: distance {novelty:.3g}, known images are within {self.novelty:.3g}"
        wide = probabilities.astype(np.float64)[None]
        if self.several:
            unsure = np.flatnonzero(decision == REVIEW).tolist()
            return "; ".join(self._between(f"{classes[k]} {wide[0, k]:.3g}", k) for k in unsure)
        if self.ok:
            score, likely, _ = defect_scores(wide, self.ok)
            return self._between(f"a defect {score[0]:.3g}", int(likely[0]))
        likely = wide.argmax(axis=1)
        return f"not sure enough: {classes[int(likely[0])]} {wide.max():.3g}, needs {self.reject[int(likely[0])]:.3g}"

    def _between(self, what: str, k: int) -> str:
        return f"between the limits: {what}, no below {self.accept[k]:.3g}, yes from {self.reject[k]:.3g}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the manifest has them."""
        lists = {"ok": list(self.ok), "accept": list(self.accept), "reject": list(self.reject)}
        return {**lists, "novelty": self.novelty, "several": self.several}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From :meth:`to_json`.

        Raises:
            ValueError: these are no limits.
        """
        try:
            ok = tuple(int(position) for position in value["ok"])
            accept, reject = (tuple(float(limit) for limit in value[name]) for name in ("accept", "reject"))
            novelty = None if value["novelty"] is None else float(value["novelty"])
            numbers = (*accept, *reject, *(() if novelty is None else (novelty,)))
            if not np.isfinite(numbers).all():
                raise ValueError("a limit that is not finite")
            return cls(ok, accept, reject, novelty, several=bool(value["several"]))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"no limits: {error!r}") from error

    def _several(self, wide: Wide) -> Decisions:
        unsure = np.where(wide < np.array(self.accept), 0, REVIEW)
        return np.where(wide >= np.array(self.reject), 1, unsure).astype(np.int64)

    def _one(self, wide: Wide) -> Decisions:
        reject = np.array(self.reject)
        if not self.ok:
            likely = wide.argmax(axis=1)
            return np.where(wide.max(axis=1) >= reject[likely], likely, REVIEW).astype(np.int64)
        score, likely, good = defect_scores(wide, self.ok)
        unsure = np.where(score < np.array(self.accept)[likely], good, REVIEW)
        return np.where(score >= reject[likely], likely, unsure).astype(np.int64)


def defect_scores(probabilities: Probabilities, ok: Sequence[int]) -> tuple[Wide, Decisions, Decisions]:
    """How probable any class is that is not good.

    Args:
        probabilities: [N, K].
        ok: positions of the good classes.

    Returns:
        That probability, float64 [N]; the most probable class that is not good and the most probable good one, [N].
    """
    wide = probabilities.astype(np.float64)
    good = np.zeros(wide.shape[1], bool)
    good[list(ok)] = True
    score = wide[:, ~good].sum(axis=1)
    likely = np.where(good, -1.0, wide).argmax(axis=1)
    return score, likely, np.where(good, wide, -1.0).argmax(axis=1)
