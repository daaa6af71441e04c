from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.nn import functional as F

from cvtune.training.datamodule import PixelDataModule
from cvtune.training.mixing import Mixing
from cvtune.training.module import FineTuner, balanced_accuracy, mean_area, side_at
from cvtune.training.stop import StopRequest
from cvtune.training.trainer import Epoch, Extras, train_stage

MakeTuner = Callable[..., tuple[FineTuner, PixelDataModule]]


def train(tuner: FineTuner, data: PixelDataModule, *callbacks: L.Callback) -> tuple[Epoch, ...]:
    return train_stage(
        "tail",
        tuner,
        data,
        stop=StopRequest(),
        progress=lambda what, done, of: None,
        extras=Extras(callbacks),
    ).rows


def group_state(tuner: FineTuner, groups: range) -> list[Tensor]:
    backbone = tuner.classifier.backbone
    modules = [module for i in groups for module in backbone.group_modules(i)]
    buffers = [buffer for module in modules for buffer in module.buffers()]
    return [tensor.detach().clone() for i in groups for tensor in backbone.group_parameters(i)] + buffers


class Modes(L.Callback):
    """Notes at every training batch which modules are in training mode."""

    def __init__(self) -> None:
        self.seen: list[tuple[set[bool], set[bool], bool]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, FineTuner)
        backbone, first = pl_module.classifier.backbone, pl_module.first_group
        modes = [
            {m.training for i in groups for top in backbone.group_modules(i) for m in top.modules()}
            for groups in (range(first), range(first, len(backbone.groups)))
        ]
        self.seen.append((modes[0], modes[1], pl_module.classifier.head.training))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_frozen_groups_stand_still_and_the_others_learn(name: str, make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(name, first_group=3, steps=8, flags={"train.batch_norm": "batch"})
    backbone, modes = tuner.classifier.backbone, Modes()
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    x = torch.randn(2, 3, 64, 64)
    frozen, free = range(3), range(3, len(backbone.groups))
    before, start = group_state(tuner, frozen), group_state(tuner, free)
    with torch.no_grad():
        seen, _ = backbone.prefix(x, 3)
    rows = train(tuner, data, modes)
    assert [row.epoch for row in rows] == [0, 1]
    assert modes.seen == [({False}, {True}, True)] * 8  # after a validation too
    assert all(torch.equal(a, b) for a, b in zip(before, group_state(tuner, frozen), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(start, group_state(tuner, free), strict=True))
    assert not any(p.requires_grad or p.grad is not None for i in frozen for p in backbone.group_parameters(i))
    with torch.no_grad():
        assert torch.equal(backbone.prefix(x, 3)[0], seen)
    assert not any(module.training for module in tuner.classifier.modules())


@pytest.mark.parametrize("mode", ["frozen", "batch"])
def test_statistics_of_trained_layers_follow_the_images_where_they_are_to(mode: str, make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner("test_resnet", first_group=4, steps=4, flags={"train.batch_norm": mode})
    norms = [m for top in tuner.classifier.backbone.group_modules(4) for m in top.modules()]
    fresh = [m.running_mean.clone() for m in norms if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
    train(tuner, data)
    now = [m.running_mean for m in norms if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
    assert len(fresh) == 3
    assert {torch.equal(a, b) for a, b in zip(fresh, now, strict=True)} == {mode == "frozen"}
    scales = [m.weight for m in norms if isinstance(m, nn.BatchNorm2d)]
    assert not any(torch.equal(scale, torch.ones_like(scale)) for scale in scales)  # which learn in both


def test_no_group_is_frozen_from_group_0(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner("test_vit", first_group=0, steps=4)
    modes = Modes()
    train(tuner, data, modes)
    assert modes.seen == [(set(), {True}, True)] * 4
    assert all(p.requires_grad for p in tuner.classifier.parameters())


@pytest.mark.parametrize("first_group", [0, 3])
def test_the_answers_are_the_classifiers(first_group: int, make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner("test_vit", first_group=first_group)
    pixels = next(iter(data.val_dataloader()))[0]
    seen = tuner.normalize(pixels).contiguous(memory_format=torch.channels_last)  # some processors add up otherwise
    tuner.frozen_half = False
    with torch.no_grad():
        assert torch.equal(tuner(pixels), tuner.classifier(seen))
        tuner.frozen_half = True
        assert torch.allclose(tuner(pixels), tuner.classifier(seen), atol=0.05)
    assert tuner(pixels).dtype == torch.float32


def test_rates_fall_towards_the_input_and_every_free_parameter_has_one(make_tuner: MakeTuner) -> None:
    flags = {"train.tail.learning_rate": 0.1, "train.tail.layer_decay": 0.5, "train.tail.head_factor": 3.0}
    tuner, _ = make_tuner("test_resnet", first_group=2, flags=flags)
    backbone, groups = tuner.classifier.backbone, tuner.parameter_groups()
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {2: 0.025, 3: 0.05, 4: 0.1}
    for i, wanted in expected.items():
        assert {rate[id(p)] for p in backbone.group_parameters(i)} == {wanted}
    assert [rate[id(p)] for p in tuner.classifier.head.parameters()] == pytest.approx([0.3, 0.3])
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in tuner.parameters() if p.requires_grad)


def test_biases_and_norms_are_not_decayed(make_tuner: MakeTuner) -> None:
    tuner, _ = make_tuner("test_convnext", first_group=0, flags={"train.weight_decay": 0.3})
    for group in tuner.parameter_groups():
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.3}


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.1), (1, 0.1), (2, 0.9), (7, 0.0)])
def test_the_rate_warms_up_and_follows_a_cosine_to_zero(steps: int, warmup: float, make_tuner: MakeTuner) -> None:
    tuner, _ = make_tuner(steps=steps, flags={"train.warmup": warmup})
    rates = [tuner.schedule(step) for step in range(steps)]
    warm = max(1, round(warmup * steps))
    assert rates[:warm] == pytest.approx([(i + 1) / warm for i in range(warm)])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert all(0 < rate <= 1 for rate in rates)
    assert tuner.schedule(steps) == pytest.approx(0.0 if warm < steps else 1.0)
    if steps == 100:
        assert rates[55] == pytest.approx(0.5)


def test_the_optimizer_steps_at_the_scheduled_rates(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=10, flags={"train.tail.head_factor": 2.0, "train.warmup": 0.3})
    seen: list[float] = []

    class Rates(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            seen.append(optimizer.param_groups[0]["lr"])

    train(tuner, data, Rates())
    assert seen == pytest.approx([2e-3 * tuner.schedule(step) for step in range(10)])


def test_the_loss_of_a_step_is_smoothed(make_tuner: MakeTuner) -> None:
    tuner, _ = make_tuner(flags={"train.label_smoothing": 0.2})
    labels = torch.arange(9) % 4
    batch = torch.randint(0, 255, (9, 3, 64, 64), dtype=torch.uint8), labels
    wanted = F.cross_entropy(tuner(batch[0]), labels, weight=tuner.loss.weights, label_smoothing=0.2)
    assert tuner.training_step(batch, 0) == wanted


@pytest.mark.parametrize("first_group", [0, 3])
def test_mixed_batches_have_mixed_labels(first_group: int, make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(first_group=first_group)
    tuner.mixing = Mixing(0.4, classes=4, seed=0)
    labelled: list[Tensor] = []
    loss = tuner.loss.forward
    tuner.loss.forward = lambda logits, labels: labelled.append(labels) or loss(logits, labels)  # type: ignore
    batch = next(iter(data.train_dataloader()))
    plain = tuner.training_step(batch, 0)
    assert labelled[0].shape == (14, 4)
    assert torch.allclose(labelled[0].sum(1), torch.ones(14))
    assert 0 < float(labelled[0].max(1).values.min()) < 1
    tuner.mixing, tuner.step = None, 0
    assert tuner.training_step(batch, 0) != plain


def test_validation_figures_are_those_of_the_whole_side(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner(steps=4)
    tuner.frozen_half = False
    data.val = data.train  # 56 images: with batches of 64 one, so of 16 four
    data.val_dataloader = lambda: torch.utils.data.DataLoader(data.val, batch_size=20)  # type: ignore[method-assign]
    (row,) = train(tuner, data)
    pixels, labels = next(iter(torch.utils.data.DataLoader(data.val, batch_size=99)))
    with torch.no_grad():
        logits = tuner(pixels)
    assert row.val_loss == pytest.approx(float(tuner.loss.log_loss(logits, labels)), rel=1e-4)
    assert row.val_balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert row.train_loss > 0


def test_balanced_accuracy_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    logits, labels = torch.from_numpy(random.normal(size=(50, 5))), torch.from_numpy(random.integers(0, 4, 50))
    assert float(balanced_accuracy(logits, labels)) == pytest.approx(
        np.mean([float((logits.argmax(1)[labels == k] == k).double().mean()) for k in range(4)])
    )


def test_images_grow_with_the_steps() -> None:
    sides = [side_at(step, 100, small=160, full=224) for step in range(100)]
    assert sides == [160] * 30 + [192] * 30 + [224] * 40
    assert {side_at(step, 10, small=224, full=224) for step in range(10)} == {224}
    assert [side_at(step, 10, small=96, full=130) for step in range(7)] == [96] * 6 + [130]
    assert mean_area(100, small=160, full=224) == pytest.approx((160**2 * 0.3 + 192**2 * 0.3 + 224**2 * 0.4) / 224**2)


def test_the_first_steps_see_small_images(make_tuner: MakeTuner) -> None:
    tuner, data = make_tuner("test_resnet", first_group=0, steps=5)
    tuner.small = 32
    seen: list[tuple[bool, int]] = []
    tuner.classifier.backbone.net.register_module("conv1", _Watched(tuner.classifier.backbone.net.conv1, seen))  # type: ignore[arg-type]
    train(tuner, data)
    assert [side for learning, side in seen if learning] == [32, 32, 32, 64, 64]
    assert {side for learning, side in seen if not learning} == {64}  # looks at the validation side


class _Watched(nn.Module):
    def __init__(self, layer: nn.Module, seen: list[tuple[bool, int]]) -> None:
        super().__init__()
        self._layer, self._seen = layer, seen

    def forward(self, x: Tensor) -> Tensor:
        self._seen.append((self.training, x.shape[-1]))
        answer: Tensor = self._layer(x)
        return answer


@pytest.mark.parametrize("first_group", [0, 3])
def test_a_step_in_bfloat16_learns_the_same(first_group: int, make_tuner: MakeTuner) -> None:
    ends = []
    for half in (False, True, True):
        tuner, data = make_tuner("test_efficientnet", first_group=first_group, steps=8)
        tuner.in_half = half
        ends.append((train(tuner, data), copy.deepcopy(tuner.classifier.state_dict())))
    (plain, _), (rows, one), (_, two) = ends
    assert rows[-1].train_loss == pytest.approx(plain[-1].train_loss, rel=0.02)
    assert rows[-1].train_loss != plain[-1].train_loss
    assert rows[-1].val_loss == pytest.approx(plain[-1].val_loss, rel=0.05)
    assert all(torch.equal(one[name], two[name]) for name in one)
