from __future__ import annotations

import copy
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from cvtune.errors import TrainingError
from cvtune.rundir import RunDir, Terminated
from cvtune.training import trainer
from cvtune.training.averaging import take
from cvtune.training.checkpoint import Store
from cvtune.training.datamodule import PixelDataModule
from cvtune.training.module import FineTuner
from cvtune.training.stop import StopRequest
from cvtune.training.trainer import Epoch, Extras, Progress, Trained, train_stage
from cvtune.training.trials import fitting_batch, step_cost


def clone_state(module: nn.Module) -> dict[str, Tensor]:
    return take(module, module.state_dict())


MakeTuner = Callable[..., tuple[FineTuner, PixelDataModule]]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which stays empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_all(
    tuner: FineTuner,
    data: PixelDataModule,
    *callbacks: L.Callback,
    stop: StopRequest | None = None,
    deadline: float = math.inf,
    progress: Progress = lambda what, done, of: None,
    loggers: tuple[Any, ...] = (),
    store: Store | None = None,
    **trainer: Any,
) -> Trained:
    extras = Extras(callbacks, loggers, trainer)
    stop = StopRequest() if stop is None else stop  # one that was not asked is false
    return train_stage("tail", tuner, data, stop=stop, deadline=deadline, progress=progress, extras=extras, store=store)


