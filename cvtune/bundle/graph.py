"""One ONNX graph from the camera's pixels to probabilities: frame graph, normalisation, network, temperature."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping

import onnx
import torch
from onnx import compose
from torch import Tensor, nn

from cvtune.data.preprocess import IR_VERSION, OPSET, Preprocessing, frame_graph
from cvtune.models.head import Classifier
from cvtune.models.normalize import Normalize

_PREFIX = "net_"


class Deployed(nn.Module):
    """What the line runs behind the resize; the parity gate computes its own side with the same module."""

    def __init__(self, normalize: Normalize, classifier: Classifier, temperature: float) -> None:
        super().__init__()
        self.normalize, self.classifier, self.temperature = normalize, classifier, temperature

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, 3, S, S] -> probabilities [N, K], embedding [N, D]."""
        embedding = self.classifier.embed(self.normalize(pixels))
        logits = self.classifier.head(embedding)
        return torch.softmax(logits / self.temperature, dim=1), embedding


def build_model(
    pre: Preprocessing, normalize: Normalize, classifier: Classifier, *, temperature: float, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """The whole graph: `image` uint8 [N, H, W, 3] RGB -> `probabilities` [N, K], `embedding` [N, D].

    Args:
        pre: frame to pixels, the graph that filled the training cache.
        normalize: pixels to the network's input.
        classifier: backbone and head, in eval mode.
        temperature: divides the logits.
        metadata: strings for the model's metadata.
    """
    network = _export(Deployed(normalize, classifier, temperature).eval(), pre.size)
    frame = frame_graph(pre)
    model = compose.merge_models(frame, network, io_map=[("pixels", f"{_PREFIX}pixels")])
    for output in model.graph.output:
        _rename_output(model.graph, output.name, output.name.removeprefix(_PREFIX))
    del model.opset_import[1:]  # merge_models lists the one opset twice
    model.producer_name = "cvtune"
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def classes_json(classes: tuple[str, ...]) -> str:
    """Class names for the metadata."""
    return json.dumps(list(classes), ensure_ascii=False)


def _export(network: Deployed, size: int) -> onnx.ModelProto:
    example = (torch.zeros(2, 3, size, size, dtype=torch.uint8),)
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
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
    finally:
        noisy.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces: paths of the training PC, of no use on the line
        node.doc_string = ""
    return compose.add_prefix(model, _PREFIX)


def _rename_output(graph: onnx.GraphProto, old: str, new: str) -> None:
    graph.node.add(op_type="Identity", name=f"output_{new}", input=[old], output=[new])
    next(value for value in graph.output if value.name == old).name = new
