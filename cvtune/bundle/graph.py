"""One ONNX graph from the camera's pixels to the decision: frame graph, normalisation, network, calibration, limits."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import onnx
import torch
from cvtune_edge.decision import OperatingPoint
from cvtune_edge.manifest import MODEL_FILE
from cvtune_edge.session import save_folded
from onnx import compose
from torch import Tensor, nn

from cvtune.bundle.decide import add_decision
from cvtune.bundle.network import network_graph
from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.evaluation.calibration import Calibration
from cvtune.evaluation.novelty import Novelty
from cvtune.models.folding import folded
from cvtune.models.head import Classifier
from cvtune.models.normalize import Normalize

Task = Literal["single", "multi"]
NETWORK: Final = "net_"  # what the names of its nodes and weights begin with


class Deployed(nn.Module):
    """What the line runs behind the resize; the parity gate computes its own side with the same module."""

    temperature: Tensor
    scales: Tensor
    shifts: Tensor

    def __init__(
        self, normalize: Normalize, classifier: Classifier, calibration: Calibration, *, task: Task = "single"
    ) -> None:
        super().__init__()
        self.normalize, self.classifier, self.task = normalize, classifier, task
        self.by_class = bool(calibration.scales)
        if self.by_class:
            self.register_buffer("scales", torch.tensor(calibration.scales, dtype=torch.float32))  # (K,)
            self.register_buffer("shifts", torch.tensor(calibration.shifts, dtype=torch.float32))  # (K,)
        else:
            self.register_buffer("temperature", torch.tensor(calibration.temperature, dtype=torch.float32))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [N, 3, S, S], uint8 or deep float32 -> probabilities [N, K], embedding [N, D]."""
        embedding = self.classifier.embed(self.normalize(pixels))
        return self.probabilities(self.classifier.head(embedding)), embedding

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the head's logits, both [N, K]."""
        calibrated = self._calibrated(logits)
        return torch.sigmoid(calibrated) if self.task == "multi" else torch.softmax(calibrated, dim=1)

    def _calibrated(self, logits: Tensor) -> Tensor:
        """As `Calibration.apply` does it."""
        if not self.by_class:
            return logits / self.temperature
        if self.task == "single":
            logits = logits - logits.mean(dim=1, keepdim=True)
        return logits * self.scales + self.shifts


def build_model(
    pre: Preprocessing,
    normalize: Normalize,
    classifier: Classifier,
    *,
    calibration: Calibration,
    metadata: Mapping[str, str],
    task: Task = "single",
    point: OperatingPoint,
    novelty: Novelty | None = None,
) -> onnx.ModelProto:
    """The whole graph: `image` [N, H, W, 3] RGB of the type `pre.pixels` to what :func:`add_decision` says.

    Args:
        pre: frame to pixels, the graph that filled the training cache.
        normalize: pixels to the network's input; of deep pixels with their window.
        classifier: backbone and head, in eval mode.
        calibration: of the logits; one temperature or each class's scale and shift, whichever it has.
        metadata: strings for the model's metadata.
        task: "single" for a softmax over the classes, "multi" for a sigmoid of each.
        point: the limits of the decision.
        novelty: the distance from what was trained on, where there is one.
    """
    network = Deployed(normalize, quick(classifier), calibration, task=task).eval()
    exported = compose.add_prefix(network_graph(network, pre.size, deep=pre.deep), NETWORK)
    frame = frame_graph(pre)
    model = compose.merge_models(frame, exported, io_map=[("pixels", f"{NETWORK}pixels")])
    for output in model.graph.output:
        rename_output(model.graph, output.name, output.name.removeprefix(NETWORK))
    add_decision(model, point, novelty)
    del model.opset_import[1:]  # merge_models lists the one opset twice
    model.producer_name = "cvtune"
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def as_json(value: Any) -> str:
    """A value for the metadata, whose values are texts."""
    return json.dumps(value, ensure_ascii=False)


def quick(classifier: Classifier) -> Classifier:
    """The same with its BatchNorms folded."""
    backbone, *_ = folded(classifier.backbone, len(classifier.backbone.groups))
    return Classifier(backbone, classifier.head)


def computed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with everything computed that does not hang on its input.

    onnxruntime's basic optimisation folds constants and stays within the standard's operators.
    """
    with tempfile.TemporaryDirectory(prefix="cvtune-") as scratch:
        path = Path(scratch) / MODEL_FILE
        save_folded(model.SerializeToString(), path)
        made = onnx.load(path)
    used = {node.domain for node in made.graph.node}
    for entry in [entry for entry in made.opset_import if entry.domain not in used]:
        made.opset_import.remove(entry)  # onnxruntime lists all that it knows
    return made


def rename_output(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give an output of a graph the name of the contract."""
    graph.node.add(op_type="Identity", name=f"output_{new}", input=[old], output=[new])
    next(value for value in graph.output if value.name == old).name = new
