"""What the figures come to, in sentences: the headline of a run's page and the lines below it."""

from __future__ import annotations

from collections.abc import Iterator

from cvtune.evaluation.metrics import Metrics
from cvtune.evaluation.multilabel import MultiMetrics
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.task import task_named, told
from cvtune.evaluation.words import judgements, point_line
from cvtune.report.facts import Facts, Scored


def headline(facts: Facts) -> str:
    """One line: the counts of what was right, on which images."""
    if not facts.scored:
        return "Not tested yet"
    first = facts.scored[0]
    verdict = task_named(facts.task).verdict
    if first.side == "test":
        return f"{first.metrics.accuracy} test images {verdict}"
    how = f"{len(facts.folds)}-fold cross-validation" if facts.folds else "cross-validation"
    return f"{first.metrics.accuracy} images {verdict} in a {how}"


def sentences(facts: Facts) -> tuple[str, ...]:
    """What to know beside the headline."""
    if not facts.scored:
        return ("The run has no test figures so far; they appear when it has ended.",)
    point, first = facts.point, facts.scored[0]
    how_well = _decisions(point, first) if point and (point.ok or point.targets) else _weakest(first)
    return (*how_well, *_folds(facts))


def _decisions(point: ChosenPoint, scored: Scored) -> Iterator[str]:
    """Where a class is good: what escapes, and what is rejected for nothing. What was aimed at, and what is proven."""
    found = scored.decided(point)
    yield f"Decisions: {point_line(found, point.words)}."
    if aims := judgements(point.targets, found, point.words):
        yield f"{'; '.join(aims)}."
    if found.review.k:
        yield f"A person has to look at {found.review} images."


def leak_sentence(facts: Facts) -> str:
    """What is wrong with a test side that shares parts or pictures with the training side; empty where none does."""
    if facts.leak is None:
        return ""
    seen = "a copy or a picture of the same group among those trained on"
    if facts.leak.without is None:
        return f"LEAK: all {facts.leak.images} test images have {seen}: the figures of the test side prove nothing."
    has = "has" if facts.leak.images == 1 else "have"
    task = task_named(facts.task)
    whole = next(one.metrics.accuracy for one in facts.scored if one.side == "test")
    return (
        f"LEAK: {facts.leak.images} of these {whole.n} test images {has} {seen}; "
        f"without them: {told(task, facts.leak.without)}; with them: {told(task, whole)}."
    )


def _folds(facts: Facts) -> Iterator[str]:
    first, *others = facts.scored
    if first.side != "folds":
        yield from (_final(facts, one) for one in others)
        return
    count = f"{len(facts.folds)} folds" if facts.folds else "Folds"
    yield f"{count}: each image was answered by a model that had not seen it."
    trained = f"The bundle was trained on all {first.metrics.n:,} images"
    if others:
        verdict = task_named(facts.task).verdict
        yield f"{trained}; of the test side, kept apart, it has {others[0].metrics.accuracy} {verdict} (below)."
    else:
        yield f"{trained}: it was not measured on unseen images, the cross-validated figures stand for it."


def _final(facts: Facts, folds: Scored) -> str:
    """Of a final fit the test side is the headline."""
    rate = told(task_named(facts.task), folds.metrics.accuracy)
    if facts.unfolded:
        first = facts.folds[0]
        return (
            f"The bundle was trained on the {first.images + first.trained_on:,} images outside test, after a model of "
            f"{first.trained_on:,} of them had answered for the other {first.images:,}: {rate} (below)."
        )
    return (
        f"The bundle was trained on the {folds.metrics.n:,} images outside test, after {len(facts.folds)} models had "
        f"answered for those of them that they had not seen: {rate} (below)."
    )


def _weakest(scored: Scored) -> Iterator[str]:
    metrics = scored.metrics
    if isinstance(metrics, MultiMetrics):
        yield f"Mean average precision {metrics.mean_average_precision:.3f}."
    elif metrics.sensitivity is not None and metrics.specificity is not None:
        yield from _two_classes(metrics, metrics.sensitivity, metrics.specificity)
        return
    present = [one for one in metrics.per_class if one.n]
    if metrics.accuracy.k == metrics.n:
        where = "on the test side" if scored.side == "test" else "in any fold"
        yield f"No mistake {where}; the intervals say how much that proves."
    elif present:
        weakest = min(present, key=lambda one: (one.recall.k / one.recall.n, -one.n))
        what = "label" if isinstance(metrics, MultiMetrics) else "class"
        yield f"Weakest {what}: {weakest.name}, {weakest.recall} found, {_wrong(weakest.recall, 'missed')}."


def _two_classes(metrics: Metrics, sensitivity: Rate, specificity: Rate) -> Iterator[str]:
    other = next(one.name for one in metrics.per_class if one.name != metrics.positive)
    yield f"{sensitivity} {metrics.positive} found, {_wrong(sensitivity, 'missed')}."
    yield f"{specificity} {other} recognised, {_wrong(specificity, 'false alarms')}."


def _wrong(rate: Rate, what: str) -> str:
    wrong = Rate(rate.n - rate.k, rate.n)
    return f"{wrong.k} {what} (at most {100 * wrong.at_most:.1f} % at 95 % confidence)"
