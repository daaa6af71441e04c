"""One stage of fine-tuning with Lightning: train, keep the weights of the best epoch, leave them in the classifier."""

from __future__ import annotations

import itertools
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from cvtune.training.datamodule import PixelDataModule
from cvtune.training.module import FineTuner, clone_state
from cvtune.training.stop import StopRequest

Progress = Callable[[str, int, int], None]  # what, done, of

_TRAINER: Final[dict[str, Any]] = {  # a user's own arguments win
    "accelerator": "auto",
    "devices": 1,
    "deterministic": "warn",
    "gradient_clip_val": 1.0,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


@dataclass(frozen=True)
class Extras:
    """What a user plugs into Lightning.

    Attributes:
        callbacks: Lightning callbacks, called in every stage.
        loggers: Lightning loggers; the run's own metrics.csv is written in any case.
        trainer: further arguments of `lightning.Trainer`, such as accelerator or devices.
    """

    callbacks: Sequence[Any] = ()
    loggers: Sequence[Any] = ()
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Epoch:
    """One row of metrics.csv."""

    stage: str
    epoch: int
    step: int
    train_loss: float
    val_loss: float
    val_balanced_accuracy: float
    learning_rate: float


class BestEpoch(L.Callback):
    """Keeps the weights of the epoch with the lowest validation loss and ends the stage when it stops falling.

    The loss decides, not the accuracy: on a small validation side the accuracy moves in steps of one image.
    """

    def __init__(self, stage: str, patience: int) -> None:
        self.stage, self.patience = stage, patience
        self.rows: list[Epoch] = []
        self.best: dict[str, Tensor] | None = None
        self.best_loss = math.inf
        self.best_step = 0
        self._since = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare this epoch with the best one."""
        seen = {key: float(value) for key, value in trainer.callback_metrics.items()}
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        figures = (seen["train_loss"], seen["val_loss"], seen["val_balanced_accuracy"])
        self.rows.append(Epoch(self.stage, trainer.current_epoch, trainer.global_step, *figures, rate))
        if seen["val_loss"] < self.best_loss:
            self.best, self.best_loss, self._since = clone_state(pl_module.classifier), seen["val_loss"], 0  # type: ignore[arg-type]
            self.best_step = trainer.global_step
            return
        self._since += 1
        trainer.should_stop = trainer.should_stop or self._since >= self.patience


@dataclass(frozen=True)
class Trained:
    """What a stage did: one row an epoch, and the step whose weights were kept."""

    rows: tuple[Epoch, ...]
    best_step: int


class Pulse(L.Callback):
    """Reports progress and ends the stage on Ctrl-C or at the end of the budget."""

    def __init__(self, name: str, total: int, stop: StopRequest, deadline: float, progress: Progress) -> None:
        self._name, self._total, self._stop, self._deadline = name, total, stop, deadline
        self._progress = progress

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """After each optimizer step; a stop asked for here, not by `max_steps`, is followed by a validation."""
        self._progress(self._name, trainer.global_step, self._total)
        if trainer.global_step >= self._total or self._stop or time.monotonic() > self._deadline:
            trainer.should_stop = True


def train_stage(
    name: str,
    tuner: FineTuner,
    data: PixelDataModule,
    *,
    seed: int,
    stop: StopRequest,
    deadline: float,
    progress: Progress,
    extras: Extras,
    stop_at: int | None = None,
) -> Trained:
    """Train one stage; the classifier ends with the weights of its best epoch, in eval mode.

    Where no epoch has a finite loss, it ends with the weights that it came with.

    Args:
        name: of the stage, for progress and metrics.csv.
        tuner: the Lightning module; its `total_steps` bounds the stage.
        data: the loaders.
        seed: of dropout and drop-path.
        stop: asks for an early end.
        deadline: `time.monotonic()` at which the stage ends.
        progress: called after each step.
        extras: the user's callbacks, loggers and trainer arguments.
        stop_at: train exactly so many steps of the schedule and keep the last weights, without looking at the
            validation side: the final fit on all images after a cross-validation has none.
    """
    before = clone_state(tuner.classifier)
    best = BestEpoch(name, tuner.stage.patience)
    pulse = Pulse(name, stop_at or tuner.total_steps, stop, deadline, progress)
    L.seed_everything(seed, verbose=False)
    # A debugging aid of deterministic mode that costs a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    tuner.train()  # Lightning takes the modes as it finds them, and a finished model is in eval mode
    with quiet_lightning(), _own_signals(stop):
        trainer = L.Trainer(
            max_steps=tuner.total_steps,
            callbacks=[best, pulse, *extras.callbacks],
            logger=list(extras.loggers) or False,
            **{**_TRAINER, **({} if stop_at is None else {"limit_val_batches": 0}), **extras.trainer},
        )
        trainer.fit(tuner, datamodule=data)
    if stop_at is None:
        tuner.classifier.load_state_dict(before if best.best is None else best.best)
    tuner.classifier.cpu().eval()
    return Trained(tuple(best.rows), best.best_step if stop_at is None else trainer.global_step)


@contextmanager
def _own_signals(stop: StopRequest) -> Iterator[None]:
    """Ctrl-C and SIGTERM mean what `StopRequest` says; Lightning makes them SystemExit, after the validation."""
    try:
        yield
    except SIGTERMException:
        if not stop:
            raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's advice on workers and intervals is not for the people who read our output."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=r".*(does not have many workers|log_every_n_steps).*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def seconds_per_step(tuner: FineTuner, data: PixelDataModule, *, repeats: int = 2) -> float:
    """Time of loading, augmenting and learning one batch, with the step's share of the validation after each epoch.

    Weights and statistics stay as they were. Measured on the processor: with a GPU it is an upper bound, and the
    deadline is what ends the stage.
    """
    before = clone_state(tuner.classifier)
    tuner.train()
    started = math.inf
    batches = itertools.chain.from_iterable(itertools.repeat(data.train_dataloader()))  # a side may be one batch
    for attempt in range(repeats + 1):
        if attempt == 1:  # the first pass pays for memory and kernels
            started = time.perf_counter()
        tuner.training_step(next(batches), 0).backward()  # type: ignore[no-untyped-call]
    elapsed = (time.perf_counter() - started) / repeats
    passes = len(data.val) / len(data.train) / 3  # a forward pass is about a third of a step
    tuner.zero_grad(set_to_none=True)
    tuner.classifier.load_state_dict(before)
    tuner.on_train_epoch_start()
    return elapsed * (1 + passes)
