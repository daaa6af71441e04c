"""Models of fewer bits: what they are made of, what they may lose, and which one a machine uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cvtune_edge import golden as golden_module
from cvtune_edge.cli import verify_command
from cvtune_edge.decision import OperatingPoint
from cvtune_edge.errors import BundleError
from cvtune_edge.golden import read_golden
from cvtune_edge.manifest import file_sha256, load_manifest
from cvtune_edge.predict import predict_command
from cvtune_edge.runtime import Bundle
from cvtune_edge.session import open_session
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cvtune.bundle.forms import with_network
from cvtune.bundle.gate import Said
from cvtune.bundle.lighter import add as module
from cvtune.bundle.lighter.add import Lighter, add_lighter
from cvtune.bundle.lighter.float16 import halved
from cvtune.bundle.lighter.maker import Maker, Recipe
from cvtune.bundle.lighter.parts import embeddings, folded, network_of, with_pixels
from cvtune.bundle.lighter.refit import Affine, noise, refitted
from cvtune.bundle.lighter.rounding import Grid, layers, rounded
from cvtune.bundle.lighter.tally import Loss, Tally
from cvtune.data.index import DatasetIndex, Image
from cvtune.data.split import Split
from cvtune.errors import GateError
from tests.bundle.conftest import CLASSES, Case

MakeCase = Callable[..., Case]


def pixels_of(folder: Path, case: Case) -> list[NDArray[Any]]:
    with Bundle(folder) as bundle:
        session = open_session(with_pixels(onnx.load(folder / "model.onnx"), deep=False).SerializeToString())
        frames = [bundle.read(case.root / path).pixels for path in case.paths]
    return [session.run(["pixels"], {"image": frame[None]})[0] for frame in frames]


def network(folder: Path) -> onnx.ModelProto:
    return network_of(onnx.load(folder / "model.onnx"), 64, deep=False)


def labelled(case: Case, folder: Path) -> tuple[DatasetIndex, Split]:
    """The images with the labels that the model gives them, a third on each side."""
    with Bundle(folder) as bundle:
        names = [bundle.predict(case.root / path).label for path in case.paths]
    images = tuple(Image(path, CLASSES.index(name), None, path) for path, name in zip(case.paths, names, strict=True))
    sides = tuple(("train", "val", "test")[i % 3] for i in range(len(images)))
    return DatasetIndex(case.root, CLASSES, images), Split(sides, True)


def add(case: Case, folder: Path, precision: Any, max_drop: float = 0.5) -> Lighter:
    return add_lighter(folder, precision, *labelled(case, folder), max_drop=max_drop)


@pytest.fixture
def quick_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of a test are too small for int8 to be faster: the clock says that it is."""
    monkeypatch.setattr(module, "_share", lambda before, after, frame: 0.5)


# --- the network by itself


