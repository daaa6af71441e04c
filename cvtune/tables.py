"""Figures as plain lines for the terminal: every rate with its counts and its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cvtune.api import Compared, Evaluation, Repeated
from cvtune.audit import Finding
from cvtune.audit.finding import EXAMPLES
from cvtune.evaluation.metrics import Metrics
from cvtune.evaluation.multilabel import MultiMetrics
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.words import judgements, point_line
from cvtune.rundir import RunDir

if TYPE_CHECKING:
    from cvtune.bundle.lighter.add import Lighter
    from cvtune.bundle.lighter.tally import Loss
    from cvtune.bundle.variants import Variant
    from cvtune.evaluation.outcomes import Outcome

_MOST: Final = 40  # parts that are listed


def evaluation_lines(result: Evaluation) -> list[str]:
    """What `cvtune evaluate` prints."""
    which = "its test/ side only" if result.side == "test" else "all of it"
    figures = result.metrics
    lines = _multi_lines(figures, which) if isinstance(figures, MultiMetrics) else _single_lines(figures, which)
    if (decided := result.decided) is not None:
        aims = judgements(result.targets, decided, result.words)
        lines[1:1] = [f"by its limits: {point_line(decided, result.words)}", *aims]
    lines += [f"answered by the model in {result.precision}"] if result.precision != "float32" else []
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


def compared_lines(result: Compared) -> list[str]:
    """What `cvtune compare` prints."""
    found, width = result.found, max(map(len, result.names))
    return [
        f"first   {result.names[0]:<{width}}  {found.first} right, {found.first.with_interval}",
        f"second  {result.names[1]:<{width}}  {found.second} right, {found.second.with_interval}",
        "",
        f"{'second less first':<17}  {'difference':>10}  95 % interval, paired by image",
        *(
            f"{one.name:<17}  {one.value:>+10.3f}  [{one.low:+.3f}, {one.high:+.3f}]"
            + ("" if one.shown else "  none shown")
            for one in found.differences
        ),
        "",
        found.sentence,
        *_outcome_lines(result.outcomes),
    ]


def _outcome_lines(outcomes: Sequence[Outcome]) -> list[str]:
    if not outcomes:
        return []
    cells = [("by the limits of each", "first", "second", "new", "no more", "by chance")]
    cells += [
        (one.name, str(one.first), str(one.second), str(len(one.new)), str(len(one.gone)), f"{one.p:.3f}")
        for one in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)]


def repeated_lines(result: Repeated) -> list[str]:
    """What `cvtune repeat` prints."""
    found, what = result.found, "decision" if result.decided else "label"
    kappa = "" if found.kappa is None else f", kappa within parts {found.kappa:.3f}"
    lines = [
        f"{found.one_answer} parts got one {what} in all their pictures: {found.one_answer.with_interval}{kappa}",
        *([f"{found.single} parts with a single picture say nothing and are left out"] if found.single else []),
    ]
    differing = [part for part in found.parts if not part.same]
    if differing:
        width = max(len(part.name) for part in differing[:_MOST])
        lines += ["", f"{'part':<{width}}  answers"]
        for part in differing[:_MOST]:
            lines.append(f"{part.name:<{width}}  " + ", ".join(f"{name} {n}" for name, n in part.answers.items()))
        lines += [f"(+{len(differing) - _MOST} more)"] if len(differing) > _MOST else []
    return lines + [f"not read: {path}: {reason}" for path, reason in result.skipped]


def variant_lines(found: Variant, run: Path) -> list[str]:
    """What `cvtune export` prints."""
    parity, form = found.parity, found.form
    takes = {"rgb": "R, G, B", "bgr": "B, G, R", "gray": "gray"}[form.colour]
    size = "of any size" if form.shape is None else "of {} x {} (height x width), one at a time".format(*form.shape)
    drawn = [] if found.heat is None else [f"heat map   within {found.heat:.1e} of torch's"]
    return [
        f"{RunDir(run).bundle / form.file}",
        f"takes      frames {size}, {takes}",
        f"parity     {parity.equal} of {parity.images} decisions as model.onnx gives them, largest difference of a "
        f"probability {parity.worst:.1e}",
        *drawn,
    ]


def lighter_lines(found: Lighter, run: Path) -> list[str]:
    """What `cvtune export --int8` prints of a model of fewer bits."""
    sides = [("val, calib", found.chosen)] + ([("test", found.test)] if found.test else [])
    return [
        f"{RunDir(run).bundle / found.file}",
        f"made       {found.made}",
        *(f"{name:<11}{_loss_line(loss)}" for name, loss in sides),
        f"here       {100 * found.share:.0f} % of model.onnx's time for a frame, {found.size}",
    ]


def _loss_line(loss: Loss) -> str:
    before, after = loss.before, loss.after
    pairs = [("right", "right"), ("escaped", "escaped"), ("rejected", "rejected"), ("review", "to REVIEW")]
    told = [f"{getattr(after, name)} {word} ({getattr(before, name)} before)" for name, word in pairs]
    return f"{', '.join(told)}, {loss.same} decided alike, of {before.images}"


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
