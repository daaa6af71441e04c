"""The operating point: limits that are chosen on images which training has not seen, so that the objective is met.

A limit is an order statistic of the scores of those images. Of n defective images, exchangeable with those to come, the
one that comes next scores below the (k + 1)-th smallest of them with a probability of at most (k + 1) / (n + 1); that
is the rate of escapes to expect of a limit that lets k of them through (Angelopoulos et al. 2022, arXiv:2208.02814).
What the rate is at most, at 95 %, is the Clopper-Pearson limit of k in n, for the same reason: the share that a limit
lets through is distributed as Beta(k + 1, n - k) (Wilks 1941).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from cvtune_edge.decision import NEVER, OperatingPoint, defect_scores
from numpy.typing import NDArray
from scipy.special import expit, logit

from cvtune.errors import ConfigError, RunError
from cvtune.evaluation.multilabel import pick_thresholds
from cvtune.evaluation.objective import Costs, Objective, Target, Words, parse_target
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.verdict import Decided, count
from cvtune.rundir import read_json, write_json

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

EVEN: Final = 0.5
_EDGE: Final = 1e-12  # beyond it a probability has no finite odds
FEW: Final = 20  # images for which a class gets a limit of its own where no class is good


@dataclass(frozen=True)
class Placed:
    """Where the limits are and why.

    Attributes:
        point: the limits.
        notes: sentences that the user should read: what was aimed at, and what the images cannot show.
    """

    point: OperatingPoint
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChosenPoint:
    """operating_point.json: the limits, and what should be known of them.

    Attributes:
        limits: as the line has them.
        classes: K names.
        guessed: whether the good classes were taken for good by their names.
        targets: what was aimed at.
        chosen_on: images.
        notes: as of :class:`Placed`.
        words: of the factory or of the clinic.
    """

    limits: OperatingPoint
    classes: tuple[str, ...]
    guessed: bool
    targets: tuple[Target, ...]
    chosen_on: int
    notes: tuple[str, ...]
    words: Words = "factory"

    @property
    def ok(self) -> tuple[str, ...]:
        """Names of the good classes."""
        return tuple(self.classes[position] for position in self.limits.ok)

    @property
    def aims(self) -> tuple[str, ...]:
        """The targets, in the words that were asked for."""
        return tuple(target.said(self.words) for target in self.targets)

    def decide(self, probabilities: Floats, novelty: Floats | None = None) -> Ints:
        """Decisions int64 [N], or [N, K] of several labels.

        Args:
            probabilities: float32 [N, K].
            novelty: float32 [N] distances; where they are not known nothing is too far.
        """
        limits = self.limits if novelty is not None else replace(self.limits, novelty=None)
        return limits.decide(probabilities, novelty)

    def counted(self, probabilities: Floats, truth: NDArray[Any], novelty: Floats | None = None) -> Decided:
        """What the limits make of a side; as for :meth:`decide`, with the truth, int64 [N] or bool [N, K]."""
        return count(self.limits, self.decide(probabilities, novelty), truth, self.classes)

    def said(self, probabilities: Floats, novelty: float | None = None) -> str:
        """The decision about one image, [K], in words: OK, "NG (dent)", a class, REVIEW; of several labels its own."""
        distance = None if novelty is None else np.array([novelty], np.float32)
        return self.limits.said(self.decide(probabilities[None], distance)[0], self.classes)

    def save(self, path: Path) -> None:
        """Write the file."""
        write_json(
            path,
            {
                "ok": list(self.ok),
                "guessed": self.guessed,
                "targets": list(map(str, self.targets)),
                "accept": dict(zip(self.classes, self.limits.accept, strict=True)),
                "reject": dict(zip(self.classes, self.limits.reject, strict=True)),
                "several": self.limits.several,
                "novelty": self.limits.novelty,
                "chosen_on": self.chosen_on,
                "words": self.words,
                "notes": list(self.notes),
            },
        )

    @classmethod
    def load(cls, path: Path) -> ChosenPoint:
        """Read the file.

        Raises:
            RunError: it is missing or damaged.
        """
        value: Any = read_json(path)
        try:
            classes, ok = tuple(value["reject"]), value["ok"]
            accept, reject = (tuple(float(value[side][name]) for name in classes) for side in ("accept", "reject"))
            novelty = value.get("novelty")  # runs of the first versions have none
            limits = OperatingPoint(
                tuple(map(classes.index, ok)),
                accept,
                reject,
                None if novelty is None else float(novelty),
                several=bool(value["several"]),
            )
            return cls(
                limits,
                classes,
                bool(value["guessed"]),
                tuple(map(parse_target, value["targets"])),
                int(value["chosen_on"]),
                tuple(value["notes"]),
                "clinic" if value["words"] == "clinic" else "factory",
            )
        except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise RunError(f"{path}: damaged, not an operating point ({error!r})", hint="fit the run again") from error


def choose_point(objective: Objective, probabilities: Floats, truth: NDArray[Any], words: Words) -> ChosenPoint:
    """Choose the limits, and say what for; arguments as for :func:`place`."""
    placed = place(objective, probabilities, truth)
    about = (objective.classes, objective.guessed, objective.targets, len(truth))
    return ChosenPoint(placed.point, *about, placed.notes, words)


def place(objective: Objective, probabilities: Floats, truth: NDArray[Any]) -> Placed:
    """Choose the limits.

    Args:
        objective: what is wanted.
        probabilities: [N, K] of images that were not trained on, calibrated.
        truth: int64 [N], or bool [N, K] where an image may have several labels.

    Raises:
        ValueError: shapes that do not fit.
    """
    if probabilities.shape != (len(truth), len(objective.classes)):
        raise ValueError(f"probabilities {list(probabilities.shape)} of {len(truth)} images")
    if truth.ndim == 2:
        return _several(objective, probabilities.astype(np.float64), truth)
    return (_good if objective.ok else _plain)(objective, probabilities.astype(np.float64), truth)


def allowed(target: Target, n: int, *, proven: bool) -> int | None:
    """How many of n images a limit may let through.

    Args:
        target: the rate.
        n: images of the kind, on the side that the limit is chosen on.
        proven: whether the 95 % limit of the rate has to be within the target, not its mean alone.

    Returns:
        The count; None where not even 0 of n is few enough.
    """
    holds: Callable[[int], bool] = (
        (lambda k: Rate(k, n).at_most <= target.share) if proven else (lambda k: (k + 1) / (n + 1) <= target.share)
    )
    most = bisect_left(range(n), True, key=lambda k: not holds(k))  # it holds up to some count and never again
    return most - 1 if most else None


def _good(objective: Objective, wide: Wide, truth: Ints) -> Placed:
    """Limits of the score by which a class is good or not."""
    score, likely, _ = defect_scores(wide, objective.ok)
    good = np.isin(truth, objective.ok)
    k, notes = len(objective.classes), []
    accept = reject = np.full(k, EVEN)
    if objective.costs is not None:
        accept, reject = by_cost(objective, objective.costs)
        notes.append("the limits follow from the costs")
    aimed = _aimed(objective, score, good)
    if aimed is not None:
        (low, high), told = aimed
        accept, reject = np.full(k, low), np.full(k, high)
        notes += told
    for position, target in objective.own.items():
        accept, reject, note = _own(objective, position, target, score, likely, truth, accept, reject)
        notes.append(note)
    if objective.review is not None:
        accept, reject = _band(score, likely, accept, reject, objective.review)
        notes.append(f"{100 * objective.review:g} % of the images nearest to the limit go to REVIEW")
    return Placed(OperatingPoint(objective.ok, tuple(accept.tolist()), tuple(reject.tolist())), tuple(notes))


def _aimed(objective: Objective, score: Wide, good: Bools) -> tuple[tuple[float, float], list[str]] | None:
    """The limits that the targets ask for, below which an image is OK and from which on it is NG; None without any."""
    escape, overkill = objective.target("escape"), objective.target("overkill")
    low = high = None
    notes = []
    if escape is not None:
        low, note = _escape_limit(score, ~good, escape, proven=objective.proven)
        notes.append(note)
    if overkill is not None:
        high, note = _overkill_limit(score, good, overkill, proven=objective.proven)
        notes.append(note)
    if low is not None and high is not None:
        return ((low, high) if low < high else ((low + high) / 2,) * 2), notes  # one limit may meet both
    if low is not None:
        return (low, low or EVEN), notes  # where nothing may be OK, what looks defective is NG all the same
    return None if high is None else ((min(high, EVEN) if high == NEVER else high, high), notes)


def _escape_limit(score: Wide, defect: Bools, target: Target, *, proven: bool) -> tuple[float, str]:
    """The highest limit below which few enough defective images lie."""
    n = int(defect.sum())
    few = allowed(target, n, proven=proven)
    if few is None and proven:
        return 0.0, (
            f"{target} cannot be proven with {n} defective images ({target.needed} without an escape would prove it): "
            "no image is OK without a look"
        )
    note = f"{target}: {few or 0} of {n} defective images may escape where the limit is chosen"
    if few is None:
        note = (
            f"{target} is beyond what {n} defective images can show: the limit lies below all of them "
            f"({target.needed} without an escape would prove it)"
        )
    return (_below(score, np.sort(score[defect])[few or 0]) if n else EVEN), note


def _overkill_limit(score: Wide, good: Bools, target: Target, *, proven: bool) -> tuple[float, str]:
    """The lowest limit from which on few enough good images lie."""
    n = int(good.sum())
    few = allowed(target, n, proven=proven)
    if few is None and proven:
        return NEVER, f"{target} cannot be proven with {n} good images: no image is NG without a look"
    note = f"{target}: {few or 0} of {n} good images may be rejected where the limit is chosen"
    return (_above(score, np.sort(score[good])[::-1][few or 0]) if n else EVEN), note


def _below(scores: Wide, score: float) -> float:
    """Between a score and the next lower one of any image: what is computed a hair's breadth otherwise stays put."""
    lower = scores[scores < score]
    return float((score + (lower.max() if len(lower) else 0.0)) / 2)


