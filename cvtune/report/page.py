"""From a run's facts to report.html: one file, no script, no network, light and dark, screen and paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markupsafe import Markup

from cvtune.audit import Suspect
from cvtune.audit.finding import EXAMPLES
from cvtune.evaluation.metrics import Metrics
from cvtune.evaluation.multilabel import MultiMetrics
from cvtune.report.decisions import Decisions, decisions_of
from cvtune.report.facts import Facts, Scored, read_facts
from cvtune.report.figures import MOST_CLASSES, confusion_chart, curves_chart, sides_chart
from cvtune.report.mistakes import Mistake, worst_mistakes
from cvtune.report.render import write_page
from cvtune.report.thumbnails import Thumbnail, Thumbnails
from cvtune.report.verdict import headline, leak_sentence, sentences
from cvtune.rundir import RunDir

_MOST_CONFUSIONS: Final = 10
_MOST_SKIPPED: Final = 100
_MOST_SUSPECTS: Final = 24
_TITLES: Final = {"folds": ("Cross-validation", "in any fold"), "test": ("Test", "in the test side")}


@dataclass(frozen=True)
class Confusion:
    """`count` of `n` images of one class that were taken for another."""

    truth: str
    label: str
    count: int
    n: int


@dataclass(frozen=True)
class Charts:
    """The pictures; empty where there is nothing to draw, or too many classes to draw it."""

    sides: Markup
    curves: Markup


@dataclass(frozen=True)
class Side:
    """The section of one side; a confusion matrix belongs to classes that exclude each other alone."""

    id: str
    title: str
    where: str
    metrics: Metrics | MultiMetrics
    confusion: Markup
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Mistake, ...]
    decisions: Decisions | None


@dataclass(frozen=True)
class Suspected:
    """A label that looks wrong, with its picture."""

    path: str
    label: str
    proposed: str
    p_label: float
    p_proposed: float
    thumbnail: Thumbnail


def build_report(run: RunDir) -> Path:
    """Write `report.html` from the files of the run; what is not there yet is left out.

    Returns:
        the path of the report.

    Raises:
        RunError: a file of the run is damaged.
    """
    facts = read_facts(run)
    with Thumbnails(facts.folder, untrusted=facts.untrusted) as thumbnails:
        sides = tuple(_side(scored, facts, thumbnails) for scored in facts.scored)
        suspects = with_pictures(facts.suspects[:_MOST_SUSPECTS], thumbnails)
    return write_page(
        run.report,
        "report.html.j2",
        facts=facts,
        name=run.root.resolve().name,
        bundle=run.bundle.as_posix(),
        headline=headline(facts),
        sentences=sentences(facts),
        leak=leak_sentence(facts),
        sides=sides,
        suspects=suspects,
        charts=_draw(facts),
        most_skipped=_MOST_SKIPPED,
        most_examples=EXAMPLES,
    )


def with_pictures(suspects: tuple[Suspect, ...], thumbnails: Thumbnails) -> tuple[Suspected, ...]:
    """Suspected labels with thumbnails."""
    return tuple(
        Suspected(one.path, one.label, one.proposed, one.p_label, one.p_proposed, thumbnails.of(one.path))
        for one in suspects
    )


def _side(scored: Scored, facts: Facts, thumbnails: Thumbnails) -> Side:
    title, where = _TITLES[scored.side]
    if scored.side == "folds" and facts.unfolded:
        title, where = "Images held back", "among the images held back"
    metrics, confusion = scored.metrics, Markup()
    confusions: tuple[Confusion, ...] = ()
    if isinstance(metrics, Metrics):
        if 2 <= len(facts.classes) <= MOST_CLASSES:
            confusion = confusion_chart(facts.classes, metrics.confusion, name=f"confusion-{scored.side}")
        confusions = _confusions(metrics) if len(facts.classes) > 2 else ()
    mistakes = worst_mistakes(scored.answers, thumbnails)
    decisions = None if facts.point is None else decisions_of(scored, facts.point)
    return Side(scored.side, title, where, metrics, confusion, confusions, mistakes, decisions)


def _draw(facts: Facts) -> Charts:
    drawn = 2 <= len(facts.classes) <= MOST_CLASSES
    return Charts(
        sides=sides_chart(facts.classes, facts.sides) if drawn and facts.sides else Markup(),
        curves=curves_chart(facts.epochs) if len(facts.epochs) > 1 else Markup(),
    )


def _confusions(metrics: Metrics) -> tuple[Confusion, ...]:
    classes = metrics.per_class
    pairs = [
        Confusion(true.name, said.name, metrics.confusion[t][s], true.n)
        for t, true in enumerate(classes)
        for s, said in enumerate(classes)
        if t != s and metrics.confusion[t][s]
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.count)[:_MOST_CONFUSIONS])