def test_the_network_taken_out_and_put_back_gives_the_same_bits(small: tuple[Case, Path]) -> None:
    _, folder = small
    whole = onnx.load(folder / "model.onnx")
    again = with_network(whole, network(folder))
    onnx.checker.check_model(again, full_check=True)
    frame = np.random.default_rng(0).integers(0, 256, (1, 50, 70, 3), np.uint8)
    sessions = [open_session(model.SerializeToString()) for model in (whole, again)]
    before, after = (session.run(None, {"image": frame}) for session in sessions)
    assert len(before) == len(sessions[0].get_outputs())
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def convolution(groups: int, strides: list[int], pads: list[int]) -> onnx.ModelProto:
    """pixels [N, 3, 12, 10] -> eight channels -> one convolution of them -> means."""
    dice = np.random.default_rng(1)
    weights = {
        "first": dice.normal(size=(8, 3, 3, 3)),
        "second": dice.normal(size=(16, 8 // groups, 3, 3)) * dice.uniform(0.1, 2, (16, 1, 1, 1)),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "first"], ["maps"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["maps", "second"], ["out"], name="conv2", group=groups, strides=strides, pads=pads),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 3, 12, 10])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        initializer=[numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("groups", "strides", "pads"), [(1, [1, 1], [1, 1, 1, 1]), (8, [2, 1], [0, 1, 1, 0]), (2, [1, 2], [2, 0, 0, 1])]
)
def test_rounding_keeps_what_a_layer_answers(groups: int, strides: list[int], pads: list[int]) -> None:
    model = convolution(groups, strides, pads)
    dice = np.random.default_rng(0)
    alike = dice.integers(0, 200, (1, 3, 12, 10))  # images of one product are alike
    images = [(alike + dice.integers(0, 40, alike.shape)).astype(np.uint8) for _ in range(60)]
    second = next(layer for layer in layers(model) if layer.name == "conv2")
    scales = np.abs(second.weights).max(axis=(1, 2, 3)).astype(np.float64) / 20  # coarse
    whole = rounded(model, {"conv2": Grid(scales, 20)}, images[:40])["conv2"]
    assert whole.dtype == np.int8
    assert np.abs(whole).max() <= 20
    nearest = np.clip(np.round(second.weights / scales[:, None, None, None]), -20, 20)

    def error(weights: NDArray[Any]) -> float:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        tensor = next(one for one in changed.graph.initializer if one.name == "second")
        value = (weights * scales[:, None, None, None]).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, "second"))
        was, now = (open_session(one.SerializeToString()) for one in (model, changed))
        answers = [(was.run(None, {"pixels": one})[0], now.run(None, {"pixels": one})[0]) for one in images[40:]]
        return float(np.mean([((a - b) ** 2).mean() for a, b in answers]))

    assert error(whole) < 0.9 * error(nearest)  # on images that it has not seen
    assert set(rounded(model, {}, images[:2])) == set()


def test_the_inputs_of_a_layer_are_those_of_its_convolution() -> None:
    model = convolution(2, [1, 2], [2, 0, 0, 1])
    layer = next(layer for layer in layers(model) if layer.name == "conv2")
    told = onnx.ModelProto()
    told.CopyFrom(model)
    told.graph.output.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, None))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 12, 10), np.uint8)
    out, maps = open_session(told.SerializeToString()).run(None, {"pixels": pixels})

    class InOrder:
        @staticmethod
        def choice(n: int, size: int, replace: bool) -> NDArray[np.int64]:
            assert not replace
            return np.arange(size)

    patches = layer.patches(maps[0], InOrder())  # type: ignore[arg-type]
    rows = layer.weights.reshape(2, 8, -1)
    found = np.concatenate([weights @ x.T for weights, x in zip(rows, patches, strict=True)])  # (16, places)
    assert np.allclose(found, out[0].reshape(16, -1)[:, : found.shape[1]], rtol=1e-4, atol=1e-2)


def test_features_that_moved_are_moved_back(small: tuple[Case, Path]) -> None:
    case, folder = small
    net, pixels = folded(network(folder)), pixels_of(folder, case)
    wanted = embeddings(net, pixels)
    moved = onnx.ModelProto()
    moved.CopyFrom(net)
    factor = np.linspace(0.5, 2, wanted.shape[1]).astype(np.float32)
    again = refitted(moved, wanted / factor - 3, wanted)  # as if the features had come out like that
    alive = wanted.std(0) > 1e-3  # ReLU leaves some at 0 for all images
    assert alive.sum() > 20
    assert np.allclose(embeddings(again, pixels)[:, alive], ((wanted + 3) * factor)[:, alive], rtol=0.01)
    assert noise(wanted / factor - 3, wanted) < 1e-3
    assert noise(np.random.default_rng(0).normal(size=wanted.shape).astype(np.float32), wanted) > 0.3
    affine = Affine.between(np.ones_like(wanted), wanted)  # features that say nothing any more
    assert np.allclose(affine(np.ones_like(wanted)), wanted.mean(0), atol=1e-4)


