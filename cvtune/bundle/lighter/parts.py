"""The network of a bundle by itself, and the pixels that its frame graph shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import onnx
from cvtune_edge.session import open_session
from numpy.typing import NDArray

from cvtune.bundle.graph import NETWORK, computed

Floats = NDArray[np.float32]
PIXELS: Final = "pixels"
EMBEDDING: Final = "embedding"
PROBABILITIES: Final = "probabilities"


def with_pixels(model: onnx.ModelProto, *, deep: bool) -> onnx.ModelProto:
    """The same model, which gives the network's `pixels` [N, 3, S, S] as well."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.output.append(onnx.helper.make_tensor_value_info(PIXELS, _kind(deep), None))
    return made


def network_of(model: onnx.ModelProto, size: int, *, deep: bool) -> onnx.ModelProto:
    """`pixels` [N, 3, S, S] -> `probabilities` [N, K], `embedding` [N, D]; `forms.with_network` puts it back.

    Args:
        model: of a bundle.
        size: S.
        deep: pixels are float32, else uint8.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    outputs = [output for output in graph.output if output.name in (PROBABILITIES, EMBEDDING)]
    nodes = [node for node in graph.node if node.name.startswith(NETWORK)]
    constants = [tensor for tensor in graph.initializer if tensor.name.startswith(NETWORK)]
    for node in nodes:
        node.name = node.name.removeprefix(NETWORK)
        for names in (node.input, node.output):
            names[:] = [name.removeprefix(NETWORK) for name in names]
    for tensor in constants:
        tensor.name = tensor.name.removeprefix(NETWORK)
    camera = onnx.helper.make_tensor_value_info(PIXELS, _kind(deep), ["N", 3, size, size])
    del made.metadata_props[:]
    made.graph.CopyFrom(onnx.helper.make_graph(nodes, "network", [camera], outputs, initializer=constants))
    return made


def folded(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same with everything computed that does not hang on its input, and with the shapes of all tensors."""
    return onnx.shape_inference.infer_shapes(computed(network))


def embeddings(network: onnx.ModelProto, pixels: Sequence[NDArray[Any]]) -> Floats:
    """[n, D] of pixels [1, 3, S, S] each, one at a time as on the line."""
    session = open_session(network.SerializeToString())
    return np.concatenate([session.run([EMBEDDING], {PIXELS: one})[0] for one in pixels])


def upstream(graph: onnx.GraphProto, name: str) -> set[str]:
    """Names of the nodes that a tensor hangs on."""
    producers = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The weights and other constants, by their names."""
    return {tensor.name: tensor for tensor in graph.initializer}


def settings_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by their names."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def in_chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Some at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _kind(deep: bool) -> int:
    return int(onnx.TensorProto.FLOAT if deep else onnx.TensorProto.UINT8)
