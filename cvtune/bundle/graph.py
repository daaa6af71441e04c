"""One ONNX graph from the camera's pixels to probabilities: frame graph, normalisation, network, temperature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import onnx
import torch
from onnx import compose
from torch import Tensor, nn

from cvtune.bundle.network import network_graph
from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.models.folding import folded
from cvtune.models.head import Classifier
from cvtune.models.normalize import Normalize

Task = Literal["single", "multi"]
_PREFIX = "net_"


class Deployed(nn.Module):
    """What the line runs behind the resize; the parity gate computes its own side with the same module."""

    def __init__(
        self, normalize: Normalize, classifier: Classifier, temperature: float, *, task: Task = "single"
    ) -> None:
        super().__init__()
        self.normalize, self.classifier, self.task = normalize, classifier, task
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [N, 3, S, S], uint8 or deep float32 -> probabilities [N, K], embedding [N, D]."""
        embedding = self.classifier.embed(self.normalize(pixels))
        logits = self.classifier.head(embedding) / self.temperature
        return torch.sigmoid(logits) if self.task == "multi" else torch.softmax(logits, dim=1), embedding


def build_model(
    pre: Preprocessing,
    normalize: Normalize,
    classifier: Classifier,
    *,
    temperature: float,
    metadata: Mapping[str, str],
    task: Task = "single",
) -> onnx.ModelProto:
    """The whole graph: `image` [N, H, W, 3] RGB of the type `pre.pixels` -> `probabilities` [N, K], `embedding` [N, D].

    Args:
        pre: frame to pixels, the graph that filled the training cache.
        normalize: pixels to the network's input; of deep pixels with their window.
        classifier: backbone and head, in eval mode.
        temperature: divides the logits.
        metadata: strings for the model's metadata.
        task: "single" for a softmax over the classes, "multi" for a sigmoid of each.
    """
    quick, *_ = folded(classifier.backbone, len(classifier.backbone.groups))
    network = Deployed(normalize, Classifier(quick, classifier.head), temperature, task=task).eval()
    exported = compose.add_prefix(network_graph(network, pre.size, deep=pre.deep), _PREFIX)
    frame = frame_graph(pre)
    model = compose.merge_models(frame, exported, io_map=[("pixels", f"{_PREFIX}pixels")])
    for output in model.graph.output:
        _rename_output(model.graph, output.name, output.name.removeprefix(_PREFIX))
    del model.opset_import[1:]  # merge_models lists the one opset twice
    model.producer_name = "cvtune"
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def as_json(value: Any) -> str:
    """A value for the metadata, whose values are texts."""
    return json.dumps(value, ensure_ascii=False)


def _rename_output(graph: onnx.GraphProto, old: str, new: str) -> None:
    graph.node.add(op_type="Identity", name=f"output_{new}", input=[old], output=[new])
    next(value for value in graph.output if value.name == old).name = new
