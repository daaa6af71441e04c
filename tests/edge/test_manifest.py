from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cvtune_edge import BundleError
from cvtune_edge.decision import OperatingPoint
from cvtune_edge.manifest import Manifest, file_sha256, load_manifest

from tests.edge.conftest import CLASSES, MakeBundle, manifest_tree

READS = "reads schema 1 to 3"
LATER = ("limits", "novelty", "region", "targets", "training")
LIMITS = {"ok": [0], "accept": [0.5] * 3, "reject": [0.5, 0.6, 0.7], "novelty": 0.25, "several": False}
SINCE_3 = {
    "schema": 3,
    "limits": LIMITS,
    "novelty": {"kind": "knn", "neighbours": 5, "points": 200},
    "region": [4, 0, 10, 12],
    "targets": ["escape<=5%"],
    "training": "0" * 64,
}
READING = "pixels, one of uint8, uint16 and float32, and background, three numbers from 0 to 255"
WINDOW = "null or two numbers, the first below the second"
PAIR = "a window for uint16 and float32 pixels, and none for uint8"
EACH = "a scale and a shift for each class and the temperature 1, or none of them"
ENOUGH = "a threshold for each class where the task is multi, and none where it is single"


def test_round_trip_through_json() -> None:
    multi = {"task": "multi", "thresholds": [0.5, 0, 1]}
    vector = {"temperature": 1, "scales": [0.5, 1, 1.5], "shifts": [-0.25, 0, 2]}
    deep = {"reading": {"pixels": "uint16", "background": [0, 0, 0]}, "window": [0, 4095.5]}
    for changes in (multi, vector, deep, {}, {"roi": [4, 0, 10, 12], "frame_size": [480, 640]}):
        manifest = Manifest.from_json(manifest_tree(**changes))
        assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
        assert list(manifest.to_json()) == [*manifest_tree(), *LATER, "latency", "variants"]
    assert manifest.classes == tuple(CLASSES)
    assert manifest.roi == (4, 0, 10, 12)
    assert manifest.frame_size == (480, 640)


def test_schema_3_decides() -> None:
    manifest = Manifest.from_json(manifest_tree(**SINCE_3))
    assert manifest.decides
    assert manifest.point == OperatingPoint((0,), (0.5,) * 3, (0.5, 0.6, 0.7), 0.25)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    for key in LATER:
        with pytest.raises(BundleError, match=f"  {key}: missing"):
            Manifest.from_json({name: value for name, value in manifest_tree(**SINCE_3).items() if name != key})


def test_what_an_earlier_schema_says_of_decisions_is_not_believed() -> None:
    """Its reader would not have decided either."""
    manifest = Manifest.from_json(manifest_tree(**{**SINCE_3, "schema": 2}))
    assert not manifest.decides
    with pytest.raises(BundleError, match=r"bundle parts-1 does not decide: schema 2.*\nhint: fit again"):
        _ = manifest.point


AMONG = "positions of the good classes, limits to accept and to reject, novelty and several"
FIT = "limits for each class, those to reject being the thresholds where the task is multi"
DISTANCE = "null or a kind of distance, its neighbours and its points"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"limits": {**LIMITS, "ok": [3]}}, AMONG),
        ({"limits": {**LIMITS, "ok": [0, 1, 2]}}, AMONG),
        ({"limits": {**LIMITS, "accept": [0.5, 0.7, 0.5]}}, AMONG),
        ({"limits": {**LIMITS, "accept": [0.5, "0.6", [0.5]]}}, AMONG),
        ({"limits": {**LIMITS, "reject": [0.5, 0.6, float("inf")]}}, AMONG),
        ({"limits": {**LIMITS, "novelty": float("nan")}}, AMONG),
        ({"limits": {"ok": []}}, AMONG),
        ({"limits": [0.5]}, AMONG),
        ({"limits": None}, FIT),
        ({"limits": {**LIMITS, "accept": [0.5] * 2, "reject": [0.6] * 2}}, FIT),
        ({"limits": {**LIMITS, "ok": [], "several": True}}, FIT),
        ({"task": "multi", "thresholds": [0.5, 0.6, 0.8], "limits": {**LIMITS, "ok": [], "several": True}}, FIT),
        ({"novelty": {"kind": "cosine", "neighbours": 1, "points": 1}}, DISTANCE),
        ({"novelty": {"kind": "knn", "neighbours": 6, "points": 5}}, DISTANCE),
        ({"novelty": {"kind": "knn"}}, DISTANCE),
        ({"novelty": None}, "a distance where there is a limit of it"),
        ({"region": [0, 0, 0, 1]}, "null or x, y, width, height"),
        ({"targets": [1]}, "texts"),
        ({"training": None}, "a sha256, or nothing"),
    ],
)
def test_limits_that_make_no_sense(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BundleError, match=re.escape(f": expected {sentence}")):
        Manifest.from_json(manifest_tree(**{**SINCE_3, **changes}))


