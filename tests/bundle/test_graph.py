from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from cvtune_edge.session import open_session
from numpy.typing import NDArray

from cvtune.bundle import graph
from cvtune.bundle import network as module
from cvtune.bundle.graph import Deployed, build_model
from cvtune.bundle.network import network_graph
from cvtune.data.checked import Checked
from cvtune.data.preprocess import IR_VERSION, OPSET, Preprocessing, frame_graph
from cvtune.evaluation.calibration import Calibration
from cvtune.evaluation.task import task_named
from cvtune.models.normalize import Normalize
from tests.bundle.conftest import POINT, VECTOR, WARM

Frames = NDArray[np.uint8]
NUMBERS = {"net_scales", "net_shifts", "net_temperature"}  # of the calibration, by their names in the graph
MakeGraph = Callable[..., tuple[Preprocessing, Any]]


def noise(*shape: int) -> Frames:
    pixels: Frames = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return pixels


@pytest.fixture
def make_graph(small: tuple[Any, Path], network: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> MakeGraph:
    """`make_graph(resize="pad")`: the preprocessing and a session; the network is exported once for all of them."""
    case, _ = small
    monkeypatch.setattr(graph, "network_graph", lambda deployed, size, deep: copy.deepcopy(network))

    def make(**changes: Any) -> tuple[Preprocessing, Any]:
        pre = replace(case.pre, **changes)
        normalize = Normalize(pre.mean, pre.std)
        model = build_model(pre, normalize, case.classifier, calibration=WARM, metadata={}, point=POINT)
        return pre, open_session(model.SerializeToString())

    return make


@pytest.fixture(scope="module")
def network(small: tuple[Any, Path]) -> onnx.ModelProto:
    case, _ = small
    return network_graph(Deployed(Normalize(case.pre.mean, case.pre.std), case.classifier, WARM).eval(), 64)


class Exports:
    """Counts what the exporter does; `built` is the bytes of the case's bundle, `learn` changes all of its weights."""

    def __init__(self, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.case, self.times, self._exported = case, 0, module._exported
        self._dice = torch.Generator().manual_seed(0)
        monkeypatch.setattr(module, "_exported", self._count)
        self.learn()  # fresh biases are all zero, and left out of the graph

    def _count(self, *args: Any, **options: Any) -> Any:
        self.times += 1
        return self._exported(*args, **options)

    def built(self, *, mean: tuple[float, float, float] | None = None, calibration: Calibration = WARM) -> bytes:
        pre = self.case.pre
        normalize = Normalize(mean or pre.mean, pre.std)
        model = build_model(pre, normalize, self.case.classifier, calibration=calibration, metadata={}, point=POINT)
        return bytes(model.SerializeToString(deterministic=True))

    def learn(self) -> None:
        with torch.no_grad():
            for parameter in self.case.classifier.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=self._dice))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the user's, and a program that has exported nothing."""
    monkeypatch.setenv("CVTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_kept", {})
    return tmp_path / "graphs"


