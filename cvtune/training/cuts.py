"""Where the frozen part ends: chosen from what each layer group costs on this machine, and from what may be spent.

`measure_groups` asks the clock, `plan_cuts` only calculates: the same costs and limits give the same plan, so that
plan.json, which holds both, can be replayed and checked.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from cvtune.data.augment import Augmentation, augment
from cvtune.models.backbone import Backbone, set_trainable
from cvtune.models.engine import Frozen, engine
from cvtune.models.folding import folded
from cvtune.models.head import Classifier
from cvtune.models.normalize import Normalize
from cvtune.training.activations import Storage
from cvtune.training.hardware import FASTER, mixed

Clock = Callable[[], float]

AUTO_SECONDS: Final = 900.0  # no budget: what fastai's default takes for 2,000 images here (906 s), and no more
_LEAST_EPOCHS: Final = 2
_LEAST_LEARNING: Final = 0.01  # of the parameters: the norm behind a transformer's last block alone is the probe again

# What a stage is worth, as a share of what fine-tuning can gain: the product of depth, passes and freshness, less what
# its time is worth. Set by hand to agree with what was measured on two cores (DESIGN.md, "Facts"): on 2,000 solar cells
# four views and ten epochs from blocks[5] beat a full fine-tune of eight, on signs blocks[4] was a little better.
# Mean log-loss of two splits of the solar cells (1,969 to learn from, 655 asked; probe 0.313): blocks[6], 20 epochs:
# 0.324; blocks[5] after 6 epochs 0.310, after 10 0.286; blocks[4] after 10 0.291. The first epochs spoil what the probe
# had, and have to win it back.
_DEPTH: Final = 10.0  # 1 - exp(-10 (share of the groups that learn - 0.18)): 0, 0.34, 0.78, 0.93 for 1 to 4 of 9
_SHALLOW: Final = 0.18
_EPOCHS: Final = 3.5  # 1 - exp(1 - epochs / 3.5): 0.51 after 6, 0.84 after 10
_STEPS: Final = 110.0  # likewise, and where it is less: 0.72 after 250
_MANY_STEPS: Final = 1000.0  # 1 - exp(1 - steps / 1000) where that is more: large folders need fewer epochs
_REPEAT: Final = 0.02  # 1 / (1 + 0.02 (r - 1)) where an image shows each of its views r times
_WAIT: Final = 30.0  # seconds; a stage must gain 0.003 more in accuracy where one waits twice as long, this one more
_WORTH: Final = 0.003
_GAPS: Final = (0.05, 0.5)

_FIRST_SHARE: Final = 0.25  # of the time, for an earlier answer from a shallower cut
_FIRST_LOSS: Final = 0.01  # of the worth, that an earlier answer may cost
_VIEWS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_USUAL_VIEWS: Final = 4
_MOST_PASSES: Final = 6000  # images through the prefix that small folders may always have: tens of seconds

LOOKS_AFTER: Final = 10  # at the validation side: after the short runs, and at the weights that may be kept

_RUNS: Final = 3  # the first pays for memory and kernels
_AUGMENTED: Final = 16  # images


@dataclass(frozen=True)
class GroupCost:
    """What one layer group costs.

    Attributes:
        name: of the group.
        forward: seconds an image in the frozen prefix.
        train: seconds an image, forward and backward.
        update: seconds of its part of an optimizer step.
        numbers: of one image's activation before the group.
        pooled: numbers that taps before the group pool from an image.
        parameters: of the group.
        estimated: `train` and `update` were not measured but follow from the groups behind it.
    """

    name: str
    forward: float
    train: float
    update: float
    numbers: int
    pooled: int
    parameters: int
    estimated: bool = False


@dataclass(frozen=True)
class CostTable:
    """What a classifier costs on this machine.

    Attributes:
        groups: input first.
        head: seconds an image, forward and backward.
        augment: seconds an image, on one core.
        cores: that the network takes.
        half: the groups learn in bfloat16, which is faster.
        frozen: how they run frozen.
    """

    groups: tuple[GroupCost, ...]
    head: float = 0.0
    augment: float = 0.0
    cores: int = 1
    half: bool = False
    frozen: Frozen = "float32"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "groups": [asdict(group) for group in self.groups]}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> CostTable:
        """What `to_json` gave."""
        return cls(**{**tree, "groups": tuple(GroupCost(**group) for group in tree["groups"])})


@dataclass(frozen=True)
class Limits:
    """What a plan has to keep to.

    Attributes:
        images: on the training side.
        val_images: on the validation side, looked at after each epoch.
        batch_size: of training.
        seconds: for all cuts together; infinite chooses by itself, 900 at most.
        disk: bytes that a cache may take.
        storage: of the activations.
        viewed: images of which augmented views are computed; None for `images`, more where folds follow.
        plain: images that are computed without augmentation; None for `val_images`.
        max_views: of an image; None for 4, more for small folders.
        gap: between the probe's accuracy and 1, what fine-tuning can gain at most: time is worth less where it is wide.
        trial_steps: that the search for the learning rate takes at each cut,
        trial_share: and at most so many of the steps of the stage.
        cuts: at most so many, each deeper than the one before.
    """

    images: int
    val_images: int
    batch_size: int
    seconds: float = math.inf
    disk: float = math.inf
    storage: Storage = "bfloat16"
    viewed: int | None = None
    plain: int | None = None
    max_views: int | None = None
    gap: float = 0.1
    trial_steps: int = 160
    trial_share: float = 1.0
    cuts: int = 2

    @property
    def fills(self) -> tuple[int, int]:
        """Images a view, and images without augmentation."""
        plain = self.val_images if self.plain is None else self.plain
        return (self.images if self.viewed is None else self.viewed), plain

    @property
    def batches(self) -> int:
        """Steps of an epoch; a last batch that is not full is left out."""
        return max(1, self.images // self.batch_size)


@dataclass(frozen=True)
class Cut:
    """One stage on a cache.

    Attributes:
        group: index of the first group that learns.
        name: of that group.
        views: of each image, all in all.
        slots: views that are kept at a time, a round.
        every: epochs of a round, after which others take their place; all epochs where all views have room.
        epochs: over the training side.
        steps: of the optimizer.
        seconds: that it is expected to take.
        bytes: of the cache.
    """

    group: int
    name: str
    views: int
    slots: int
    every: int
    epochs: int
    steps: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Row:
    """A line of the report's table.

    Attributes:
        name: of the group.
        forward_ms: an image, frozen.
        train_ms: an image, learning.
        cached_kb: of an image's activation before the group, in kB; 0 before the first.
        learns: number of the first cut, from 1 on, at which it learns; 0 never.
        estimated: whether `train_ms` is.
    """

    name: str
    forward_ms: float
    train_ms: float
    cached_kb: float
    learns: int
    estimated: bool


@dataclass(frozen=True)
class CutPlan:
    """The cuts, in the order in which they are trained, and what they were chosen by."""

    cuts: tuple[Cut, ...]
    costs: CostTable
    limits: Limits
    reason: str

    def rows(self) -> tuple[Row, ...]:
        """The table for the report, input first."""
        return tuple(
            Row(
                name=group.name,
                forward_ms=round(1e3 * group.forward, 3),
                train_ms=round(1e3 * group.train, 3),
                cached_kb=round(_image_bytes(group, self.limits.storage) / 1e3, 1) if i else 0.0,
                learns=next((turn for turn, cut in enumerate(self.cuts, 1) if i >= cut.group), 0),
                estimated=group.estimated,
            )
            for i, group in enumerate(self.costs.groups)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; JSON has no infinity, so a limit that is none is null."""
        limits = {key: None if value == math.inf else value for key, value in asdict(self.limits).items()}
        cuts = [asdict(cut) for cut in self.cuts]
        return {"cuts": cuts, "costs": self.costs.to_json(), "limits": limits, "reason": self.reason}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> CutPlan:
        """What `to_json` gave."""
        none = {key: math.inf for key in ("seconds", "disk") if tree["limits"][key] is None}
        limits = Limits(**{**tree["limits"], **none})
        cuts = tuple(Cut(**cut) for cut in tree["cuts"])
        return cls(cuts, CostTable.from_json(tree["costs"]), limits, tree["reason"])


