"""One stage of fine-tuning with Lightning: train, keep the weights of the best epoch, leave them in the classifier."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from cvtune.errors import TrainingError
from cvtune.models.state import State
from cvtune.rundir import Terminated
from cvtune.training.averaging import Candidate, LastMean, MovingAverage, take
from cvtune.training.checkpoint import Store, flatten_optimizer, joined, part_of, restore_optimizer
from cvtune.training.datamodule import StageData
from cvtune.training.hardware import device_of, precision_for
from cvtune.training.module import BAD_STEPS, FineTuner
from cvtune.training.stop import StopRequest

SAVE_EVERY: Final = 30.0  # seconds between two checkpoints; each look at the validation side is followed by one as well
HALVINGS: Final = 3  # of the rates, each after steps in a row without a finite gradient

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
    "reload_dataloaders_every_n_epochs": 1,  # the next part of the order
    "use_distributed_sampler": False,  # StepSampler divides the batches
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


@dataclass(frozen=True)
class Trained:
    """What a stage did.

    Attributes:
        rows: one a look at the validation side.
        best_step: after which the weights of the best look were taken; the last step where nothing was looked at.
        candidates: the weights that may be kept, simplest first: last, EMA, mean of the last 3, best epoch.
    """

    rows: tuple[Epoch, ...]
    best_step: int
    candidates: Sequence[Candidate] = ()


class Keeper(L.Callback):
    """Looks after one stage: progress, the best epoch, averages, checkpoints, and its end.

    The stage ends after its last step, when the validation loss has not fallen for `patience` looks, at the deadline,
    and when somebody asks for it. The loss decides, not the accuracy: on a small validation side the accuracy moves in
    steps of one image.

    Args:
        name: of the stage.
        tuner: the module.
        data: its loaders.
        stop: asks for an early end.
        deadline: `time.monotonic()` at which the stage ends.
        progress: called after each step.
        until: steps to take.
        looks: whether the validation side is looked at.
        store: where checkpoints go; None keeps none.
    """

    def __init__(
        self,
        name: str,
        tuner: FineTuner,
        data: StageData,
        *,
        stop: StopRequest,
        deadline: float,
        progress: Progress,
        until: int,
        looks: bool,
        store: Store | None,
    ) -> None:
        self._name, self._tuner, self._data = name, tuner, data
        self._stop, self._deadline, self._progress = stop, deadline, progress
        self._until, self._looks, self._store = until, looks, store
        self._ema = MovingAverage(tuner.classifier)
        self._recent = LastMean()
        self._start = self._weights()
        self._optimizer: State = {}
        self._saved_at = time.monotonic()
        self._since = self._halvings = 0
        self.rows: list[Epoch] = []
        self.best: State | None = None
        self.best_loss = math.inf
        self.best_step = 0

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self._tuner.step >= self._until or self._since >= self._tuner.stage.patience

    def go_on(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        self._data.step = self._tuner.step
        saved = self._store.load_newest() if self._store else None
        if saved is None:
            return
        facts = saved.facts
        self._load(part_of(saved.tensors, "weights"))
        self._ema.load(part_of(saved.tensors, "ema"))
        self._recent.load(part_of(saved.tensors, "recent"))
        self._optimizer = part_of(saved.tensors, "optimizer")
        self.rows = [Epoch(**row) for row in facts["rows"]]
        self.best, self.best_loss, self.best_step = saved.best, facts["best_loss"], facts["best_step"]
        self._since, self._halvings = facts["since"], facts["halvings"]
        self._tuner.step, self._tuner.factor = saved.step, facts["factor"]
        self._data.step = saved.step
        due = self._looks and (saved.step % self._data.validate_every == 0 or saved.step >= self._until)
        if due and saved.step not in [row.step for row in self.rows]:
            self._look_late(facts["rate"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the optimizer its memory back, and the counters that loggers and callbacks read their place."""
        self._stop.install()  # Lightning has put its own handlers before ours
        if self._optimizer:
            restore_optimizer(trainer.optimizers[0], self._optimizer)
            _move_to(trainer, self._tuner.step, len(self.rows))
            self._optimizer = {}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """After each step."""
        tuner = self._tuner
        self._data.step = tuner.step
        if tuner.bad >= BAD_STEPS:
            self._roll_back(trainer)
        self._ema.update()
        self._progress(self._name, min(tuner.step, self._until), self._until)
        if not self._looks and tuner.step % self._data.validate_every == 0:
            self._recent.add(self._weights())
        self._leave(trainer)
        if self._stop:
            self._save(trainer)  # `--resume` goes on from here, as if there had been no early end
        if tuner.step >= self._until or self._stop or time.monotonic() > self._deadline:
            trainer.should_stop = True  # a look at the validation side follows
        elif time.monotonic() - self._saved_at > SAVE_EVERY:
            self._save(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """A look takes as long as the side is large."""
        self._leave(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare this look with the best one."""
        self._note(trainer.callback_metrics, _rate(trainer))
        trainer.should_stop = trainer.should_stop or self.finished
        if not trainer.should_stop:
            self._save(trainer)

    def _leave(self, trainer: L.Trainer) -> None:
        if self._stop.terminate:
            self._save(trainer)
            raise Terminated

    def _look_late(self, rate: float) -> None:
        """The look that was due when the process ended."""
        self._tuner.eval()
        with torch.no_grad():
            for batch in self._data.val_dataloader():
                self._tuner.validation_step(batch, 0)
        self._note(self._tuner.figures(), rate)
        self._tuner.train()

    def _note(self, figures: Mapping[str, Tensor | float], rate: float) -> None:
        seen = {key: float(value) for key, value in figures.items()}
        step = self._tuner.step
        losses = seen["train_loss"], seen["val_loss"], seen["val_balanced_accuracy"]
        self.rows.append(Epoch(self._name, (step - 1) // self._data.batches, step, *losses, rate))
        self._recent.add(self._weights())
        self._since += 1
        if seen["val_loss"] < self.best_loss:
            self.best, self.best_loss, self.best_step, self._since = self._weights(), seen["val_loss"], step, 0

    def candidates(self) -> list[Candidate]:
        """What may be kept, simplest first; nothing where no look had a finite loss."""
        if self.rows and self.best is None:
            return []
        found = [Candidate("last", self._weights()), Candidate("EMA", self._ema.mean())]
        if len(self._recent) > 1:
            found.append(Candidate(self._recent.name, self._recent.mean()))
        return found if self.best is None else [*found, Candidate("best epoch", self.best)]

    def restore(self, state: State | None) -> None:
        """Put weights into the classifier; None for those that it came with."""
        self._load(self._start if state is None else state)

    def _weights(self) -> State:
        return take(self._tuner.classifier, self._ema.names)

    def _load(self, state: State) -> None:
        self._tuner.classifier.load_state_dict(state, strict=False)

    def _roll_back(self, trainer: L.Trainer) -> None:
        """The best weights so far, an optimizer without memory, and half the rate."""
        self._halvings += 1
        if self._halvings > HALVINGS:
            raise TrainingError(
                f"stage {self._name}: the loss is not a finite number, and at an eighth of the learning rate it is not "
                "either",
                hint=f"set a smaller train.{self._name}.learning_rate in a config file; the model of the stage before "
                "is kept",
            )
        self._tuner.factor, self._tuner.bad = self._tuner.factor / 2, 0
        self.restore(self.best)
        self._ema, self._recent = MovingAverage(self._tuner.classifier), LastMean()
        trainer.optimizers[0].state.clear()

    def _save(self, trainer: L.Trainer) -> None:
        self._saved_at = time.monotonic()
        if self._store is None or self._tuner.bad:
            return
        tensors = joined(
            weights=self._weights(),
            optimizer=flatten_optimizer(trainer.optimizers[0]),
            ema=self._ema.state(),
            recent=self._recent.state(),
        )
        facts = {
            "rows": [asdict(row) for row in self.rows],
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "since": self._since,
            "halvings": self._halvings,
            "factor": self._tuner.factor,
            "rate": _rate(trainer),
        }
        self._store.save(self._tuner.step, tensors, facts, self.best)


def train_stage(
    name: str,
    tuner: FineTuner,
    data: StageData,
    *,
    stop: StopRequest,
    deadline: float = math.inf,
    progress: Progress,
    extras: Extras,
    stop_at: int | None = None,
    store: Store | None = None,
) -> Trained:
    """Train one stage, or go on with one; the classifier ends with the weights of its best epoch, in eval mode.

    Where no look at the validation side has a finite loss, it ends with the weights that it came with.

    Args:
        name: of the stage, for progress and metrics.csv.
        tuner: the Lightning module; its `total_steps` bounds the stage.
        data: the loaders.
        stop: asks for an early end.
        deadline: `time.monotonic()` at which the stage ends.
        progress: called after each step.
        extras: the user's callbacks, loggers and trainer arguments.
        stop_at: train exactly so many steps of the schedule and keep the last weights, without looking at the
            validation side: the final fit on all images after a cross-validation has none.
        store: checkpoints, from the newest of which the stage goes on; None keeps none.

    Raises:
        TrainingError: the loss is not finite, at smaller rates neither.
        Terminated: SIGTERM; the stage is saved.
    """
    until = tuner.total_steps if stop_at is None else stop_at
    tuner.train()  # Lightning takes the modes as it finds them, and a finished model is in eval mode
    keeper = Keeper(
        name,
        tuner,
        data,
        stop=stop,
        deadline=deadline,
        progress=progress,
        until=until,
        looks=stop_at is None,
        store=store,
    )
    keeper.go_on()
    # A debugging aid of deterministic mode that costs a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not keeper.finished:
        with quiet_lightning(), _own_signals(stop), stop.saving():
            trainer = L.Trainer(
                max_steps=-1,
                callbacks=[keeper, *extras.callbacks],
                logger=list(extras.loggers) or False,
                **{**_defaults(extras.trainer, looks=stop_at is None), **extras.trainer},
            )
            trainer.fit(tuner, datamodule=data)
    candidates = keeper.candidates()
    if stop_at is None:
        keeper.restore(keeper.best)
    tuner.classifier.cpu().eval()
    return Trained(tuple(keeper.rows), keeper.best_step if stop_at is None else tuner.step, candidates)


def _defaults(own: Mapping[str, Any], *, looks: bool) -> dict[str, Any]:
    """Arguments of `lightning.Trainer` where the user's own say nothing; on a GPU automatic mixed precision."""
    accelerator, none = own.get("accelerator", "auto"), {} if looks else {"limit_val_batches": 0}
    if accelerator not in ("auto", "gpu", "cuda", "mps"):
        return {**_TRAINER, **none}
    return {**_TRAINER, **none, "precision": precision_for(device_of(accelerator))}


def _rate(trainer: L.Trainer) -> float:
    """Of the last layer group; the head's, which comes first, is a multiple of it."""
    stage: Any = trainer.lightning_module.stage
    return float(trainer.optimizers[0].param_groups[0]["lr"] / stage.head_factor)


def _move_to(trainer: L.Trainer, step: int, epoch: int) -> None:
    """Lightning counts from nought; what it counts is read by loggers and by the user's callbacks."""
    loop: Any = trainer.fit_loop
    loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop.epoch_loop._batches_that_stepped = step
    loop.epoch_progress.current.processed = loop.epoch_progress.current.completed = epoch


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
