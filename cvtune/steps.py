"""The steps of the main path, in the order in which `pipeline.fit` calls them; no step calls another."""

from __future__ import annotations

import platform
import re
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from cvtune.audit import audit, duplicate_clusters, save_audit
from cvtune.config import Config, dump_toml
from cvtune.console import Console
from cvtune.data.augment import Augmentation
from cvtune.data.index import DatasetIndex, build_index
from cvtune.data.pixels import PixelCache, fill_pixels
from cvtune.data.preprocess import Preprocessing, load_mask, small_things_note
from cvtune.data.presets import settle_preset
from cvtune.data.split import Split, split_index
from cvtune.errors import RunError
from cvtune.evaluation.comparison import better
from cvtune.evaluation.metrics import score
from cvtune.evaluation.predictions import Predictions
from cvtune.models.backbone import load_backbone
from cvtune.models.head import Classifier, HeadFactory, LinearHead, build_head
from cvtune.models.normalize import Normalize
from cvtune.models.weights import WeightsInfo
from cvtune.models.weights import find_weights as look_for_weights
from cvtune.rundir import SIDES, RunDir, read_json, write_json, write_text
from cvtune.training.loggers import build_loggers, check_loggers
from cvtune.training.stages import Choices, Floats, Judgement, Material, Session
from cvtune.training.stop import StopRequest
from cvtune.training.trainer import Extras


@dataclass(frozen=True)
class Plugins:
    """What a user plugs into a fit.

    Attributes:
        head: called with (width D, classes K), gives a module from [N, D] to logits [N, K]; from the tail on.
        augmentation: an albumentations transform for uint8 [S, S, 3], in place of the preset's.
        callbacks: Lightning callbacks.
        loggers: Lightning loggers, beside the run's own metrics.csv.
        trainer: further arguments of `lightning.Trainer`.
    """

    head: HeadFactory | None = None
    augmentation: Augmentation | None = None
    callbacks: tuple[Any, ...] = ()
    loggers: tuple[Any, ...] = ()
    trainer: dict[str, Any] = field(default_factory=dict)


def check(config: Config, plan: Path | None) -> Mapping[str, Choices]:
    """What can be refused before any image is read: loggers that are not installed, a plan that is not there.

    Args:
        config: all settings.
        plan: an earlier run, whose choices are repeated.

    Returns:
        Those choices by stage, none where there is no plan.

    Raises:
        ConfigError: the package of a logger is missing.
        RunError: `plan` is no run, or one without a plan.
    """
    check_loggers(config.train.loggers)
    choices: Mapping[str, Choices] = read_json(RunDir.open(plan).plan)["stages"] if plan else {}
    return choices


def find_weights(config: Config) -> WeightsInfo:
    """Before the images, since without weights nothing else is worth the wait."""
    return look_for_weights(config.model.backbone, config.model)


def index(folder: Path, config: Config, console: Console) -> DatasetIndex:
    """Which images there are."""
    found = build_index(folder, group_by=config.data.group_by)
    console.detail("found", f"{len(found)} image files in {folder}")
    return found


def new_run(folder: Path, out: Path | None) -> RunDir:
    """A run directory that holds nothing yet.

    Raises:
        RunError: `out` is in use, or holds a run or something else.
    """
    if out is not None:
        if out.resolve().is_relative_to(folder.resolve()):
            raise RunError(
                f"{out} lies inside the folder of images; the next fit would take it for a class",
                hint="choose a folder beside it with --out",
            )
        run = RunDir(out)
        run.check_new()
        return run
    stem = re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-.") or "run"
    number = 1
    while (root := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return RunDir(root)


@contextmanager
def scratch(run: RunDir) -> Iterator[Path]:
    """A folder for the pixel cache, on the run's own disk, gone afterwards."""
    run.scratch.mkdir(parents=True, exist_ok=True)
    try:
        yield run.scratch
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)


def preprocessing(config: Config, weights: WeightsInfo) -> Preprocessing:
    """From the frame to the network's pixels."""
    image = config.image
    return Preprocessing(
        size=image.size or weights.size,
        resize=image.resize,
        roi=image.roi,
        mask=load_mask(Path(image.mask)) if image.mask else None,
        interpolation=weights.interpolation,
        mean=weights.mean,
        std=weights.std,
    )


def read(found: DatasetIndex, frame: Preprocessing, folder: Path, console: Console) -> tuple[DatasetIndex, PixelCache]:
    """Read every image once; those that cannot be read are listed, and the run goes on without them."""
    filled, pixels = fill_pixels(found, frame, folder, progress=lambda done, of: console.progress("reading", done, of))
    duplicates = sum(len(cluster) - 1 for cluster in duplicate_clusters(filled))
    aside = [f"{len(filled.skipped)} skipped"] if filled.skipped else []
    aside += [f"{duplicates} exact duplicates"] if duplicates else []
    listed = f" ({', '.join(aside)}: audit.json)" if aside else ""
    console.step("indexed", f"{len(filled)} images, {len(filled.classes)} classes{listed}")
    return filled, pixels


