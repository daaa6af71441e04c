"""The README's tables of the comparison, from the rows alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.figures import write_between
from benchmarks.peers.rows import BUDGETS, END, Row, best_time_to, better, grouped, mean_at, told_seconds
from cvtune.evaluation.rates import Rate

BEGIN, FINISH = "<!-- compare -->", "<!-- /compare -->"
TIMES = {"10 s": 10.0, "60 s": 60.0, "5 min": 300.0}
NONE = "no model yet"
BOUND = 0.2  # of fastai's time, issue 4

NAMES: Mapping[tuple[str, str], str] = {
    ("fastai", "1+5"): "fastai, 1 + 5 epochs",
    ("fastai", "1+20"): "fastai, 1 + 20 epochs",
    ("vyntri", "fit"): "vyntri",
    ("plain", "8 epochs"): "plain PyTorch, 8 epochs",
}


def tables(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Accuracy over time, then how long cvtune needs for fastai's accuracy, then how it was measured."""
    folders = grouped(rows, lambda row: row.folder)
    order = [name for name in titles if name in folders] + [name for name in folders if name not in titles]
    times = "| folder | tool | " + " | ".join(f"after {name}" for name in TIMES) + " | at its own end | its end |"
    lines = [times, "| --- " * (len(TIMES) + 4) + "|"]
    for name in order:
        lines += [f"| {' | '.join(cells)} |" for cells in _folder(titles.get(name, name), folders[name])]
    ratios = [line for name in order if (line := _ratio(titles.get(name, name), folders[name]))]
    if ratios:
        head = "| folder | the better fastai run | cvtune is as good after | ratio |"
        lines += ["", head, "| --- " * 4 + "|", *ratios]
    return "\n".join([*lines, "", *_notes(rows)])


def _folder(title: str, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    found = []
    own = [row for row in rows if row.tool == "cvtune"]
    if own:
        found.append((title, "cvtune", *_own_cells(own)))
    for (tool, variant), name in NAMES.items():
        for row in (row for row in rows if (row.tool, row.variant) == (tool, variant)):
            snapshots = [row.at(seconds) for seconds in TIMES.values()]
            cells = [NONE if one is None else _rate([one.right], one.n) for one in snapshots]
            found.append((title, name, *cells, _rate([row.last.right], row.last.n), told_seconds(row.seconds)))
    return found


def _own_cells(rows: Sequence[Row]) -> tuple[str, ...]:
    """Each time from the runs that had it for a budget; the end from those that had none."""
    variants = grouped(rows, lambda row: row.variant)
    cells = [_own_at(variants.get(budget, []), seconds) for budget, seconds in BUDGETS.items()]
    ends = variants.get(END, [])
    if not ends:
        return (*cells, "-", "-")
    rate = _rate([row.last.right for row in ends], ends[0].last.n)
    return (*cells, rate, told_seconds(statistics.fmean(row.seconds for row in ends)))


def _own_at(rows: Sequence[Row], seconds: float) -> str:
    if not rows:
        return "-"
    snapshots = [one for row in rows if (one := row.at(seconds)) is not None]
    if mean_at(rows, seconds) is None:
        first = [row.snapshots[0] for row in rows]
        mean = statistics.fmean(one.accuracy for one in first)
        return f"{NONE}; {mean:.3f} after {told_seconds(max(one.seconds for one in first))}"
    return _rate([one.right for one in snapshots], snapshots[0].n)


def _rate(right: Sequence[int], n: int) -> str:
    """`577 of 655, 0.881 [0.854, 0.905]`; of several runs on the same images their mean, and the lowest and highest."""
    mean = statistics.fmean(right)
    rate = Rate(round(mean), n)
    text = f"{mean:g} of {n}, {mean / n:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
    return text if len(right) == 1 else f"{text}, {min(right)} to {max(right)}"


def _ratio(title: str, rows: Sequence[Row]) -> str:
    best = better([row for row in rows if row.tool == "fastai"])
    own = [row for row in rows if row.tool == "cvtune"]
    if best is None or not own:
        return ""
    name = NAMES[best.tool, best.variant].removeprefix("fastai, ")
    cells = [title, f"{name}: {best.last.right} of {best.last.n} in {told_seconds(best.seconds)}"]
    reached = best_time_to(own, best.last.accuracy)
    if reached is None:
        return f"| {' | '.join([*cells, 'not reached', '-'])} |"
    seconds, variant = reached
    how = "without a budget" if variant == END else f"`--budget {variant}`"
    return f"| {' | '.join([*cells, f'{told_seconds(seconds)}, {how}', f'{seconds / best.seconds:.2f}'])} |"


def missed(rows: Sequence[Row]) -> list[str]:
    """What issue 4 asks against fastai and vyntri and these rows do not show."""
    found = []
    for name, own in grouped(rows, lambda row: row.folder).items():
        best = better([row for row in own if row.tool == "fastai"])
        mine = [row for row in own if row.tool == "cvtune"]
        ends = [row.last.accuracy for row in mine if row.variant == END]
        if best is not None and mine:
            reached = best_time_to(mine, best.last.accuracy)
            if reached is None or reached[0] > BOUND * best.seconds:
                when = "never" if reached is None else f"after {reached[0] / best.seconds:.2f} of its time"
                found.append(f"{name}: fastai's accuracy is reached {when}, at most {BOUND}")
        others = (best, better([row for row in own if row.tool == "vyntri"]))
        end = statistics.fmean(ends) if ends else math.inf
        found += [
            f"{name}: {end:.3f} at its end, {other.tool} has {other.last.accuracy:.3f}"
            for other in others
            if other is not None and end < other.last.accuracy
        ]
    return found


def _notes(rows: Sequence[Row]) -> Iterable[str]:
    """One sentence on how, with what is the same in all rows and what is the range of the rest."""
    facts = [row.facts for row in rows]
    seeds = len({row.seed for row in rows if row.tool == "cvtune"})
    dates = sorted({str(fact["date"]) for fact in facts if "date" in fact})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "-"
    threads = sorted({str(fact["threads"]) for fact in facts if "threads" in fact})
    processors = sorted({str(fact["machine"]["processor"]) for fact in facts if "machine" in fact})
    others = [one for fact in facts if (one := fact.get("load", {}).get("others")) is not None]
    yield (
        f"Test images right, accuracy, 95 % Clopper-Pearson interval; of cvtune the mean of {seeds} seeds, the "
        "interval of that mean, the worst and the best seed, each time with that `--budget`. Time runs from the start "
        "of the process, imports included, for every tool; a peer's model is that of its last finished epoch, and "
        "scoring its test images is not counted."
    )
    busy = f"; other programs used at most {max(others):.1f} cores" if others else ""
    yield f"Measured {when}, {' and '.join(processors) or '-'}, {' or '.join(threads) or '-'} threads{busy}."


def write_readme(readme: Path, text: str) -> None:
    """Put the tables between the markers.

    Raises:
        ConfigError: the file has no such markers, or more than one pair.
    """
    write_between(readme, (BEGIN, FINISH), text)
