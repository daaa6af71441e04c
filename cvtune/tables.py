"""Figures as plain lines for the terminal: every rate with its counts and its interval."""

from __future__ import annotations

from cvtune.api import Evaluation
from cvtune.evaluation.rates import Rate


def evaluation_lines(result: Evaluation) -> list[str]:
    """What `cvtune evaluate` prints."""
    figures = result.metrics
    which = "its test/ side only" if result.side == "test" else "all of it"
    auroc = "" if figures.auroc is None else f", AUROC {figures.auroc:.3f}"
    lines = [
        f"{figures.accuracy} images right: {figures.accuracy.with_interval} ({which})",
        f"balanced accuracy {figures.balanced_accuracy:.3f}, macro F1 {figures.macro_f1:.3f}{auroc}",
        "",
    ]
    width = max(len("class"), *(len(one.name) for one in figures.per_class))
    lines.append(f"{'class':<{width}}  {'found (recall)':<34}  right when said (precision)")
    lines += [f"{one.name:<{width}}  {counted(one.recall):<34}  {counted(one.precision)}" for one in figures.per_class]
    if result.skipped:
        lines += ["", f"{len(result.skipped)} files not scored:"]
        lines += [f"  {path}: {reason}" for path, reason in result.skipped[:20]]
        lines += [f"  (+{len(result.skipped) - 20} more)"] if len(result.skipped) > 20 else []
    return lines


def counted(value: Rate) -> str:
    """59 of 61, 0.967 [0.887, 0.996]."""
    return f"{value}, {value.with_interval}"
