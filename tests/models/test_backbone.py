from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cvtune.config import ModelConfig
from cvtune.errors import ModelError, WeightsError
from cvtune.models.backbone import Backbone, create_empty, is_depthwise, load_backbone, set_trainable
from cvtune.models.families import WHOLE, LayerGroup, _agrees, _covers
from cvtune.models.weights import find_weights

# name, first groups, last group, number of groups
CUT = [
    ("test_resnet", "layer1.0", "layer4.0", 5),
    ("test_vit", "blocks.0", "norm", 8),
    ("test_convnext", "stages.0.0", "head", 11),
    ("test_efficientnet", "blocks.0", "head", 7),
    ("mobilenetv2_050", "blocks.0", "head", 9),
    ("mobilenetv3_small_050", "blocks.0", "head", 8),
    ("mobilenetv4_conv_small", "blocks.0", "head", 7),
]
WHOLE_NETS = ["test_byobnet", "test_nfnet"]


def images(backbone: Backbone, n: int = 2) -> Tensor:
    return torch.randn(n, 3, backbone.size, backbone.size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=[row[0] for row in CUT] + WHOLE_NETS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return create_empty(request.param)


@pytest.mark.parametrize(("name", "second", "last", "count"), CUT)
def test_groups_follow_the_layers(name: str, second: str, last: str, count: int) -> None:
    groups = create_empty(name).groups
    assert (groups[0], groups[1], groups[-1], len(groups)) == ("stem", second, last, count)


@pytest.mark.parametrize("name", WHOLE_NETS)
def test_other_families_are_one_group(name: str) -> None:
    assert create_empty(name).groups == ("all",)


def assert_cuts_hold(backbone: Backbone) -> None:
    x = images(backbone)
    with torch.no_grad():
        whole = backbone(x)
        assert torch.equal(whole, backbone.net(x))
        for cut in range(len(backbone.groups) + 1):
            assert torch.equal(backbone.tail(*backbone.prefix(x, cut), cut), whole)
    assert whole.shape == (2, backbone.width)


def test_prefix_and_tail_give_the_whole_bit_for_bit_at_every_cut(backbone: Backbone) -> None:
    assert_cuts_hold(backbone)


@pytest.mark.parametrize(
    ("name", "file"),
    [("resnet18", "resnet18"), ("vit_tiny_patch16_224", "vit_tiny_patch16_224"), ("tf_efficientnet_lite0", None)],
)
def test_cuts_hold_with_real_weights(real_data: Path, name: str, file: str | None) -> None:
    weights = str(real_data / "weights" / f"{file}.safetensors") if file else None
    assert_cuts_hold(load_backbone(find_weights(name, ModelConfig(weights=weights))))


def test_every_parameter_and_statistic_is_in_exactly_one_group(backbone: Backbone) -> None:
    parameters = [p for i in range(len(backbone.groups)) for p in backbone.group_parameters(i)]
    assert sorted(map(id, parameters)) == sorted(map(id, backbone.parameters()))
    modules = [m for i in range(len(backbone.groups)) for m in backbone.group_modules(i)]
    buffers = [b for m in modules for b in m.buffers()]
    assert sorted(map(id, buffers)) == sorted(map(id, backbone.buffers()))


def test_the_width_is_measured_where_timm_says_otherwise() -> None:
    backbone = create_empty("mobilenetv3_small_050")
    assert backbone.net.num_features == 288
    assert backbone.width == 1024


def test_a_cut_outside_is_refused() -> None:
    backbone = create_empty("test_resnet")
    for cut in (-1, 6):
        with pytest.raises(ValueError, match=rf"cut {cut} is outside 0..5 of test_resnet"):
            backbone.prefix(images(backbone), cut)


def stirred(backbone: Backbone) -> dict[str, Tensor]:
    """The state after a training step at a violent rate."""
    backbone.train()
    free = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(free, lr=0.1)
    backbone(images(backbone, 4)).square().sum().backward()
    optimizer.step()
    return {name: value.clone() for name, value in backbone.state_dict().items()}


@pytest.mark.parametrize("name", [row[0] for row in CUT[:4]])
@pytest.mark.parametrize("cut", [1, 3])
def test_a_frozen_prefix_stands_still_in_weights_and_statistics(name: str, cut: int) -> None:
    backbone = create_empty(name)
    set_trainable(backbone, cut)
    x, old = images(backbone), {k: v.clone() for k, v in backbone.state_dict().items()}
    with torch.no_grad():
        before, _ = backbone.prefix(x, cut)
    new = stirred(backbone)
    with torch.no_grad():
        assert torch.equal(backbone.prefix(x, cut)[0], before)  # still in training mode
    frozen = {id(p) for i in range(cut) for p in backbone.group_parameters(i)}
    changed = {id(p) for key, p in backbone.named_parameters() if not torch.equal(new[key], old[key])}
    assert changed
    assert not changed & frozen
    assert {id(p) for p in backbone.parameters() if p.grad is None} == frozen


def test_frozen_groups_ignore_train_and_the_last_call_decides() -> None:
    backbone = create_empty("test_efficientnet")
    set_trainable(backbone, 4)
    set_trainable(backbone, 2)
    backbone.train()
    modes = [all(m.training for g in backbone.group_modules(i) for m in g.modules()) for i in range(7)]
    assert modes == [False, False, True, True, True, True, True]
    assert [p.requires_grad for p in backbone.group_parameters(3)] != []
    assert all(p.requires_grad for i in range(2, 7) for p in backbone.group_parameters(i))
    set_trainable(backbone, 0)
    assert all(module.training for module in backbone.modules())


def test_depthwise_weights_stay_where_they_are_to_stay() -> None:
    backbone = create_empty("test_efficientnet")
    depthwise = [module.weight for module in backbone.modules() if is_depthwise(module)]
    assert depthwise
    assert all(weight.shape[1] == 1 and max(weight.shape[2:]) > 1 for weight in depthwise)
    set_trainable(backbone, 2, frozen_depthwise=True)
    kept = {id(weight) for weight in depthwise} | {id(p) for i in (0, 1) for p in backbone.group_parameters(i)}
    old = {name: value.clone() for name, value in backbone.state_dict().items()}
    new = stirred(backbone)
    still = {id(p) for name, p in backbone.named_parameters() if torch.equal(new[name], old[name])}
    assert still == kept
    set_trainable(backbone, 2)
    assert any(weight.requires_grad for weight in depthwise)


def test_what_is_depthwise() -> None:
    conv = torch.nn.Conv2d
    assert is_depthwise(conv(8, 8, 3, groups=8))
    assert is_depthwise(conv(8, 16, 3, groups=8))
    for other in (
        conv(8, 8, 3),
        conv(8, 8, 3, groups=4),
        conv(8, 8, 1, groups=8),
        conv(1, 8, 3),
        torch.nn.Linear(8, 8),
    ):
        assert not is_depthwise(other)


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet"])
def test_all_frozen_means_no_module_trains(name: str) -> None:
    backbone = create_empty(name)
    set_trainable(backbone, len(backbone.groups))
    backbone.train()
    assert not any(module.training for module in backbone.net.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    with pytest.raises(ValueError, match="outside"):
        set_trainable(backbone, len(backbone.groups) + 1)


def test_a_copy_runs_its_own_layers() -> None:
    backbone = create_empty("test_resnet")
    x = images(backbone)
    clone = copy.deepcopy(backbone)
    with torch.no_grad():
        before = backbone(x)
        for parameter in clone.parameters():
            parameter.zero_()
        assert torch.equal(backbone(x), before)
        assert not torch.equal(clone(x), before)


def test_an_empty_backbone_takes_the_state_of_a_loaded_one() -> None:
    info = find_weights("test_vit", ModelConfig(from_scratch=True))
    loaded, empty = load_backbone(info, size=96, seed=5), create_empty("test_vit", size=96)
    empty.load_state_dict(loaded.state_dict(), strict=True)
    assert (empty.groups, empty.width, empty.size) == (loaded.groups, loaded.width, 96)
    assert torch.equal(empty(images(empty)), loaded(images(loaded)))


@pytest.mark.parametrize(("name", "size"), [("test_vit", 192), ("test_resnet", 77), ("test_convnext", 64)])
def test_other_sizes(name: str, size: int) -> None:
    backbone = create_empty(name, size=size)
    assert backbone.size == size
    assert_cuts_hold(backbone)


def test_a_size_that_does_not_fit_is_said() -> None:
    with pytest.raises(ModelError, match="test_vit cannot take images of 100 x 100 pixels") as caught:
        create_empty("test_vit", size=100)
    assert caught.value.hint == "try --size 160"


def test_weights_of_another_backbone_are_refused(real_data: Path) -> None:
    file = real_data / "weights" / "resnet18.safetensors"
    with pytest.raises(WeightsError, match=r"file resnet18\.safetensors: these are not the weights of resnet34"):
        load_backbone(find_weights("resnet34", ModelConfig(weights=str(file))))


def test_a_network_without_an_embedding_is_refused() -> None:
    class Maps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ModelError, match=r"maps gives \[1, 3, 32, 32\] for one image, expected one embedding"):
        Backbone(Maps(), "maps", native=32)


def test_a_rule_that_does_not_hold_is_noticed() -> None:
    net = create_empty("test_resnet").net
    stem, *layers = (
        LayerGroup(n, (n,)) for n in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    )
    end = LayerGroup("end", ("forward_head",), ("global_pool",))
    assert _covers(net, (stem, *layers, end))
    assert _agrees(net, (stem, *layers, end), 64)
    assert not _covers(net, (*layers, end))  # a parameter in no group
    assert not _covers(net, (stem, stem, *layers, end))  # a parameter in two
    assert not _covers(net, (stem, *layers, LayerGroup("end", ("no_such_layer",))))
    assert not _agrees(net, (stem, *layers[1:], end), 64)  # bn1 left out
    assert _agrees(net, WHOLE, 64)


@pytest.mark.parametrize(("name", "taken"), [("test_resnet", True), ("test_efficientnet", True), ("test_vit", False)])
def test_which_networks_take_images_of_another_size(name: str, taken: bool) -> None:
    backbone = create_empty(name, size=64).train()
    assert backbone.takes(96) is taken
    assert backbone.takes(64)
    assert backbone.training
    assert backbone.size == 64