def test_a_head_is_fitted_to_its_old_answers() -> None:
    dice = np.random.default_rng(0)
    wanted = dice.normal(size=(400, 12)).astype(np.float32)
    mixed = np.eye(12) + 0.15 * dice.normal(size=(12, 12))
    found = (wanted @ mixed).astype(np.float32)  # no factor and shift of each feature takes this back
    w, b = dice.normal(size=(3, 12)), dice.normal(size=3)
    nodes = [
        helper.make_node("Identity", ["pixels"], ["embedding"], name="net"),
        helper.make_node("Gemm", ["embedding", "w", "b"], ["probabilities"], name="head", transB=1),
    ]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("pixels", "embedding", "probabilities")
    ]
    weights = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in (("w", w), ("b", b))]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    again = open_session(refitted(model, found, wanted).SerializeToString())
    goal = wanted @ w.T + b
    fresh = dice.normal(size=(200, 12)).astype(np.float32)
    (after,) = again.run(["probabilities"], {"pixels": (fresh @ mixed).astype(np.float32)})
    affine = Affine.between(found, wanted)
    before = affine((fresh @ mixed).astype(np.float32)) @ w.T + b
    assert ((after - fresh @ w.T - b) ** 2).mean() < 0.1 * ((before - fresh @ w.T - b) ** 2).mean()
    assert goal.shape == (400, 3)


def test_float16_halves_the_backbone_and_leaves_the_head(small: tuple[Case, Path]) -> None:
    _, folder = small
    net = network(folder)
    half = halved(net)
    onnx.checker.check_model(half, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    big = {t.name for t in net.graph.initializer if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= 1024}
    heads = {name for name in big if "head" in name}
    assert big - heads
    assert all(kinds[f"{name}_half"] == TensorProto.FLOAT16 for name in big - heads)
    assert all(kinds[name] == TensorProto.FLOAT for name in heads)
    assert len(half.SerializeToString()) < 0.65 * len(net.SerializeToString())


# --- recipes


@pytest.mark.parametrize(("backbone", "dynamic"), [("test_resnet", False), ("test_vit", True)])
def test_a_network_in_eight_bits_is_near_the_one_in_float(
    backbone: str, dynamic: bool, make_case: MakeCase, tmp_path: Path
) -> None:
    case = make_case(backbone=backbone, size=96)
    folder = tmp_path / "bundle"
    case.export(folder)
    net, pixels = network_of(onnx.load(folder / "model.onnx"), 96, deep=False), pixels_of(folder, case)
    maker = Maker(net, pixels)
    assert maker.dynamic is dynamic
    recipe = Recipe(None if dynamic else "minmax", True)
    made = maker.make(recipe)
    kinds = {node.op_type for node in made.graph.node}
    assert ("MatMulInteger" if dynamic else "QuantizeLinear") in kinds
    assert 0 < noise(embeddings(made, pixels), maker.wanted) < 0.6
    head = next(node for node in made.graph.node if "embedding" in node.input and node.op_type in ("Gemm", "MatMul"))
    constants = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert constants[head.input[1]] == TensorProto.FLOAT
    if not dynamic:  # what prepares the pixels is in float, and no quantisation lies before the first convolution
        first = next(i for i, node in enumerate(made.graph.node) if node.op_type == "Conv")
        scaled = [node for node in made.graph.node[:first] if node.op_type in ("Mul", "Sub", "Div", "Add")]
        assert not any("DequantizeLinear" in name for node in scaled for name in node.input)


def test_the_parts_that_cost_most_stay_in_float(small: tuple[Case, Path]) -> None:
    case, folder = small
    seen: list[tuple[int, int]] = []
    maker = Maker(network(folder), pixels_of(folder, case), tell=lambda what, done, of: seen.append((done, of)))
    found = list(maker.recipes())
    lost = [maker._noise(recipe) for recipe in found]
    assert len(found) >= 1
    assert all(set(one.floats) < set(other.floats) for one, other in pairwise(found))
    assert lost[-1] <= lost[0]
    assert all(0 <= done < of for done, of in seen)
    whole = maker.make(Recipe(found[0].method, found[0].reduced))
    gentle = maker.make(found[-1])
    count = [sum(node.op_type == "QuantizeLinear" for node in made.graph.node) for made in (whole, gentle)]
    assert count[1] < count[0]
    assert "in float: " in str(found[-1])


# --- what may be lost


def said(probabilities: list[list[float]], decisions: Any) -> Said:
    return Said(np.array(probabilities, np.float32), None, np.array(decisions, np.int64))


def test_answers_are_counted_as_the_report_counts_them() -> None:
    inspected = OperatingPoint((1,), (0.5, 0.5), (0.5, 0.5))
    four = said([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]], [0, 1, 1, -1])
    assert Tally.of(four, np.array([0, 1, 0, 1]), inspected) == Tally(4, 2, escaped=1, rejected=0, review=1)
    sorted_ = OperatingPoint((), (0.5, 0.5), (0.5, 0.5))
    assert Tally.of(four, np.array([0, 1, 0, 1]), sorted_) == Tally(4, 2, escaped=1, rejected=0, review=1)
    several = OperatingPoint((), (0.5, 0.5), (0.5, 0.5), several=True)
    truth = np.array([[True, False], [False, True], [True, True], [False, False]])
    labels = said([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]], [[1, 0], [0, 1], [0, 1], [-1, 0]])
    assert Tally.of(labels, truth, several) == Tally(4, 2, escaped=1, rejected=0, review=1)


