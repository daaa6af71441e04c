from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from cvtune.training.losses import Loss, LossKind, build_loss, class_weights, log_prior

SINGLE = np.repeat([0, 1, 2], [60, 25, 5])  # of 4 classes: the last has no images
MULTI = np.stack([np.arange(90) < 30, np.arange(90) % 2 == 0, np.arange(90) == 7, np.zeros(90) > 0], axis=1)
KINDS: list[dict[str, Any]] = [
    {"kind": kind, "weights": weights, "smoothing": smoothing, **more}
    for kind, more in (
        ("cross-entropy", {}),
        ("logit-adjusted", {"tau": 1.5}),
        ("focal", {"gamma": 2.0}),
        ("focal", {"gamma": 0.5}),
    )
    for weights in ("auto", "balanced", "none")
    for smoothing in (0.0, 0.1)
]


def logits_of(rows: int, scale: float = 1.0) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float32) * scale


def shares_of(rows: int) -> Tensor:
    return torch.rand(rows, 4, generator=torch.Generator().manual_seed(2)).softmax(1)


def single(logits: Tensor, shares: Tensor, loss: Loss, smoothing: float, gamma: float) -> Tensor:
    """The formula, number by number in float64: logits and shares of the classes [B][K]."""
    total = logits.new_zeros((), dtype=torch.float64)
    norm = 0.0
    for row, share in zip(logits.double() + loss.shift.double(), shares.double(), strict=True):
        p = row.exp() / row.exp().sum()
        for k in range(4):
            weight, soft = float(loss.weights[k]), float(share[k]) * (1 - smoothing) + smoothing / 4
            total = total - weight * soft * (1 - p[k]) ** gamma * p[k].log()
            norm += weight * float(share[k])
    return total / norm


def multi(logits: Tensor, labels: Tensor, loss: Loss, smoothing: float, gamma: float) -> Tensor:
    total = logits.new_zeros((), dtype=torch.float64)
    for row, label in zip(logits.double() + loss.shift.double(), labels.double(), strict=True):
        for k in range(4):
            p, y = 1 / (1 + (-row[k]).exp()), float(label[k]) * (1 - smoothing) + smoothing / 2
            each = -float(loss.weights[k]) * y * p.log() - (1 - y) * (1 - p).log()
            total = total + each * (1 - (p * y + (1 - p) * (1 - y))) ** gamma
    return total / logits.numel()


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("labels", ["hard", "soft", "several", "several soft"])
def test_values_and_gradients_are_those_of_the_formula(settings: dict[str, Any], labels: str) -> None:
    several = labels.startswith("several")
    loss = build_loss(MULTI if several else SINGLE, 4, **settings)
    plain = multi if several else single
    hard = torch.from_numpy(MULTI[:9] if several else SINGLE[55:64])
    target = shares_of(9) if labels.endswith("soft") else hard.float() if several else hard
    shares = target if target.ndim == 2 else F.one_hot(target, 4)
    gamma = settings.get("gamma", 0.0)
    ours, theirs = logits_of(9).requires_grad_(), logits_of(9).requires_grad_()
    value, wanted = loss(ours, target), plain(theirs, shares, loss, settings["smoothing"], gamma)
    assert value.shape == ()
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5)
    value.backward()
    wanted.backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)
    tried = [float(plain(logits_of(9) / 2 ** (step / 8), shares, loss, 0.0, 0.0)) for step in range(-16, 25)]
    assert float(loss.log_loss(logits_of(9), target)) == pytest.approx(min(tried), rel=1e-5)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_how_sure_a_model_is_by_itself_does_not_count(factor: float) -> None:
    loss, labels = build_loss(SINGLE, 4), torch.from_numpy(SINGLE[55:64])
    logits = logits_of(9) + 1.5 * F.one_hot(labels, 4)
    known = float(loss.log_loss(logits, labels))
    assert float(loss.log_loss(factor * logits, labels)) == pytest.approx(known, rel=2e-3)
    assert not torch.isfinite(loss.log_loss(logits_of(9) * math.nan, labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs_to_the_last_bit(smoothing: float) -> None:
    loss = build_loss(SINGLE, 4, smoothing=smoothing)
    logits, labels = logits_of(9, 3.0), torch.from_numpy(SINGLE[55:64])
    wanted = F.cross_entropy(logits, labels, weight=loss.weights, label_smoothing=smoothing)
    assert torch.equal(loss(logits, labels), wanted)

    loss, have = build_loss(MULTI, 4, smoothing=smoothing), torch.from_numpy(MULTI[:9]).float()
    soft = have * (1 - smoothing) + smoothing / 2
    wanted = F.binary_cross_entropy_with_logits(logits, soft, pos_weight=loss.weights)
    assert torch.equal(loss(logits, have), wanted)


def test_focal_loss_of_several_labels_is_torchvisions() -> None:
    loss = build_loss(MULTI, 4, kind="focal", weights="none", smoothing=0.0, gamma=2.0)
    logits, have = logits_of(9, 5.0), torch.from_numpy(MULTI[:9]).float()
    wanted = sigmoid_focal_loss(logits, have, alpha=-1, gamma=2.0, reduction="mean")
    assert torch.allclose(loss(logits, have), wanted, rtol=1e-5)


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: "-".join(map(str, s.values())))
def test_a_soft_label_that_is_one_class_counts_like_its_index(settings: dict[str, Any]) -> None:
    loss, labels = build_loss(SINGLE, 4, **settings), torch.from_numpy(SINGLE[55:64])
    soft = F.one_hot(labels, 4).float()
    assert torch.allclose(loss(logits_of(9), soft), loss(logits_of(9), labels), rtol=1e-6)


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_extreme_logits_stay_finite(settings: dict[str, Any], scale: float) -> None:
    signs = torch.tensor([[1.0, -1, -1, -1], [-1, 1, -1, -1], [0, 0, 0, 1], [1, 1, 1, 1]])
    for labels, target in ((SINGLE, torch.tensor([0, 0, 1, 3])), (MULTI, torch.eye(4))):
        logits = (signs * scale).requires_grad_()
        value = build_loss(labels, 4, **settings)(logits, target)
        value.backward()
        assert logits.grad is not None
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_reckoned_in_float32() -> None:
    loss, labels = build_loss(SINGLE, 4, kind="focal"), torch.from_numpy(SINGLE[55:64])
    half = logits_of(9).bfloat16()
    assert loss(half, labels).dtype == torch.float32
    assert torch.equal(loss(half, labels), loss(half.float(), labels))


def test_sure_answers_have_less_to_say_under_focal_loss() -> None:
    labels = torch.zeros(1, dtype=torch.int64)
    unsure, sure = torch.zeros(1, 4), torch.tensor([[9.0, 0, 0, 0]])
    loss = build_loss(SINGLE, 4, kind="focal", smoothing=0.0)
    assert float(loss(unsure, labels)) == pytest.approx(0.75**2 * math.log(4))
    assert float(loss.log_loss(unsure, labels)) == pytest.approx(math.log(4))
    assert float(loss(sure, labels)) < 1e-6 * float(F.cross_entropy(sure, labels))


@pytest.mark.parametrize(("kind", "boundary"), [("cross-entropy", math.log(19) / 2), ("logit-adjusted", 0.0)])
def test_logit_adjustment_finds_the_boundary_of_equally_frequent_classes(kind: LossKind, boundary: float) -> None:
    # One feature, normal around -1 and 1 with variance 1, and 19 times as many of the first.
    labels = np.repeat([0, 1], [3800, 200])
    x = torch.from_numpy(np.random.default_rng(0).normal(np.where(labels, 1.0, -1.0))).float()[:, None]
    loss, net, target = (
        build_loss(labels, 2, kind=kind, weights="none", smoothing=0.0),
        nn.Linear(1, 2),
        torch.from_numpy(labels),
    )
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=60)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = loss(net(x), target)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    slope, offset = (net.weight[1] - net.weight[0]).item(), (net.bias[1] - net.bias[0]).item()
    assert -offset / slope == pytest.approx(boundary, abs=0.15)