@pytest.mark.parametrize(("backbone", "reused"), [("test_resnet", True), ("test_vit", False)])
def test_the_next_stage_takes_the_graph_of_the_one_before(
    backbone: str, reused: bool, make_case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Where each weight stands in the graph as it is in the network; the bytes are those of an export of its own."""
    exports = Exports(make_case(backbone=backbone), monkeypatch)
    first = exports.built()
    exports.learn()
    second = exports.built()
    assert exports.times == (1 if reused else 2)
    assert len(list(cache.glob("*"))) == (1 if reused else 0)
    for file in cache.glob("*"):
        file.unlink()
    module._kept.clear()
    assert exports.built() == second != first


@pytest.mark.parametrize("task", ["single", "multi"])
def test_scales_and_shifts_are_in_the_graph_where_there_are_any(
    task: Literal["single", "multi"], make_case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    several = {"task": "multi", "thresholds": (0.5,) * 4} if task == "multi" else {}
    exports = Exports(make_case(**several), monkeypatch)
    case, frames = exports.case, noise(5, 64, 64)
    held = {}
    for calibration in (WARM, VECTOR):
        normalize = Normalize(case.pre.mean, case.pre.std)
        about: dict[str, Any] = {"calibration": calibration, "metadata": {}, "task": task, "point": case.product.point}
        model = build_model(case.pre, normalize, case.classifier, **about)
        held[calibration.method] = {tensor.name for tensor in model.graph.initializer} & NUMBERS
        (found,) = open_session(model.SerializeToString()).run(["probabilities"], {"image": frames})
        (pixels,) = open_session(frame_graph(case.pre).SerializeToString()).run(None, {"image": frames})
        with torch.inference_mode():
            logits = case.classifier(normalize(torch.from_numpy(pixels))).numpy()
        expected = task_named(task).probabilities(logits, calibration)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert held == {"vector": {"net_scales", "net_shifts"}, "temperature": {"net_temperature"}}
    assert exports.times == 2


def test_other_scales_take_the_graph_that_is_there(
    make_case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    exports = Exports(make_case(), monkeypatch)
    first = exports.built(calibration=VECTOR)
    second = exports.built(calibration=replace(VECTOR, shifts=(0.6, -0.8, 0.2, 0.1)))
    assert exports.times == 1
    module._kept.clear()
    for file in cache.glob("*"):
        file.unlink()
    assert exports.built(calibration=replace(VECTOR, shifts=(0.6, -0.8, 0.2, 0.1))) == second != first


def test_the_next_fit_takes_the_graph_from_the_cache(
    make_case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    exports = Exports(make_case(), monkeypatch)
    first = exports.built()
    (file,) = cache.iterdir()
    assert file.stat().st_size < len(first) / 2, "it holds no weights"
    module._kept.clear()
    assert exports.built() == first
    exports.learn()
    module._kept.clear()
    assert exports.built() != first
    assert exports.times == 1
    module._kept.clear()
    exports.built(mean=(0.1, 0.2, 0.3))  # another normalisation is another graph
    assert exports.times == 2
    assert len(list(cache.iterdir())) == 2


def test_other_taps_of_the_same_width_are_another_graph(
    make_case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Within a program a graph is taken by its key alone."""
    case = make_case()
    exports, backbone = Exports(case, monkeypatch), case.classifier.backbone
    widths = {tap: backbone.tap_widths[tap] for tap in _each_tap(backbone)}
    first, second = next(
        (one, other) for one in widths for other in widths if one < other and widths[one] == widths[other]
    )
    case.classifier.head = torch.nn.Linear(backbone.net_width + widths[first], 4)
    for tap in (first, second):
        backbone.set_taps([tap])
        exports.built()
    assert exports.times == 2


def _each_tap(backbone: Any) -> Iterator[int]:
    for tap in range(len(backbone.groups) - 1):
        backbone.set_taps([tap])
        yield tap


@pytest.mark.parametrize("kind", ["cut off", "changed", "no graph", "of another network"])
def test_a_graph_that_is_not_as_it_was_is_exported_anew(
    kind: str, make_case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    exports = Exports(make_case(), monkeypatch)
    first = exports.built()
    (file,) = cache.iterdir()
    content = file.read_bytes()
    damaged = {
        "cut off": content[:-10],
        "changed": content[:-10] + b"0123456789",
        "no graph": b"nonsense",
        "of another network": content,
    }
    if kind == "of another network":
        empty = module._read(file.name)
        assert empty is not None
        next(node for node in empty.graph.node if node.op_type == "Relu").op_type = "Neg"
        module._write(file.name, empty)
        damaged[kind] = file.read_bytes()
    file.write_bytes(damaged[kind])
    module._kept.clear()
    assert exports.built() == first
    assert exports.times == 2
    assert file.read_bytes() == content


def test_old_graphs_make_room_and_no_cache_is_no_error(
    make_case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(module, "_CACHE", Checked("graphs", most=1))
    exports = Exports(make_case(), monkeypatch)
    exports.built()
    (old,) = cache.iterdir()
    os.utime(old, (1, 1))
    exports.built(mean=(0.1, 0.2, 0.3))
    (new,) = cache.iterdir()
    assert new != old
    monkeypatch.setenv("CVTUNE_CACHE", str(new))  # a file where a folder should be
    module._kept.clear()
    exports.built()
    assert exports.times == 3


def torch_path(case: Any, frames: Frames, pre: Preprocessing | None = None) -> list[NDArray[np.float32]]:
    """The same answers by the frame graph alone and torch."""
    (pixels,) = open_session(frame_graph(pre or case.pre).SerializeToString()).run(None, {"image": frames})
    with torch.inference_mode():
        found = Deployed(Normalize(case.pre.mean, case.pre.std), case.classifier, WARM)(torch.from_numpy(pixels))
    return [tensor.numpy() for tensor in found]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3000, 4000), (1, 4000, 30), (7, 90, 41), (2, 64, 64), (1, 1, 300)])