def test_each_bound_refuses_by_itself() -> None:
    before = Tally(1000, 900, escaped=5, rejected=20, review=30)

    def problems(**after: int) -> list[str]:
        return list(Loss(before, replace(before, **after), 1000, 0.1).problems(0.5))

    assert problems(right=895, escaped=6, rejected=40, review=50) == []
    assert problems(right=894) == ["894 of 1000 right, 900 before"]
    assert problems(escaped=7) == ["7 escapes or wrong decisions, 5 before"]
    assert problems(rejected=41) == ["41 good ones rejected, 20 before"]
    assert problems(review=51) == ["51 of 1000 to REVIEW, 30 before"]
    few = Tally(20, 18, 1, 1, 1)  # one image in any case
    assert not list(Loss(few, replace(few, right=17, rejected=2, review=2), 20, 0.1).problems(0.5))
    assert list(Loss(few, few, 20, float("nan")).problems(0.5)) == ["probabilities that are no numbers"]


# --- in the bundle


def test_a_smaller_file_is_put_in_with_what_it_loses(exported: tuple[Case, Path]) -> None:
    case, folder = exported
    before = load_manifest(folder)
    lighter = add(case, folder, "float16")
    manifest = load_manifest(folder)
    assert manifest.models == {"float32": "model.onnx", "float16": "model.float16.onnx"}
    assert {name: manifest.files[name] for name in before.files} == before.files
    told = manifest.variants["model.float16.onnx"]
    assert told == json.loads(json.dumps(lighter.to_json()))
    assert told["chosen"]["before"]["images"] == told["test"]["before"]["images"] == 4
    assert lighter.bytes[0] < lighter.bytes[1]
    frame = next(iter(read_golden(folder))).frame(folder)
    with Bundle(folder, precision="float16") as half, Bundle(folder) as whole:
        assert (half.precision, whole.precision) == ("float16", "float32")  # it is not faster: nobody gets it unasked
        assert 0 < np.abs(half.predict(frame).probabilities - whole.predict(frame).probabilities).max() < 0.05


