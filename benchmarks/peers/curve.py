"""Accuracy over time as an SVG: one panel a folder, logarithmic time, readable on light and on dark ground.

Every colour has a contrast of about 4 with white and with GitHub's dark ground: nothing has to know which it is on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.peers.rows import BUDGETS, END, Row, grouped
from benchmarks.peers.table import NAMES

WIDTH = 880
COLUMNS = 2
PANEL = 264  # height of one with its title and its axis
GAP = 28
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 34, 40  # inside a panel
LEGEND = 66  # two rows and a sentence, at most
LETTER = 6.9  # pixels, the mean width of one in the widest of the fonts

INK = "#6e7781"
COLOURS: Mapping[str, str] = {
    "cvtune": "#d1480f",
    "fastai 1+5": "#4d8fd1",
    "fastai 1+20": "#2b6fbf",
    "vyntri": "#2c8a4b",
    "plain": "#8a63d2",
}
DASHES: Mapping[str, str] = {"fastai 1+5": "5 3", "plain": "2 3"}
TICKS = {
    10: "10 s",
    30: "30 s",
    60: "1 min",
    300: "5 min",
    600: "10 min",
    1800: "30 min",
    3600: "1 h",
    7200: "2 h",
}


@dataclass(frozen=True)
class Point:
    """A model: seconds, share of the test images right, and the worst and the best seed where there are several."""

    seconds: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """The models of one tool, ascending in time; `steps` holds each until the next one, as a run goes on."""

    kind: str
    name: str
    points: tuple[Point, ...]
    steps: bool


def lines(rows: Sequence[Row]) -> list[Line]:
    """What is drawn of one folder: cvtune's settings as points of one line, each peer's run epoch by epoch."""
    found = []
    for (tool, variant), name in NAMES.items():
        for row in (row for row in rows if (row.tool, row.variant) == (tool, variant)):
            points = tuple(Point(one.seconds, one.accuracy, one.accuracy, one.accuracy) for one in row.snapshots)
            found.append(Line(f"fastai {variant}" if tool == "fastai" else tool, name, points, True))
    own = grouped((row for row in rows if row.tool == "cvtune"), lambda row: row.variant)
    settings = [_mean(own[variant]) for variant in (*BUDGETS, END) if variant in own]
    if settings:
        seeds = max(len(runs) for runs in own.values())
        mean = f"cvtune, mean of {seeds} seeds" if seeds > 1 else "cvtune"
        found.append(Line("cvtune", mean, tuple(sorted(settings, key=lambda point: point.seconds)), False))
    return found


def _mean(rows: Sequence[Row]) -> Point:
    """The end of the runs with one budget: when their last model was there, in the mean, and how good it was."""
    values = [row.last.accuracy for row in rows]
    seconds = statistics.fmean(row.last.seconds for row in rows)
    return Point(seconds, statistics.fmean(values), min(values), max(values))


def curve(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """The whole picture.

    Args:
        rows: of one split a folder.
        titles: of the folders, in the order in which they are drawn.
    """
    folders = grouped(rows, lambda row: row.folder)
    order = [name for name in titles if name in folders] + [name for name in folders if name not in titles]
    panels = [(titles.get(name, name), lines(folders[name])) for name in order]
    height = LEGEND + PANEL * math.ceil(len(panels) / COLUMNS)
    across = _span([point.seconds for _, drawn in panels for line in drawn for point in line.points])
    parts = [*_legend([line for _, drawn in panels for line in drawn])]
    for number, (title, drawn) in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        x = column * (_panel_width() + GAP)
        parts += [f'<g transform="translate({x} {LEGEND + row * PANEL})">', *_panel(title, drawn, across), "</g>"]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12" '
            f'fill="{INK}" role="img" aria-label="Share of test images right over time, one panel a data set">',
            *parts,
            "</svg>\n",
        ]
    )


def _panel_width() -> int:
    return (WIDTH - GAP * (COLUMNS - 1)) // COLUMNS


def _span(seconds: Sequence[float]) -> tuple[float, float]:
    """From the last tick before everything to a little behind it, so that panels can be compared."""
    first = max((tick for tick in TICKS if tick <= min(seconds)), default=min(TICKS))
    return float(min(first, min(seconds))), max(seconds) * 1.15


@dataclass(frozen=True)
class _Scale:
    first: float
    last: float
    low: float
    high: float

    def x(self, seconds: float) -> float:
        share = math.log(seconds / self.first) / math.log(self.last / self.first)
        return round(LEFT + share * (_panel_width() - LEFT - RIGHT), 1)

    def y(self, accuracy: float) -> float:
        share = (accuracy - self.low) / (self.high - self.low)
        return round(PANEL - BOTTOM - share * (PANEL - TOP - BOTTOM), 1)


def _panel(title: str, drawn: Sequence[Line], across: tuple[float, float]) -> Iterator[str]:
    values = [value for line in drawn for point in line.points for value in (point.low, point.high)]
    low, high, step = _rungs(values)
    scale = _Scale(*across, low, high)
    yield f'<text x="{LEFT}" y="18" font-size="14" font-weight="600">{escape(title)}</text>'
    yield from _axes(scale, step)
    for line in drawn:
        yield from _draw(line, scale)


def _rungs(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower end, upper end and step of the accuracy axis: round, and around all values."""
    step = next((step for step in (0.01, 0.02, 0.05, 0.1) if max(values) - min(values) <= 5 * step), 0.2)
    low = math.floor(round(min(values) / step, 6)) * step
    high = math.ceil(round(max(values) / step, 6)) * step
    return max(0.0, low if low < high else low - step), min(1.0, high), step


