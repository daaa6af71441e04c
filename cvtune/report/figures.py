"""The report's charts: SVG text that takes its colours from the page, so that one picture serves light and dark."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from cvtune.report.facts import SideCounts
from cvtune.report.names import visible
from cvtune.report.training import Epoch

MOST_CLASSES: Final = 60  # in a chart; more are unreadable, the table holds them
_NAME_LENGTH: Final = 22

# matplotlib knows no CSS variables: each colour is drawn as a number that stands for one and replaced in the SVG.
COLOURS: Final = {
    name: f"#0000{number:02x}"
    for number, name in enumerate(("ink", "muted", "line", "paper", "good", "bad", "train", "val", "calib", "test"), 1)
}
_RC: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: searchable, and set in the page's font
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.parse_math": False,  # a class may be called $1$
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["line"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def confusion_chart(classes: Sequence[str], confusion: Sequence[Sequence[int]], *, name: str = "confusion") -> Markup:
    """Counts [K, K] as a grid, a row for each true class; the shade is the share of the row.

    `name` tells it from other charts of the page.
    """
    k = len(classes)
    names = [shorten(name) for name in classes]
    small = k > 15
    cell = 0.9 if k <= 3 else 0.6 if k <= 6 else max(0.16, 3.9 / k)
    text = max(map(len, names)) * (0.05 if small else 0.08)  # inches
    upright = k > 3 or text > cell
    with drawing(name, k * cell + text + 0.5, k * cell + (text if upright else 0.2) + 0.5) as figure:
        axes = figure.add_subplot()
        for row, counts in enumerate(confusion):
            for column, count in enumerate(counts):
                if count:
                    _draw_cell(axes, row, column, count, sum(counts), label=not small)
        axes.set(xlim=(0, k), ylim=(k, 0), aspect="equal", xlabel="predicted", ylabel="true")
        size = 5.5 if small else 9.0
        axes.set_xticks([i + 0.5 for i in range(k)], names, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks([i + 0.5 for i in range(k)], names, fontsize=size)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        return as_svg(figure, f"Confusion matrix of {k} classes; the table below holds the counts")


def sides_chart(classes: Sequence[str], sides: Sequence[SideCounts]) -> Markup:
    """Images a class as a bar, divided by side."""
    with drawing("sides", 4.8, 0.8 + 0.26 * len(classes)) as figure:
        axes = figure.add_subplot()
        left = [0] * len(classes)
        for side in sides:
            axes.barh(range(len(classes)), side.counts, 0.66, left, color=COLOURS[side.name], label=side.name)
            left = [start + count for start, count in zip(left, side.counts, strict=True)]
        axes.set(ylim=(len(classes) - 0.5, -0.5), xlabel="images")
        axes.set_yticks(range(len(classes)), [shorten(name) for name in classes])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        # above the bars: beside them it would be cut on a phone
        figure.legend(loc="outside upper left", ncols=len(sides), handlelength=0.9, columnspacing=1.2)
        text = "; ".join(f"{side.name} {side.images}" for side in sides)
        return as_svg(figure, f"Images a class and side: {text}")


def curves_chart(epochs: Sequence[Epoch]) -> Markup:
    """Losses and balanced accuracy over the epochs of all stages, a line between two stages."""
    with drawing("curves", 4.8, 3.6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        _draw_curve(upper, "loss, train", [e.train_loss for e in epochs], COLOURS["train"])
        _draw_curve(upper, "loss, val", [e.val_loss for e in epochs], COLOURS["test"])
        _draw_curve(lower, "balanced accuracy, val", [e.val_balanced_accuracy for e in epochs], COLOURS["test"])
        for axes in (upper, lower):
            _mark_stages(axes, epochs, names=axes is upper)
            axes.legend(loc="best", fontsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlim(0.5, len(epochs) + 0.5)
        lower.set_xlabel("epoch, all stages")
        return as_svg(figure, f"Training curves over {len(epochs)} epochs")


def shorten(name: str) -> str:
    """The name, or its beginning where it is too long for an axis."""
    name = visible(name)
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


@contextmanager
def drawing(name: str, width: float, height: float) -> Iterator[Figure]:
    """An empty figure of `width` by `height` inches in the report's style."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # not the user's own style
        # same run, same bytes; another salt for each chart, as the ids share one page
        mpl.rcParams.update({**_RC, "svg.hashsalt": name})
        # the browser sets the text: it has the glyphs that matplotlib's own font lacks (Chinese class names)
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
        yield Figure(figsize=(width, height), layout="constrained")


def _draw_cell(axes: Axes, row: int, column: int, count: int, total: int, *, label: bool) -> None:
    share = count / total
    colour = COLOURS["good" if row == column else "bad"]
    box = Rectangle((column, row), 1, 1, facecolor=colour, alpha=0.15 + 0.85 * share, linewidth=0)
    axes.add_patch(box)
    if label:
        ink = COLOURS["paper" if share > 0.5 else "ink"]
        axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", color=ink)


def _draw_curve(axes: Axes, name: str, values: Sequence[float | None], colour: str) -> None:
    points = [(epoch, value) for epoch, value in enumerate(values, 1) if value is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=name, marker="o", markersize=2.5, linewidth=1.4)


def _mark_stages(axes: Axes, epochs: Sequence[Epoch], *, names: bool) -> None:
    for number, epoch in enumerate(epochs, 1):
        first = number == 1
        if first or epoch.stage != epochs[number - 2].stage:
            if not first:
                axes.axvline(number - 0.5, color=COLOURS["muted"], linewidth=0.8, linestyle=":")
            if names:
                axes.annotate(
                    epoch.stage, (number - 0.4, 1), xycoords=("data", "axes fraction"), va="bottom", fontsize=8
                )


def as_svg(figure: Figure, label: str) -> Markup:
    """The figure as SVG whose colours are the page's; `label` says what it shows to those who cannot see it."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", text)  # ids must be unique in a page of several charts
    for name, number in COLOURS.items():
        text = text.replace(f": {number}", f": var(--{name})")
    width = f"max-width:{figure.get_figwidth():.2f}in"  # larger than drawn, its text would shout
    start = Markup('<svg class="chart" role="img" aria-label="{}" style="{}" ').format(label, width)
    return Markup(text.replace("<svg ", start, 1))