def _above(scores: Wide, score: float) -> float:
    """Between a score and the next higher one."""
    higher = scores[scores > score]
    return float((score + (higher.min() if len(higher) else 1.0)) / 2) if score < 1 else NEVER


def _own(
    objective: Objective,
    position: int,
    target: Target,
    score: Wide,
    likely: Ints,
    truth: Ints,
    accept: Wide,
    reject: Wide,
) -> tuple[Wide, Wide, str]:
    """Lower the limits until few enough images of one class escape, whatever other class they look like."""
    accept, reject, own = accept.copy(), reject.copy(), truth == position
    n, name = int(own.sum()), objective.classes[position]
    few = allowed(target, n, proven=objective.proven)
    while True:
        gone = np.flatnonzero(own & (score < accept[likely]))
        if len(gone) <= (few or 0):
            break
        worst = gone[score[gone].argmax()]
        like, limit = likely[worst], _below(score, score[worst])
        reject[like] = limit if accept[like] == reject[like] else reject[like]
        accept[like] = limit
    note = f"{name} {target}: {few or 0} of {n} images may escape where the limit is chosen"
    if few is None:
        note = f"{name} {target} is beyond what {n} images can show ({target.needed} without an escape would prove it)"
    return accept, reject, note


def _band(score: Wide, likely: Ints, accept: Wide, reject: Wide, share: float) -> tuple[Wide, Wide]:
    """Widen the limits, alike in the odds, until the share of the images lies between them."""
    odds, low, high = (logit(np.clip(p, _EDGE, 1 - _EDGE)) for p in (score, accept, reject))
    away = np.maximum(low[likely] - odds, odds - high[likely])  # <= 0 for what lies between the limits already
    width = max(0.0, _cut(away, share))
    return np.minimum(accept, expit(low - width)), np.maximum(reject, expit(high + width))


