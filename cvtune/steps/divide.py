"""The sides, and everything that was decided before training, in the run directory."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cvtune.audit import Finding, audit, save_audit, write_corrections
from cvtune.config import Config, dump_toml
from cvtune.console import Console
from cvtune.data.groups import Proposal
from cvtune.data.index import DatasetIndex
from cvtune.data.memory import Kept, recall, remember
from cvtune.data.pixels import measure_window
from cvtune.data.split import Leaks, Split, leaks, split_index
from cvtune.errors import RunError
from cvtune.models.weights import WeightsInfo
from cvtune.rundir import SIDES, RunDir, write_json, write_text
from cvtune.steps.examine import Seen
from cvtune.steps.read import Data
from cvtune.steps.train import is_tight, wants_final, write_plan
from cvtune.training.checkpoint import Ledger
from cvtune.training.hardware import Threads
from cvtune.training.session import Choices


def divide(data: Data, seen: Seen, config: Config, folder: Path, console: Console, *, keep: bool = True) -> Split:
    """Deal the images out to the sides, those of earlier runs on this folder to the sides they had.

    Args:
        data: the folder, read.
        seen: copies that stay together.
        config: shares, seed, grouping, and whether to start over.
        folder: as the user named it.
        console: a line, and what the user should hear about the sides.
        keep: write the sides down for later runs.
    """
    index = data.index
    if config.data.folds:
        return _undivided(index, config.data.folds, console)
    before = recall(folder, config.data)
    kept = before.sides if before else {}
    split = split_index(index, config.data, seed=config.seed, same=seen.same, near=seen.near, kept=kept)
    unsaved = remember(folder, index, split, config.data) if keep else ""
    given = any(image.side in ("val", "calib") for image in index.images)
    if wants_final(config, split) and is_tight(config) and not given:
        split = _without_calib(split)
    counts = " / ".join(f"{side} {len(split.indices(side))}" for side in SIDES if _own(split, side))
    groups = "groups" if config.data.group_by else "duplicates"
    crossing = _crossing(index, split, seen.clusters)
    apart = f"{crossing} {groups} on two of the given sides: audit.json" if crossing else f"no {groups} on two sides"
    console.step(
        "split", f"{counts}, {apart}", more=(*_notes(index, split, before, seen.proposal), *filter(None, [unsaved]))
    )
    return split


def _without_calib(split: Split) -> Split:
    """The images of calib are trained on and val stands for it: a final fit would have used both."""
    if split.calib_is_val:
        return split
    sides = tuple("train" if side == "calib" else side for side in split.sides)
    note = "the budget is too short for the folds of a final fit: what would have been calib is trained on"
    return replace(split, sides=sides, calib_is_val=True, notes=(*split.notes, note))


def _undivided(index: DatasetIndex, k: int, console: Console) -> Split:
    """With folds nothing is held back but a test side that the folder gives."""
    sides = tuple("test" if image.side == "test" else "train" for image in index.images)
    given = sides.count("test")
    more = f"; test/ with {given} images is kept apart" if given else ""
    console.step("split", f"{len(sides) - given} images in {k} folds, no group and no copy in two of them{more}")
    return Split(sides)


def _notes(index: DatasetIndex, split: Split, before: Kept | None, proposal: Proposal | None) -> tuple[str, ...]:
    notes = list(split.notes)
    if before and before.note:
        notes.insert(0, before.note)
    if before and before.sides:
        new = sum(image.sha256 not in before.sides for image in index.images)
        more = f"; {new} new images joined them" if new else ""
        notes.insert(0, f"the sides of the earlier run on this folder{more} (--new-split deals anew)")
    if index.ungrouped:
        notes.append(f"{index.ungrouped} paths do not match --group-by: each of them stands for itself")
    if proposal:
        notes.append(f"{proposal.reason}: if they show the same part, fit with --group-by '{proposal.spec}'")
    return tuple(notes)


def _crossing(index: DatasetIndex, split: Split, clusters: Sequence[Sequence[int]]) -> int:
    """Groups and duplicates on two sides: only those that the folder itself put there."""
    groups: dict[str, set[int]] = defaultdict(set)
    for row, image in enumerate(index.images):
        groups[image.group].add(row)
    return sum(len({split.sides[row] for row in cluster}) > 1 for cluster in (*groups.values(), *clusters))


def _own(split: Split, side: str) -> bool:
    return not (side == "calib" and split.calib_is_val)


def window(data: Data, split: Split, config: Config, console: Console) -> Data:
    """Which values of deep images are black and white: given, or measured on the training side."""
    if data.frame.pixels == "uint8":
        return data
    levels = config.image.window or measure_window(data.pixels, split.indices("train"))
    how = "as asked" if config.image.window else "measured on the training side"
    console.step("window", f"{levels[0]:g} is black, {levels[1]:g} is white: {how}, the same on the line")
    return replace(data, frame=replace(data.frame, window=levels))


@dataclass(frozen=True)
class Audited:
    """What is wrong with a folder.

    Attributes:
        findings: warnings first.
        leaked: test images with a partner among those trained on.
    """

    data: Data
    seen: Seen
    findings: tuple[Finding, ...]
    leaked: Leaks


def audited(data: Data, seen: Seen, split: Split) -> Audited:
    """Everything that was found, in sentences."""
    leaked = leaks(data.index, split, seen.clusters)
    findings = audit(
        data.index,
        split,
        facts=data.facts,
        pairs=seen.pairs,
        suspects=seen.suspects,
        proposal=seen.proposal,
        leaks=leaked,
        label_note=seen.judged.note,
    )
    return Audited(data, seen, findings, leaked)


def record(
    run: RunDir,
    config: Config,
    found: Audited,
    split: Split,
    weights: WeightsInfo,
    folder: Path,
    threads: Threads,
    replay: Mapping[str, Choices],
    *,
    resume: bool = False,
) -> Ledger:
    """Everything that was decided before training, in the run directory; config.toml last: with it a run can go on.

    Returns:
        What is finished of the run; everything in it hangs on settings, files and sides.

    Raises:
        RunError: the run goes on, and the folder is not what it was.
    """
    index, seen = found.data.index, found.seen
    if resume:
        now = RunDir(run.scratch)
        index.save(now.index)
        split.save(now.split, index)
        if _sha256(now.index, now.split) != _sha256(run.index, run.split):
            raise RunError(
                f"{folder}: its files, labels or sides are not those with which {run.root} began",
                hint="what was learnt of the old ones cannot go on with the new ones: fit the folder anew",
            )
    index.save(run.index)
    split.save(run.split, index)
    write_json(run.environment, _environment(weights, folder, threads))
    if replay:
        write_plan(run.plan, replay)
    save_audit(run.audit, found.findings, index, suspects=seen.suspects, pairs=seen.pairs)
    write_corrections(run.corrections, index, seen.suspects, seen.pairs)
    write_text(run.config, dump_toml(config))
    return Ledger(run, key=_sha256(run.config, run.index, run.split))


def _sha256(*files: Path) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes() if file.is_file() else b"")
    return found.hexdigest()


def _environment(weights: WeightsInfo, folder: Path, threads: Threads) -> dict[str, Any]:
    names = ("cvtune", "torch", "timm", "lightning", "albumentations", "onnx", "onnxruntime", "numpy", "scikit-learn")
    return {
        "folder": str(folder.resolve()),
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": threads.network,
        "threads_from": threads.reason,
        "versions": {name: version(name) for name in names},
        "backbone": weights.backbone,
        "weights": weights.record(),
    }
