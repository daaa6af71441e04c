"""What one side's probabilities are worth: whether they are honest, and what fewer decisions would save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from cvtune_edge.decision import defect_scores
from markupsafe import Markup
from numpy.typing import NDArray

from cvtune.evaluation.conformal import RiskCoverage, fit_sets, risk_coverage
from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.notable import doubt
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.paired import Difference
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.reliability import Reliability
from cvtune.evaluation.verdict import Inspection, Sorting
from cvtune.report.charts import Strip, coverage_chart, coverage_words, reliability_chart, score_chart
from cvtune.report.facts import Facts, Scored
from cvtune.report.measured import Honesty

_LEVEL: Final = 0.95
_MOST_STRIPS: Final = 8


@dataclass(frozen=True)
class Honest:
    """The reliability of a side, drawn and judged in a sentence."""

    found: Honesty
    before: Markup
    after: Markup
    verdict: str
    change: str


@dataclass(frozen=True)
class Scores:
    """Histograms, and what is drawn in them."""

    chart: Markup
    words: str


@dataclass(frozen=True)
class Coverage:
    """Errors against coverage.

    Attributes:
        chart: the curve.
        words: its main figures.
        point: REVIEW of all, and mistakes of those decided, by the limits; None where there are none to compare.
    """

    chart: Markup
    words: str
    point: tuple[Rate, Rate] | None


@dataclass(frozen=True)
class Sets:
    """Sets of classes for the images of a side, each to hold the truth as often as `level`.

    Attributes:
        level: promised for each class; for all images together where most classes have too few images of their own.
        by_class: which of the two.
        fitted_on: images.
        held: sets that hold the truth.
        held_of: likewise of the images of each class.
        size: mean number of classes.
        single: sets of one class.
        empty: sets of none.
        few: classes that had too few images for a limit and are in every set.
    """

    level: float
    by_class: bool
    fitted_on: int
    held: Rate
    held_of: tuple[tuple[str, Rate], ...]
    size: float
    single: Rate
    empty: Rate
    few: tuple[str, ...]


@dataclass(frozen=True)
class Trust:
    """Everything of a side; None where the run does not have it."""

    honest: Honest | None
    scores: Scores
    coverage: Coverage
    sets: Sets | None


def trust_of(scored: Scored, facts: Facts) -> Trust:
    """Measure and draw it."""
    honesty = facts.reliability.get(scored.side)
    return Trust(
        None if honesty is None else _honest(honesty, scored.side),
        _scores(scored, facts.point),
        _coverage(scored, facts.point),
        _sets(scored, facts),
    )


def _honest(found: Honesty, side: str) -> Honest:
    before = reliability_chart(found.before, "before", f"reliability-before-{side}")
    after = reliability_chart(found.after, "after", f"reliability-after-{side}")
    return Honest(found, before, after, _judged(found.after), _changed(found.change))


def _changed(change: Difference | None) -> str:
    if change is None or change.low == change.high == 0:
        return ""
    way = "worse by more than chance explains" if change.low > 0 else "better" if change.high < 0 else "no clear change"
    return f"Log-loss by calibration: {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}], {way}."


def _judged(found: Reliability) -> str:
    n = sum(one.right.n for one in found.bins)
    said = sum(one.confidence * one.right.n for one in found.bins) / n
    right = Rate(sum(one.right.k for one in found.bins), n)
    mean = f"mean probability {said:.3f}, {right} right ({right.with_interval})"
    if found.ece <= found.ece_of_chance:
        return f"After calibration they differ from the truth by no more than chance explains: {mean}."
    way = "too high" if said > (right.value or 0.0) else "too low"
    return f"Even after calibration they differ by more than chance explains, and are {way} on the whole: {mean}."


def _scores(scored: Scored, point: ChosenPoint | None) -> Scores:
    answers, name = scored.answers, f"scores-{scored.side}"
    if isinstance(answers, MultiPredictions):
        return Scores(
            score_chart(tuple(_of_labels(answers, point)), "probability of the label", name),
            "How probable each label was, of the images that have it and of those that have not.",
        )
    if point is not None and point.ok:
        return Scores(
            score_chart(tuple(_of_good_and_bad(answers, point)), "probability of a defect", name),
            "How probable a defect was, of the images of each class.",
        )
    return Scores(
        score_chart(tuple(_of_answers(answers, point)), "probability of the answer", name),
        "How sure the model was of the answers that are right and of those that are wrong, by the class it gave.",
    )


def _of_labels(answers: MultiPredictions, point: ChosenPoint | None) -> Iterator[Strip]:
    """By label; of many labels all in one."""
    if len(answers.classes) > _MOST_STRIPS:
        yield _label("all labels", answers.probabilities, answers.truth, ())
        return
    for k, name in enumerate(answers.classes):
        limits = _limits(point.limits.accept[k], point.limits.reject[k]) if point else ()
        yield _label(name, answers.probabilities[:, k], answers.truth[:, k], limits)


def _label(name: str, p: NDArray[np.float32], has: NDArray[np.bool_], limits: tuple[float, ...]) -> Strip:
    return Strip(name, (("muted", "without it", p[~has]), ("train", "with the label", p[has])), limits)


def _of_good_and_bad(answers: Predictions, point: ChosenPoint) -> Iterator[Strip]:
    """By class, the good ones first; of many classes good and defective."""
    score, _, _ = defect_scores(answers.probabilities, point.limits.ok)
    good, limits = point.limits.ok, point.limits
    order = [*good, *(k for k in range(len(answers.classes)) if k not in good)]
    own = {k: _limits(limits.accept[k], limits.reject[k]) for k in order[len(good) :]}
    every = _limits(*(limit for some in own.values() for limit in some))
    if len(order) > _MOST_STRIPS:
        fine = np.isin(answers.truth, good)
        yield Strip("good", (("good", "", score[fine]),), every)
        yield Strip("defective", (("bad", "", score[~fine]),), every)
        return
    for k in order:
        colour = "good" if k in good else "bad"
        yield Strip(answers.classes[k], ((colour, "", score[answers.truth == k]),), own.get(k, every))


def _of_answers(answers: Predictions, point: ChosenPoint | None) -> Iterator[Strip]:
    """By the class that was given; of many classes all in one."""
    sure = answers.probabilities.max(axis=1)
    every = np.ones(len(sure), np.bool_)
    if len(answers.classes) > _MOST_STRIPS:
        yield Strip("all answers", _right_and_wrong(answers, sure, every))
        return
    for k, name in enumerate(answers.classes):
        limits = _limits(point.limits.reject[k]) if point else ()
        yield Strip(name, _right_and_wrong(answers, sure, answers.labels == k), limits)


def _right_and_wrong(
    answers: Predictions, sure: NDArray[np.float32], rows: NDArray[np.bool_]
) -> tuple[tuple[str, str, NDArray[np.float32]], ...]:
    return ("good", "right", sure[rows & answers.right]), ("bad", "wrong", sure[rows & ~answers.right])


def _limits(*values: float) -> tuple[float, ...]:
    """Those that a probability can reach, each once."""
    return tuple(sorted({value for value in values if 0 < value <= 1}))


def _coverage(scored: Scored, point: ChosenPoint | None) -> Coverage:
    curve, marked = _curve(scored.answers, point), _marked(scored, point)
    return Coverage(coverage_chart(curve, marked, f"coverage-{scored.side}"), coverage_words(curve), marked)


def _curve(answers: Predictions | MultiPredictions, point: ChosenPoint | None) -> RiskCoverage:
    """Of OK and NG where a class is good, of whole answers elsewhere."""
    if isinstance(answers, MultiPredictions):
        return risk_coverage(doubt(answers), answers.right)
    if point is None or not point.ok:
        return risk_coverage(answers.probabilities.max(axis=1), answers.right)
    score, _, _ = defect_scores(answers.probabilities, point.limits.ok)
    defective = ~np.isin(answers.truth, point.limits.ok)
    return risk_coverage(np.abs(score - 0.5), (score >= 0.5) == defective)


def _marked(scored: Scored, point: ChosenPoint | None) -> tuple[Rate, Rate] | None:
    if point is None:
        return None
    found = scored.decided(point)
    if isinstance(found, Sorting):
        return found.review, found.errors
    if isinstance(found, Inspection):
        right = found.study.effectiveness
        return found.review, Rate(right.n - right.k, right.n)
    return None  # its REVIEW counts labels, the curve images


def _sets(scored: Scored, facts: Facts) -> Sets | None:
    """Of the test side, with limits from images that were held back for that, or from the folds."""
    folds = next((one.answers for one in facts.scored if one.side == "folds"), None)
    known, answers = facts.calib or folds, scored.answers
    if scored.side != "test" or not isinstance(known, Predictions) or not isinstance(answers, Predictions):
        return None
    if known.classes != answers.classes:
        return None
    fitted = fit_sets(known.probabilities, known.truth, _LEVEL)
    by_class = 2 * sum(limit > 0 for limit in fitted.limits) > len(fitted.limits)
    if not by_class:
        fitted = fit_sets(known.probabilities, known.truth, _LEVEL, by_class=False)
    sets = fitted.sets(answers.probabilities)
    holds, sizes = sets[np.arange(len(sets)), answers.truth], sets.sum(axis=1)
    classes = tuple(enumerate(answers.classes))
    return Sets(
        _LEVEL,
        by_class,
        len(known.paths),
        _rate(holds),
        tuple((name, _rate(holds[answers.truth == k])) for k, name in classes if (answers.truth == k).any()),
        float(sizes.mean()),
        _rate(sizes == 1),
        _rate(sizes == 0),
        tuple(name for k, name in classes if not fitted.limits[k]),
    )


def _rate(hit: NDArray[np.bool_]) -> Rate:
    return Rate(int(hit.sum()), len(hit))
