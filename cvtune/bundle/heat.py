"""The network's part of the graph with one output more: the heat map of the class that it names.

A heat map is a gradient times an activation (`evaluation.explanation`). The gradient is traced into the graph like any
other layer, so whatever can run the model draws its maps too, without torch.
"""

from __future__ import annotations

from typing import Any, Final

import onnx
import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from cvtune.bundle.graph import Deployed
from cvtune.bundle.network import cleaned
from cvtune.data.preprocess import OPSET
from cvtune.evaluation.explanation import heat_of, last_maps, margin
from cvtune.models.engine import quiet_export

OUTPUTS: Final = ("probabilities", "embedding", "heatmap")
_aten = torch.ops.aten


class Heated(Deployed):
    """What the line runs behind the resize, and where the network looked."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Pixels [N, 3, S, S] -> probabilities [N, K], embedding [N, D], heat map [N, h, w] of the likeliest class."""
        backbone, head = self.classifier.backbone, self.classifier.head
        cut = last_maps(backbone)
        z, pooled, maps = backbone.trace(self.normalize(pixels), cut)

        def score(z: Tensor, pooled: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            embedding = backbone.tail(z, pooled, cut)
            logits = head(embedding)
            probabilities = self.probabilities(logits)
            return margin(logits, probabilities.argmax(1)).sum(), (probabilities, embedding)

        tapped = pooled.shape[1] > 0
        gradients, (probabilities, embedding) = torch.func.grad(score, (0, 1) if tapped else (0,), has_aux=True)(
            z, pooled
        )
        heat = heat_of(backbone, z, gradients[0], maps, gradients[1] if tapped else None)
        return probabilities, embedding, heat


def heated_graph(network: Heated, size: int, *, deep: bool = False) -> onnx.ModelProto:
    """`pixels` [N, 3, S, S] -> `probabilities` [N, K], `embedding` [N, D], `heatmap` [N, h, w].

    Args:
        network: in eval mode.
        size: S.
        deep: pixels are float32, else uint8.

    Raises:
        ValueError: the backbone runs in one piece, and has no maps.
    """
    network = network.requires_grad_(False)
    pixels = torch.zeros(2, 3, size, size, dtype=torch.float32 if deep else torch.uint8)
    any_n = ({0: torch.export.Dim("N", min=1)},)
    with quiet_export():
        program = torch.export.export(_traced(network, pixels), (pixels,), dynamic_shapes=any_n, strict=False)
        made = torch.onnx.export(
            program.run_decompositions(torch.export.default_decompositions() | {_aten.empty_permuted.default: _zeros}),
            (pixels,),
            dynamo=True,
            input_names=["pixels"],
            output_names=list(OUTPUTS),
            dynamic_shapes=any_n,
            opset_version=OPSET,
            verbose=False,
        )
    return cleaned(made)


def _traced(network: Heated, pixels: Tensor) -> fx.GraphModule:
    """Forward and backward as one graph of any N; torch.export alone does not look inside a gradient."""
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = StatelessSymbolicContext([DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * 3])  # type: ignore[var-annotated]
    example = fake.from_tensor(pixels, symbolic_context=sizes)
    whole = torch.func.functionalize(network, remove="mutations_and_views")
    # Attention by its plain formula: the fused one has a backward that no exporter knows.
    with fake, _FlatLinear(), sdpa_kernel(SDPBackend.MATH):
        traced = make_fx(whole, _GRADIENTS, "symbolic", _allow_non_fake_inputs=True)(example)
    for node in traced.graph.nodes:
        if isinstance(node.target, OpOverload):
            node.target = _exportable(node.target)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


class _FlatLinear(TorchFunctionMode):
    """A linear layer on [..., C] as one on [n, C]: torch's own way there fixes N to the example's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and args[0].ndim > 2:
            x, *rest = args
            return F.linear(x.flatten(0, -2), *rest, **(kwargs or {})).unflatten(0, x.shape[:-1])
        return func(*args, **(kwargs or {}))


def _back(
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor, None, None]:
    """A convolution's gradient by its inputs: the transposed convolution."""
    if transposed:
        raise NotImplementedError("a gradient through a transposed convolution")
    sizes = zip(inputs.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    missing = [n - ((m - 1) * step - 2 * pad + gap * (w - 1) + 1) for n, m, w, step, pad, gap in sizes]
    return _aten.convolution(gradient, weight, None, stride, padding, dilation, True, missing, groups), None, None


def _unpool(
    gradient: Tensor,
    inputs: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """A mean's gradient by its inputs: each gets its share of all windows that it lies in."""
    if divisor is not None or (any(padding) and not count_include_pad):
        raise NotImplementedError("a gradient through a mean over windows of different sizes")
    channels, (rows, columns) = inputs.shape[1], kernel
    share = inputs.new_full((channels, 1, rows, columns), 1 / (rows * columns))
    steps = stride or kernel
    only = [True, False, False]
    found, *_ = _back(gradient, inputs, share, None, steps, padding, [1, 1], False, [0, 0], channels, only)
    return found


def _zeros(size: list[int], order: list[int], **options: Any) -> Tensor:
    """In place of memory that is filled afterwards."""
    return torch.zeros(size, dtype=options.get("dtype"))


_GRADIENTS: Final[dict[Any, Any]] = {
    _aten.convolution_backward.default: _back,
    _aten.avg_pool2d_backward.default: _unpool,
}


def _exportable(op: Any) -> Any:
    """The operator that the exporter knows: functionalising leaves copies of views, and views that need strides."""
    name = op._schema.name.removeprefix("aten::")
    if name in ("view", "_unsafe_view", "view_copy"):
        return _aten.reshape.default
    plain = getattr(_aten, name.removesuffix("_copy"), None)
    return op if plain is None or not name.endswith("_copy") else getattr(plain, op._overloadname)