def _cut(values: Wide, share: float) -> float:
    """Between the values that make up a share, the lowest ones, and the others."""
    ordered, count = np.sort(values), round(share * len(values))
    if not 0 < count < len(ordered):
        return float(ordered[-1]) if count else float(ordered[0])
    return float(ordered[count - 1 : count + 1].mean())


def by_cost(objective: Objective, costs: Costs) -> tuple[Wide, Wide]:
    """Limits with the lowest expected cost (Chow 1970, "On optimum recognition error and reject tradeoff").

    Deciding OK costs p * escape, deciding NG (1 - p) * overkill, a look what it costs.

    Returns:
        To accept and to reject, [K].
    """
    escape = np.array([costs.of(name) for name in objective.classes])
    even = costs.overkill / (costs.overkill + escape)
    if costs.review is None:
        return even, even
    accept, reject = costs.review / escape, np.full(len(escape), 1 - costs.review / costs.overkill)
    look = accept < reject  # else a look is never the cheapest
    return np.where(look, accept, even), np.where(look, reject, even)


def _plain(objective: Objective, wide: Wide, truth: Ints) -> Placed:
    """Limits of the most probable class's probability, where no class is good."""
    likely, sure = wide.argmax(axis=1), wide.max(axis=1)
    limits, notes = np.zeros(len(objective.classes)), []
    target = objective.target("error")
    if target is not None:
        overall, reached = _error_limit(sure, likely == truth, target, proven=objective.proven)
        for position in range(len(limits)):
            rows = likely == position
            own = _error_limit(sure[rows], (likely == truth)[rows], target, proven=objective.proven)
            limits[position] = own[0] if rows.sum() >= FEW and own[1] else overall
        notes.append(f"{target} among the images that are decided" if reached else f"{target} cannot be reached")
    if objective.review is not None:
        limits = np.clip(limits + max(0.0, _cut(sure - limits[likely], objective.review)), 0, NEVER)
        notes.append(f"the {100 * objective.review:g} % of the images that are least sure go to REVIEW")
    none = (0.0,) * len(limits)
    return Placed(OperatingPoint((), none, tuple(limits.tolist())), tuple(notes))