def plan_cuts(costs: CostTable, limits: Limits, *, group: int | None = None) -> CutPlan:
    """Choose where to cut, how many views to cache and how long to train.

    Of all stages that fit into time and disk the one that is worth most, by the numbers at the top of this file. Where
    a shallower cut gives an answer in a quarter of its time, and that can be spared, it comes first.

    Args:
        costs: from :func:`measure_groups`.
        limits: what may be spent.
        group: the first group that learns, where somebody has decided that.

    Returns:
        The plan; without cuts where nothing that fits is worth its time, or the backbone cannot be cut.
    """
    seconds = AUTO_SECONDS if limits.seconds == math.inf else limits.seconds
    if group is None:
        best = _best(costs, limits, seconds, range(1, len(costs.groups)))
    else:
        best = _best(costs, limits, seconds, range(group, group + 1), asked=True)
    if best is None:
        few = f"what {seconds:.0f} s and the disk have room for gains nothing over the probe"
        return CutPlan((), costs, limits, few if len(costs.groups) > 1 else "the backbone cannot be cut")
    pair = _pair(costs, limits, seconds, best) if limits.cuts > 1 and group is None else None
    cuts = pair or (best,)
    return CutPlan(cuts, costs, limits, "; then ".join(map(_sentence, cuts)))


