"""Weights in half as many bytes: stored as float16, computed in float32."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from cvtune.bundle.lighter.parts import EMBEDDING, upstream

_LEAST: Final = 1024  # values of a weight that is worth a node of its own


def halved(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with the weights of its backbone as float16; the head's and the normalisation's stay as they are."""
    made = onnx.ModelProto()
    made.CopyFrom(network)
    graph = made.graph
    backbone = upstream(graph, EMBEDDING)
    read = {name for node in graph.node if node.name in backbone for name in node.input}
    casts = []
    for tensor in graph.initializer:
        if tensor.name in read and tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= _LEAST:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}_half"))
            casts.append(
                onnx.helper.make_node("Cast", [f"{name}_half"], [name], name=f"whole_{name}", to=onnx.TensorProto.FLOAT)
            )
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    return made
