"""What the sliders of the report need: the scores, truth, limits and pictures of one side, and the rows they fill.

The script (counting.js, explore.js) counts for any limit what `cvtune.evaluation.verdict` counts for the chosen ones.
Its data travel as JSON that no name can break out of; numbers as base64 of their bytes, so that a score is the same
double on both sides.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cvtune.evaluation.objective import Words
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.verdict import EFFECTIVENESS, FALSE_ALARM, KAPPA, MISS
from cvtune.report.curves import Curve, curve_of
from cvtune.report.facts import Scored
from cvtune.report.names import visible
from cvtune.report.questions import Bools, Kind, Question, far_of, kind_of, nearest, questions_of
from cvtune.report.thumbnails import Thumbnails

MOST_PICTURES: Final = 96  # of all sides of a page
_MOST_LETTERS: Final = 2_400_000  # of the data of all sides, pictures aside: the page stays below 5 MB
_MOST_CURVES: Final = 20  # labels that have one
_SCRIPTS: Final = ("counting.js", "explore.js")
_UNSAFE: Final = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


@dataclass(frozen=True)
class Line:
    """A rate that the script fills in.

    Attributes:
        key: the script's name of it.
        name: in its row.
        short: in the sentence that is read aloud; empty where it is not in it.
        rest: whether the share without a mistake is told.
    """

    key: str
    name: str
    short: str = ""
    rest: bool = False


@dataclass(frozen=True)
class StudyLine:
    """A figure of the attribute study, kept from `least` on or up to `most`; `usual` says that in words."""

    key: str
    name: str
    usual: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Explorer:
    """One side's sliders.

    Attributes:
        side: "test" or "folds".
        kind: of the question.
        images: N.
        far: how many of them no limit decides, as they lie too far from those trained on.
        data: JSON for the script; empty where there are too many images for it.
        limits: the names of the sliders by their keys, "low" and "high".
        own: whether the classes have limits of their own.
        labels: to choose from, where an image may have several.
        lines: rates of all images.
        study: the attribute study; empty where no class is good.
        by: what the rates of each class are.
        by_class: these; empty where there is one class.
        walls: the kinds of mistakes whose pictures are shown, by their keys, "miss" and "alarm".
        classes: positions and names to filter pictures by.
        curves: one, or one a label.
    """

    side: str
    kind: Kind
    images: int
    far: int
    data: Markup
    limits: tuple[tuple[str, str], ...]
    own: bool
    labels: tuple[str, ...]
    lines: tuple[Line, ...]
    study: tuple[StudyLine, ...]
    by: str
    by_class: tuple[Line, ...]
    walls: tuple[tuple[str, str], ...]
    classes: tuple[tuple[int, str], ...]
    curves: tuple[Curve, ...]


_LIMITS: Final[dict[Kind, tuple[tuple[str, str], ...]]] = {
    "good": (("low", "OK below"), ("high", "NG from")),
    "sort": (("high", "Decided from"),),
    "labels": (("low", "Not said below"), ("high", "Said from")),
}
_FACTORY_WALLS: Final = (("miss", "Escapes"), ("alarm", "Overkill"))
_STUDY: Final = (
    StudyLine("effectiveness", "Effectiveness", f"at least {100 * EFFECTIVENESS:.0f} %", least=EFFECTIVENESS),
    StudyLine("miss", "Miss", f"at most {100 * MISS:.0f} %", most=MISS),
    StudyLine("false_alarm", "False alarm", f"at most {100 * FALSE_ALARM:.0f} %", most=FALSE_ALARM),
    StudyLine("kappa", "Kappa", f"at least {KAPPA:.2f}", least=KAPPA),
)


def explorer_of(scored: Scored, point: ChosenPoint, thumbnails: Thumbnails, *, sides: int = 1) -> Explorer:
    """Gather it.

    Args:
        scored: the side.
        point: the limits that were chosen.
        thumbnails: makes the pictures.
        sides: that share the room of the page.
    """
    kind, questions, far = kind_of(point), questions_of(scored, point), far_of(scored, point)
    curves = tuple(
        curve_of(one, kind, point.words, far, f"limit-{scored.side}-{k}")
        for k, one in enumerate(questions[:_MOST_CURVES])
    )
    several = kind == "labels"
    present = () if several else tuple(np.unique(scored.answers.truth).tolist())
    by_class = tuple(_by_class(point, present))
    return Explorer(
        side=scored.side,
        kind=kind,
        images=len(far),
        far=int(far.sum()),
        data=_data(scored, point, questions, curves, thumbnails, sides),
        limits=_LIMITS[kind],
        own=len(questions[0].limits) > 1,
        labels=point.classes if several else (),
        lines=tuple(_lines(kind, point)),
        study=_STUDY if kind == "good" else (),
        by="Wrong decisions" if kind == "sort" else "Sensitivity" if point.words == "clinic" else "Escapes",
        by_class=by_class if len(by_class) > 1 else (),
        walls=_walls(kind, point.words),
        classes=tuple((k, point.classes[k]) for k in present),
        curves=curves,
    )


def script() -> str:
    """What moves the sliders, as it stands in the page."""
    files = resources.files("cvtune.report")
    return "\n".join(files.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)


def _lines(kind: Kind, point: ChosenPoint) -> Iterator[Line]:
    if kind == "sort":
        yield Line("errors", "Wrong decisions", "wrong decisions")
    else:
        yield from _MISTAKES[kind, point.words]
    if kind == "good" and len(point.classes) - len(point.ok) > 1:
        yield Line("mixed_up", "Under another defect's name")
    yield Line("review", "To a person (REVIEW)", "REVIEW")
    if kind != "sort":
        yield Line(
            "review_defects", f"To a person, of {'the defective ones' if kind == 'good' else 'those with the label'}"
        )


_MISTAKES: Final = {
    ("good", "factory"): (
        Line("escapes", "Escapes: defective, decided OK", "escapes"),
        Line("overkill", "Overkill: good, decided NG", "overkill"),
    ),
    ("good", "clinic"): (
        Line("escapes", "Sensitivity: defective, not decided OK", "sensitivity", rest=True),
        Line("overkill", "Specificity: good, not decided NG", "specificity", rest=True),
    ),
    ("labels", "factory"): (
        Line("escapes", "Missed: has the label, not said", "missed"),
        Line("overkill", "Said wrongly: has not the label", "said wrongly"),
    ),
    ("labels", "clinic"): (
        Line("escapes", "Sensitivity: has the label, not missed", "sensitivity", rest=True),
        Line("overkill", "Specificity: has not the label, not said", "specificity", rest=True),
    ),
}


def _walls(kind: Kind, words: Words) -> tuple[tuple[str, str], ...]:
    if kind == "sort":
        return (("alarm", "Wrong decisions"),)
    if kind == "labels":
        return ("miss", "Missed"), ("alarm", "Said wrongly")
    return (("miss", "Missed"), ("alarm", "False alarms")) if words == "clinic" else _FACTORY_WALLS


def _by_class(point: ChosenPoint, present: Sequence[int]) -> Iterator[Line]:
    """As `cvtune.evaluation.verdict` lists them: every class that is not good, or those of which there are images."""
    rest = point.words == "clinic" and bool(point.ok)
    for k, name in enumerate(point.classes):
        if k not in point.limits.ok if point.ok else k in present:
            yield Line(f"class-{k}", name, rest=rest)


def _data(
    scored: Scored,
    point: ChosenPoint,
    questions: Sequence[Question],
    curves: Sequence[Curve],
    thumbnails: Thumbnails,
    sides: int,
) -> Markup:
    """Everything for the script, or nothing where the numbers alone would be too much."""
    far, kind = far_of(scored, point), kind_of(point)
    numbers = {
        "kind": kind,
        "classes": [visible(name) for name in point.classes],
        "images": len(far),
        "far": _bits(far),
        "truth": None if kind == "labels" else _packed(scored.answers.truth, "<u2"),
        "questions": [_question(one, kind) for one in questions],
        "curves": [{"box": curve.box, "ends": curve.ends} for curve in curves],
    }
    if len(json.dumps(numbers)) > _MOST_LETTERS // sides:
        return Markup()
    rows = nearest(questions, far, MOST_PICTURES // sides).tolist()
    return safe_json({**numbers, "cards": [_card(row, scored.answers.paths[row], thumbnails) for row in rows]})


def safe_json(value: Any) -> Markup:
    """JSON that may stand inside of <script>: no sign in it can end the element or open a comment."""
    return Markup(json.dumps(value).translate(_UNSAFE))


def _question(question: Question, kind: Kind) -> dict[str, Any]:
    own = len(question.limits) > 1
    low, high = question.start
    return {
        "name": visible(question.name),
        "scores": _scores(question.scores),
        "miss": _bits(question.miss),
        "alarm": _bits(question.alarm),
        "likely": None if kind == "labels" else _packed(question.likely, "<u2"),
        "low": low,
        "high": high,
        "own": {"low": question.accept, "high": question.reject} if own else None,
    }


def _card(row: int, path: str, thumbnails: Thumbnails) -> dict[str, Any]:
    shown = thumbnails.of(path)
    return {"row": row, "path": visible(path), "picture": shown.picture, "missing": shown.missing}


def _scores(scores: NDArray[np.float64]) -> dict[str, str]:
    """In half the room where single precision holds them as they are."""
    kind = "<f4" if (scores == scores.astype(np.float32)).all() else "<f8"
    return {kind[1:]: _packed(scores, kind)}


def _bits(flags: Bools) -> str:
    return base64.b64encode(np.packbits(flags).tobytes()).decode()


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()
