"""The folder, read: which images there are, their pixels, and the network that looks at them."""

from __future__ import annotations

import statistics
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cvtune_edge.child import DecoderPool
from cvtune_edge.decode import ReadOptions

from cvtune.audit import exact_clusters
from cvtune.config import Config
from cvtune.console import Console
from cvtune.data.corrections import apply_corrections
from cvtune.data.facts import Facts
from cvtune.data.index import DatasetIndex, build_index
from cvtune.data.key import store_key
from cvtune.data.pixels import Filled, PixelCache, choose_pixels, fill_pixels
from cvtune.data.preprocess import Preprocessing, load_mask, small_things_note
from cvtune.data.presets import settle_preset
from cvtune.evaluation.objective import Objective, build_objective
from cvtune.models.backbone import Backbone, load_backbone
from cvtune.models.embeddings import Embedder
from cvtune.models.normalize import Normalize
from cvtune.models.weights import WeightsInfo

_WORKERS = 2  # threads, or children, that decode


@dataclass(frozen=True)
class Data:
    """The folder, read.

    Attributes:
        index: N images.
        pixels: the network's input of each of them.
        facts: what the reader noted about each file, in the order of the index.
        frame: from a file's pixels to the network's.
        options: how files are decoded, with the limits that the user set.
    """

    index: DatasetIndex
    pixels: PixelCache
    facts: tuple[Facts, ...]
    frame: Preprocessing
    options: ReadOptions

    @property
    def normalize(self) -> Normalize:
        """From stored pixels to the network's input; of deep images once their window is settled."""
        return Normalize(self.frame.mean, self.frame.std, self.frame.window)

    def embedder(self, window: tuple[float, float] | None, config: Config) -> Embedder:
        """What a network makes of the images, as far as earlier runs have not shown them to it.

        Args:
            window: of deep images, the values that are black and white.
            config: where `data.cache_gb` is 0 nothing is kept.
        """
        return Embedder(
            self.pixels,
            Normalize(self.frame.mean, self.frame.std, window),
            [image.sha256 for image in self.index.images],
            store_key(self.frame),
            config.data.cache_gb,
        )


def index(folder: Path, config: Config, console: Console) -> DatasetIndex:
    """Which images there are, with labels merged, left out and corrected as asked.

    Args:
        folder: class folders, or a table of labels.
        config: all settings.
        console: where it is told.
    """
    data = config.data
    found = build_index(folder, group_by=data.group_by, merge=data.merge, ignore=data.ignore)
    console.detail("found", f"{len(found)} image files in {folder}")
    for old, new, count in found.merged:
        console.step("merged", f"{count} images of '{old}' are '{new}'")
    if data.corrections is not None:
        found, changed, removed = apply_corrections(found, Path(data.corrections), merge=data.merge)
        console.step("corrected", f"{changed} labels changed, {removed} images left out, by {data.corrections}")
    return found


def read(found: DatasetIndex, config: Config, weights: WeightsInfo, scratch: Path, console: Console) -> Data:
    """Read every image once; those that cannot be read are listed, and the run goes on without them."""
    kind = config.image.pixels
    if kind == "auto":
        kind = choose_pixels(found, progress=lambda done, of: console.progress("headers", done, of))
    frame = _frame(config, weights, kind)
    limits = config.data
    options = replace(frame.reading, max_pixels=limits.max_pixels, max_bytes=limits.max_bytes)
    child: Any = closing(DecoderPool(options, workers=_WORKERS)) if config.data.untrusted else nullcontext()
    with child as decoder:
        filled = fill_pixels(
            found,
            frame,
            options,
            scratch=scratch,
            cache_gb=config.data.cache_gb,
            progress=lambda done, of: console.progress("reading", done, of),
            workers=_WORKERS,
            decoder=decoder,
        )
    index = filled.index
    duplicates = sum(len(cluster) - 1 for cluster in exact_clusters(index))
    aside = [f"{len(index.skipped)} skipped"] if index.skipped else []
    aside += [f"{duplicates} exact duplicates"] if duplicates else []
    listed = f" ({', '.join(aside)}: audit.json)" if aside else ""
    labels = "labels (an image may have several)" if index.multi else "classes"
    console.step(
        "indexed",
        f"{len(index)} images, {len(index.classes)} {labels}{listed}",
        more=_notes(filled, frame, config.data.cache_gb),
    )
    return Data(index, filled.pixels, filled.facts, frame, options)


def _frame(config: Config, weights: WeightsInfo, pixels: Any) -> Preprocessing:
    image = config.image
    return Preprocessing(
        size=image.size or weights.size,
        resize=image.resize,
        roi=image.roi,
        mask=load_mask(Path(image.mask)) if image.mask else None,
        interpolation=weights.interpolation,
        mean=weights.mean,
        std=weights.std,
        pixels=pixels,
        background=image.background,
    )


def _notes(filled: Filled, frame: Preprocessing, cache_gb: float) -> tuple[str, ...]:
    notes = []
    if frame.pixels != "uint8":
        bits = "16-bit" if frame.pixels == "uint16" else "floating point"
        notes.append(f"read as {bits}: the line has to deliver the same ({frame.pixels}, as recorded in the bundle)")
    if not filled.kept and cache_gb > 0:
        notes.append("decoded images are not kept for the next run: the cache is full, too small or not writable")
    if filled.repaired:
        notes.append(f"{filled.repaired} entries of the pixel cache were damaged and have been made again")
    return tuple(notes)


def network(config: Config, weights: WeightsInfo, data: Data, console: Console) -> Backbone:
    """The pretrained backbone at the input size of the run, with features of three depths behind its embedding."""
    backbone = load_backbone(weights, size=data.frame.size, seed=config.seed)
    backbone.set_taps(backbone.default_taps())
    console.step("weights", f"{weights.backbone}, {weights.source}, licence {weights.licence}")
    return backbone


def aim(config: Config, found: DatasetIndex) -> Objective:
    """What the decisions are for; refused before any image is read.

    Raises:
        ConfigError: a class that does not exist, or a target that says nothing here.
    """
    return build_objective(config.objective, found.classes, several=found.multi)


def settle(config: Config, data: Data, objective: Objective, console: Console) -> Config:
    """Choose the augmentations where the preset is auto; say what is good, and what a small defect becomes."""
    settled, why = settle_preset(config, data.index)
    console.step("preset", why)
    if objective.ok:  # everything that is said of escapes hangs on it
        names = ", ".join(data.index.classes[position] for position in objective.ok)
        how = "by its name; --ok CLASS or --no-ok says otherwise" if objective.guessed else "as asked"
        aims = ", ".join(map(str, objective.targets))
        console.step("objective", f"good is {names} ({how})" + (f"; {aims}" if aims else ""))
    region = data.frame.region
    width = region[2] if region else statistics.median(image.width for image in data.index.images)
    note = small_things_note(width, data.frame.size)
    if note:
        console.step("size", note)
    return settled
