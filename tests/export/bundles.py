"""Small bundles that decide, with golden frames: what clients are tried on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cvtune_edge.decision import OperatingPoint
from cvtune_edge.manifest import file_sha256
from cvtune_edge.runtime import Bundle
from cvtune_edge.session import open_session
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cvtune.bundle.decide import add_decision
from cvtune.evaluation.novelty import fit_novelty
from tests.edge.conftest import CLASSES, manifest_tree, tiny_model

Frames = NDArray[Any]
GOOD = OperatingPoint((0,), (0.4, 0.3, 0.3), (0.6, 0.7, 0.5))
PLAIN = OperatingPoint((), (0.0,) * 3, (0.6, 0.4, 0.9))
SEVERAL = OperatingPoint((), (0.6, 0.55, 0.6), (0.9, 0.65, 0.8), several=True)
HEATED = "model.heatmap.onnx"

_COLOURS = np.random.default_rng(1).integers(0, 256, (24, 3)) * np.linspace(0.02, 0.5, 24)[:, None]
FRAMES = np.ascontiguousarray(np.broadcast_to(_COLOURS[:, None, None].astype(np.uint8), (24, 6, 8, 3)))


def write_bundle(
    folder: Path,
    point: OperatingPoint = GOOD,
    *,
    classes: Sequence[str] = CLASSES,
    pixels: str = "uint8",
    far: float | None = 0.8,
    vanishing: bool = False,
    heat: bool = False,
    **changes: Any,
) -> Path:
    """A bundle with a golden frame for each of `FRAMES`.

    Args:
        folder: that is made.
        point: the limits, but for that of the distance.
        classes: three names.
        pixels: type of the frames.
        far: share of the frames that is nearer than the limit of the distance; None for no distance.
        vanishing: the answer for a black frame has no numbers (NaN).
        heat: a second model gives a heat map: how bright each pixel is.
        **changes: of the manifest.
    """
    task = "multi" if point.several else "single"
    model = tiny_model(list(classes), task=task, pixels=pixels)
    frames = FRAMES.astype(pixels)
    novelty = None
    if far is not None:
        seen = _embeddings(model, frames)
        novelty = fit_novelty("knn", seen[::2], np.zeros(len(seen[::2]), np.int64))
        point = replace(point, novelty=float(np.quantile(novelty(seen), far)))
    if vanishing:
        _divide_by_the_brightest(model)
    add_decision(model, point, novelty)
    helper.set_model_props(model, {"classes": json.dumps(list(classes)), "limits": json.dumps(point.to_json())})
    tree = manifest_tree(
        **{
            "schema": 3,
            "classes": list(classes),
            "reading": {"pixels": pixels, "background": [255, 255, 255]},
            "window": None if pixels == "uint8" else [0, 255],
            "task": task,
            "thresholds": list(point.reject) if point.several else [],
            "limits": point.to_json(),
            "novelty": None if novelty is None else {"kind": "knn", "neighbours": 5, "points": 12},
            "region": None,
            "targets": [],
            "training": "",
            **changes,
        }
    )
    (folder / "golden").mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    if heat:
        onnx.save(_heated(model), folder / HEATED)
        tree["variants"] = {HEATED: {"colour": "rgb", "shape": None, "heatmap": True, "precision": "float32"}}
    seal(folder, tree)
    _write_golden(folder, frames if tree["frame_size"] is None else _sized(frames, *tree["frame_size"]))
    seal(folder, tree)
    return folder


def seal(folder: Path, tree: dict[str, Any] | None = None) -> None:
    """Write the manifest with the checksums of the files that are there now."""
    manifest = folder / "manifest.json"
    tree = json.loads(manifest.read_text(encoding="utf-8")) if tree is None else tree
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != manifest)
    tree["files"] = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    manifest.write_text(json.dumps(tree), encoding="utf-8")


def golden_tree(folder: Path) -> Any:
    """golden.json of a bundle."""
    return json.loads((folder / "golden/golden.json").read_text(encoding="utf-8"))


def snapshot(folder: Path) -> dict[str, str]:
    """What every file of a folder holds."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _sized(frames: Frames, height: int, width: int) -> Frames:
    return np.ascontiguousarray(np.broadcast_to(frames[:, :1, :1], (len(frames), height, width, 3)))


def _embeddings(model: onnx.ModelProto, frames: Frames) -> NDArray[np.float32]:
    (found,) = open_session(model.SerializeToString()).run(["embedding"], {"image": frames})
    return np.asarray(found)


def _divide_by_the_brightest(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Div")
    nodes[at].input[1] = "brightest"
    nodes.insert(at, helper.make_node("ReduceMax", ["float"], ["brightest"], keepdims=1))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _heated(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.initializer.append(numpy_helper.from_array(np.array([3]), "channels"))
    made.graph.node.append(helper.make_node("ReduceMean", ["scaled", "channels"], ["heatmap"], keepdims=0))
    made.graph.output.append(helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["N", "h", "w"]))
    return made


def _write_golden(folder: Path, frames: Frames) -> None:
    bundle = Bundle(folder, threads=1, verify=False)
    found = []
    for i, frame in enumerate(frames):
        answer = bundle.predict(frame)
        assert answer.decision is not None
        name = f"golden/{i:02}.bin"
        (folder / name).write_bytes(frame.astype(frame.dtype.newbyteorder("<")).tobytes())
        about = {"file": name, "shape": list(frame.shape), "pixels": frame.dtype.name, "kind": "sure"}
        numbers = {"probabilities": answer.probabilities.tolist(), "novelty": answer.novelty}
        found.append({**about, "decision": answer.decision.tolist(), **numbers})
    (folder / "golden/golden.json").write_text(json.dumps({"schema": 1, "frames": found}), encoding="utf-8")