def _sentence(cut: Cut) -> str:
    views = "1 view" if cut.views == 1 else f"{cut.views} views"
    return f"from {cut.name} on, {views}, {cut.epochs} epochs: about {cut.seconds:.0f} s"


def _pair(costs: CostTable, limits: Limits, seconds: float, best: Cut) -> tuple[Cut, Cut] | None:
    count = len(costs.groups)
    first = _best(costs, limits, _FIRST_SHARE * best.seconds, range(best.group + 1, count))
    if first is None:
        return None
    second = _best(costs, limits, seconds - first.seconds, range(1, first.group))
    if second is None or _worth(second, count, limits) < _worth(best, count, limits) - _FIRST_LOSS:
        return None
    return first, second


def _best(costs: CostTable, limits: Limits, seconds: float, groups: range, *, asked: bool = False) -> Cut | None:
    """The cut that is worth most, where it is worth anything or somebody asked for it."""

    def worth(cut: Cut) -> float:
        return _worth(cut, len(costs.groups), limits)

    fitting = (cut for cut in _candidates(costs, limits, groups) if cut.seconds <= seconds)
    best = max(fitting, key=lambda cut: (worth(cut), -cut.seconds), default=None)
    return best if best is not None and (asked or worth(best) > 0) else None


def _candidates(costs: CostTable, limits: Limits, groups: range) -> Iterator[Cut]:
    most = limits.max_views or max(_USUAL_VIEWS, _MOST_PASSES // limits.fills[0])
    total = sum(group.parameters for group in costs.groups)
    for group, views, epochs in product(groups, _VIEWS, _epoch_counts(limits.batches)):
        slots = min(views, _room(costs.groups[group], limits))
        enough = sum(one.parameters for one in costs.groups[group:]) >= _LEAST_LEARNING * total
        if views <= min(most, epochs) and slots and enough:
            yield _cut(costs, limits, group, slots=slots, rounds=math.ceil(views / slots), epochs=epochs)


def _epoch_counts(batches: int) -> tuple[int, ...]:
    """From two up to 30, or to 400 steps, about a seventh more each time."""
    most = max(30, math.ceil(400 / batches))
    counts = [_LEAST_EPOCHS]
    while counts[-1] < most:
        counts.append(counts[-1] + max(1, counts[-1] // 7))
    return tuple(counts)


def _room(group: GroupCost, limits: Limits) -> int:
    """Views that fit on the disk beside the images without augmentation."""
    viewed, plain = limits.fills
    size = _image_bytes(group, limits.storage)
    return int(max(0, min(limits.disk / size - plain, viewed * _VIEWS[-1]))) // viewed


def _cut(costs: CostTable, limits: Limits, group: int, *, slots: int, rounds: int, epochs: int) -> Cut:
    viewed, plain = limits.fills
    every = math.ceil(epochs / rounds)
    views = slots * math.ceil(epochs / every)
    steps = epochs * limits.batches
    frozen, learning = costs.groups[:group], costs.groups[group:]
    prefix = sum(one.forward for one in frozen)
    an_image = sum(one.train for one in learning) + costs.head
    a_step = min(limits.batch_size, limits.images) * an_image + sum(one.update for one in learning)
    # Images are augmented in a thread beside the network: the cores do both, and one of them augments at a time.
    fill = viewed * views * max(prefix + costs.augment / costs.cores, costs.augment) + plain * prefix
    looks = look_seconds(epochs + LOOKS_AFTER, limits.val_images, an_image)
    return Cut(
        group=group,
        name=costs.groups[group].name,
        views=views,
        slots=slots,
        every=every,
        epochs=epochs,
        steps=steps,
        seconds=fill + (steps + min(limits.trial_steps, limits.trial_share * steps)) * a_step + looks,
        bytes=_image_bytes(costs.groups[group], limits.storage) * (viewed * slots + plain),
    )


def look_seconds(looks: int, images: int, an_image: float) -> float:
    """What so many looks at a side take: a forward pass is about a third of a step.

    Args:
        looks: at all images.
        images: of the side.
        an_image: seconds of a step, for each of its images.
    """
    return looks * images * an_image / 3


def _worth(cut: Cut, groups: int, limits: Limits) -> float:
    depth = _saturating(_DEPTH * max(0.0, 1 - cut.group / groups - _SHALLOW))
    passes = max(0.0, min(cut.steps / _STEPS, max(cut.epochs / _EPOCHS, cut.steps / _MANY_STEPS)) - 1)
    repeats = cut.epochs / cut.views
    gap = min(max(limits.gap, _GAPS[0]), _GAPS[1])
    wait = _WORTH / gap * math.log2(1 + cut.seconds / _WAIT)
    return depth * _saturating(passes) / (1 + _REPEAT * (repeats - 1)) - wait


def _saturating(x: float) -> float:
    return 1 - math.exp(-x)


def _image_bytes(group: GroupCost, storage: Storage) -> int:
    return group.numbers * (4 if storage == "float32" else 2) + 4 * group.pooled


def measure_groups(
    classifier: Classifier,
    normalize: Normalize,
    sample: Tensor,
    *,
    bfloat16: bool = False,
    frozen_depthwise: bool = False,
    transform: Augmentation | None = None,
    window: tuple[float, float] | None = None,
    limit: float = 3.0,
    clock: Clock = time.perf_counter,
) -> CostTable:
    """Time each layer group, forward as in the frozen prefix, and forward with backward and update as in the tail.

    On copies: the classifier stays as it is. The last third of the groups learns in any case, the others from the last
    to the first while there is time; what is left is estimated by the ratios of the group behind it.

    Args:
        classifier: on the device that will train.
        normalize: from stored pixels to the network's input.
        sample: stored pixels [B, 3, S, S] of real images, B about the batch size of training, from 2 on.
        bfloat16: whether the processor multiplies it; frozen layers, and the last third of those that learn, are then
            timed in both formats, and the one that is faster is taken.
        frozen_depthwise: depthwise convolutions keep their weights in groups that learn.
        transform: augmentation, to be timed too.
        window: of deep pixels, for the augmentation.
        limit: seconds, roughly.
        clock: seconds.
    """
    until = clock() + limit
    augmenting = _augmenting(transform, sample[:_AUGMENTED], window, clock)
    bench = _Bench(classifier, clock, frozen_depthwise=frozen_depthwise)
    with torch.random.fork_rng(devices=[bench.device] if bench.device.type == "cuda" else []):
        frozen = [bench.frozen(normalize, sample, half) for half in _formats(bfloat16)]
        totals = [sum(cost.forward for _, cost in row) for row in frozen]
        in_half = _faster(*totals)
        inputs, how = frozen[in_half], _HOW[in_half]
        quicker = bench.engine(normalize, sample)
        if _faster(totals[in_half], quicker):
            share, how = quicker / totals[in_half], "onnxruntime"
            inputs = [(x, replace(cost, forward=share * cost.forward)) for x, cost in inputs]
        last = range(len(inputs) - 1, len(inputs) - 1 - math.ceil(len(inputs) / 3), -1)
        learnt = [[bench.learnt(index, *inputs[index], half) for index in last] for half in _formats(bfloat16)]
        half = _faster(*(sum(cost.train for cost in row) for row in learnt))
        groups = learnt[half]  # last one first
        for index in range(last[-1] - 1, -1, -1):
            x, cost = inputs[index]
            guess = _guess(cost, groups[-1])
            late = clock() + _RUNS * len(x) * guess.train > until
            groups.append(guess if late else bench.learnt(index, x, cost, half))
        return CostTable(
            groups=tuple(reversed(groups)),
            head=bench.head(len(sample)),
            augment=augmenting,
            cores=torch.get_num_threads(),
            half=half,
            frozen=how,
        )


_HOW: Final[tuple[Frozen, Frozen]] = ("float32", "bfloat16")


def _formats(bfloat16: bool) -> tuple[bool, ...]:
    return (False, True) if bfloat16 else (False,)


def _faster(plain: float, other: float = math.inf) -> bool:
    """Whether the other way is clearly faster."""
    return other * FASTER <= plain


def _guess(cost: GroupCost, behind: GroupCost) -> GroupCost:
    """What a group costs to learn, by the one behind it."""
    train = behind.train / max(behind.forward, 1e-9) * cost.forward
    update = behind.update / max(behind.parameters, 1) * cost.parameters
    return replace(cost, train=train, update=update, estimated=True)


class _Bench:
    """Two copies of a classifier: one as it runs frozen, one as it learns."""

    def __init__(self, classifier: Classifier, clock: Clock, *, frozen_depthwise: bool) -> None:
        self.device = next(classifier.parameters()).device
        self._model = copy.deepcopy(classifier).requires_grad_(True)
        set_trainable(self._model.backbone, 0, frozen_depthwise=frozen_depthwise)
        self._quick, *_ = folded(self._model.backbone, len(self._model.backbone.groups))
        self._model.train()
        self._clock = clock

    @torch.no_grad()
    def frozen(self, normalize: Normalize, sample: Tensor, half: bool) -> list[tuple[Tensor, GroupCost]]:
        """What comes before each group, [B, ...], and the group without what it costs to learn."""
        images = copy.deepcopy(normalize).to(self.device)(sample.to(self.device))
        images = images.contiguous(memory_format=torch.channels_last)
        seconds, inputs = [math.inf] * len(self._quick.groups), [images] * len(self._quick.groups)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            for _ in range(_RUNS):
                x = images
                for index in range(len(inputs)):
                    inputs[index] = x
                    took, x = self._timed(partial(run_group, self._quick, x, index))
                    seconds[index] = min(seconds[index], took / len(x))
        return [(x, self._cost(index, x, seconds[index])) for index, x in enumerate(inputs)]

    def engine(self, normalize: Normalize, sample: Tensor) -> float:
        """Seconds an image of the frozen groups in onnxruntime; infinite where they do not run there."""
        run = engine(self._quick, len(self._quick.groups))
        if run is None:
            return math.inf
        images = normalize(sample)
        return self._fastest(lambda: run(images)) / len(images)

    def _cost(self, index: int, x: Tensor, forward: float) -> GroupCost:
        taps = self._quick.tap_widths.items()
        return GroupCost(
            name=self._quick.groups[index],
            forward=forward,
            train=0.0,
            update=0.0,
            numbers=x[0].numel(),
            pooled=sum(width for tap, width in taps if tap < index),
            parameters=sum(p.numel() for p in self._model.backbone.group_parameters(index)),
        )

    def learnt(self, index: int, x: Tensor, cost: GroupCost, half: bool) -> GroupCost:
        """With what the group costs to learn: forward and backward, and its part of the optimizer's step."""
        backbone = self._model.backbone
        # Nothing before the first group learns; anywhere else the gradient goes on to the group before.
        x = x.detach().float().requires_grad_(index > 0)
        train = self._fastest(lambda: self._pass(lambda: run_group(backbone, x, index), half)) / len(x)
        parameters = [p for p in backbone.group_parameters(index) if p.requires_grad]
        update = self._fastest(torch.optim.AdamW(parameters, fused=True).step) if parameters else 0.0
        return replace(cost, train=train, update=update)

    def head(self, batch: int) -> float:
        """Seconds an image, forward with backward."""
        x = torch.zeros(batch, self._model.backbone.width, device=self.device, requires_grad=True)
        return self._fastest(lambda: self._pass(lambda: self._model.head(x))) / batch

    def _pass(self, forward: Callable[[], Tensor], half: bool = False) -> None:
        with mixed(half):
            out = forward()
        out.float().sum().backward()  # type: ignore[no-untyped-call]

    def _fastest(self, work: Callable[[], Any]) -> float:
        """Of a few runs: others' work on the machine only ever adds."""
        return min(self._timed(work)[0] for _ in range(_RUNS))

    def _timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        started = self._clock()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._clock() - started, result


def run_group(backbone: Backbone, x: Tensor, index: int) -> Tensor:
    """One layer group."""
    return backbone._groups[index].run(backbone.net, x)


def _augmenting(
    transform: Augmentation | None, sample: Tensor, window: tuple[float, float] | None, clock: Clock
) -> float:
    """Seconds an image."""
    if transform is None:
        return 0.0
    frames = [np.ascontiguousarray(image.numpy().transpose(1, 2, 0)) for image in sample]  # (S, S, 3)
    augment(transform, frames[0], key=(0, 0, 0), window=window)
    started = clock()
    for turn, frame in enumerate(frames):
        augment(transform, frame, key=(0, 0, turn), window=window)
    return (clock() - started) / len(frames)