def test_any_frame_and_any_batch(shape: tuple[int, int, int], small: tuple[Any, Path]) -> None:
    case, bundle = small
    frames = noise(*shape)
    session = open_session(bundle / "model.onnx")
    probabilities, embedding = session.run(["probabilities", "embedding"], {"image": frames})
    assert (probabilities.shape, embedding.shape) == ((shape[0], 4), (shape[0], case.classifier.backbone.width))
    assert (probabilities.dtype, embedding.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    for ours, theirs in zip(torch_path(case, frames), (probabilities, embedding), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-3)


def test_a_batch_is_its_images_one_by_one(small: tuple[Any, Path]) -> None:
    session = open_session(small[1] / "model.onnx")
    frames = noise(7, 90, 41)
    together = session.run(["probabilities"], {"image": frames})[0]
    alone = [session.run(["probabilities"], {"image": frames[i : i + 1]})[0][0] for i in range(7)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_the_contract_is_in_the_file(small: tuple[Any, Path]) -> None:
    session = open_session(small[1] / "model.onnx")
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[3]) == ("image", "tensor(uint8)", 3)
    assert all(not isinstance(side, int) for side in image.shape[:3])
    outputs = {node.name: (node.type, node.shape[1:]) for node in session.get_outputs()}
    width = small[0].classifier.backbone.width
    assert outputs == {
        "probabilities": ("tensor(float)", [4]),
        "embedding": ("tensor(float)", [width]),
        "novelty": ("tensor(float)", []),
        "decision": ("tensor(int64)", []),
        "ok": ("tensor(bool)", []),
    }
    model = onnx.load(small[1] / "model.onnx")
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (IR_VERSION, [("", OPSET)])


def test_the_metadata_of_the_contract(small: tuple[Any, Path]) -> None:
    told = open_session(small[1] / "model.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["dent", "ok", "Öse", "1e3"]
    assert (told["size"], told["colour"], told["backbone"]) == ("64", "RGB", "test_resnet")
    assert json.loads(told["reading"]) == {"pixels": "uint8", "background": [255, 255, 255]}
    assert (told["window"], told["task"], told["thresholds"]) == ("null", "single", "[]")
    assert json.loads(told["limits"]) == small[0].product.point.to_json()
    assert (told["targets"], told["training"]) == ("[]", "")
    assert {"cvtune_version", "name"} <= told.keys()


def test_the_file_knows_nothing_of_the_training_pc(small: tuple[Any, Path], repo: Path) -> None:
    data = (small[1] / "model.onnx").read_bytes() + (small[1] / "manifest.json").read_bytes()
    for path in (repo, Path(sys.prefix), Path.home(), small[0].root, small[1], Path(torch.__file__).parent):
        assert str(path).encode() not in data
    assert b"site-packages" not in data
    assert b".py" not in data


def test_every_tensor_name_says_whose_it_is(small: tuple[Any, Path]) -> None:
    nodes = onnx.load(small[1] / "model.onnx").graph.node
    names = {name for node in nodes for name in node.output}
    outputs = {"probabilities", "embedding", "pixels", "novelty", "decision", "ok"}
    assert {name.split("_")[0] for name in names - outputs} == {"frame", "net", "last"}


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_every_resize_is_in_the_graph(resize: str, make_graph: MakeGraph, small: tuple[Any, Path]) -> None:
    pre, session = make_graph(resize=resize)
    for shape in ((1, 50, 170), (2, 300, 20), (1, 1, 1)):
        frames = noise(*shape)
        found = session.run(["probabilities", "embedding"], {"image": frames})
        for ours, theirs in zip(torch_path(small[0], frames, pre), found, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-3)


def test_only_the_region_of_interest_is_looked_at(make_graph: MakeGraph) -> None:
    _, session = make_graph(roi=(10, 5, 40, 30))
    _, whole = make_graph()
    frame = noise(1, 64, 64)
    other = 255 - frame
    other[:, 5:35, 10:50] = frame[:, 5:35, 10:50]
    answer, again = (session.run(None, {"image": one})[0] for one in (frame, other))
    assert np.array_equal(answer, again)
    assert np.array_equal(answer, whole.run(None, {"image": frame[:, 5:35, 10:50].copy()})[0])
    other[:, 20, 20] = 255 - other[:, 20, 20]
    assert not np.array_equal(session.run(None, {"image": other})[0], answer)


def test_what_the_mask_hides_has_no_say(make_graph: MakeGraph) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 20:60] = 1
    mask[20:25, 30:35] = 0
    _, session = make_graph(mask=mask)
    frame = noise(1, 64, 64)
    hidden = np.where(mask[None, :, :, None] == 1, frame, 255 - frame)
    seen = np.where(mask[None, :, :, None] == 1, 255 - frame, frame)
    answer, with_hidden, with_seen = (session.run(None, {"image": one})[0] for one in (frame, hidden, seen))
    assert np.array_equal(answer, with_hidden)
    assert not np.array_equal(answer, with_seen)


def test_the_modes_of_the_classifier_come_back(small: tuple[Any, Path]) -> None:
    assert not any(module.training for module in small[0].classifier.modules())
