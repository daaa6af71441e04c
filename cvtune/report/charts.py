"""The charts of what a model is worth: reliability, scores, errors against coverage, distances; see figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from cvtune.evaluation.conformal import RiskCoverage
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.reliability import Reliability
from cvtune.report.figures import COLOURS, as_svg, drawing, shorten

Floats = NDArray[np.floating[Any]]

_WIDTH: Final = 3.5  # inches: as wide as a phone, so that it is not shrunk there
_BARS: Final = 25


@dataclass(frozen=True, eq=False)
class Strip:
    """A row of a histogram.

    Attributes:
        name: beside it.
        parts: what is counted over each other: colour, name and scores.
        limits: marked in it.
    """

    name: str
    parts: tuple[tuple[str, str, Floats], ...]
    limits: tuple[float, ...] = ()


def reliability_chart(found: Reliability, when: str, name: str) -> Markup:
    """Share of right answers against confidence, a point with its 95 % interval for each bin."""
    confidence = [one.confidence for one in found.bins]
    share = [one.right.k / one.right.n for one in found.bins]
    low = min([*confidence, *(one.right.low for one in found.bins)])
    start = np.floor(10 * low) / 10
    with drawing(name, _WIDTH, 2.8) as figure:
        axes = figure.add_subplot()
        axes.plot([start, 1], [start, 1], color=COLOURS["muted"], linewidth=0.9, linestyle=":")
        below = [value - one.right.low for value, one in zip(share, found.bins, strict=True)]
        above = [one.right.high - value for value, one in zip(share, found.bins, strict=True)]
        axes.errorbar(
            confidence, share, (below, above), fmt="o", color=COLOURS["train"], ecolor=COLOURS["val"], markersize=3.5
        )
        axes.set(xlim=(start, 1.02), ylim=(start, 1.02), xlabel="probability given", ylabel="share right")
        text = ", ".join(f"{one.confidence:.2f} {one.right}" for one in (found.bins[0], found.bins[-1]))
        return as_svg(
            figure,
            f"Reliability {when} calibration: expected calibration error {found.ece:.3f}, "
            f"{found.ece_of_chance:.3f} is within chance; least and most confident bins: {text} right",
        )


def score_chart(strips: Sequence[Strip], what: str, name: str) -> Markup:
    """Histograms of scores from 0 to 1 above each other, counts on a logarithmic scale, limits as lines."""
    edges = np.linspace(0, 1, _BARS + 1)
    with drawing(name, _WIDTH, 0.7 + 0.75 * len(strips)) as figure:
        rows: Any = figure.subplots(len(strips), 1, sharex=True, squeeze=False)
        for axes, strip in zip(rows[:, 0], strips, strict=True):
            _draw_strip(axes, strip, edges)
        rows[-1, 0].set(xlim=(-0.01, 1.01), xlabel=what)
        _explain_colours(figure, strips)
        return as_svg(figure, f"{what[:1].upper()}{what[1:]}: {'; '.join(map(_told, strips))}")


def _draw_strip(axes: Axes, strip: Strip, edges: Floats) -> None:
    most = 1
    axes.set_yscale("log")
    for colour, _, scores in strip.parts:
        counts, _ = np.histogram(scores, edges)
        some, most = counts > 0, max(most, int(counts.max()))
        # bars over each other, not on top: on a logarithmic scale a stacked one has no length that could be read
        options: Any = {"align": "edge", "color": COLOURS[colour], "alpha": 0.75, "linewidth": 0}
        axes.bar(edges[:-1][some], counts[some], np.diff(edges)[some], **options)
    for limit in strip.limits:
        axes.axvline(limit, color=COLOURS["ink"], linewidth=1.1, linestyle="--")
    axes.set_ylim(0.7, max(10.0, 1.6 * most))
    axes.set_yticks([10**power for power in range(1 + max(1, int(np.log10(most))))])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.tick_params(axis="y", length=0)
    axes.set_title(shorten(strip.name), loc="left", fontsize=9, pad=3)


def _explain_colours(figure: Figure, strips: Sequence[Strip]) -> None:
    parts = {name: colour for strip in strips for colour, name, _ in strip.parts if name}
    handles = [Patch(color=COLOURS[colour], alpha=0.75, linewidth=0, label=name) for name, colour in parts.items()]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=0.9, columnspacing=1.2)


def _told(strip: Strip) -> str:
    parts = (f"{len(scores)} {name or 'images'}" for _, name, scores in strip.parts)
    limits = f", limits {' and '.join(f'{limit:.3f}' for limit in strip.limits)}" if strip.limits else ""
    return f"{shorten(strip.name)}: {', '.join(parts)}{limits}"


def coverage_chart(curve: RiskCoverage, point: tuple[Rate, Rate] | None, name: str) -> Markup:
    """Share of mistakes among the images that are decided, the surest first.

    Args:
        curve: of N images.
        point: REVIEW of all, and mistakes of those decided, by the limits that were chosen.
        name: tells it from other charts of the page.
    """
    n = len(curve.coverage)
    first = min(n - 1, max(0, n // 50))  # of the surest few one mistake more or less is everything
    with drawing(name, _WIDTH, 2.8) as figure:
        axes = figure.add_subplot()
        axes.plot(curve.coverage[first:], curve.risk[first:], color=COLOURS["train"], linewidth=1.5)
        highest = float(curve.risk[first:].max())
        if point is not None:
            review, wrong = point
            at = 1 - (review.value or 0.0)
            axes.axvline(at, color=COLOURS["ink"], linewidth=1.1, linestyle="--")
            axes.plot([at], [wrong.value or 0.0], "o", color=COLOURS["bad"], markersize=5)
            highest = max(highest, wrong.value or 0.0)
        axes.set(
            xlim=(0, 1.02), ylim=(0, max(0.02, 1.1 * highest)), xlabel="share decided", ylabel="share wrong of these"
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            axis.set_major_locator(MaxNLocator(5))
        return as_svg(figure, f"Mistakes against coverage: {coverage_words(curve)}")


def coverage_words(curve: RiskCoverage) -> str:
    """Mistakes among all, the surer nine tenths and the surer half."""
    n = len(curve.coverage)
    counts = [n, *sorted({max(1, round(share * n)) for share in (0.9, 0.5)} - {n}, reverse=True)]
    wrong = [round(float(curve.risk[count - 1]) * count) for count in counts]
    first, *rest = (f"{k} of {count:,}" for k, count in zip(wrong, counts, strict=True))
    return f"{first} wrong" + "".join(f", {one} of the surest" for one in rest)


def distance_chart(distances: Floats, limit: float, name: str) -> Markup:
    """Histogram of the distances from the training images; what is beyond the limit stands out."""
    top = max(float(distances.max()), limit if np.isfinite(limit) else 0.0) or 1.0
    edges = np.linspace(0, 1.02 * top, 2 * _BARS)
    beyond = int((distances > limit).sum())
    with drawing(name, _WIDTH, 1.9) as figure:
        axes = figure.add_subplot()
        for colour, rows in (("train", distances <= limit), ("bad", distances > limit)):
            counts, _ = np.histogram(distances[rows], edges)
            axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=COLOURS[colour], linewidth=0)
        if np.isfinite(limit):
            axes.axvline(limit, color=COLOURS["ink"], linewidth=1.1, linestyle="--")
            axes.annotate("limit", (limit, 1), xycoords=("data", "axes fraction"), va="bottom", ha="center", fontsize=8)
        axes.set(xlim=(0, edges[-1]), xlabel="distance from the training images", ylabel="images")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        text = f"{beyond} beyond the limit of {limit:.3g}" if np.isfinite(limit) else "no limit"
        return as_svg(figure, f"Distances of {len(distances)} known images: {text}")