def _axes(scale: _Scale, step: float) -> Iterator[str]:
    left, right = LEFT, _panel_width() - RIGHT
    for number in range(round((scale.high - scale.low) / step) + 1):
        value = scale.low + number * step
        y = scale.y(value)
        yield f'<path d="M{left} {y}H{right}" stroke="{INK}" stroke-opacity="0.25"/>'
        yield f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{value * 100:.0f} %</text>'
    floor = PANEL - BOTTOM
    for seconds, name in TICKS.items():
        if scale.first <= seconds <= scale.last:
            x = scale.x(seconds)
            yield f'<path d="M{x} {floor}v4" stroke="{INK}"/>'
            yield f'<text x="{x}" y="{floor + 18}" text-anchor="middle">{name}</text>'


def _draw(line: Line, scale: _Scale) -> Iterator[str]:
    colour, dash = COLOURS[line.kind], DASHES.get(line.kind, "")
    places = [(scale.x(point.seconds), scale.y(point.accuracy)) for point in line.points]
    path = f"M{places[0][0]} {places[0][1]}"
    for x, y in places[1:]:
        path += f"H{x}V{y}" if line.steps else f"L{x} {y}"
    width = 2.5 if line.kind == "cvtune" else 1.8
    style = f'stroke-dasharray="{dash}" ' if dash else ""
    if len(places) > 1:
        yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" {style}stroke-linejoin="round"/>'
    for point, (x, y) in zip(line.points, places, strict=True):
        if point.high > point.low:
            yield f'<path d="M{x} {scale.y(point.low)}V{scale.y(point.high)}" stroke="{colour}" stroke-width="1.5"/>'
        if not line.steps:
            yield f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>'
    if line.steps:
        x, y = places[-1]
        yield f'<rect x="{x - 4}" y="{y - 4}" width="8" height="8" fill="{colour}"/>'


def _legend(drawn: Sequence[Line]) -> Iterator[str]:
    """One entry a kind, cvtune first, in as many rows as they need, then what the axes are."""
    known = {line.kind: line for line in drawn}
    x, y = 4, 14
    for kind in (kind for kind in COLOURS if kind in known):
        width = 46 + round(LETTER * len(known[kind].name))
        if x + width > WIDTH:
            x, y = 4, y + 20
        yield from _entry(known[kind], x, y)
        x += width
    yield (
        f'<text x="4" y="{y + 26}">Test images right, over the time since the start of the program (logarithmic). '
        "Square: the end of a run. Bar: worst to best seed.</text>"
    )


def _entry(line: Line, x: int, y: int) -> Iterator[str]:
    colour, dash = COLOURS[line.kind], DASHES.get(line.kind, "")
    style = f' stroke-dasharray="{dash}"' if dash else ""
    yield f'<path d="M{x} {y}h22" stroke="{colour}" stroke-width="2.5"{style}/>'
    if line.steps:
        yield f'<rect x="{x + 7}" y="{y - 4}" width="8" height="8" fill="{colour}"/>'
    else:
        yield f'<circle cx="{x + 11}" cy="{y}" r="4" fill="{colour}"/>'
    yield f'<text x="{x + 28}" y="{y + 4}">{escape(line.name)}</text>'