def test_keys_of_later_versions_are_ignored() -> None:
    assert Manifest.from_json({**manifest_tree(), "added_later": 1}) == Manifest.from_json(manifest_tree())


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", "", "a text"),
        ("created", "yesterday", "an ISO 8601 time with its zone, like 2025-01-31T12:00:00+00:00"),
        ("created", "2025-01-31T12:00:00", "an ISO 8601 time with its zone, like 2025-01-31T12:00:00+00:00"),
        ("classes", ["ok"], "two or more different names"),
        ("classes", ["ok", "ok"], "two or more different names"),
        ("classes", ["ok", False], "two or more different names"),
        ("size", True, "a whole number above 0"),
        ("size", 224.0, "a whole number above 0"),
        ("resize", "squash", "stretch, pad or crop"),
        ("roi", [0, 0, 0, 5], "null or x, y, width, height"),
        ("roi", [-1, 0, 5, 5], "null or x, y, width, height"),
        ("frame_size", [480], "null or height, width"),
        ("temperature", 0, "a number above 0"),
        ("temperature", float("nan"), "a number above 0"),
        ("weights", {"licence": None}, "texts by name"),
        ("parity", {"worst": float("inf")}, "numbers by name"),
        ("files", {}, "the sha256 of model.onnx and others by their names inside the folder"),
        ("files", {"model.onnx": "0" * 63}, "the sha256 of model.onnx and others by their names inside the folder"),
        ("reading", None, READING),
        ("reading", {"pixels": "uint8"}, READING),
        ("reading", {"pixels": "uint32", "background": [0, 0, 0]}, READING),
        ("reading", {"pixels": ["uint8"], "background": [0, 0, 0]}, READING),
        ("reading", {"pixels": "uint8", "background": [0, 0, 256]}, READING),
        ("reading", {"pixels": "uint8", "background": [0, 0.0, 0]}, READING),
        ("reading", {"pixels": "uint8", "background": "000"}, READING),
        ("reading", {"pixels": "uint8", "background": [0, 0, 0], "max_pixels": 1}, READING),
        ("window", [4095, 0], WINDOW),
        ("window", [0, 0], WINDOW),
        ("window", [0, float("inf")], WINDOW),
        ("window", [0, 1, 2], WINDOW),
        ("window", 4095, WINDOW),
        ("window", ["0", "9"], WINDOW),
        ("task", "both", "single or multi"),
        ("task", ["multi"], "single or multi"),
        ("thresholds", [0.5, 1.1, 0], "numbers from 0 to 1"),
        ("thresholds", [float("nan"), 0, 0], "numbers from 0 to 1"),
        ("thresholds", [True, 0, 0], "numbers from 0 to 1"),
        ("thresholds", 0.5, "numbers from 0 to 1"),
        ("thresholds", None, "numbers from 0 to 1"),
        ("scales", [1, 0, 1], "numbers above 0"),
        ("scales", [1, float("inf"), 1], "numbers above 0"),
        ("scales", [1, True, 1], "numbers above 0"),
        ("scales", 1.0, "numbers above 0"),
        ("scales", None, "numbers above 0"),
        ("shifts", [0, float("nan"), 0], "finite numbers"),
        ("shifts", ["0", 0, 0], "finite numbers"),
        ("shifts", {}, "finite numbers"),
    ],
)
def test_wrong_values_are_named(key: str, value: Any, expected: str) -> None:
    with pytest.raises(BundleError, match=re.escape(f"  {key} = ") + ".*" + re.escape(f": expected {expected}")):
        Manifest.from_json(manifest_tree(**{key: value}))


DEEP = {"pixels": "uint16", "background": [255, 255, 255]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"window": [0, 4095]}, f"window = (0, 4095): expected {PAIR}"),
        ({"reading": DEEP}, f"window = None: expected {PAIR}"),
        ({"task": "multi"}, f"thresholds = (): expected {ENOUGH}"),
        ({"task": "multi", "thresholds": [0.5, 0.5]}, f"thresholds = (0.5, 0.5): expected {ENOUGH}"),
        ({"thresholds": [0.5, 0.5, 0.5]}, f"thresholds = (0.5, 0.5, 0.5): expected {ENOUGH}"),
        ({"temperature": 1, "scales": [1, 1, 2]}, f"scales = (1, 1, 2), shifts = (): expected {EACH}"),
        ({"temperature": 1, "scales": [1, 2], "shifts": [0, 0]}, f"shifts = (0, 0): expected {EACH}"),
        (
            {"scales": [1, 2, 1], "shifts": [0, 0, 1]},
            f"temperature = 1.5, scales = (1, 2, 1), shifts = (0, 0, 1): expected {EACH}",
        ),
        ({"shifts": [0, 0, 1]}, f"shifts = (0, 0, 1): expected {EACH}"),
        (
            {"task": "multi", "classes": ["a", "b;c"], "thresholds": [0.5, 0.5]},
            "classes = ('a', 'b;c'): expected names without ';', which stands between the labels of an image",
        ),
    ],
)
def test_values_that_do_not_go_together(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BundleError, match=re.escape(": 1 problem\n") + ".*" + re.escape(sentence)):
        Manifest.from_json(manifest_tree(**changes))
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
    }
    with pytest.raises(BundleError, match=re.escape(sentence)):
        replace(Manifest.from_json(manifest_tree()), **given)