def settle(config: Config, found: DatasetIndex, frame: Preprocessing, console: Console) -> Config:
    """Choose the augmentations where the preset is auto, and say what a small defect becomes."""
    settled, why = settle_preset(config, found)
    console.step("preset", why)
    width = frame.window[2] if frame.window else statistics.median(image.width for image in found.images)
    note = small_things_note(width, frame.size)
    if note:
        console.step("size", note)
    return settled


def divide(found: DatasetIndex, config: Config, console: Console) -> Split:
    """Deal the images out to the sides."""
    split = split_index(found, config.data, seed=config.seed, same=duplicate_clusters(found))
    counts = " / ".join(f"{side} {len(split.indices(side))}" for side in SIDES if _own(split, side))
    groups = "groups" if config.data.group_by else "duplicates"
    crossing = _crossing(found, split)
    apart = f"{crossing} {groups} on two of the given sides: audit.json" if crossing else f"no {groups} on two sides"
    notes = split.notes
    if found.ungrouped:
        notes = (*notes, f"{found.ungrouped} paths do not match --group-by: each of them stands for itself")
    console.step("split", f"{counts}, {apart}", more=notes)
    return split


def _crossing(found: DatasetIndex, split: Split) -> int:
    """Groups and duplicates on two sides: only those that the folder itself put there."""
    groups: dict[str, set[int]] = defaultdict(set)
    for row, image in enumerate(found.images):
        groups[image.group].add(row)
    clusters = (*groups.values(), *duplicate_clusters(found))
    return sum(len({split.sides[row] for row in cluster}) > 1 for cluster in clusters)


def _own(split: Split, side: str) -> bool:
    return not (side == "calib" and split.calib_is_val)


def record(run: RunDir, config: Config, found: DatasetIndex, split: Split, weights: WeightsInfo, folder: Path) -> None:
    """Everything that was decided before training, in the run directory."""
    write_text(run.config, dump_toml(config))
    write_json(run.environment, _environment(weights, folder))
    found.save(run.index)
    split.save(run.split, found)
    save_audit(run.audit, audit(found, split), index=found)


def _environment(weights: WeightsInfo, folder: Path) -> dict[str, Any]:
    import torch

    names = ("cvtune", "torch", "timm", "lightning", "albumentations", "onnx", "onnxruntime", "numpy", "scikit-learn")
    return {
        "folder": str(folder.resolve()),
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in names},
        "backbone": weights.backbone,
        "weights": weights.record(),
    }


def prepare(
    run: RunDir,
    config: Config,
    weights: WeightsInfo,
    found: DatasetIndex,
    split: Split,
    pixels: PixelCache,
    *,
    plugins: Plugins,
    replay: Mapping[str, Choices],
    stop: StopRequest,
    console: Console,
) -> Session:
    """The classifier with pretrained backbone, and everything the stages share."""
    size = config.image.size or weights.size
    loggers = (*plugins.loggers, *build_loggers(config.train.loggers, run.root))
    backbone = load_backbone(weights, size=size, seed=config.seed)
    if plugins.head is not None:
        build_head(plugins.head, backbone.width, len(found.classes))  # a head that does not fit is known at once
    labels, val = found.labels, split.indices("val")
    console.step("weights", f"{weights.backbone}, {weights.source}, licence {weights.licence}")
    return Session(
        config=config,
        classifier=Classifier(backbone, LinearHead(backbone.width, len(found.classes))),
        normalize=Normalize(weights.mean, weights.std),
        material=Material(
            pixels=pixels,
            labels=labels,
            groups=tuple(image.group for image in found.images),
            train=split.indices("train"),
            val=val,
            held=split.held,
            classes=len(found.classes),
        ),
        judge=_Judge(tuple(found.images[row].path for row in val), labels[val], found.classes),
        stop=stop,
        progress=console.progress,
        extras=Extras(plugins.callbacks, loggers, plugins.trainer),
        head=plugins.head,
        augmentation=plugins.augmentation,
        replay=replay,
        planned=_PlanWriter(run.plan),
        left_out=lambda name, reason: console.step(name, f"left out: {reason}"),
    )


class _PlanWriter:
    """Writes plan.json before each stage, so that the run can be repeated even if the stage never ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stages: dict[str, Choices] = {}

    def __call__(self, stage: str, choices: Choices) -> None:
        self._stages[stage] = choices
        write_json(self._path, {"stages": self._stages})


@dataclass(frozen=True)
class _Judge:
    """Compares two models on the validation side."""

    paths: tuple[str, ...]
    truth: np.ndarray[Any, np.dtype[np.int64]]
    classes: tuple[str, ...]

    def __call__(self, new: Floats, old: Floats | None) -> Judgement:
        fresh = self._predictions(new)
        figures = score(fresh)
        if old is None:
            return Judgement(True, "the first model", figures.balanced_accuracy, fresh.log_loss)
        verdict = better(fresh, self._predictions(old))
        return Judgement(verdict.keep, verdict.reason, figures.balanced_accuracy, fresh.log_loss)

    def _predictions(self, logits: Floats) -> Predictions:
        return Predictions(self.paths, self.truth, softmax(logits, axis=1), self.classes)
