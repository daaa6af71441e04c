from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cvtune.config import ModelConfig, load_config
from cvtune.data.augment import build_augmentation
from cvtune.models.backbone import create_empty, load_backbone, set_trainable
from cvtune.models.head import Classifier, LinearHead
from cvtune.models.normalize import Normalize
from cvtune.models.weights import find_weights
from cvtune.training.activations import FrozenPrefix
from cvtune.training.costs import CostTable, GroupCost, measure_groups
from cvtune.training.cuts import AUTO_SECONDS, Cut, CutPlan, Limits, plan_cuts

NORMALIZE = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

# EfficientNet-Lite0 at 224 px on two quiet cores: name, forward and train in ms an image, update in ms a step, numbers,
# parameters.
LITE0 = (
    ("stem", 0.6, 8.0, 0.4, 150528, 928),
    ("blocks.0", 0.5, 9.0, 0.3, 401408, 1448),
    ("blocks.1", 1.7, 18.0, 0.8, 200704, 16_000),
    ("blocks.2", 0.8, 8.0, 0.9, 75264, 47_000),
    ("blocks.3", 0.4, 4.2, 1.9, 31360, 198_000),
    ("blocks.4", 0.5, 4.3, 2.6, 15680, 447_000),
    ("blocks.5", 0.6, 3.6, 6.9, 21952, 1_652_000),
    ("blocks.6", 0.1, 0.6, 2.7, 9408, 605_000),
    ("head", 0.1, 0.5, 1.9, 15680, 412_000),
)
COSTS = CostTable(
    tuple(GroupCost(name, f / 1e3, t / 1e3, u / 1e3, numbers, 0, count) for name, f, t, u, numbers, count in LITE0),
    head=1e-5,
    augment=1e-3,
)
ELPV = Limits(images=1500, val_images=150, batch_size=32)


def cuts(limits: Limits, costs: CostTable = COSTS) -> tuple[Cut, ...]:
    return plan_cuts(costs, limits).cuts


def ticks(step: float) -> Callable[[], float]:
    """A clock on which every look takes a step."""
    times = itertools.count(0, step)
    return lambda: next(times)


def classifier(name: str) -> Classifier:
    torch.manual_seed(1)
    backbone = create_empty(name, size=64)
    return Classifier(backbone, nn.Sequential(nn.Dropout(0.5), LinearHead(backbone.width, 3)))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_nfnet"])
def test_measuring_changes_nothing(name: str) -> None:
    model = classifier(name).train()
    set_trainable(model.backbone, len(model.backbone.groups) // 2)
    model(torch.rand(4, 3, 64, 64)).sum().backward()
    state = copy.deepcopy(model.state_dict())
    grads = {key: None if p.grad is None else p.grad.clone() for key, p in model.named_parameters()}
    learns = {key: p.requires_grad for key, p in model.named_parameters()}
    modes = {key: module.training for key, module in model.named_modules()}
    random = torch.get_rng_state()
    measure_groups(model, NORMALIZE, torch.zeros(4, 3, 64, 64, dtype=torch.uint8), bfloat16=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert {key: module.training for key, module in model.named_modules()} == modes
    assert {key: p.requires_grad for key, p in model.named_parameters()} == learns
    for key, p in model.named_parameters():
        assert (p.grad is None) == (grads[key] is None)
        assert p.grad is None or torch.equal(p.grad, grads[key])  # type: ignore[arg-type]
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not model._forward_hooks
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_the_table_describes_the_groups(name: str) -> None:
    model = classifier(name)
    backbone = model.backbone
    backbone.set_taps((0, 2))
    model.head = LinearHead(backbone.width, 3)
    costs = measure_groups(model, NORMALIZE, torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), limit=1e9)
    assert tuple(group.name for group in costs.groups) == backbone.groups
    assert sum(group.parameters for group in costs.groups) == sum(p.numel() for p in backbone.parameters())
    for cut, group in enumerate(costs.groups):
        assert min(group.forward, group.train) > 0
        assert (group.update > 0) == (group.parameters > 0)
        assert not group.estimated
        if cut:
            frozen = FrozenPrefix(backbone, NORMALIZE, cut)
            assert group.numbers * 2 + group.pooled * 4 == frozen.bytes_per_image("bfloat16")
    assert costs.groups[-1].pooled > costs.groups[1].pooled > costs.groups[0].pooled == 0
    assert costs.head > 0
    assert costs.augment == 0


def test_real_layers_cost_more_to_train_than_to_run_and_augmentation_is_timed() -> None:
    backbone = load_backbone(find_weights("tf_efficientnet_lite0", ModelConfig()), size=96)
    model = Classifier(backbone, LinearHead(backbone.width, 2))
    sample = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 96, 96), np.uint8))
    transform = build_augmentation(load_config("defects").augment, 96)
    costs = measure_groups(model, NORMALIZE, sample, transform=transform)
    assert sum(group.train for group in costs.groups) > sum(group.forward for group in costs.groups)
    assert costs.augment > 1e-5
    assert costs.groups[5].numbers == 80 * 6 * 6


