"""The activation cache's worth: seconds an epoch of the tail from the cache, and with frozen layers run at each step.

    python -m benchmarks.tail --folder datasets/elpv --images 800

- Cached: a batch is read from the file, the layers behind the cut learn.
- Live: a batch is augmented, runs through the frozen layers (bfloat16 where the processor has it, BatchNorms folded, as
  for the cache) and those behind the cut learn: the same work at each step, done anew.
- Plain: likewise, but as a loop without this program would: float32, nothing folded.
- Filling: images/s of augmentation alone, of the frozen layers alone, and of both as the cache is filled.

Epochs of the ways take turns, so that a busy machine slows all of them; the ratios are of medians of one run. Nothing
else should run meanwhile. The result is kept as benchmarks/results/tail.json, with date and machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.figures import RESULTS, machine
from cvtune.config import Config, load_config
from cvtune.data.augment import build_augmentation
from cvtune.data.index import build_index
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.models.backbone import load_backbone, set_trainable
from cvtune.models.engine import Frozen
from cvtune.models.head import Classifier, LinearHead
from cvtune.models.normalize import Normalize
from cvtune.models.weights import find_weights
from cvtune.training.activations import ActivationCache, FrozenPrefix, Source, fill, orders
from cvtune.training.costs import measure_groups
from cvtune.training.cuts import Limits, plan_cuts
from cvtune.training.datamodule import Order, PixelDataset
from cvtune.training.hardware import has_fast_bfloat16, mixed

FILE = RESULTS / "tail.json"
RATIO_BOUND = 3.0
BATCH = 32

Step = tuple[Tensor, Tensor, Tensor]  # activations, pooled, labels


@dataclass(frozen=True)
class Setting:
    """What all ways share."""

    classifier: Classifier
    normalize: Normalize
    source: Source
    labels: np.ndarray[Any, np.dtype[np.int64]]
    half: bool

    @property
    def order(self) -> Order:
        return Order(len(self.source), BATCH, seed=0)


def prepare(folder: Path, images: int, config: Config, scratch: Path) -> Setting:
    """Read every k-th image of a folder, and the network that a fit would take."""
    weights = find_weights(config.model.backbone, config.model)
    backbone = load_backbone(weights, size=config.image.size)
    index = build_index(folder)
    frame = Preprocessing(backbone.size, mean=weights.mean, std=weights.std)
    pixels = fill_pixels(index, frame, frame.reading, scratch=scratch, cache_gb=config.data.cache_gb)
    count = len(pixels.index.images)
    rows = np.arange(count)[:: max(1, count // images)][:images]
    labels = np.array([image.label for image in pixels.index.images], np.int64)[rows]
    head = LinearHead(backbone.width, len(index.classes))
    return Setting(
        Classifier(backbone, head),
        Normalize(weights.mean, weights.std),
        Source(pixels.pixels, rows, build_augmentation(config.augment, backbone.size)),
        labels,
        has_fast_bfloat16(),
    )


def cached(setting: Setting, cache: ActivationCache, epoch: int) -> Iterator[Step]:
    """Batches of an epoch from the file."""
    shown = orders(len(setting.source), cache.slots, 0, epoch // cache.slots)[:, epoch % cache.slots]
    for positions in batches(setting, epoch):
        z, pooled = cache.batch(shown[positions], positions)
        yield z.float(), pooled, torch.from_numpy(setting.labels[positions])


def live(setting: Setting, prefix: Callable[[Tensor], tuple[Tensor, Tensor]], epoch: int) -> Iterator[Step]:
    """Batches of an epoch, augmented and run through the frozen layers as they are asked for."""
    side = PixelDataset(setting.source.pixels, setting.source.rows, setting.labels, transform=setting.source.transform)
    for positions in batches(setting, epoch):
        pixels = torch.stack([side[(epoch, int(position))][0] for position in positions])
        z, pooled = prefix(pixels)
        yield z.float(), pooled, torch.from_numpy(setting.labels[positions])


def batches(setting: Setting, epoch: int) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    order = setting.order
    for step in range(order.batches):
        yield np.array([position for _, position in order.keys(epoch * order.batches + step)])


def learn(setting: Setting, cut: int, steps: Iterator[Step]) -> float:
    """Seconds of an epoch: AdamW and cross-entropy on the layers behind the cut."""
    model = setting.classifier
    set_trainable(model.backbone, cut, frozen_depthwise=True)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    started = time.perf_counter()
    for z, pooled, labels in steps:
        optimizer.zero_grad()
        with mixed(setting.half):
            embedding = model.backbone.tail(z, pooled, cut)
        nn.functional.cross_entropy(model.head(embedding.float()), labels, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - started


def plain_prefix(setting: Setting, cut: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The frozen layers as they come."""

    @torch.no_grad()
    def run(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return setting.classifier.backbone.prefix(setting.normalize(pixels), cut)

    return run


def compare(setting: Setting, cut: int, views: int, scratch: Path, *, frozen: Frozen, repeats: int) -> dict[str, Any]:
    """One cut: how fast its cache is filled, and the seconds an epoch of the three ways."""
    quick = FrozenPrefix(setting.classifier.backbone, setting.normalize, cut, frozen=frozen)
    filling = fill_rates(setting, quick)
    started = time.perf_counter()
    cache = fill(scratch, quick, setting.source, range(views))
    assert cache is not None
    fill_seconds = time.perf_counter() - started
    ways: dict[str, Callable[[int], Iterator[Step]]] = {
        "cached": lambda epoch: cached(setting, cache, epoch),
        "live": lambda epoch: live(setting, quick, epoch),
        "plain": lambda epoch: live(setting, plain_prefix(setting, cut), epoch),
    }
    with cache:
        for way in ways.values():  # memory and kernels
            learn(setting, cut, iter([next(way(0))]))
        turns = [{name: learn(setting, cut, way(turn)) for name, way in ways.items()} for turn in range(repeats)]
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in ways}
    return {
        "cut": setting.classifier.backbone.groups[cut],
        "views": views,
        "epoch_seconds": {name: round(value, 3) for name, value in seconds.items()},
        "ratio": round(seconds["live"] / seconds["cached"], 2),
        "ratio_plain": round(seconds["plain"] / seconds["cached"], 2),
        "fill_seconds_a_view": round(fill_seconds / views, 2),
        "images_per_second": filling,
        "cache_mb_a_view": round(cache.nbytes / views / 1e6, 1),
    }


