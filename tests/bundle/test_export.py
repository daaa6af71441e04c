from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cvtune_edge.errors import BundleError
from cvtune_edge.manifest import load_manifest
from cvtune_edge.runtime import Bundle
from onnx import numpy_helper

from cvtune.bundle import export
from cvtune.bundle.gate import WORST
from cvtune.bundle.graph import build_model
from cvtune.errors import GateError
from tests.bundle.conftest import VECTOR, WARM

MakeCase = Callable[..., Any]
SMALL = ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"]
REAL = [("resnet18", "resnet18"), ("vit_tiny_patch16_224", "vit_tiny_patch16_224"), ("tf_efficientnet_lite0", None)]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != "scratch"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("backbone", SMALL)
def test_small_networks_pass_the_gate(backbone: str, make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(backbone=backbone)
    parity, answers = case.export(tmp_path / "bundle")
    assert (parity.images, parity.equal + parity.ties) == (12, 12)
    assert parity.worst < 1e-4
    assert len(set(answers.argmax(1))) > 1
    assert names(tmp_path) == {"bundle"}


@pytest.mark.parametrize(("backbone", "file"), REAL)
def test_real_weights_on_real_images_pass_the_gate(
    backbone: str, file: str | None, real_data: Path, make_case: MakeCase, tmp_path: Path
) -> None:
    weights = real_data / "weights" / f"{file}.safetensors" if file else None
    case = make_case(real_data / "neu_steel", backbone=backbone, weights=weights, real=True, size=224)
    parity, answers = case.export(tmp_path / "bundle")
    assert (parity.images, parity.equal) == (12, 12)
    assert parity.worst < 1e-4
    assert len(set(answers.argmax(1))) > 1


def test_the_manifest_is_verified_by_the_line(small: tuple[Any, Path]) -> None:
    case, bundle = small
    assert names(bundle) == {"model.onnx", "manifest.json", "golden"}
    manifest = load_manifest(bundle)
    assert manifest.classes == case.product.classes
    assert (manifest.name, manifest.backbone, manifest.size, manifest.resize) == (
        "parts-1",
        "test_resnet",
        64,
        "stretch",
    )
    assert (manifest.embedding, manifest.temperature) == (case.classifier.backbone.width, 1.5)
    assert (manifest.scales, manifest.shifts) == ((), ())
    assert (manifest.roi, manifest.frame_size) == (None, None)
    assert dict(manifest.weights) == case.product.weights
    assert dict(manifest.parity).keys() == {"images", "equal", "ties", "worst", "vanished", "distance"}
    assert (manifest.schema, manifest.task, manifest.thresholds, manifest.window) == (3, "single", (), None)
    assert manifest.point == case.product.point
    assert manifest.novelty == {"kind": "knn", "neighbours": 5, "points": 9}
    assert (manifest.region, manifest.targets, manifest.training) == (None, (), "")
    assert manifest.reading == {"pixels": "uint8", "background": [255, 255, 255]}
    assert set(manifest.versions) == {"torch", "timm", "onnx", "onnxruntime"}


def test_a_changed_file_is_noticed(make_case: MakeCase, tmp_path: Path) -> None:
    make_case().export(tmp_path / "bundle")
    with (tmp_path / "bundle" / "model.onnx").open("ab") as handle:
        handle.write(b"\0")
    with pytest.raises(BundleError, match="changed after the export"):
        Bundle(tmp_path / "bundle")


def test_the_answers_are_those_of_predict(small: tuple[Any, Path], tmp_path: Path) -> None:
    case, folder = small
    _, answers = case.export(tmp_path / "bundle")
    bundle = Bundle(folder)
    for path, expected in zip(case.paths, answers, strict=True):
        assert np.array_equal(bundle.predict(case.root / path).probabilities, expected)


def test_region_and_mask_go_to_the_line(make_case: MakeCase, tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[5:60, 5:60] = 1
    parity, _ = make_case(roi=(2, 3, 50, 55), mask=mask).export(tmp_path / "bundle")
    assert parity.equal == 12
    manifest = load_manifest(tmp_path / "bundle")
    assert (manifest.roi, manifest.frame_size) == ((2, 3, 50, 55), (64, 64))
    assert manifest.region == (5, 5, 47, 53), "what the mask leaves of the roi"


def test_progress_counts_the_images(make_case: MakeCase, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_case().export(tmp_path / "bundle", progress=lambda done, of: seen.append((done, of)))
    assert seen == [(i, 12) for i in range(1, 13)]


def test_the_temperature_is_applied(small: tuple[Any, Path], tmp_path: Path) -> None:
    case, _ = small
    product = replace(case.product, calibration=replace(WARM, temperature=0.5))
    parity, answers = case.export(tmp_path / "bundle", product=product)
    expected = torch.softmax(torch.from_numpy(case.logits) / 0.5, 1).numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    assert parity.passed


@pytest.mark.parametrize("several", [False, True])
def test_scales_and_shifts_pass_the_gate_and_are_in_the_manifest(
    several: bool, make_case: MakeCase, tmp_path: Path
) -> None:
    case = make_case(**(MULTI if several else {}))
    parity, answers = case.export(tmp_path / "bundle", product=replace(case.product, calibration=VECTOR))
    assert (parity.images, parity.equal + parity.ties) == (12, 12)
    assert parity.worst < 1e-4
    logits = torch.from_numpy(case.logits)
    moved = (logits if several else logits - logits.mean(1, keepdim=True)) * torch.tensor(VECTOR.scales)
    moved += torch.tensor(VECTOR.shifts)
    expected = torch.sigmoid(moved) if several else torch.softmax(moved, 1)
    np.testing.assert_allclose(answers, expected.numpy(), atol=1e-4)
    manifest = load_manifest(tmp_path / "bundle")
    assert (manifest.schema, manifest.temperature) == (3, 1.0)
    assert (manifest.scales, manifest.shifts) == (VECTOR.scales, VECTOR.shifts)


def test_a_bundle_with_other_shifts_than_the_gate_is_refused(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, other = make_case(), replace(VECTOR, shifts=(0.6, -0.8, 0.2, 0.05))
    monkeypatch.setattr(
        export, "build_model", lambda *args, **options: build_model(*args, **{**options, "calibration": other})
    )
    with pytest.raises(GateError, match="largest difference of a probability"):
        case.export(tmp_path / "bundle", product=replace(case.product, calibration=VECTOR))
    assert names(tmp_path) == set()


def _of_the_head(one: onnx.TensorProto) -> bool:
    return list(one.dims) == [4] and one.data_type == onnx.TensorProto.FLOAT


def other_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """Zeroes the head's bias, the kind of slip that a wrong export makes."""
    biases = [one for one in model.graph.initializer if _of_the_head(one)]
    assert biases
    for bias in biases:
        bias.CopyFrom(numpy_helper.from_array(np.array([5, 0, 0, 0], np.float32), bias.name))
    return model


def no_number(model: onnx.ModelProto) -> onnx.ModelProto:
    for bias in model.graph.initializer:
        if _of_the_head(bias):
            bias.CopyFrom(numpy_helper.from_array(np.full(4, np.nan, np.float32), bias.name))
    return model


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [(other_head, "answers otherwise than the trained one"), (no_number, "numbers that are not finite")],
)
def test_a_broken_export_is_refused_and_the_old_bundle_stays(
    spoil: Callable[[onnx.ModelProto], onnx.ModelProto],
    sentence: str,
    make_case: MakeCase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, folder = make_case(), tmp_path / "bundle"
    case.export(folder)
    before = contents(folder)
    monkeypatch.setattr(export, "build_model", lambda *args, **options: spoil(build_model(*args, **options)))
    with pytest.raises(GateError, match=sentence) as caught:
        case.export(folder)
    assert caught.value.exit_code == 3
    assert contents(folder) == before
    assert names(tmp_path) == {"bundle"}


def test_a_first_bundle_that_is_refused_leaves_nothing(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    with pytest.raises(GateError, match="of 12 decisions differ"):
        case.export(tmp_path / "bundle", logits=np.roll(case.logits, 1, axis=1))
    assert names(tmp_path) == set()


def test_files_that_vanished_are_left_out_and_counted(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    paths = [*case.paths[:-2], "ok/gone.png", "no such class/gone.png"]
    seen: list[int] = []
    parity, answers = case.export(tmp_path / "bundle", paths=paths, progress=lambda done, of: seen.append(done))
    assert (parity.images, parity.equal, parity.vanished) == (10, 10, 2)
    assert seen[-1] == 12
    assert load_manifest(tmp_path / "bundle").parity["vanished"] == 2
    expected = torch.softmax(torch.from_numpy(case.logits) / 1.5, 1).numpy()
    np.testing.assert_allclose(answers[-2:], expected[-2:], atol=1e-6)
    bundle = Bundle(tmp_path / "bundle")
    for path, answer in zip(case.paths[:-2], answers, strict=False):
        assert np.array_equal(bundle.predict(case.root / path).probabilities, answer)


def test_a_gate_is_no_gate_without_most_of_the_files(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    half = [*case.paths[:6], *(f"gone/{i}.png" for i in range(6))]
    assert case.export(tmp_path / "bundle", paths=half)[0].vanished == 6
    with pytest.raises(GateError, match=r"^7 of 12 files of .* are no longer there") as caught:
        case.export(tmp_path / "other", paths=["gone.png", *half[1:]])
    assert "the folder changed during the run" in caught.value.hint
    assert names(tmp_path) == {"bundle"}


def test_a_file_that_was_spoilt_during_the_run(make_case: MakeCase, tmp_path: Path, parts: Path) -> None:
    case = make_case()
    case.root = tmp_path / "images"
    shutil.copytree(parts, case.root)
    (case.root / case.paths[3]).write_bytes(b"")
    with pytest.raises(GateError, match=r"png: empty file") as caught:
        case.export(tmp_path / "bundle")
    assert "the folder changed during the run" in caught.value.hint
    assert names(tmp_path) == {"images"}


def test_decisions_and_distances_pass_the_gate(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(strange=0.7)
    parity, answers = case.export(tmp_path / "bundle")
    assert (parity.images, parity.equal) == (12, 12)
    assert 0 < parity.distance < WORST / 2
    bundle = Bundle(tmp_path / "bundle")
    decisions = bundle.decide([case.root / path for path in case.paths])
    distances = case.product.novelty(case.embeddings)
    expected = case.product.point.decide(answers, distances)
    assert [one.decision for one in decisions] == expected.tolist()
    assert sum(one.reason.startswith("never seen") for one in decisions) == 4
    away = np.array([one.novelty for one in decisions])
    np.testing.assert_allclose(away, distances, rtol=1e-3, atol=1e-3)


def other_limits(model: onnx.ModelProto) -> onnx.ModelProto:
    for one in model.graph.initializer:
        if one.data_type == onnx.TensorProto.DOUBLE and list(one.dims) == [4]:
            one.CopyFrom(numpy_helper.from_array(np.full(4, 0.05), one.name))
    return model


def farther(model: onnx.ModelProto) -> onnx.ModelProto:
    (node,) = (one for one in model.graph.node if one.op_type == "ReduceMean" and one.name.startswith("last"))
    (doubled,) = (one for one in model.graph.node if one.input[:1] == [node.output[0]] and one.output[0] == "novelty")
    doubled.op_type, _ = "Add", doubled.input.append(node.output[0])
    return model


@pytest.mark.parametrize("spoil", [other_limits, farther])
def test_other_decisions_or_distances_are_refused(
    spoil: Callable[[onnx.ModelProto], onnx.ModelProto],
    make_case: MakeCase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = make_case(strange=0.7)
    monkeypatch.setattr(export, "build_model", lambda *args, **options: spoil(build_model(*args, **options)))
    with pytest.raises(GateError, match="answers otherwise than the trained one"):
        case.export(tmp_path / "bundle")
    assert names(tmp_path) == set()


def only_this_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """Takes the frame's height for 64, as an exporter does that fixes the example's shape."""
    image = model.graph.input[0].name
    for node in model.graph.node:
        if image in node.input:
            node.input[list(node.input).index(image)] = "fixed"
    sizes = numpy_helper.from_array(np.array([-1, 64, 64, 3]), "sizes")
    model.graph.initializer.append(sizes)
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", [image, "sizes"], ["fixed"]))
    return model


def test_a_graph_for_one_size_alone_is_refused(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case()
    monkeypatch.setattr(export, "build_model", lambda *args, **options: only_this_size(build_model(*args, **options)))
    with pytest.raises(GateError, match="does not answer like the trained one for 1 frame of 1 x 1 pixels"):
        case.export(tmp_path / "bundle")
    assert names(tmp_path) == set()


MULTI = {"task": "multi", "thresholds": (0.5, 0.3, 0.95, 0.02)}


def test_several_labels(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(**MULTI)
    parity, answers = case.export(tmp_path / "bundle")
    assert (parity.images, parity.equal + parity.ties) == (12, 12)
    np.testing.assert_allclose(answers, torch.sigmoid(torch.from_numpy(case.logits) / 1.5).numpy(), atol=1e-5)
    bundle = Bundle(tmp_path / "bundle")
    assert (bundle.manifest.task, bundle.manifest.thresholds) == ("multi", MULTI["thresholds"])
    kinds = set()
    for path, row in zip(case.paths, answers, strict=True):
        answer = bundle.predict(case.root / path)
        reached = zip(case.product.classes, row, case.product.thresholds, strict=True)
        assert answer.labels == tuple(name for name, p, least in reached if float(p) >= least)
        assert answer.label == ";".join(answer.labels)
        assert answer.probability == row.max()
        kinds.add(len(answer.labels))
    assert len(kinds) > 1


def test_several_labels_are_gated_by_their_thresholds(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(**MULTI)
    logits = case.logits.copy()
    logits[3, 1] = -logits[3, 1]
    with pytest.raises(GateError, match="of 12 decisions differ"):
        case.export(tmp_path / "bundle", logits=logits)


def test_limits_that_do_not_fit_are_no_bundle(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    with pytest.raises(BundleError, match="a threshold for each class"):
        case.export(tmp_path / "bundle", product=replace(case.product, task="multi"))
    assert names(tmp_path) == set()


def test_a_better_bundle_takes_the_place_of_the_old_one(make_case: MakeCase, tmp_path: Path) -> None:
    case, folder = make_case(), tmp_path / "bundle"
    case.export(folder)
    (tmp_path / ".bundle.new").mkdir()  # what a killed process left
    (tmp_path / ".bundle.old").mkdir()
    with torch.no_grad():
        case.classifier.head.linear.bias.add_(torch.tensor([1.0, 0, 0, 0]))
    case.export(folder, product=replace(case.product, name="parts-2"))
    assert load_manifest(folder).name == "parts-2"
    assert names(tmp_path) == {"bundle"}


def test_the_old_bundle_comes_back_where_the_new_one_cannot_be_moved(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, folder = make_case(), tmp_path / "bundle"
    case.export(folder)
    before = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    rename = Path.rename

    def held(source: Path, target: Path) -> Path:
        if source.name == ".bundle.new":
            raise PermissionError("a virus scanner is reading it")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", held)
    with pytest.raises(PermissionError):
        case.export(folder)
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8")) == before
    assert names(tmp_path) == {"bundle"}