def test_when_time_is_up_the_first_groups_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvtune.training.costs.engine", lambda backbone, cut: None)
    model = classifier("test_vit")
    count = len(model.backbone.groups)
    sample = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    costs = measure_groups(model, NORMALIZE, sample, limit=3.0, clock=ticks(1.0))  # every part takes a second
    estimated = [group.estimated for group in costs.groups]
    known = math.ceil(count / 3)
    assert estimated == [True] * (count - known) + [False] * known
    assert {group.forward for group in costs.groups} == {0.5}
    assert {group.train for group in costs.groups} == {0.5}
    behind = costs.groups[count - known]
    assert costs.groups[0].update == pytest.approx(behind.update / behind.parameters * costs.groups[0].parameters)


def test_a_little_time_goes_into_the_last_layers() -> None:
    (cut,) = cuts(replace(ELPV, seconds=45.0))
    assert cut.group >= 6
    assert cut.epochs >= 6
    assert cut.seconds <= 45


def test_what_gains_nothing_over_the_probe_is_not_run() -> None:
    plan = plan_cuts(COSTS, replace(ELPV, seconds=15.0))
    assert plan.cuts == ()
    assert "15 s" in plan.reason
    (asked,) = plan_cuts(COSTS, replace(ELPV, seconds=15.0), group=8).cuts  # somebody wants it
    assert asked.seconds <= 15


def test_a_minute_gives_more_views_and_epochs() -> None:
    (cut,) = cuts(replace(ELPV, seconds=60.0))
    assert cut.group in (6, 7)
    assert cut.views >= 2
    assert cut.epochs >= 8


