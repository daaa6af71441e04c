from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cvtune_edge import BundleError
from cvtune_edge.manifest import Manifest, file_sha256, load_manifest

from tests.edge.conftest import CLASSES, MakeBundle, manifest_tree


def test_round_trip_through_json() -> None:
    for changes in ({}, {"roi": [4, 0, 10, 12], "frame_size": [480, 640]}):
        manifest = Manifest.from_json(manifest_tree(**changes))
        assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
        assert list(manifest.to_json()) == list(manifest_tree())
    assert manifest.classes == tuple(CLASSES)
    assert manifest.roi == (4, 0, 10, 12)
    assert manifest.frame_size == (480, 640)


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
    ],
)
def test_wrong_values_are_named(key: str, value: Any, expected: str) -> None:
    with pytest.raises(BundleError, match=re.escape(f"  {key} = ") + ".*" + re.escape(f": expected {expected}")):
        Manifest.from_json(manifest_tree(**{key: value}))


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


def test_another_schema_says_what_to_install() -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json({"schema": 2}, "b/manifest.json")
    assert caught.value.message == "b/manifest.json: schema 2, this version of cvtune-edge reads schema 1"
    assert "install" in caught.value.hint


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
