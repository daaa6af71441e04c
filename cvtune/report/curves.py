"""What a limit does to a side: the mistakes that it lets through and those that it makes, over every limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from scipy.special import expit, logit

from cvtune.evaluation.objective import Words
from cvtune.report.figures import COLOURS, as_svg, drawing
from cvtune.report.questions import Bools, Kind, Question, Wide

_WIDTH, _HEIGHT = 4.8, 2.9  # inches
_POINTS: Final = 72  # an inch in a matplotlib SVG
_LIMITS: Final = 400  # that are drawn
_EDGES: Final = 1e-5, 0.4  # the axis ends as far from 0 and 1 as the scores do, within these
_TICKS: Final = (1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
_NARROW_TICKS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_SHARES: Final = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1)
_MOST_LIMITS: Final = 8
_NAMES: Final = {  # of what passes and should not, and of what is stopped and should not
    "factory": ("escapes, of {} defective", "overkill, of {} good"),
    "clinic": ("1 - sensitivity, of {} defective", "1 - specificity, of {} good"),
    "labels": ("missed, of {} with the label", "said wrongly, of {} without"),
}


@dataclass(frozen=True, eq=False)
class Trace:
    """A line of the chart.

    Attributes:
        name: in the legend.
        colour: of the page.
        shares: [G], of the limits at which they were counted; NaN where nothing is counted.
    """

    name: str
    colour: str
    shares: Wide


@dataclass(frozen=True)
class Curve:
    """A chart, and where in it a limit lies, so that the page's script can mark one.

    Attributes:
        svg: the picture.
        box: left, top, right and bottom of the axes, in the units of its viewBox.
        ends: the limits at its left and right, in logits.
    """

    svg: Markup
    box: tuple[float, float, float, float]
    ends: tuple[float, float]


def curve_of(question: Question, kind: Kind, words: Words, far: Bools, name: str) -> Curve:
    """The mistakes of one question over its limits, those in use marked.

    Args:
        question: with its scores and truth.
        kind: of the question.
        words: of the factory or of the clinic.
        far: images that no limit decides, bool [N].
        name: tells it from other charts of the page.
    """
    limits = _limits_of(question.scores)
    traces = tuple((_sorted if kind == "sort" else _mistaken)(question, kind, words, far, limits))
    told = f"{' and '.join(trace.name for trace in traces)}, over the limit; the table beside it holds the counts"
    return _draw(traces, limits, question, told[:1].upper() + told[1:], name)


def _limits_of(scores: Wide) -> Wide:
    """Limits between the lowest and the highest score, even in the odds, float64 [G]."""
    low, high = float(np.clip(scores.min(), *_EDGES)), float(np.clip(1 - scores.max(), *_EDGES))
    return np.asarray(expit(np.linspace(logit(low), -logit(high), _LIMITS)))


def _below(scores: Wide, limits: Wide) -> Wide:
    """How many scores lie below each limit, [G]."""
    return np.searchsorted(np.sort(scores), limits).astype(np.float64)


def _mistaken(question: Question, kind: Kind, words: Words, far: Bools, limits: Wide) -> Iterator[Trace]:
    """What passes and should not, what is stopped and should not."""
    passed = _below(question.scores[question.miss & ~far], limits)
    stopped = (question.alarm & ~far).sum() - _below(question.scores[question.alarm & ~far], limits)
    missed, wrongly = _NAMES["labels" if kind == "labels" else words]
    for name, colour, wrong, of in (
        (missed, "bad", passed, int(question.miss.sum())),
        (wrongly, "train", stopped, int(question.alarm.sum())),
    ):
        yield Trace(name.format(f"{of:,}"), colour, wrong / max(1, of))


def _sorted(question: Question, kind: Kind, words: Words, far: Bools, limits: Wide) -> Iterator[Trace]:
    """Mistakes among what is decided, and what is not."""
    near, n = question.scores[~far], len(far)
    decided = len(near) - _below(near, limits)
    wrong_scores = question.scores[question.alarm & ~far]
    wrong = len(wrong_scores) - _below(wrong_scores, limits)
    shares = np.divide(wrong, decided, out=np.full(len(limits), np.nan), where=decided > 0)
    yield Trace("wrong, of those decided", "bad", shares)
    yield Trace(f"to REVIEW, of {n:,}", "train", 1 - decided / n)


def _draw(traces: Sequence[Trace], limits: Wide, question: Question, words: str, name: str) -> Curve:
    ends = float(logit(limits[0])), float(logit(limits[-1]))
    with drawing(name, _WIDTH, _HEIGHT) as figure:
        axes = figure.add_subplot()
        for one in traces:
            axes.plot(logit(limits), np.sqrt(one.shares), color=COLOURS[one.colour], linewidth=1.6, label=one.name)
        for limit in _marked(question):
            axes.axvline(_within(limit, ends), color=COLOURS["ink"], linewidth=1.0, linestyle="--")
        _set_scales(axes, ends)
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.2, columnspacing=1.2)
        svg = as_svg(figure, words)
        return Curve(svg, _box(axes), ends)


def _marked(question: Question) -> Sequence[float]:
    """Each limit in use, or the outermost where there are too many; that nothing passes is no limit to be seen."""
    distinct = sorted({limit for pair in question.limits for limit in pair if 0 < limit <= 1})
    return distinct if len(distinct) <= _MOST_LIMITS else (distinct[0], distinct[-1])


def _within(limit: float, ends: tuple[float, float]) -> float:
    return float(np.clip(logit(limit), *ends))  # 1 has no finite odds


def _set_scales(axes: Axes, ends: tuple[float, float]) -> None:
    """Odds to the right; upwards square roots, as 1 % matters more here than 80 %."""
    shown = _ticks(ends)
    axes.set_xticks([float(logit(tick)) for tick in shown], [_told(tick) for tick in shown])
    axes.set_yticks([share**0.5 for share in _SHARES], [f"{100 * share:g} %" for share in _SHARES])
    axes.set(xlim=ends, ylim=(-0.01, 1.02), xlabel="limit")
    axes.tick_params(length=0)


def _ticks(ends: tuple[float, float]) -> Sequence[float]:
    """About seven of them, 0.5 always."""
    wide, narrow = ([one for one in ticks if ends[0] <= logit(one) <= ends[1]] for ticks in (_TICKS, _NARROW_TICKS))
    shown = wide if len(wide) > 4 else narrow
    return shown if len(shown) <= 8 else shown[shown.index(0.5) % 2 :: 2]


def _told(limit: float) -> str:
    return f"{limit:.6f}".rstrip("0")


def _box(axes: Axes) -> tuple[float, float, float, float]:
    """As it was drawn."""
    where: Any = axes.get_position()
    left, right = (round(_POINTS * _WIDTH * x, 2) for x in (where.x0, where.x1))
    top, bottom = (round(_POINTS * _HEIGHT * (1 - y), 2) for y in (where.y1, where.y0))
    return left, top, right, bottom
