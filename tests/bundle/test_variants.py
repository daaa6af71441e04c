"""Further models of a bundle: other cameras, one shape, heat maps; asked beside model.onnx before they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from cvtune_edge.errors import BundleError
from cvtune_edge.manifest import MODEL_FILE, Manifest, load_manifest
from cvtune_edge.runtime import Bundle
from cvtune_edge.session import open_session
from numpy.typing import NDArray

from cvtune.bundle import variants as module
from cvtune.bundle.forms import Form, formed
from cvtune.bundle.variants import Variant, add_variant
from cvtune.errors import ConfigError, GateError
from cvtune.evaluation.explanation import heat_maps
from tests.bundle.conftest import VECTOR, fitted_classifier

MakeCase = Callable[..., Any]


def add(case: Any, folder: Path, form: Form) -> Variant:
    return add_variant(
        folder,
        form,
        classifier=case.classifier,
        normalize=case.product.normalize,
        calibration=case.product.calibration,
        root=case.root,
        paths=case.paths,
    )


def shown(bundle: Bundle, path: Path) -> NDArray[Any]:
    return bundle.read(path).pixels


def test_a_camera_that_delivers_bgr_gets_the_same_answer(exported: tuple[Any, Path]) -> None:
    case, folder = exported
    variant = add(case, folder, Form("bgr"))
    assert variant.parity.equal == variant.parity.images > len(case.paths)  # golden frames too
    assert variant.parity.worst == 0
    bundle, session = Bundle(folder), open_session(folder / "model.bgr.onnx")
    frame = shown(bundle, case.root / case.paths[0]).copy()
    frame[..., 0] = 255 - frame[..., 0]  # of three different channels
    names = [output.name for output in session.get_outputs()]
    answers = dict(zip(names, session.run(None, {"image": frame[None, :, :, ::-1].copy()}), strict=True))
    ours = bundle.predict(frame)
    assert np.array_equal(answers["probabilities"][0], ours.probabilities)
    assert answers["decision"][0] == ours.decision
    assert not np.array_equal(session.run(["probabilities"], {"image": frame[None]})[0][0], ours.probabilities)


def test_the_manifest_says_what_it_takes_and_a_changed_file_is_refused(exported: tuple[Any, Path]) -> None:
    case, folder = exported
    before = load_manifest(folder)
    add(case, folder, Form("bgr"))
    add(case, folder, Form(shape=(48, 80)))
    manifest = load_manifest(folder)
    assert {name: one["colour"] for name, one in manifest.variants.items()} == {
        "model.bgr.onnx": "bgr",
        "model.48x80.onnx": "rgb",
    }
    assert manifest.variants["model.48x80.onnx"]["shape"] == [48, 80]
    assert {name: manifest.files[name] for name in before.files} == before.files
    with (folder / "model.bgr.onnx").open("ab") as handle:
        handle.write(b"\0")
    with pytest.raises(BundleError, match=r"model\.bgr\.onnx: changed"):
        Bundle(folder)


def test_one_shape_has_nothing_left_to_compute(exported: tuple[Any, Path]) -> None:
    case, folder = exported
    variant = add(case, folder, Form("gray", (48, 80)))
    model = onnx.load(folder / variant.form.file)
    assert variant.form.file == "model.gray.48x80.onnx"
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 48, 80]
    assert not [node.op_type for node in model.graph.node if node.op_type == "Shape"]
    assert {node.domain for node in model.graph.node} <= {""}
    dims = [dim for output in model.graph.output for dim in output.type.tensor_type.shape.dim]
    assert all(dim.dim_value for dim in dims)
    told = {prop.key: prop.value for prop in model.metadata_props}
    assert told["colour"] == "GRAY"
    assert told["classes"]
    session, bundle = open_session(folder / variant.form.file), Bundle(folder)
    frame = cv2.resize(shown(bundle, case.root / case.paths[3]), (80, 48), interpolation=cv2.INTER_AREA)
    (decision,) = session.run(["decision"], {"image": frame[None, :, :, 0].copy()})
    assert decision[0] == bundle.predict(frame).decision


FAMILIES = [("test_resnet", True), ("test_efficientnet", False), ("test_vit", False)]


@pytest.mark.parametrize(("backbone", "taps"), FAMILIES)
def test_heat_maps_of_the_graph_are_torchs(backbone: str, taps: bool, make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(backbone=backbone, size=96)
    case.classifier.backbone.set_taps(case.classifier.backbone.default_taps() if taps else ())
    case.classifier = fitted_classifier(case.classifier.backbone, case.normalized)
    case.product = replace(case.product, calibration=VECTOR)
    folder = tmp_path / "bundle"
    case.export(folder)
    variant = add(case, folder, Form(heatmap=True))
    assert variant.heat is not None
    assert variant.heat < 1e-3
    session, bundle = open_session(folder / "model.heatmap.onnx"), Bundle(folder)
    frames = [shown(bundle, case.root / path) for path in case.paths[:3]]
    together, decisions = session.run(["heatmap", "decision"], {"image": np.stack(frames)})
    labels = torch.from_numpy(np.stack([bundle.predict(frame).probabilities for frame in frames]).argmax(1))
    wanted = heat_maps(case.classifier, case.normalized[:3], labels)
    assert together.shape == wanted.shape
    assert wanted.amax() == 1
    assert np.allclose(together, wanted.numpy(), atol=1e-3)
    assert decisions.tolist() == [bundle.decide(frame).decision for frame in frames]


def test_a_model_that_answers_otherwise_is_not_written(
    exported: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, folder = exported
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def wrong(model: onnx.ModelProto, form: Form) -> onnx.ModelProto:
        made = formed(model, form)
        for tensor in made.graph.initializer:
            if tensor.name == "form_constant_0":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 1, 1]), tensor.name))
        return made

    monkeypatch.setattr(module, "formed", wrong)
    with pytest.raises(GateError, match="answers otherwise"):
        add(case, folder, Form("bgr"))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_heat_map_that_shows_another_place_is_not_written(
    exported: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, folder = exported
    monkeypatch.setattr(module, "heat_maps", lambda *args: heat_maps(*args).flip(2))
    with pytest.raises(GateError, match="heat map in the graph differs"):
        add(case, folder, Form(heatmap=True))
    assert not (folder / "model.heatmap.onnx").exists()


def test_coloured_images_get_no_gray_model(make_case: MakeCase, tmp_path: Path, parts: Path) -> None:
    case = make_case()
    folder = tmp_path / "bundle"
    case.export(folder)
    coloured = tmp_path / "coloured"
    coloured.mkdir()
    cv2.imwrite(str(coloured / "red.png"), np.full((32, 32, 3), (0, 0, 200), np.uint8))
    case.root, case.paths = coloured, ["red.png"]
    with pytest.raises(ConfigError, match=r"red\.png has colours"):
        add(case, folder, Form("gray"))


def test_without_images_nothing_is_written(exported: tuple[Any, Path]) -> None:
    case, folder = exported
    case.paths = ["gone/1.png", "gone/2.png"]
    with pytest.raises(GateError, match="none of the 2 images"):
        add(case, folder, Form("bgr"))
    assert load_manifest(folder).variants == {}


def test_a_region_keeps_to_its_size_of_frame(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(roi=(4, 8, 40, 32))
    folder = tmp_path / "bundle"
    case.export(folder)
    with pytest.raises(ConfigError, match="region of interest needs 40x44"):
        add(case, folder, Form(shape=(32, 32)))
    with pytest.raises(ConfigError, match="belongs to one size of frame"):
        add(case, folder, Form(shape=(100, 100)))
    whole = add(case, folder, Form(shape=(64, 64)))  # the drawn golden frames are as small as the region allows
    assert whole.parity.equal == whole.parity.images >= len(case.paths)


@pytest.mark.parametrize("wrong", [{"colour": "yuv"}, {"shape": (0, 4)}, {}])
def test_a_form_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Form(**wrong)


@pytest.mark.parametrize(
    "about",
    [
        {"colour": "yuv", "shape": None, "precision": "float32", "heatmap": False},
        {"colour": "bgr", "shape": [0, 1], "precision": "float32", "heatmap": False},
        {"colour": "bgr", "shape": None, "precision": "float32"},
        [],
    ],
)
def test_a_manifest_with_a_strange_variant_is_refused(exported: tuple[Any, Path], about: Any) -> None:
    tree = load_manifest(exported[1]).to_json()
    with pytest.raises(BundleError, match="variants"):
        Manifest.from_json({**tree, "variants": {MODEL_FILE: about}})
    fine = {"colour": "bgr", "shape": None, "precision": "float32", "heatmap": False}
    with pytest.raises(BundleError, match="variants among the files"):
        Manifest.from_json({**tree, "variants": {"model.bgr.onnx": fine}})