def _error_limit(sure: Wide, right: Bools, target: Target, *, proven: bool) -> tuple[float, bool]:
    """The lowest limit of confidence above which few enough images are wrong, and whether there is one."""
    order = np.argsort(-sure, kind="stable")
    wrong = np.cumsum(~right[order])
    for last in range(len(order) - 1, -1, -1):
        if last + 1 < len(order) and sure[order[last]] == sure[order[last + 1]]:
            continue  # equal scores are on one side of any limit
        few = allowed(target, last + 1, proven=proven)
        if few is not None and wrong[last] <= few:
            return _below(sure, sure[order[last]]) if last + 1 < len(order) else 0.0, True
    return NEVER, False


def _several(objective: Objective, wide: Wide, truth: Bools) -> Placed:
    """Limits of each label's probability; without targets those of the best F1."""
    accept = np.array(pick_thresholds(wide.astype(np.float32), truth))
    reject, notes = accept.copy(), []
    for label, name in enumerate(objective.classes):
        scores = wide[:, label]
        if aimed := _aimed(objective, scores, ~truth[:, label]):
            (accept[label], reject[label]), told = aimed
            notes += [f"{name}: {note}" for note in told]
        if objective.review is not None:
            one, which = slice(label, label + 1), np.zeros(len(scores), np.int64)
            accept[one], reject[one] = _band(scores, which, accept[one], reject[one], objective.review)
    return Placed(OperatingPoint((), tuple(accept.tolist()), tuple(reject.tolist()), several=True), tuple(notes))
