"""The network's part of the graph. torch's exporter takes seconds, and most models differ in nothing but weights.

The graph without its weights is kept: in memory for the stages of a fit, in the user's cache for the fits to come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata, resources
from typing import Any, Final

import numpy as np
import onnx
import torch
from cvtune_edge.session import SESSION_ERRORS, open_session
from numpy.typing import NDArray
from torch import nn

from cvtune.data.checked import Checked
from cvtune.data.key import code_sum
from cvtune.data.preprocess import IR_VERSION, OPSET
from cvtune.models.engine import quiet_export
from cvtune.models.folding import alike

Weights = Mapping[str, NDArray[Any]]

_CACHE: Final = Checked("graphs", most=16)  # a few hundred kB each
_PACKAGES: Final = ("torch", "onnx", "onnxscript", "timm")

_kept: dict[str, onnx.ModelProto] = {}  # the last one, by its key


def network_graph(network: nn.Module, size: int, *, deep: bool = False) -> onnx.ModelProto:
    """`pixels` [N, 3, S, S] -> `probabilities` [N, K], `embedding` [N, D].

    Args:
        network: gives both, in eval mode.
        size: S.
        deep: pixels are float32, else uint8.
    """
    weights = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    key = _key(network, weights, size, deep)
    if key not in _kept:
        empty = _read(key)
        if empty is None or not _answers(_filled(empty, weights), network, size, deep):
            empty = _exported(network, size, deep=deep)
            held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in empty.graph.initializer}
            if not all(name in held and np.array_equal(held[name], value) for name, value in weights.items()):
                return empty  # some are folded into others: this graph is of these weights alone
            for tensor in empty.graph.initializer:
                if tensor.name in weights:
                    tensor.ClearField("raw_data")
            _write(key, empty)
        _kept.clear()
        _kept[key] = empty
    return _filled(_kept[key], weights)


def _filled(empty: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(empty)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    return model


def _key(network: nn.Module, weights: Weights, size: int, deep: bool) -> str:
    """Of everything but the weights that decides the graph."""
    constants = {name: value for name, value in network.named_buffers() if name not in weights}
    facts = {
        "network": [str(network), size, deep],
        "settings": {name: _settings(module) for name, module in network.named_modules()},
        "weights": [(name, value.shape, str(value.dtype)) for name, value in weights.items()],
        "constants": {name: value.tolist() for name, value in constants.items()},
        "versions": [*map(metadata.version, _PACKAGES), OPSET, IR_VERSION, _CODE],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _settings(module: nn.Module) -> dict[str, str]:
    """What `str` of a module may leave out, such as the taps of a backbone."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {
        name: repr(value) for name, value in own.items() if isinstance(value, bool | int | float | str | tuple | dict)
    }


_SOURCES: Final = ("bundle/network.py", "bundle/graph.py", "models/folding.py")
_CODE: Final = code_sum(resources.files("cvtune") / name for name in _SOURCES)


def _read(key: str) -> onnx.ModelProto | None:
    """What the cache has, unless it is damaged."""
    content = _CACHE.read(key)
    if content is None:
        return None
    model = onnx.ModelProto.FromString(content)
    outside = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    return None if outside else model


def _write(key: str, empty: onnx.ModelProto) -> None:
    _CACHE.write(key, empty.SerializeToString(deterministic=True))


@torch.inference_mode()
def _answers(model: onnx.ModelProto, network: nn.Module, size: int, deep: bool) -> bool:
    """Whether a graph from the cache answers as the network does; the parity gate asks about real images later."""
    ramp = torch.linspace(0, 255, 2 * 3 * size * size).reshape(2, 3, size, size)
    pixels = ramp if deep else ramp.to(torch.uint8)
    try:
        session = open_session(model.SerializeToString(), threads=torch.get_num_threads())
        found = session.run(["probabilities", "embedding"], {"pixels": pixels.numpy()})
    except SESSION_ERRORS:
        return False
    return all(alike(torch.from_numpy(one), other) for one, other in zip(found, network(pixels), strict=True))


def _exported(network: nn.Module, size: int, *, deep: bool) -> onnx.ModelProto:
    example = (torch.zeros(2, 3, size, size, dtype=torch.float32 if deep else torch.uint8),)
    with quiet_export():
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            input_names=["pixels"],
            output_names=["probabilities", "embedding"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            opset_version=OPSET,
            verbose=False,
        )
    return cleaned(program)


def cleaned(program: torch.onnx.ONNXProgram | None) -> onnx.ModelProto:
    """What the exporter made, without what is of no use on the line."""
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces: paths of the training PC, of no use on the line
        node.doc_string = ""
    return model
