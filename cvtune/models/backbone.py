"""The backbone: a timm network without its classifier, cut into layer groups that run and freeze one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeGuard

import timm
import torch
from torch import Tensor, nn

from cvtune.errors import ModelError
from cvtune.models.catalog import lookup
from cvtune.models.families import group_modules, group_parameters, layer_groups
from cvtune.models.state import State, by_order, first_line, fit_state, read_state
from cvtune.models.weights import WeightsInfo


class Backbone(nn.Module):
    """Images to embeddings, in executable groups; built by :func:`load_backbone` or :func:`create_empty`.

    Args:
        net: the timm network, built with `num_classes=0`, its weights still random.
        name: timm's name.
        native: pixels, the size at which the network was built.

    Attributes:
        net_width: width of the network's own embedding, measured by a forward pass (timm's `num_features` is wrong
            where a hidden head layer follows).
        size: pixels of the square images it takes.
        groups: the groups' names, input first.
        tap_widths: features that each tap adds, by group, in the order of the groups; see :meth:`set_taps`.
        frozen_groups: how many of them, from the input on, are frozen; see :func:`set_trainable`.
        frozen_norms: whether BatchNorm keeps its statistics in all of them.
    """

    def __init__(self, net: nn.Module, name: str, *, native: int) -> None:
        super().__init__()
        self.net = net
        self.name = name
        self.size = native
        self.net_width = _measure(net, name, native)
        self._groups = layer_groups(net, native)
        self.groups: tuple[str, ...] = tuple(group.name for group in self._groups)
        self.tap_widths: dict[int, int] = {}
        self.frozen_groups, self.frozen_norms = 0, False
        self.eval()

    @property
    def taps(self) -> tuple[int, ...]:
        """Indices of the groups whose output, pooled, stands in the embedding behind the network's own, ascending."""
        return tuple(self.tap_widths)

    @property
    def width(self) -> int:
        """D: the network's own embedding and the taps."""
        return self.net_width + sum(self.tap_widths.values())

    def default_taps(self) -> tuple[int, ...]:
        """Three groups, after about 3/9, 5/9 and 7/9 of them; fewer where there are few, none in an uncut network."""
        count = len(self.groups)
        return tuple(sorted({min(round(share * count / 9), count - 2) for share in (3, 5, 7) if count > 2}))

    def set_taps(self, indices: Collection[int]) -> None:
        """Append these groups' outputs, each feature's mean over the picture, to the embedding; forget earlier taps.

        Raises:
            ValueError: a group that is not there, or the last one, which gives the embedding itself.
        """
        wrong = [index for index in indices if not 0 <= index < len(self.groups) - 1]
        if wrong:
            raise ValueError(f"no tap at group {wrong[0]} of {self.name}, its {len(self.groups)} groups end in one")
        self.tap_widths = _measure_taps(self, sorted(set(indices)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images, float [N, 3, S, S], to embeddings, float [N, D]."""
        return _joined(*self._run(x, 0, len(self.groups)))

    def prefix(self, x: Tensor, cut: int) -> tuple[Tensor, Tensor]:
        """Run the groups before `cut`.

        Args:
            x: normalised images, float [N, 3, S, S].
            cut: 0 gives `x` back, len(groups) the network's own embedding.

        Returns:
            What the group at `cut` takes, and the taps before it, float32 [N, P]; P is 0 where there are none.
        """
        z, pooled = self._run(x, 0, self._checked(cut))
        return z, _together(pooled, x)

    def trace(self, x: Tensor, cut: int) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """As :meth:`prefix`, and what each tap before `cut` pools: its group's output, [N, C, h, w] or [N, T, C]."""
        z, maps = self._run(x, 0, self._checked(cut), tap=lambda out: out)
        return z, _together([_pool(one) for one in maps], x), dict(zip(self.tap_widths, maps, strict=False))

    def tail(self, z: Tensor, pooled: Tensor, cut: int) -> Tensor:
        """Run the groups from `cut` on; `tail(*prefix(x, cut), cut)` is `forward(x)`, bit for bit.

        Args:
            z: from :meth:`prefix`.
            pooled: likewise.
            cut: likewise.

        Returns:
            Embeddings, float [N, D].

        Raises:
            ValueError: `pooled` comes from other taps.
        """
        before = sum(width for tap, width in self.tap_widths.items() if tap < self._checked(cut))
        if pooled.shape != (z.shape[0], before):
            raise ValueError(
                f"pooled features {tuple(pooled.shape)}, expected {(z.shape[0], before)} before group {cut}"
            )
        embedding, after = self._run(z, cut, len(self.groups))
        return _joined(embedding, [pooled, *after] if before else after)

    def _run(
        self, x: Tensor, start: int, stop: int, *, tap: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The output of the groups start..stop - 1, and of those that are tapped the outputs, pooled to float32 [N, C].

        `tap` makes something else of them.
        """
        tap, tapped = tap or _pool, []
        for index in range(start, stop):
            x = self._groups[index].run(self.net, x)
            if index in self.tap_widths:
                tapped.append(tap(x))
        return x, tapped

    def group_modules(self, index: int) -> list[nn.Module]:
        """The modules of one group."""
        return group_modules(self.net, self._groups, index)

    def group_parameters(self, index: int) -> list[nn.Parameter]:
        """The parameters of one group; every parameter of the backbone is in exactly one."""
        return group_parameters(self.net, self._groups, index)

    def train(self, mode: bool = True) -> Backbone:
        """Like torch's, but frozen groups stay in eval mode: BatchNorm statistics and dropout are frozen with them.

        With `frozen_norms` the statistics of the others stay what they are as well.
        """
        super().train(mode)
        for module in self.modules() if self.frozen_norms else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        for index in range(self.frozen_groups):
            for module in self.group_modules(index):
                module.eval()
        if self.frozen_groups == len(self.groups):
            self.net.eval()  # timm's forward_head asks the network itself whether to drop
        return self

    def resize(self, size: int) -> None:
        """Take images of another size: position embeddings are resampled (timm), convolutions need nothing.

        Raises:
            ModelError: the network cannot take this size.
        """
        change: Any = getattr(self.net, "set_input_size", None)
        if change is not None and size != self.size:
            try:
                change(img_size=(size, size))
            except (AssertionError, RuntimeError, ValueError) as error:
                raise _size_error(self.name, size, self.size, error) from error
        self.net_width = _measure(self.net, self.name, size, native=self.size)
        self.size = size

    @torch.no_grad()
    def takes(self, size: int) -> bool:
        """Whether it answers images of another size as it is; networks with position embeddings want :meth:`resize`."""
        if size == self.size:
            return True
        if hasattr(self.net, "set_input_size"):
            return False
        was = self.training
        self.eval()
        try:
            return bool(self(next(self.parameters()).new_zeros(1, 3, size, size)).shape == (1, self.width))
        except (AssertionError, RuntimeError, ValueError):
            return False
        finally:
            self.train(was)

    def _checked(self, cut: int) -> int:
        if not 0 <= cut <= len(self.groups):
            raise ValueError(f"cut {cut} is outside 0..{len(self.groups)} of {self.name}")
        return cut


def load_backbone(info: WeightsInfo, *, size: int | None = None, seed: int = 0) -> Backbone:
    """Build the backbone and load its weights strictly.

    Args:
        info: from :func:`cvtune.models.weights.find_weights`.
        size: pixels of the images it will see; the weights' own size when unset.
        seed: decides the weights where they are random; torch's global generator is left alone.

    Returns:
        The backbone in eval mode, every group trainable.

    Raises:
        WeightsError: the file does not fit the architecture.
        ModelError: the architecture gives no embedding, or cannot take images of this size.
    """
    backbone = _build(info.backbone, seed)
    if info.file is not None:
        fit_state(backbone.net, _read(info), name=info.backbone, source=info.source)
    if size is not None and size != backbone.size:
        backbone.resize(size)
    return backbone


def create_empty(name: str, *, size: int | None = None, taps: Collection[int] = ()) -> Backbone:
    """The structure alone, for weights that follow from a run: same groups, width and names as :func:`load_backbone`.

    Raises:
        ModelError: as for :func:`load_backbone`.
        ValueError: as for :meth:`Backbone.set_taps`.
    """
    backbone = _build(name, seed=0)
    if size is not None and size != backbone.size:
        backbone.resize(size)
    backbone.set_taps(taps)
    return backbone


def set_trainable(
    backbone: Backbone, first_group: int, *, frozen_norms: bool = False, frozen_depthwise: bool = False
) -> None:
    """Freeze the groups before `first_group` and free the others, whatever was set before.

    Frozen means: no gradients, and eval mode also under `.train()`.

    Args:
        backbone: changed in place.
        first_group: 0 frees everything, `len(backbone.groups)` freezes everything.
        frozen_norms: BatchNorm normalises by the statistics that it has; its scales and shifts learn.
        frozen_depthwise: depthwise convolutions keep their weights.

    Raises:
        ValueError: outside 0..len(groups).
    """
    backbone.frozen_groups, backbone.frozen_norms = backbone._checked(first_group), frozen_norms
    for index in range(len(backbone.groups)):
        for parameter in backbone.group_parameters(index):
            parameter.requires_grad_(index >= first_group)
    if frozen_depthwise:
        for module in backbone.modules():
            if is_depthwise(module):
                module.weight.requires_grad_(False)
    backbone.train(backbone.training)


def is_depthwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it convolves each channel by itself, over more than one pixel."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 and max(module.kernel_size) > 1


def _build(name: str, seed: int) -> Backbone:
    native = int(lookup(name).input_size[-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = timm.create_model(name, pretrained=False, num_classes=0)
        except (TypeError, RuntimeError, AssertionError) as error:
            raise ModelError(f"{name} cannot be built without a classifier ({error})", hint=_OTHER) from error
        return Backbone(net, name, native=native)


def _read(info: WeightsInfo) -> State:
    assert info.file is not None
    state = read_state(info.file)
    return by_order(info.backbone, state, source=info.source) if info.layout == "ordered" else state


_OTHER = "take another --backbone, for example tf_efficientnet_lite0"


@torch.no_grad()
def _measure(net: nn.Module, name: str, size: int, *, native: int | None = None) -> int:
    was = net.training
    net.eval()
    try:
        out = net(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _size_error(name, size, native or size, error) from error
    finally:
        net.train(was)
    if not isinstance(out, Tensor) or out.ndim != 2:
        shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(f"{name} gives {shape} for one image, expected one embedding [1, D]", hint=_OTHER)
    return int(out.shape[1])


def _pool(x: Tensor) -> Tensor:
    """Mean over the picture, float32 [N, C], of maps [N, C, H, W] or tokens [N, T, C]."""
    return x.mean(dim=(2, 3) if x.ndim == 4 else 1, dtype=torch.float32)


def _together(pooled: list[Tensor], x: Tensor) -> Tensor:
    """Side by side, [N, P]; of the images x [N, ...] alone where nothing is pooled."""
    return torch.cat(pooled, dim=1) if pooled else torch.empty(x.shape[0], 0, device=x.device)


def _joined(embedding: Tensor, pooled: list[Tensor]) -> Tensor:
    return torch.cat([embedding, *pooled], dim=1) if pooled else embedding


@torch.no_grad()
def _measure_taps(backbone: Backbone, taps: Sequence[int]) -> dict[int, int]:
    """How many features each of these groups gives."""
    was, widths = backbone.training, {}
    backbone.eval()
    x = next(backbone.parameters()).new_zeros(1, 3, backbone.size, backbone.size)
    for index in range(max(taps, default=-1) + 1):
        x = backbone._groups[index].run(backbone.net, x)
        if index in taps:
            widths[index] = _pool(x).shape[1]
    backbone.train(was)
    return widths


def _size_error(name: str, size: int, native: int, error: Exception) -> ModelError:
    message = f"{name} cannot take images of {size} x {size} pixels ({first_line(error)})"
    return ModelError(message, hint=f"try --size {native}")