@pytest.mark.parametrize("images", [1500, 4000])
def test_five_minutes_reach_the_later_half_of_the_network(images: int) -> None:
    found = cuts(replace(ELPV, images=images, val_images=images // 10, seconds=300.0))
    assert found[-1].group in (4, 5, 6)
    assert found[-1].epochs >= 8
    assert found[-1].views >= 2
    assert sum(cut.seconds for cut in found) <= 300


def test_without_a_budget_time_has_to_be_worth_it() -> None:
    easy, hard = (cuts(replace(ELPV, gap=gap)) for gap in (0.05, 0.5))
    assert sum(cut.seconds for cut in easy) < sum(cut.seconds for cut in hard) <= AUTO_SECONDS
    assert easy[-1].group > hard[-1].group
    large = cuts(replace(ELPV, images=50_000, val_images=5000))
    assert sum(cut.seconds for cut in large) <= AUTO_SECONDS
    assert large[-1].epochs < 8  # many steps each


def test_cuts_follow_each_other_deeper_and_the_first_is_soon_done() -> None:
    first, second = cuts(ELPV)
    assert second.group < first.group
    assert first.seconds <= second.seconds / 3
    (alone,) = cuts(replace(ELPV, cuts=1))
    assert alone.group == second.group


def test_a_handful_of_images_gets_more_views_and_enough_steps() -> None:
    found = cuts(replace(ELPV, images=30, val_images=0, seconds=90.0))
    assert found[-1].views > 4
    assert found[-1].steps >= 200
    assert all(cut.views <= 2 for cut in cuts(replace(ELPV, max_views=2)))


def test_views_take_turns_where_the_disk_is_small() -> None:
    (free,) = cuts(replace(ELPV, seconds=300.0, cuts=1))
    assert (free.slots, free.every) == (free.views, free.epochs)
    group = COSTS.groups[free.group]
    two = group.numbers * 2 * (ELPV.val_images + 2 * ELPV.images)
    (tight,) = cuts(replace(ELPV, seconds=300.0, cuts=1, disk=two))
    assert tight.bytes <= two
    assert tight.slots < tight.views
    assert tight.every == math.ceil(tight.epochs / (tight.views // tight.slots))
    assert cuts(replace(ELPV, disk=1000)) == ()
    assert cuts(replace(ELPV, disk=0)) == ()


def test_images_that_only_folds_need_cost_time_too() -> None:
    (few,) = cuts(replace(ELPV, seconds=60.0, cuts=1))
    (more,) = cuts(replace(ELPV, seconds=60.0, cuts=1, viewed=2500, plain=2500))
    assert more.views < few.views or more.epochs < few.epochs


def test_a_group_of_a_few_parameters_is_no_cut() -> None:
    norm = GroupCost("norm", 1e-5, 3e-5, 1e-5, 37632, 0, 384)
    costs = CostTable((*(replace(group, numbers=37632) for group in COSTS.groups), norm))
    assert all(
        cut.name != "norm" for seconds in (5, 20, 60, 300) for cut in cuts(replace(ELPV, seconds=seconds), costs)
    )


def test_why_there_is_no_cut() -> None:
    short = plan_cuts(COSTS, replace(ELPV, seconds=3.0))
    assert short.cuts == ()
    assert short.reason == "what 3 s and the disk have room for gains nothing over the probe"
    whole = plan_cuts(CostTable(COSTS.groups[:1]), ELPV)
    assert (whole.cuts, whole.reason) == ((), "the backbone cannot be cut")


def test_a_plan_says_what_it_chose_and_by_what() -> None:
    plan = plan_cuts(COSTS, replace(ELPV, seconds=60.0, max_views=3))
    (cut,) = plan.cuts
    assert plan.reason == f"from {cut.name} on, {cut.views} views, {cut.epochs} epochs: about {cut.seconds:.0f} s"
    rows = plan.rows()
    assert [row.name for row in rows] == [name for name, *_ in LITE0]
    assert (rows[5].forward_ms, rows[5].train_ms, rows[5].cached_kb) == (0.5, 4.3, 31.4)
    assert [row.learns for row in rows] == [0] * cut.group + [1] * (9 - cut.group)
    first, second = cuts(ELPV)
    both = [row.learns for row in plan_cuts(COSTS, ELPV).rows()]
    assert both == [0] * second.group + [2] * (first.group - second.group) + [1] * (9 - first.group)


@pytest.mark.parametrize("limits", [ELPV, replace(ELPV, seconds=60.0, disk=1e9, storage="float32", viewed=1800)])
def test_a_plan_comes_back_from_json_and_is_replayed(limits: Limits) -> None:
    plan = plan_cuts(COSTS, limits)
    again = CutPlan.from_json(json.loads(json.dumps(plan.to_json(), allow_nan=False)))
    assert again == plan
    assert plan_cuts(again.costs, again.limits) == plan


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(2, 30_000),
    seconds=st.floats(1, 5000),
    disk=st.floats(0, 1e10),
    speed=st.floats(0.2, 20),
    gap=st.floats(0, 1),
)
def test_every_plan_keeps_to_its_limits(images: int, seconds: float, disk: float, speed: float, gap: float) -> None:
    groups = tuple(
        replace(g, forward=g.forward * speed, train=g.train * speed, update=g.update * speed) for g in COSTS.groups
    )
    limits = Limits(images, images // 10, 32, seconds=seconds, disk=disk, gap=gap)
    found = cuts(limits, CostTable(groups, COSTS.head, COSTS.augment))
    assert sum(cut.seconds for cut in found) <= seconds
    assert [cut.group for cut in found] == sorted({cut.group for cut in found}, reverse=True)
    for cut in found:
        assert 1 <= cut.group < 9
        assert cut.bytes <= disk
        assert 1 <= cut.slots <= cut.views <= cut.epochs
        assert cut.views == cut.slots * math.ceil(cut.epochs / cut.every)
        assert cut.steps == cut.epochs * max(1, images // 32)


def test_bfloat16_is_taken_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that runs at half the speed inside of autocast."""
    monkeypatch.setattr("cvtune.training.costs.engine", lambda backbone, cut: None)
    model, now = classifier("test_vit"), [0.0]

    def clock() -> float:
        now[0] += 1.0 if torch.is_autocast_enabled("cpu") else 2.0
        return now[0]

    sample = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    costs = measure_groups(model, NORMALIZE, sample, bfloat16=True, limit=1e9, clock=clock)
    assert costs.frozen == "bfloat16"
    assert not costs.half  # the clock is read outside of autocast
    assert measure_groups(model, NORMALIZE, sample, clock=ticks(1.0)).frozen == "float32"


def test_onnxruntime_is_taken_where_it_is_faster() -> None:
    """Each look at the clock is a second later: torch's groups take one each, the session one for all of them."""
    model, sample = classifier("test_resnet"), torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    costs = measure_groups(model, NORMALIZE, sample, clock=ticks(1.0))
    assert costs.frozen == "onnxruntime"
    assert sum(group.forward for group in costs.groups) == pytest.approx(1 / len(sample))


def test_estimates_follow_the_format_and_the_cores() -> None:
    limits = replace(ELPV, cuts=1)
    slow = plan_cuts(replace(COSTS, augment=5e-3), limits, group=5).cuts[0]
    two = plan_cuts(replace(COSTS, augment=5e-3, cores=2), limits, group=5).cuts[0]
    assert two.seconds / (two.views or 1) < slow.seconds / (slow.views or 1)
    assert CostTable.from_json(replace(COSTS, half=True, cores=2).to_json()) == replace(COSTS, half=True, cores=2)
