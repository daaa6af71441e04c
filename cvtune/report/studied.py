"""What was found out about the model that is shipped: things never shown, where it is weak, spoilt pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from cvtune.evaluation.rates import Rate
from cvtune.evaluation.robustness import STRENGTHS, Spoilt
from cvtune.evaluation.slices import Slice
from cvtune.evaluation.studies import NoveltyStudy, Studies
from cvtune.report.charts import distance_chart
from cvtune.report.facts import Facts, Scored

MOST_ROWS: Final = 12  # of a table, before the others are folded away
_KINDS: Final = {
    "knn": "mean distance to the nearest training images",
    "mahalanobis": "distance to the nearest class, in units of the spread inside the classes",
}


@dataclass(frozen=True)
class Unknown:
    """How well what was never shown is told from what was.

    Attributes:
        study: as it was measured.
        kind: the distance, in words.
        limited: whether there is a limit.
        beyond: images of the side beyond the limit; None where their distances are not known.
        chart: of these distances.
        left_out: AUROC of each class, were it unknown, the worst first.
        mean: of them, None where there are none.
    """

    study: NoveltyStudy
    kind: str
    limited: bool
    beyond: Rate | None
    chart: Markup
    left_out: tuple[tuple[str, float], ...]
    mean: float | None


@dataclass(frozen=True)
class Way:
    """A way of spoiling pictures, at each strength."""

    how: str
    cells: tuple[Spoilt | None, ...]


@dataclass(frozen=True)
class Weak:
    """Where the model is worse.

    Attributes:
        slices: the worst first.
        worse: how many of them are significantly worse.
        ways: spoilt pictures.
        worst: the way and strength that leaves the fewest answers right.
    """

    slices: tuple[Slice, ...]
    worse: int
    ways: tuple[Way, ...]
    worst: Spoilt | None


@dataclass(frozen=True)
class Studied:
    """Everything of studies.json that has a section of its own.

    Attributes:
        where: whose images it is about, in words.
        unknown: None where no distance was fitted.
        weak: None where nothing was looked into.
    """

    where: str
    unknown: Unknown | None
    weak: Weak | None


def studied_of(facts: Facts) -> Studied | None:
    """None where the run has no studies."""
    if facts.studies is None:
        return None
    side = facts.studies.side
    scored = next((one for one in facts.scored if one.side == side), None)
    where = "of the test side" if side == "test" else "held back" if facts.unfolded else "of the folds"
    return Studied(where, _unknown(facts.studies.novelty, scored), _weak(facts.studies))


def _unknown(study: NoveltyStudy | None, scored: Scored | None) -> Unknown | None:
    if study is None:
        return None
    chart, beyond, limited = Markup(), None, math.isfinite(study.limit)
    if scored is not None and scored.novelty is not None:
        chart = distance_chart(scored.novelty, study.limit, "distances")
        beyond = study.beyond(scored.novelty) if limited else None
    left_out = tuple(sorted(study.left_out.items(), key=lambda item: item[1]))
    mean = sum(study.left_out.values()) / len(left_out) if left_out else None
    return Unknown(study, _KINDS.get(study.kind, study.kind), limited, beyond, chart, left_out, mean)


def _weak(studies: Studies) -> Weak | None:
    if not studies.slices and not studies.robustness:
        return None
    worst = min(studies.robustness, key=lambda one: (one.right.value or 0.0, one.how), default=None)
    worse = sum(one.worse for one in studies.slices)
    ordered = sorted(studies.slices, key=lambda one: (not one.worse, one.p))
    return Weak(tuple(ordered), worse, _ways(studies.robustness), worst)


def _ways(rows: Sequence[Spoilt]) -> tuple[Way, ...]:
    found = {(one.how, one.strength): one for one in rows}
    hows = dict.fromkeys(one.how for one in rows)
    return tuple(Way(how, tuple(found.get((how, strength)) for strength in STRENGTHS)) for how in hows)
