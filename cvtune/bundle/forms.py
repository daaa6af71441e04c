"""Other forms of the same model: for cameras that deliver B, G, R or grey, for accelerators that want one shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import onnx
from cvtune_edge.manifest import COLOURS, MODEL_FILE
from onnx import compose

from cvtune.bundle.graph import NETWORK, computed, rename_output
from cvtune.data.nodes import Nodes
from cvtune.errors import ConfigError

Colour = Literal["rgb", "bgr", "gray"]
_CAMERA: Final = "image"
_RGB: Final = "form_rgb"


@dataclass(frozen=True)
class Form:
    """What a further model file takes and gives.

    Attributes:
        colour: order of the camera's channels; "gray" takes [N, H, W].
        shape: H, W of every frame, one at a time; None for any.
        heatmap: gives the heat map of the likeliest class as well.

    Raises:
        ConfigError: a colour or shape that makes no sense, or the form that model.onnx has already.
    """

    colour: Colour = "rgb"
    shape: tuple[int, int] | None = None
    heatmap: bool = False

    def __post_init__(self) -> None:
        if self.colour not in COLOURS:
            raise ConfigError(f"--colour {self.colour}: expected {', '.join(COLOURS)}")
        if self.shape is not None and (len(self.shape) != 2 or min(self.shape) < 1):
            raise ConfigError(f"--static {self.shape}: expected height and width in pixels", hint="--static 480x640")
        if self.file == MODEL_FILE:
            raise ConfigError(
                f"{MODEL_FILE} has this form: nothing to export",
                hint="ask for --colour bgr, --colour gray, --static 480x640 or --heatmap",
            )

    @property
    def file(self) -> str:
        """Its name in the bundle, `model.bgr.480x640.heatmap.onnx`."""
        marks: list[str] = [self.colour] if self.colour != "rgb" else []
        if self.shape is not None:
            marks.append("{}x{}".format(*self.shape))
        marks += ["heatmap"] * self.heatmap
        return ".".join([*MODEL_FILE.split(".")[:1], *marks, "onnx"])

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the manifest has them."""
        shape = None if self.shape is None else list(self.shape)
        return {"colour": self.colour, "shape": shape, "heatmap": self.heatmap}


def formed(model: onnx.ModelProto, form: Form) -> onnx.ModelProto:
    """The model for another camera; `model` is left as it is.

    Args:
        model: of the bundle, with the heat map where the form has one.
        form: what it becomes.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if form.colour != "rgb":
        _take(made, form.colour)
    if form.shape is not None:
        made = _fixed(made, form.shape)
    properties = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(made, {**properties, "colour": form.colour.upper()})
    onnx.checker.check_model(made, full_check=True)
    return made


def _take(model: onnx.ModelProto, colour: Colour) -> None:
    """Let it take another order of channels; one channel is three that are equal."""
    graph, build = model.graph, Nodes("form")
    for node in graph.node:
        node.input[:] = [_RGB if name == _CAMERA else name for name in node.input]
    if colour == "bgr":
        build.node("Gather", [_CAMERA, build.ints(2, 1, 0)], _RGB, axis=3)
    else:
        one = build("Unsqueeze", [_CAMERA, build.ints(3)])
        build.node("Concat", [one, one, one], _RGB, axis=3)
        del graph.input[0].type.tensor_type.shape.dim[3]
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*build.nodes, *old])
    graph.initializer.extend(build.constants)


def _fixed(model: onnx.ModelProto, shape: tuple[int, int]) -> onnx.ModelProto:
    """One frame of one size, with all sizes computed: what compilers for accelerators ask for."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, *shape), strict=False):
        dim.Clear()
        dim.dim_value = size
    for output in model.graph.output:
        dim = output.type.tensor_type.shape.dim[0]
        dim.Clear()
        dim.dim_value = 1
    return computed(model)


def with_network(model: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """The same frame graph and decision around another network.

    Args:
        model: of a bundle.
        network: `pixels` -> `probabilities`, `embedding`, and what else it gives, which becomes an output.
    """
    other = compose.add_prefix(network, NETWORK)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    kept = [node for node in graph.node if not node.name.startswith(NETWORK)]
    constants = [tensor for tensor in graph.initializer if not tensor.name.startswith(NETWORK)]
    at = next(i for i, node in enumerate(kept) if node.name.startswith("output_"))
    pixels = other.graph.input[0].name
    for node in other.graph.node:
        node.input[:] = ["pixels" if name == pixels else name for name in node.input]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend([*kept[:at], *other.graph.node, *kept[at:]])
    graph.initializer.extend([*constants, *other.graph.initializer])
    given = {output.name for output in graph.output}
    for output in other.graph.output:
        name = output.name.removeprefix(NETWORK)
        if name not in given:
            graph.output.add().CopyFrom(output)
            rename_output(graph, output.name, name)
    return made