def train(tuner: FineTuner, data: PixelDataModule, *callbacks: L.Callback, **more: Any) -> tuple[Epoch, ...]:
    return train_all(tuner, data, *callbacks, **more).rows


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Spoiler(L.Callback):
    """Keeps the weights as validated in each epoch, and spoils the head before every epoch from `first` on."""

    def __init__(self, first: int, value: float = 1e3) -> None:
        self.first, self.last, self.value = first, 10**9, value
        self.validated: list[dict[str, Tensor]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.first <= trainer.current_epoch <= self.last:
            with torch.no_grad():
                pl_module.classifier.head.linear.bias.fill_(-self.value)[0].fill_(self.value)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.validated.append(clone_state(pl_module.classifier))


def test_the_weights_of_the_best_epoch_are_kept(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=16)
    spoiler = Spoiler(2)
    rows = train(tuner, data, spoiler)
    losses = [row.val_loss for row in rows]
    assert losses.index(min(losses)) < 2
    assert equal(clone_state(tuner.classifier), spoiler.validated[losses.index(min(losses))])
    assert not tuner.classifier.training


def test_patience_ends_a_stage_that_gets_no_better(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=400, flags={"train.tail.patience": 2})
    rows = train(tuner, data, Spoiler(1))
    assert [(row.epoch, row.step) for row in rows] == [(0, 4), (1, 8), (2, 12)]


def test_a_row_an_epoch_with_its_rate(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=8)
    rows = train(tuner, data)
    assert [(row.stage, row.epoch, row.step) for row in rows] == [("tail", 0, 4), ("tail", 1, 8)]
    assert rows[0].learning_rate == pytest.approx(1e-3 * tuner.schedule(3))
    assert all(math.isfinite(value) for row in rows for value in (row.train_loss, row.val_loss))


@pytest.mark.parametrize(("steps", "wanted"), [(1, [1]), (3, [3]), (4, [4]), (6, [4, 6])])
def test_the_last_step_is_validated_wherever_it_falls(steps: int, wanted: list[int], make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=steps)
    assert [row.step for row in train(tuner, data)] == wanted


def test_the_deadline_ends_a_stage_with_a_validated_model(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=400)
    spoiler = Spoiler(99)
    rows = train(tuner, data, spoiler, deadline=time.monotonic() - 1)
    assert [row.step for row in rows] == [1]
    assert equal(clone_state(tuner.classifier), spoiler.validated[0])


def test_a_request_to_stop_ends_the_epoch_in_its_middle_and_is_validated(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=400)
    stop, seen = StopRequest(), []

    def progress(what: str, done: int, of: int) -> None:
        seen.append((what, done, of))
        if done == 6:
            stop.signum = signal.SIGINT

    rows = train(tuner, data, stop=stop, progress=progress)
    assert [row.step for row in rows] == [4, 6]
    assert seen == [("tail", done, 400) for done in range(1, 7)]


def send(number: signal.Signals, at: int) -> Progress:
    def progress(what: str, done: int, of: int) -> None:
        if done == at:
            os.kill(os.getpid(), number)

    return progress


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
@pytest.mark.parametrize("at", [1, 2, 4])
def test_ctrl_c_ends_the_stage_in_order(at: int, make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=400)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        stop.arm()
        rows = train(tuner, data, stop=stop, progress=send(signal.SIGINT, at))
    assert stop.exit_code == 130
    assert rows[-1].step in (at, at + 1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_sigterm_saves_and_leaves_without_a_look(make_tuner: MakeTuner, elsewhere: Path) -> None:
    tuner, data = make_tuner(steps=400)
    store = Store(RunDir(elsewhere / "run"), "tail")
    spoiler = Spoiler(99)
    with StopRequest() as stop, pytest.raises(Terminated):
        train(tuner, data, spoiler, stop=stop, progress=send(signal.SIGTERM, 2), store=store)
    assert spoiler.validated == []
    saved = store.load_newest()
    assert saved is not None
    assert saved.step == 2


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("at", [2, 4, 7, 10])
def test_a_stage_goes_on_where_it_was_killed(name: str, at: int, make_tuner: MakeTuner, elsewhere: Path) -> None:
    def dropping() -> tuple[FineTuner, PixelDataModule]:
        tuner, data = make_tuner(name, steps=10)
        for module in tuner.classifier.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.3
        return tuner, data

    whole, data = dropping()
    trained = train_all(whole, data)

    def killed(what: str, done: int, of: int) -> None:
        if done == at:
            stop.signum = signal.SIGTERM

    store, stop = Store(RunDir(elsewhere / "run"), "tail"), StopRequest()
    tuner, data = dropping()
    with pytest.raises(Terminated):
        train(tuner, data, stop=stop, store=store, progress=killed)
    steps: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            steps.append(trainer.global_step)

    tuner, data = dropping()
    again = train_all(tuner, data, Watch(), store=Store(RunDir(elsewhere / "run"), "tail"))
    assert steps == list(range(at + 1, 11))
    assert [replace(row, train_loss=0) for row in again.rows] == [replace(row, train_loss=0) for row in trained.rows]
    assert equal(clone_state(tuner.classifier), clone_state(whole.classifier))
    assert [one.name for one in again.candidates] == [one.name for one in trained.candidates]
    for one, other in zip(again.candidates, trained.candidates, strict=True):
        assert equal(dict(one.state), dict(other.state)), one.name


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_a_second_ctrl_c_ends_at_once(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=400)
    with StopRequest() as stop:
        stop.arm()
        stop.signum = signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            train(tuner, data, stop=stop, progress=send(signal.SIGINT, 1))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_without_a_stop_request_sigterm_still_ends_the_process(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=400)
    with pytest.raises(SIGTERMException):
        train(tuner, data, progress=send(signal.SIGTERM, 1))


def test_another_exit_is_not_swallowed(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner()

    def leave(what: str, done: int, of: int) -> None:
        raise SystemExit(7)

    with pytest.raises(SystemExit, match="7"):
        train(tuner, data, progress=leave)


def test_a_stage_that_diverges_is_rolled_back_to_its_best_weights_at_half_the_rate(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=16)
    spoiler = Spoiler(1, math.nan)
    spoiler.last = 1
    rows = train(tuner, data, spoiler)
    assert tuner.factor == 0.5
    assert all(math.isfinite(row.val_loss) for row in rows)
    assert rows[2].learning_rate == pytest.approx(0.5e-3 * tuner.schedule(11))


def test_a_stage_that_diverges_again_and_again_is_an_error(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=400, flags={"train.tail.patience": 50})
    with pytest.raises(TrainingError, match=r"stage tail: the loss is not a finite number") as caught:
        train(tuner, data, Spoiler(0, math.nan))
    assert "learning_rate" in str(caught.value.hint)


def test_the_users_callbacks_loggers_and_arguments_reach_lightning(make_tuner: MakeTuner, elsewhere: Path) -> None:
    tuner, data = make_tuner(steps=8)
    called: list[str] = []

    class Mine(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            called.append(f"{trainer.gradient_clip_val} {trainer.limit_val_batches} {type(pl_module).__name__}")

    train(tuner, data, Mine(), loggers=(CSVLogger(elsewhere, name="", version=""),), gradient_clip_val=0.5)
    assert called == ["0.5 1.0 FineTuner"]
    lines = (elsewhere / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert {"val_loss", "val_balanced_accuracy", "train_loss"} <= set(lines[0].split(","))
    assert len(lines) == 3


def test_lightning_writes_nothing_and_says_nothing(
    make_tuner: MakeTuner, elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(*make_tuner(steps=5))
    assert list(elsewhere.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_seed_decides_dropout(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner("test_vit", steps=4)
    tuner.classifier.backbone.net.blocks[5].mlp.drop1.p = 0.5  # type: ignore[index, union-attr]
    other = copy.deepcopy(tuner)
    train(tuner, data)
    torch.rand(7)
    train(other, data)
    assert equal(clone_state(tuner.classifier), clone_state(other.classifier))


def test_measuring_a_step_changes_nothing(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner()
    before = clone_state(tuner.classifier)
    cost = step_cost(tuner, data, bfloat16=True)
    assert 0 < cost.seconds < 10
    assert cost.choice is not None
    assert cost.half is cost.choice.taken
    assert not step_cost(tuner, data, bfloat16=False).half
    assert equal(clone_state(tuner.classifier), before)
    assert all(parameter.grad is None for parameter in tuner.parameters())


def test_a_batch_is_as_large_as_the_memory(make_tuner: MakeTuner, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner, data = make_tuner()
    before, step = clone_state(tuner.classifier), FineTuner.training_step
    assert fitting_batch(tuner, data, "cpu") == 14

    def small_memory(self: FineTuner, batch: Any, number: int) -> Tensor:
        if len(batch[1]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, batch, number)

    with monkeypatch.context() as gpu:
        gpu.setattr(FineTuner, "training_step", small_memory)
        gpu.setattr(FineTuner, "to", lambda self, device: self)
        gpu.setattr(Tensor, "to", lambda self, device: self)
        assert fitting_batch(tuner, data, "cuda") == 3
    assert equal(clone_state(tuner.classifier), before)
    assert all(parameter.grad is None for parameter in tuner.parameters())


@pytest.mark.parametrize(
    ("own", "device", "precision"),
    [
        ({}, "cpu", "32-true"),
        ({}, "cuda", "bf16-mixed"),
        ({"accelerator": "gpu"}, "cuda", "bf16-mixed"),
        ({"accelerator": "cpu"}, "cuda", None),
    ],
)
def test_a_gpu_computes_in_mixed_precision(
    own: dict[str, Any], device: str, precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "device_of", lambda accelerator: device)
    monkeypatch.setattr(trainer, "precision_for", {"cpu": "32-true", "cuda": "bf16-mixed"}.__getitem__)
    assert trainer._defaults(own, looks=True).get("precision") == precision
    assert trainer._defaults(own, looks=False)["limit_val_batches"] == 0
