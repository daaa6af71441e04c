"""From a run's facts to report.html: one file, one script, no network, light and dark, screen and paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markupsafe import Markup

from cvtune.audit import Suspect
from cvtune.audit.finding import EXAMPLES
from cvtune.evaluation.metrics import Metrics
from cvtune.evaluation.multilabel import MultiMetrics
from cvtune.evaluation.notable import SUSPECTS
from cvtune.evaluation.studies import RANDOMISED
from cvtune.report.decisions import Decisions, decisions_of
from cvtune.report.explore import Explorer, explorer_of, script
from cvtune.report.facts import Facts, Scored, read_facts
from cvtune.report.figures import MOST_CLASSES, confusion_chart, curves_chart, sides_chart
from cvtune.report.gallery import Gallery, Pictures, Why, gallery_of, pictures_of
from cvtune.report.render import write_page
from cvtune.report.studied import MOST_ROWS, studied_of
from cvtune.report.thumbnails import Thumbnail, Thumbnails
from cvtune.report.trust import Trust, trust_of
from cvtune.report.verdict import headline, leak_sentence, sentences
from cvtune.rundir import RunDir

_MOST_CONFUSIONS: Final = 10
_MOST_SKIPPED: Final = 100
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
    gallery: Gallery
    decisions: Decisions | None
    trust: Trust
    explorer: Explorer | None


@dataclass(frozen=True)
class Suspected:
    """A label that looks wrong, with its picture and, in a run, what the model looked at."""

    path: str
    label: str
    proposed: str
    p_label: float
    p_proposed: float
    thumbnail: Thumbnail
    why: Why | None = None


def build_report(run: RunDir, facts: Facts | None = None) -> Path:
    """Write `report.html` from the files of the run; what is not there yet is left out.

    Args:
        run: its files.
        facts: what they say, where they were read already.

    Returns:
        the path of the report.

    Raises:
        RunError: a file of the run is damaged.
    """
    facts = facts or read_facts(run)
    with Thumbnails(facts.folder, untrusted=facts.untrusted) as thumbnails:
        pictures = pictures_of(facts, thumbnails)
        sides = tuple(_side(scored, facts, pictures) for scored in facts.scored)
        suspects = with_pictures(facts.suspects[:SUSPECTS], pictures)
    return write_page(
        run.report,
        "report.html.j2",
        script=script() if any(side.explorer and side.explorer.data for side in sides) else "",
        facts=facts,
        name=run.root.resolve().name,
        run=run.root.as_posix(),
        bundle=run.bundle.as_posix(),
        headline=headline(facts),
        sentences=sentences(facts),
        leak=leak_sentence(facts),
        sides=sides,
        suspects=suspects,
        studied=studied_of(facts),
        dark=pictures.view is not None and not pictures.view.whole,
        charts=_draw(facts),
        most_skipped=_MOST_SKIPPED,
        most_examples=EXAMPLES,
        most_rows=MOST_ROWS,
        untrusted_rank=RANDOMISED,
    )


def with_pictures(suspects: tuple[Suspect, ...], pictures: Pictures) -> tuple[Suspected, ...]:
    """Suspected labels with thumbnails."""
    return tuple(
        Suspected(
            one.path,
            one.label,
            one.proposed,
            one.p_label,
            one.p_proposed,
            pictures.thumbnails.of(one.path),
            pictures.why(one.path),
        )
        for one in suspects
    )


def _side(scored: Scored, facts: Facts, pictures: Pictures) -> Side:
    title, where = _TITLES[scored.side]
    if scored.side == "folds" and facts.unfolded:
        title, where = "Images held back", "among the images held back"
    metrics, confusion = scored.metrics, Markup()
    confusions: tuple[Confusion, ...] = ()
    if isinstance(metrics, Metrics):
        if 2 <= len(facts.classes) <= MOST_CLASSES:
            confusion = confusion_chart(facts.classes, metrics.confusion, name=f"confusion-{scored.side}")
        confusions = _confusions(metrics) if len(facts.classes) > 2 else ()
    gallery = gallery_of(scored, facts.point, pictures.of(scored.side))
    decisions = None if facts.point is None else decisions_of(scored, facts.point)
    trust = trust_of(scored, facts)
    explorer = None
    if facts.point is not None:
        explorer = explorer_of(scored, facts.point, pictures.thumbnails, sides=len(facts.scored))
    return Side(scored.side, title, where, metrics, confusion, confusions, gallery, decisions, trust, explorer)


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
