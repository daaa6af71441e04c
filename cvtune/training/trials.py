"""Short runs from the same start: which learning rate is best here, and what a step costs.

On small folders the learning rate is the largest lever there is, and the best one differs between folders by more than
a factor of ten. From the cached activations a short run costs seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from cvtune.training.averaging import take
from cvtune.training.datamodule import StageData
from cvtune.training.hardware import Choice, Device, ab, find_batch_size
from cvtune.training.module import Batch, FineTuner

FACTORS: Final = (1 / 3, 1.0, 3.0)  # of the preset's rate
MOST: Final = 5  # runs
# Short runs flatter low rates, which have spoilt nothing yet (Wu et al. 2018, arXiv:1803.02021): on solar cells 1.1e-4
# won by 3 % after 40 steps and gained nothing in the end, 3e-3 by 18 % and lost, and after 26 steps 3.3e-4 was ahead by
# 30 %. So the preset's rate stays unless it is clearly wrong.
_TIE: Final = 1.5
_REPEATS: Final = 3  # of each format, after one that pays for memory and kernels
_LIMIT: Final = 4.0  # seconds, after those


@dataclass(frozen=True)
class RateProbe:
    """What the short runs gave.

    Attributes:
        rate: the one taken.
        losses: log-loss on the validation side after a run with each rate, in ascending order of the rates.
    """

    rate: float
    losses: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        tried = ", ".join(f"{rate:.1e} {loss:.3f}" for rate, loss in self.losses)
        return f"learning rate {self.rate:.1e} (log-loss on val after a short run: {tried})"


def probe_rates(
    run: Callable[[float], float], rate: float, *, factors: Sequence[float] = FACTORS, most: int = MOST
) -> RateProbe:
    """Try some rates; where the largest or smallest of them is the best, go on in that direction.

    Args:
        run: a short run with a rate; its validation log-loss, which need not be finite.
        rate: that the preset proposes; taken where no run ends with a finite loss.
        factors: of it that are tried in any case, ascending.
        most: runs at most.
    """
    losses = {rate * factor: run(rate * factor) for factor in factors}
    while len(losses) < most:
        best, tried = _best(losses, rate), sorted(losses)
        if best not in (tried[0], tried[-1]) or not math.isfinite(losses[best]):
            break
        further = best * 3 if best == tried[-1] else best / 3
        losses[further] = run(further)
    return RateProbe(_best(losses, rate), tuple(sorted(losses.items())))


def _best(losses: dict[float, float], rate: float) -> float:
    """Among those that are about as good as the best the one nearest to the preset's, the higher of two."""
    finite = {tried: loss for tried, loss in losses.items() if math.isfinite(loss)}
    good = [tried for tried, loss in finite.items() if loss <= _TIE * min(finite.values())]
    return min(good, key=lambda tried: (round(abs(math.log(tried / rate)), 6), -tried), default=rate)


def sprint(tuner: FineTuner, data: StageData, *, stop: Callable[[], bool] = lambda: False) -> float:
    """All steps of a tuner, without Lightning, averages and checkpoints; the classifier ends as it began.

    Args:
        tuner: with a schedule of few steps; spent afterwards.
        data: its loaders.
        stop: asked before each step.

    Returns:
        The log-loss on the validation side; NaN where it was stopped.
    """
    with _undone(tuner, data) as step:
        while tuner.step < tuner.total_steps:
            data.step = tuner.step
            for batch in data.train_dataloader():
                if stop():
                    return math.nan
                if tuner.step >= tuner.total_steps:
                    break
                step(batch)
        return validation_loss(tuner, data)


@contextmanager
def _undone(tuner: FineTuner, data: StageData) -> Iterator[Callable[[Batch], None]]:
    """Gives a function that takes a step with a batch; afterwards the classifier is as it was, in eval mode."""
    tuner.train()
    before = take(tuner.classifier, tuner.classifier.state_dict())
    optimizer = tuner.configure_optimizers()

    def step(batch: Batch) -> None:
        tuner.on_train_batch_start(batch, 0)
        optimizer.zero_grad()
        tuner.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tuner.parameters(), 1.0)
        optimizer.step()

    try:
        yield step
    finally:
        data.step = 0
        optimizer.zero_grad()
        tuner.classifier.load_state_dict(before)
        tuner.classifier.eval()


def validation_loss(tuner: FineTuner, data: StageData) -> float:
    """Log-loss on the validation side, in eval mode."""
    tuner.eval()
    with torch.inference_mode():
        parts = [(tuner(inputs), labels) for inputs, labels in data.val_dataloader()]
        logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return float(tuner.loss.log_loss(logits, labels))


@dataclass(frozen=True)
class StepCost:
    """What a training step costs.

    Attributes:
        half: whether it is clearly faster in bfloat16.
        seconds: in the faster format, with loading its batch and its share of the looks at the validation side.
        choice: the times of both formats; None where there is but one.
    """

    half: bool
    seconds: float
    choice: Choice | None = None

    def __str__(self) -> str:
        if self.choice is None:
            return f"a step takes {self.seconds:.3f} s"
        plain, other = self.choice.plain, self.choice.other
        taken = "bfloat16" if self.half else "float32"
        return f"a step takes {plain:.3f} s in float32, {other:.3f} s in bfloat16: {taken} taken"


def step_cost(tuner: FineTuner, data: StageData, *, bfloat16: bool, limit: float = _LIMIT) -> StepCost:
    """Time the training step on a real batch, in float32 and bfloat16 in turn where the processor has both.

    The tuner is spent afterwards, the classifier as it was. Measured on the processor: with a GPU it is an upper bound,
    and the deadline is what ends the stage.

    Args:
        tuner: of the stage.
        data: its loaders.
        bfloat16: whether the processor multiplies it, see `hardware.has_fast_bfloat16`.
        limit: seconds after which a format is not timed again.
    """
    with _undone(tuner, data) as step:
        batch = _first(data)
        started = time.perf_counter()
        batch = _first(data)
        loading = 0.0 if data.workers else time.perf_counter() - started

        def run(half: bool) -> None:
            tuner.in_half = half
            step(batch)

        choice = ab(partial(run, False), partial(run, bfloat16), repeats=_REPEATS, limit=limit)
    half = bfloat16 and choice.taken
    # A look is a forward pass in float32, about a third of a step.
    looks = choice.plain * len(data.val) / data.validate_every / data.batch_size / 3
    return StepCost(half, loading + (choice.other if half else choice.plain) + looks, choice if bfloat16 else None)


def fitting_batch(tuner: FineTuner, data: StageData, device: Device) -> int:
    """The batch size of a stage, or as much of it as fits into a GPU's memory together with its backward pass.

    The tuner's gradients are spent afterwards, nothing else.

    Raises:
        ModelError: not even two images fit.
    """
    if device == "cpu":
        return data.batch_size
    inputs, labels = _first(data)
    before = take(tuner.classifier, tuner.classifier.state_dict())
    tuner.to(device).train()

    def try_step(images: int) -> None:
        tuner.zero_grad()
        tuner.training_step((inputs[:images].to(device), labels[:images].to(device)), 0).backward()  # type: ignore[no-untyped-call]

    size = find_batch_size(try_step, start=data.batch_size, most=data.batch_size)
    tuner.zero_grad()
    tuner.cpu().classifier.load_state_dict(before)
    tuner.classifier.eval()
    return size


def _first(data: StageData) -> Batch:
    batch: Batch = next(iter(data.train_dataloader()))
    return batch
