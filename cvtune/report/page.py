"""From a run's facts to report.html: one file, no script, no network, light and dark, screen and paper."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from cvtune.evaluation.metrics import Metrics
from cvtune.evaluation.rates import Rate
from cvtune.report.facts import Facts, read_facts
from cvtune.report.figures import MOST_CLASSES, confusion_chart, curves_chart, sides_chart
from cvtune.report.mistakes import worst_mistakes
from cvtune.rundir import RunDir, write_bytes

_MOST_CONFUSIONS: Final = 10
_MOST_SKIPPED: Final = 100
_TEMPLATE: Final = "report.html.j2"


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

    confusion: Markup
    sides: Markup
    curves: Markup


def build_report(run: RunDir) -> Path:
    """Write `report.html` from the files of the run; what is not there yet is left out.

    Returns:
        the path of the report.

    Raises:
        RunError: a file of the run is damaged.
    """
    facts = read_facts(run)
    page = (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            facts=facts,
            name=run.root.resolve().name,
            bundle=run.bundle.as_posix(),
            charts=_draw(facts),
            sentences=_verdict(facts.metrics) if facts.metrics else (),
            confusions=_confusions(facts.metrics) if facts.metrics and len(facts.classes) > 2 else (),
            mistakes=worst_mistakes(facts.test, facts.folder) if facts.test else (),
            most_skipped=_MOST_SKIPPED,
        )
    )
    # replace: a file name that is no UTF-8 must not cost the report
    write_bytes(run.report, page.encode("utf-8", "replace"))
    return run.report


def _environment() -> Environment:
    files = resources.files("cvtune.report")
    sources = {name: (files / name).read_text(encoding="utf-8") for name in (_TEMPLATE, "report.css")}
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(figure=_figure, interval=_interval, percent=_percent, duration=_duration, size=_size)
    return environment


def _draw(facts: Facts) -> Charts:
    drawn = 2 <= len(facts.classes) <= MOST_CLASSES
    return Charts(
        confusion=confusion_chart(facts.classes, facts.metrics.confusion) if drawn and facts.metrics else Markup(),
        sides=sides_chart(facts.classes, facts.sides) if drawn and facts.sides else Markup(),
        curves=curves_chart(facts.epochs) if len(facts.epochs) > 1 else Markup(),
    )


def _verdict(metrics: Metrics) -> tuple[str, ...]:
    sensitivity, specificity = metrics.sensitivity, metrics.specificity
    if sensitivity is not None and specificity is not None:
        other = next(one.name for one in metrics.per_class if one.name != metrics.positive)
        return (
            f"{sensitivity} {metrics.positive} found, {_wrong(sensitivity, 'missed')}.",
            f"{specificity} {other} recognised, {_wrong(specificity, 'false alarms')}.",
        )
    present = [one for one in metrics.per_class if one.n]
    weakest = min(present, key=lambda one: (one.recall.k / one.recall.n, -one.n))
    if weakest.recall.k == weakest.recall.n:
        return ("No mistake on the test side; the intervals say how much that proves.",)
    return (f"Weakest class: {weakest.name}, {weakest.recall} found, {_wrong(weakest.recall, 'missed')}.",)


def _wrong(rate: Rate, what: str) -> str:
    wrong = Rate(rate.n - rate.k, rate.n)
    return f"{wrong.k} {what} (at most {_percent(wrong.at_most)} at 95 % confidence)"


def _confusions(metrics: Metrics) -> tuple[Confusion, ...]:
    classes = metrics.per_class
    pairs = [
        Confusion(true.name, said.name, metrics.confusion[t][s], true.n)
        for t, true in enumerate(classes)
        for s, said in enumerate(classes)
        if t != s and metrics.confusion[t][s]
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.count)[:_MOST_CONFUSIONS])


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _interval(limits: Rate | tuple[float, float]) -> str:
    low, high = (limits.low, limits.high) if isinstance(limits, Rate) else limits
    return f"[{low:.3f}, {high:.3f}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