@pytest.mark.usefixtures("quick_int8")
def test_int8_answers_where_the_golden_frames_agree(
    exported: tuple[Case, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case, folder = exported
    lighter = add(case, folder, "int8", max_drop=50)
    assert "weights of" in lighter.made
    with Bundle(folder) as bundle:
        assert (bundle.precision, bundle.fallback) == ("int8", "")
        assert bundle.verify().frames == len(read_golden(folder, index="golden/golden.int8.json")) > 0
    assert verify_command(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{len(load_manifest(folder).files)} of ")
    assert lines[1].startswith("int8: ")
    assert "not used here" not in lines[1]

    monkeypatch.setattr(golden_module, "CLOSE", -1.0)  # no machine is as near as that
    with pytest.raises(Exception, match="answers otherwise"):
        Bundle(folder)  # float32 does not agree either
    monkeypatch.undo()
    _disagree(folder)
    with Bundle(folder) as bundle:
        assert bundle.precision == "float32"
        assert "answers otherwise than the lab" in bundle.fallback
    assert verify_command(folder) == 0
    assert "not used here, float32 answers" in capsys.readouterr().out.splitlines()[1]
    assert predict_command(folder, [case.root / case.paths[0]]) == 0
    assert "float32 answers in place of int8" in capsys.readouterr().err
    with pytest.raises(Exception, match="answers otherwise"):
        Bundle(folder, precision="int8")  # who asks for it by name gets no other


def _disagree(folder: Path) -> None:
    """Golden answers of int8 that no machine gives, with their checksum."""
    path = folder / "golden" / "golden.int8.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    for frame in tree["frames"]:
        frame["probabilities"] = frame["probabilities"][::-1]
    path.write_text(json.dumps(tree), encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["golden/golden.int8.json"] = file_sha256(path)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.usefixtures("quick_int8")
def test_a_changed_int8_model_is_refused_and_not_fallen_back_from(exported: tuple[Case, Path]) -> None:
    case, folder = exported
    add(case, folder, "int8", max_drop=50)
    with (folder / "model.int8.onnx").open("ab") as handle:
        handle.write(b"\0")
    for precision in ("auto", "float32", "int8"):
        with pytest.raises(BundleError, match=r"model\.int8\.onnx: changed"):
            Bundle(folder, precision=precision)


def test_a_precision_that_is_not_there_is_told_with_those_that_are(small: tuple[Case, Path]) -> None:
    with pytest.raises(BundleError, match=r"no model of precision 'int8'; it has float32") as caught:
        Bundle(small[1], precision="int8")
    assert "cvtune export RUN --int8" in caught.value.hint


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_int8_that_is_not_faster_is_not_written(exported: tuple[Case, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    case, folder = exported
    before = contents(folder)
    monkeypatch.setattr(module, "_share", lambda earlier, later, frame: 1.1)
    with pytest.raises(GateError, match=r"takes 110 % of model\.onnx's time"):
        add(case, folder, "int8")
    assert contents(folder) == before
    assert not folder.with_name(".bundle.new").exists()


@pytest.mark.usefixtures("quick_int8")
def test_a_model_that_loses_too_much_is_not_written(
    exported: tuple[Case, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, folder = exported
    before = contents(folder)

    def spoilt(model: onnx.ModelProto, bundle: Bundle) -> Any:
        net = network(folder)
        bias = next(t for t in net.graph.initializer if t.name.endswith("head.linear.bias"))
        bias.CopyFrom(numpy_helper.from_array(np.array([50, 0, 0, 0], np.float32), bias.name))
        yield "spoilt", net

    monkeypatch.setattr(module, "_halved", spoilt)
    with pytest.raises(GateError, match=r"spoilt: \d of 4 right, 4 before"):
        add(case, folder, "float16")
    assert contents(folder) == before


def test_timing_takes_both_in_turns(small: tuple[Case, Path]) -> None:
    model = small[1] / "model.onnx"
    assert 0.5 < module._share(model, model, np.zeros((64, 64, 3), np.uint8)) < 2