def test_class_weights_by_hand() -> None:
    assert class_weights(SINGLE, 4, mode="none").tolist() == [1, 1, 1, 1]
    for mode, power in (("auto", 0.5), ("balanced", 1.0)):
        weights = class_weights(SINGLE, 4, mode=mode)  # type: ignore[arg-type]
        assert weights.dtype == np.float32
        assert weights[SINGLE].mean() == pytest.approx(1)
        assert weights[2] / weights[0] == pytest.approx((60 / 5) ** power)
        assert weights[3] == weights[2]  # no images: as the rarest one
    assert class_weights(MULTI, 4, mode="balanced").tolist() == pytest.approx([61 / 30, 46 / 45, 90, 90])
    assert class_weights(MULTI, 4).tolist() == pytest.approx(np.sqrt([61 / 30, 46 / 45, 90, 90]).tolist())
    balanced = class_weights(SINGLE, 4, mode="balanced")
    assert (balanced[:3] * np.bincount(SINGLE)).tolist() == pytest.approx([30, 30, 30])


def test_priors_by_hand() -> None:
    assert log_prior(SINGLE, 4).tolist() == pytest.approx(np.log([60 / 90, 25 / 90, 5 / 90, 0.5 / 90]).tolist())
    odds = [30 / 60, 45 / 45, 1 / 89, 0.5 / 89.5]
    assert log_prior(MULTI, 4).tolist() == pytest.approx(np.log(odds).tolist(), abs=1e-6)
    assert log_prior(~MULTI, 4).tolist() == pytest.approx((-np.log(odds)).tolist(), abs=1e-6)
    adjusted = build_loss(SINGLE, 4, kind="logit-adjusted", weights="balanced", tau=2.0)
    assert torch.equal(adjusted.shift, 2 * torch.from_numpy(log_prior(SINGLE, 4)))
    assert adjusted.weights.tolist() == [1, 1, 1, 1]  # not corrected twice


def test_a_loss_adds_nothing_to_what_is_saved() -> None:
    assert not build_loss(SINGLE, 4, kind="logit-adjusted").state_dict()


@pytest.mark.parametrize("wrong", [{"smoothing": 1.0}, {"smoothing": -0.1}, {"tau": -1.0}, {"gamma": -1.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected 0 <= smoothing < 1 and no negative tau or gamma"):
        build_loss(SINGLE, 4, **wrong)  # type: ignore[arg-type]