def test_values_that_are_wrong_by_themselves_are_named_once() -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(manifest_tree(task="both", window=[2, 1], thresholds=[7], reading=DEEP))
    assert [line.split(" = ")[0] for line in caught.value.message.splitlines()[1:]] == [
        "  window",
        "  task",
        "  thresholds",
    ]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:x", "a\\x", "a//x", "./x", "", "a/.."])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="files = "):
        Manifest.from_json(manifest_tree(files={"model.onnx": "0" * 64, name: "0" * 64}))


def test_all_problems_at_once() -> None:
    tree = manifest_tree(size=0, resize="squash")
    del tree["classes"]
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(tree, "b/manifest.json")
    assert caught.value.message == (
        "b/manifest.json: 3 problems\n"
        "  classes: missing\n"
        "  size = 0: expected a whole number above 0\n"
        "  resize = 'squash': expected stretch, pad or crop"
    )


def test_an_exporter_cannot_build_a_wrong_one() -> None:
    values = Manifest.from_json(manifest_tree()).to_json()
    with pytest.raises(BundleError, match="manifest: 1 problem\n  embedding = 0: expected a whole number above 0"):
        Manifest(**{**values, "embedding": 0})


@pytest.mark.parametrize("schema", [4, 0, True, "2", None, [1]])
def test_another_schema_says_what_to_install(schema: Any) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json({"schema": schema}, "b/manifest.json")
    assert (
        caught.value.message == f"b/manifest.json: schema {schema!r}, this version of cvtune-edge reads schema 1 to 3"
    )
    assert "install" in caught.value.hint


def test_a_bundle_from_before_vector_scaling_has_one_temperature() -> None:
    tree = {key: value for key, value in manifest_tree().items() if key not in ("scales", "shifts")}
    manifest = Manifest.from_json(tree)
    assert (manifest.schema, manifest.temperature, manifest.scales, manifest.shifts) == (2, 1.5, (), ())


def test_bundles_of_schema_1_have_8_bits_and_exclusive_classes() -> None:
    new = {"reading", "window", "task", "thresholds"}
    old = {key: value for key, value in manifest_tree(schema=1).items() if key not in new}
    for tree in (
        old,
        {**old, "task": "multi", "window": "of the house", "scales": "of a fish"},
    ):  # keys it did not know meant nothing
        manifest = Manifest.from_json(tree)
        assert (manifest.schema, manifest.task, manifest.window, manifest.thresholds) == (1, "single", None, ())
        assert manifest.reading == {"pixels": "uint8", "background": [255, 255, 255]}
    with pytest.raises(BundleError, match="4 problems\n  reading: missing\n  window: missing\n  task: missing\n"):
        Manifest.from_json({**old, "schema": 2})


@pytest.mark.parametrize("tree", [[], {}, "text", None, {"name": "x"}])
def test_json_that_is_no_manifest(tree: Any) -> None:
    with pytest.raises(BundleError, match=r"^manifest.json: not a cvtune manifest"):
        Manifest.from_json(tree)


class TestLoad:
    def test_verifies_every_file(self, make_bundle: MakeBundle, tmp_path: Path) -> None:
        folder = make_bundle()
        golden = folder / "golden" / "1.png"
        golden.parent.mkdir()
        golden.write_bytes(b"picture")
        digests = {"model.onnx": file_sha256(folder / "model.onnx"), "golden/1.png": file_sha256(golden)}
        make_bundle(files=digests)
        assert load_manifest(folder).files == digests
        assert digests["golden/1.png"] == hashlib.sha256(b"picture").hexdigest()
        golden.write_bytes(b"another")
        (folder / "model.onnx").unlink()
        with pytest.raises(BundleError) as caught:
            load_manifest(folder)
        lines = caught.value.message.splitlines()
        assert lines[0] == f"{folder.as_posix()}: 2 problems"
        assert lines[1] == "  model.onnx: missing"
        assert lines[2].startswith("  golden/1.png: changed after the export (sha256 ")

    def test_folders_that_are_no_bundle(self, bundle_folder: Path, tmp_path: Path) -> None:
        cases = {
            tmp_path / "gone": ("no such folder", "name a folder that `cvtune fit` wrote"),
            bundle_folder / "model.onnx": ("a file", "name the folder that holds model.onnx"),
            bundle_folder.parent: ("it has no manifest.json", "is a run; its bundle is"),
        }
        for path, (what, hint) in cases.items():
            with pytest.raises(BundleError) as caught:
                load_manifest(path)
            assert caught.value.message == f"{path.as_posix()} is not a cvtune bundle: {what}"
            assert hint in caught.value.hint

    @pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b""])
    def test_damaged_json(self, bundle_folder: Path, data: bytes) -> None:
        (bundle_folder / "manifest.json").write_bytes(data)
        with pytest.raises(BundleError, match=r"manifest\.json: cannot be read as JSON"):
            load_manifest(bundle_folder)
