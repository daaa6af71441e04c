"""Where the frozen part ends: chosen from what each layer group costs on this machine, and from what may be spent.

Nothing here asks the clock (`costs.measure_groups` does): the same costs and limits give the same plan, so that
plan.json, which holds both, can be replayed and checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

from cvtune.training.activations import Storage
from cvtune.training.costs import CostTable, GroupCost

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
