"""Figures as plain lines for the terminal: every rate with its counts and its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from cvtune.api import Evaluation
from cvtune.audit import Finding
from cvtune.audit.finding import EXAMPLES
from cvtune.evaluation.metrics import Metrics
from cvtune.evaluation.multilabel import MultiMetrics
from cvtune.evaluation.rates import Rate


def evaluation_lines(result: Evaluation) -> list[str]:
    """What `cvtune evaluate` prints."""
    which = "its test/ side only" if result.side == "test" else "all of it"
    figures = result.metrics
    lines = _multi_lines(figures, which) if isinstance(figures, MultiMetrics) else _single_lines(figures, which)
    if result.skipped:
        lines += ["", f"{len(result.skipped)} files not scored:"]
        lines += [f"  {path}: {reason}" for path, reason in result.skipped[:20]]
        lines += [f"  (+{len(result.skipped) - 20} more)"] if len(result.skipped) > 20 else []
    return lines


def _single_lines(figures: Metrics, which: str) -> list[str]:
    auroc = "" if figures.auroc is None else f", AUROC {figures.auroc:.3f}"
    width = max(len("class"), *(len(one.name) for one in figures.per_class))
    return [
        f"{figures.accuracy} images right: {figures.accuracy.with_interval} ({which})",
        f"balanced accuracy {figures.balanced_accuracy:.3f}, macro F1 {figures.macro_f1:.3f}{auroc}",
        "",
        f"{'class':<{width}}  {'found (recall)':<34}  right when said (precision)",
        *(f"{one.name:<{width}}  {counted(one.recall):<34}  {counted(one.precision)}" for one in figures.per_class),
    ]


def _multi_lines(figures: MultiMetrics, which: str) -> list[str]:
    width = max(len("label"), *(len(one.name) for one in figures.per_class))
    return [
        f"{figures.accuracy} images with every label right: {figures.accuracy.with_interval} ({which})",
        f"mean average precision {figures.mean_average_precision:.3f}, macro F1 {figures.macro_f1:.3f}",
        "",
        f"{'label':<{width}}  {'found (recall)':<34}  {'right when said (precision)':<34}  average precision",
        *(
            f"{one.name:<{width}}  {counted(one.recall):<34}  {counted(one.precision):<34}  "
            + ("-" if one.average_precision is None else f"{one.average_precision:.3f}")
            for one in figures.per_class
        ),
    ]


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """What `cvtune check` prints: each finding with examples and what to do."""
    if not findings:
        return ["", "Nothing is wrong with this folder."]
    lines: list[str] = []
    for one in findings:
        lines += ["", *_wrapped(f"{one.severity}: {one.title}", "")]
        lines += [f"    {example}" for example in one.examples]
        lines += ["    and more"] if one.count > len(one.examples) >= EXAMPLES else []
        lines += _wrapped(f"-> {one.action}", "  ") if one.action else []
    warnings = sum(one.severity == "warning" for one in findings)
    return [*lines, "", f"{warnings} warnings, {len(findings) - warnings} notes"]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        116,
        initial_indent=indent,
        subsequent_indent=f"{indent}   ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def counted(value: Rate) -> str:
    """59 of 61, 0.967 [0.887, 0.996]."""
    return f"{value}, {value.with_interval}"
