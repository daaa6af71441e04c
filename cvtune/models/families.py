"""How a timm network is run in pieces: one short rule a family, checked against the whole network.

timm's `group_matcher` orders parameters, not calls, and files parameters of the last stages under the classifier
(ConvNeXt, MobileNetV3 and V4), so the rules here name what is called, in the order of timm's `forward`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import torch
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerGroup:
    """One piece of a network; names only, so that a copied or reloaded network never runs another one's layers.

    Attributes:
        name: what the user sees, "layer3.0".
        steps: attribute paths of the network, called one after the other.
        owns: further modules that a step uses and that no step names (`forward_head` uses the head's layers).
    """

    name: str
    steps: tuple[str, ...]
    owns: tuple[str, ...] = ()

    def run(self, net: nn.Module, x: Tensor) -> Tensor:
        """Call the steps of this group."""
        for step in self.steps:
            x = attrgetter(step)(net)(x)
        return x

    def modules(self, net: nn.Module) -> list[nn.Module]:
        """The modules whose parameters and statistics belong to this group."""
        found = [_get(net, path) for path in (*self.steps, *self.owns)]
        return [module for module in found if isinstance(module, nn.Module)]


WHOLE: Final = (LayerGroup("all", ("forward",)),)


def layer_groups(net: nn.Module, size: int) -> tuple[LayerGroup, ...]:
    """The executable groups of `net`, input first; the one group "all" where no rule holds.

    A rule holds when every parameter and statistic is in exactly one group and the groups one after the other give
    what the network gives. Ask before weights are loaded: the answer must not hang on trained ones.

    Args:
        net: a timm network without classifier; not changed.
        size: pixels of the square on which the rule is tried.
    """
    for family, rule in _RULES.items():
        if isinstance(net, family):
            groups = tuple(rule(net))
            if _covers(net, groups) and _agrees(net, groups, size):
                return groups
    return WHOLE


def group_modules(net: nn.Module, groups: tuple[LayerGroup, ...], index: int) -> list[nn.Module]:
    """The modules of one group; the whole network where it is the only group."""
    return [net] if groups is WHOLE or groups == WHOLE else groups[index].modules(net)


def group_parameters(net: nn.Module, groups: tuple[LayerGroup, ...], index: int) -> list[nn.Parameter]:
    """The parameters of one group; those of the network itself (class token, positions) are of the first."""
    own = list(net.parameters(recurse=False)) if index == 0 else []
    rest = [p for module in group_modules(net, groups, index) for p in module.parameters()]
    return list(dict.fromkeys([*own, *rest]))


def _resnet(net: Any) -> list[LayerGroup]:
    blocks = [f"layer{i}.{j}" for i in range(1, 5) for j in range(len(getattr(net, f"layer{i}")))]
    groups = [LayerGroup(name, (name,)) for name in blocks]
    # The pooling has no parameters: a group of its own would leave a tail with nothing to train.
    last = LayerGroup(blocks[-1], (blocks[-1], "forward_head"), ("global_pool",))
    return [LayerGroup("stem", ("conv1", "bn1", "act1", "maxpool")), *groups[:-1], last]


def _vit(net: Any) -> list[LayerGroup]:
    blocks = [LayerGroup(f"blocks.{i}", (f"blocks.{i}",)) for i in range(len(net.blocks))]
    stem = LayerGroup("stem", ("patch_embed", "_pos_embed", "patch_drop", "norm_pre"), ("pos_drop",))
    return [stem, *blocks, LayerGroup("norm", ("norm", "forward_head"), ("attn_pool", "fc_norm", "head_drop", "head"))]


def _convnext(net: Any) -> list[LayerGroup]:
    groups = []
    for i, stage in enumerate(net.stages):
        for j in range(len(stage.blocks)):
            shrink = (f"stages.{i}.downsample",) if j == 0 else ()
            groups.append(LayerGroup(f"stages.{i}.{j}", (*shrink, f"stages.{i}.blocks.{j}")))
    return [LayerGroup("stem", ("stem",)), *groups, LayerGroup("head", ("norm_pre", "forward_head"), ("head",))]


def _efficientnet(net: Any) -> list[LayerGroup]:
    head = LayerGroup("head", ("conv_head", "bn2", "forward_head"), ("global_pool", "classifier"))
    return [*_stem_and_stages(net), head]


def _mobilenetv3(net: Any) -> list[LayerGroup]:
    # V3 and V4 pool before the last convolution, so that forward_head holds pretrained layers.
    owns = ("global_pool", "conv_head", "norm_head", "act2", "flatten", "classifier")
    return [*_stem_and_stages(net), LayerGroup("head", ("forward_head",), owns)]


def _stem_and_stages(net: Any) -> list[LayerGroup]:
    stages = [LayerGroup(f"blocks.{i}", (f"blocks.{i}",)) for i in range(len(net.blocks))]
    return [LayerGroup("stem", ("conv_stem", "bn1")), *stages]


_RULES: Final[dict[type[nn.Module], Callable[[Any], list[LayerGroup]]]] = {
    ResNet: _resnet,
    VisionTransformer: _vit,
    ConvNeXt: _convnext,
    EfficientNet: _efficientnet,  # MobileNetV2 too
    MobileNetV3: _mobilenetv3,  # MobileNetV4 too
}


def _get(net: nn.Module, path: str) -> object:
    try:
        return attrgetter(path)(net)
    except AttributeError:
        return None


def _covers(net: nn.Module, groups: tuple[LayerGroup, ...]) -> bool:
    if any(_get(net, step) is None for group in groups for step in group.steps):
        return False
    parameters = [p for i in range(len(groups)) for p in group_parameters(net, groups, i)]
    owned = {b for i in range(len(groups)) for module in group_modules(net, groups, i) for b in module.buffers()}
    return (
        len(parameters) == len(set(parameters))
        and set(parameters) == set(net.parameters())
        and owned >= set(net.buffers()) - set(net.buffers(recurse=False))
    )


def _stirred(net: nn.Module) -> nn.Module:
    """A copy in eval mode whose norms and layer scales act: fresh ones are identities and would hide a wrong rule."""
    net = copy.deepcopy(net).eval()
    noise = torch.Generator().manual_seed(0)
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=noise), alpha=0.1)  # upwards: variances stay positive
    return net


@torch.no_grad()
def _agrees(net: nn.Module, groups: tuple[LayerGroup, ...], size: int) -> bool:
    net = _stirred(net)
    x = torch.linspace(-2, 2, 3 * size * size).reshape(1, 3, size, size)
    whole, pieces = net(x), x
    for group in groups:
        pieces = group.run(net, pieces)
    # Not bit for bit: whether a backbone can be cut must not hang on the order of a sum.
    return pieces.shape == whole.shape and bool((pieces - whole).abs().max() <= 1e-3 * whole.abs().max())
