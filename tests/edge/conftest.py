"""A bundle small enough to be made in a test: mean colour -> two small matrices -> three classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cvtune_edge.manifest import file_sha256
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CLASSES = ["no", "1e3", "Öse"]
WIDTH = 4


def weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return random.normal(size=(3, WIDTH)).astype(np.float32), random.normal(size=(WIDTH, 3)).astype(np.float32) * 4


PIXELS = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "float32": TensorProto.FLOAT}


def tiny_model(
    classes: list[str],
    *,
    image: str = "image",
    divide_by: float = 255.0,
    pixels: str = "uint8",
    task: str = "single",
    **metadata: str,
) -> onnx.ModelProto:
    embed, head = weights()
    last: tuple[str, dict[str, Any]] = {"single": ("Softmax", {"axis": 1}), "multi": ("Sigmoid", {})}[task]
    nodes = [
        helper.make_node("Cast", [image], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "full"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "embed"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "head"], ["logits"]),
        helper.make_node(last[0], ["logits"], ["probabilities"], **last[1]),
    ]
    constants = {"full": np.float32(divide_by), "axes": np.array([1, 2]), "embed": embed, "head": head}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(image, PIXELS[pixels], ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", WIDTH]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"classes": json.dumps(classes), **metadata})
    onnx.checker.check_model(model)
    return model


def manifest_tree(**changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "schema": 2,
        "name": "parts-1",
        "created": "2025-01-31T12:00:00+00:00",
        "cvtune_version": "0.1.0",
        "classes": CLASSES,
        "backbone": "tiny",
        "size": 16,
        "resize": "stretch",
        "roi": None,
        "frame_size": None,
        "embedding": WIDTH,
        "temperature": 1.5,
        "weights": {"source": "random", "licence": "none", "sha256": "0" * 64},
        "parity": {"images": 12, "worst": 1e-6, "ties": 0},
        "files": {"model.onnx": "0" * 64},
        "versions": {"onnx": onnx.__version__},
        "reading": {"pixels": "uint8", "background": [255, 255, 255]},
        "window": None,
        "task": "single",
        "thresholds": [],
        "scales": [],
        "shifts": [],
    }
    return {**tree, **changes}


MakeBundle = Callable[..., Path]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """`make_bundle(model=..., **changes of the manifest)` writes a bundle and returns its folder."""

    def make(*, model: onnx.ModelProto | bytes | None = None, **changes: Any) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir(exist_ok=True)
        model = tiny_model(CLASSES) if model is None else model
        data = model if isinstance(model, bytes) else model.SerializeToString()
        (folder / "model.onnx").write_bytes(data)
        changes.setdefault("files", {"model.onnx": file_sha256(folder / "model.onnx")})
        (folder / "manifest.json").write_text(json.dumps(manifest_tree(**changes)), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def bundle_folder(make_bundle: MakeBundle) -> Path:
    return make_bundle()
