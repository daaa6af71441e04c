"""Short runs from the same start: which learning rate is best here, and what a step costs.

On small folders the learning rate is the largest lever there is, and the best one differs between folders by more than
a factor of ten. From the cached activations a short run costs seconds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from cvtune.training.averaging import take
from cvtune.training.datamodule import StageData
from cvtune.training.module import FineTuner

FACTORS: Final = (1 / 3, 1.0, 3.0)  # of the preset's rate
MOST: Final = 5  # runs


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
    finite = {tried: loss for tried, loss in losses.items() if math.isfinite(loss)}
    return min(sorted(finite), key=lambda tried: finite[tried]) if finite else rate


def sprint(tuner: FineTuner, data: StageData, *, stop: Callable[[], bool] = lambda: False) -> float:
    """All steps of a tuner, without Lightning, averages and checkpoints; the classifier ends as it began.

    Args:
        tuner: with a schedule of few steps; spent afterwards.
        data: its loaders.
        stop: asked before each step.

    Returns:
        The log-loss on the validation side; NaN where it was stopped.
    """
    tuner.train()
    before = take(tuner.classifier, tuner.classifier.state_dict())
    optimizer = tuner.configure_optimizers()
    while tuner.step < tuner.total_steps:
        data.step = tuner.step
        for batch in data.train_dataloader():
            if stop() or tuner.step >= tuner.total_steps:
                break
            tuner.on_train_batch_start(batch, 0)
            optimizer.zero_grad()
            tuner.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(tuner.parameters(), 1.0)
            optimizer.step()
        if stop():
            break
    data.step = 0
    loss = math.nan if stop() else validation_loss(tuner, data)
    optimizer.zero_grad()
    tuner.classifier.load_state_dict(before)
    tuner.classifier.eval()
    return loss


def validation_loss(tuner: FineTuner, data: StageData) -> float:
    """Log-loss on the validation side, in eval mode."""
    tuner.eval()
    with torch.inference_mode():
        parts = [(tuner(inputs), labels) for inputs, labels in data.val_dataloader()]
        logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return float(tuner.loss.log_loss(logits, labels))


def seconds_per_step(tuner: FineTuner, data: StageData, *, repeats: int = 3) -> float:
    """Time of loading and learning one batch, with the step's share of the looks at the validation side.

    The median of a few, after one that pays for memory and kernels; the tuner is spent afterwards, the classifier as it
    was. Measured on the processor: with a GPU it is an upper bound, and the deadline is what ends the stage.
    """
    took: list[float] = []
    progress = time.perf_counter()

    def stop() -> bool:
        nonlocal progress
        now = time.perf_counter()
        took.append(now - progress)
        progress = now
        return len(took) > repeats + 1

    sprint(tuner, data, stop=stop)
    passes = len(data.val) / data.validate_every / data.batch_size / 3  # a forward pass is about a third of a step
    return statistics.median(took[1:]) * (1 + passes)
