"""The decisions of a side, as the report shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.verdict import EFFECTIVENESS, FALSE_ALARM, KAPPA, MISS, Decided, Inspection, Sorting
from cvtune.report.facts import Scored


@dataclass(frozen=True)
class StudyRow:
    """A line of the attribute study: the figure, what is usual, and whether it is kept."""

    name: str
    rate: Rate | None
    value: float | None
    usual: str
    kept: bool


@dataclass(frozen=True)
class Decisions:
    """What one side's decisions came to.

    Attributes:
        rates: name, rate and what it is of.
        study: of the images that were decided; empty where no class is good.
        by_class: mistakes of each class, the worst first.
        mistake: what they are.
    """

    rates: tuple[tuple[str, Rate, str], ...]
    study: tuple[StudyRow, ...]
    by_class: tuple[tuple[str, Rate], ...]
    mistake: str


def decisions_of(scored: Scored, point: ChosenPoint) -> Decisions:
    """Decide the answers of a side and count."""
    found = scored.decided(point)
    study = tuple(_study(found)) if isinstance(found, Inspection) else ()
    return Decisions(tuple(_rates(found)), study, _worst_first(_by_class(found)), _MISTAKES[type(found).__name__])


_MISTAKES = {"Inspection": "Escapes", "Sorting": "Wrong decisions", "LabelCounts": "Missed"}


def _rates(found: Decided) -> Iterator[tuple[str, Rate, str]]:
    if isinstance(found, Sorting):
        yield "Wrong decisions", found.errors, "decided images"
    elif isinstance(found, Inspection):
        yield "Escapes: defective, decided OK", found.escapes, "defective images"
        yield "Overkill: good, decided NG", found.overkill, "good images"
        if len(found.by_class) > 1:
            yield "Under another defect's name", found.mixed_up, "defective images decided NG"
    else:
        yield "Missed labels", found.escapes, "labels that images have"
        yield "Labels said wrongly", found.overkill, "labels that images have not"
    yield "To a person (REVIEW)", found.review, "images" if not hasattr(found, "by_label") else "labels"


def _by_class(found: Decided) -> Iterator[tuple[str, Rate]]:
    if isinstance(found, Inspection | Sorting):
        yield from found.by_class.items()
    else:
        yield from ((name, one.escapes) for name, one in found.by_label.items())


def _worst_first(rates: Iterable[tuple[str, Rate]]) -> tuple[tuple[str, Rate], ...]:
    return tuple(sorted(rates, key=lambda one: -(one[1].value or 0.0)))


def _study(found: Inspection) -> Iterator[StudyRow]:
    study, kept = found.study, found.study.acceptable
    for name, key, rate, usual in (
        ("Effectiveness", "effectiveness", study.effectiveness, f"at least {100 * EFFECTIVENESS:.0f} %"),
        ("Miss", "miss", study.miss, f"at most {100 * MISS:.0f} %"),
        ("False alarm", "false_alarm", study.false_alarm, f"at most {100 * FALSE_ALARM:.0f} %"),
    ):
        yield StudyRow(name, rate, rate.value, usual, kept[key])
    yield StudyRow("Kappa", None, study.kappa, f"at least {KAPPA:.2f}", kept["kappa"])
