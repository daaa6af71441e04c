"""What each layer group costs on this machine, by the clock: frozen, and learning."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from cvtune.training.hardware import FASTER, mixed

Clock = Callable[[], float]

_RUNS: Final = 3  # the first pays for memory and kernels
_AUGMENTED: Final = 16  # images
_HOW: Final[tuple[Frozen, Frozen]] = ("float32", "bfloat16")


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
        answer: seconds an image for an answer of the whole network, as torch gives it in float32.
    """

    groups: tuple[GroupCost, ...]
    head: float = 0.0
    augment: float = 0.0
    cores: int = 1
    half: bool = False
    frozen: Frozen = "float32"
    answer: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "groups": [asdict(group) for group in self.groups]}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> CostTable:
        """What `to_json` gave."""
        return cls(**{**tree, "groups": tuple(GroupCost(**group) for group in tree["groups"])})


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
        inputs, frozen, answer = _frozen(bench, normalize, sample, _formats(bfloat16))
        groups, half = _learning(bench, inputs, _formats(bfloat16), until)
        head = bench.head(len(sample))
    return CostTable(groups, head, augmenting, torch.get_num_threads(), half, frozen, answer)


_Inputs = list[tuple[Tensor, GroupCost]]  # what comes before each group, [B, ...], and the group


def _frozen(
    bench: _Bench, normalize: Normalize, sample: Tensor, formats: Sequence[bool]
) -> tuple[_Inputs, Frozen, float]:
    """Each group as it runs frozen, by the fastest way, and the seconds of all by the first."""
    timed = [bench.frozen(normalize, sample, half) for half in formats]
    totals = [sum(cost.forward for _, cost in row) for row in timed]
    best = int(_faster(*totals))
    inputs, quicker = timed[best], bench.engine(normalize, sample)
    if not _faster(totals[best], quicker):
        return inputs, _HOW[best], totals[0]
    share = quicker / totals[best]
    return [(x, replace(cost, forward=share * cost.forward)) for x, cost in inputs], "onnxruntime", totals[0]


def _learning(
    bench: _Bench, inputs: _Inputs, formats: Sequence[bool], until: float
) -> tuple[tuple[GroupCost, ...], bool]:
    """Each group as it learns, and whether in bfloat16: the last third by the clock, the others while there is time."""
    first = len(inputs) - math.ceil(len(inputs) / 3)
    last = [[bench.learnt(index, *inputs[index], half) for half in formats] for index in range(first, len(inputs))]
    half = _faster(*(sum(cost.train for cost in column) for column in zip(*last, strict=True)))
    groups = [row[half] for row in last]
    for index in range(first - 1, -1, -1):
        x, cost = inputs[index]
        guess = _guess(cost, groups[0])
        late = bench.now() + _RUNS * len(x) * guess.train > until
        groups.insert(0, guess if late else bench.learnt(index, x, cost, half))
    return tuple(groups), half


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

    def now(self) -> float:
        """Seconds."""
        return self._clock()

    @torch.no_grad()
    def frozen(self, normalize: Normalize, sample: Tensor, half: bool) -> _Inputs:
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
        started = self.now()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.now() - started, result


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