def fill_rates(setting: Setting, prefix: FrozenPrefix) -> dict[str, float]:
    """Images/s of what fills a cache, alone and together."""
    kept = list(setting.source.batches([0]))[:8]
    few = Source(setting.source.pixels, setting.source.rows[: 8 * BATCH], setting.source.transform)

    def rate(work: Callable[[], object]) -> float:
        work()
        times = []
        for _ in range(3):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return round(len(few) / min(times), 1)

    return {
        "augmentation": rate(lambda: [None for _ in few.batches([0])]),
        "frozen layers": rate(lambda: [prefix(pixels) for pixels in kept]),
        "together": rate(lambda: [prefix(pixels) for pixels in few.batches([0])]),
    }


def measure(
    folder: Path, images: int, config: Config, *, seconds: float, cuts: list[str], repeats: int
) -> dict[str, Any]:
    """Compare at the cuts that a plan of so many seconds has, or at given ones."""
    with tempfile.TemporaryDirectory(prefix="tail-") as name:
        scratch = Path(name)
        setting = prepare(folder, images, config, scratch)
        backbone = setting.classifier.backbone
        sample = next(Source(setting.source.pixels, setting.source.rows).batches([0]))
        costs = measure_groups(
            setting.classifier,
            setting.normalize,
            sample,
            bfloat16=setting.half,
            frozen_depthwise=True,
            transform=setting.source.transform,
        )
        plan = plan_cuts(costs, Limits(len(setting.source), 0, BATCH, seconds=seconds))
        chosen = [(backbone.groups.index(cut), 2) for cut in cuts] or [(cut.group, cut.slots) for cut in plan.cuts]
        return {
            "command": f"python -m benchmarks.tail --folder {folder} --images {images}",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "backbone": backbone.name,
            "images": len(setting.source),
            "plan": plan.reason,
            "groups": [asdict(row) for row in plan.rows()],
            "cuts": [
                compare(setting, cut, views, scratch, frozen=costs.frozen, repeats=repeats) for cut, views in chosen
            ],
        }


def missed(result: dict[str, Any]) -> list[str]:
    """The bounds that a result does not keep."""
    slow = [cut for cut in result["cuts"] if not cut["ratio"] >= RATIO_BOUND]
    return [f"{cut['cut']}: {cut['ratio']:.2f} times faster than live, at least {RATIO_BOUND:g}" for cut in slow]


def main() -> int:
    """Measure, keep the result, and say what it missed; 1 when it missed something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path("datasets/elpv"))
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--preset", default="defects")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of the plan whose cuts are compared")
    parser.add_argument(
        "--cut", action="append", default=[], help="compare at this layer group instead, such as blocks.5"
    )
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each way")
    parser.add_argument("--dry", action="store_true", help="keep no result")
    args = parser.parse_args()
    config = load_config(args.preset)
    result = measure(args.folder, args.images, config, seconds=args.seconds, cuts=args.cut, repeats=args.repeats)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if not args.dry:
        FILE.write_text(text + "\n", encoding="utf-8")
    failures = missed(result)
    print("\n".join(failures) or "all bounds kept")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
