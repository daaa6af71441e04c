"""Golden frames: chosen and written by the lab, asked about by the line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cvtune_edge.cli import main, verify_command
from cvtune_edge.decision import REVIEW, OperatingPoint
from cvtune_edge.errors import BundleError, MismatchError
from cvtune_edge.golden import CLOSE, read_golden
from cvtune_edge.manifest import file_sha256, load_manifest
from cvtune_edge.runtime import Bundle
from numpy.typing import NDArray

from cvtune.bundle import golden as module
from cvtune.bundle.gate import Said, margins
from cvtune.bundle.golden import DRAWN, FRAMES, choose

MakeCase = Callable[..., Any]
POINT = OperatingPoint((0,), (0.3,) * 3, (0.7,) * 3, novelty=2.0)


def answered(n: int = 400, seed: int = 0) -> Said:
    dice = np.random.default_rng(seed)
    logits = dice.normal(size=(n, 3)) * 2
    shares = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    novelty = dice.uniform(0, 2.2, n).astype(np.float32)
    return Said(shares, novelty, POINT.decide(shares, novelty))


def test_all_classes_the_unsure_and_the_strange_are_chosen() -> None:
    said = answered()
    picks = dict(choose(said, POINT, np.ones(400, bool)))
    assert len(picks) == FRAMES - DRAWN
    assert sorted(picks) == list(picks)
    kinds = list(picks.values())
    assert kinds.count("strange") >= 4
    assert kinds.count("unsure") >= 6
    assert kinds.count("sure") >= 6
    rows = np.array(list(picks))
    assert set(said.probabilities[rows].argmax(1)) == {0, 1, 2}
    assert (margins(said, POINT)[rows] >= 1.5 * CLOSE).all()
    for row, kind in picks.items():
        far = said.novelty is not None and said.novelty[row] > 2
        assert (kind == "strange") is bool(far)
        assert bool(said.decisions[row] == REVIEW) is (kind != "sure")


def test_files_that_are_gone_are_not_chosen() -> None:
    there = np.zeros(400, bool)
    there[:5] = True
    picks = dict(choose(answered(), POINT, there))
    assert set(picks) == set(range(5))
    assert choose(answered(), POINT, ~there & False) == []


def test_more_classes_than_frames() -> None:
    k = 60
    shares = np.full((300, k), 0.1 / k, np.float32)
    shares[np.arange(300), np.arange(300) % k] += 0.9
    point = OperatingPoint((), (0.0,) * k, (0.0,) * k)
    picks = choose(Said(shares, None, point.decide(shares)), point, np.ones(300, bool))
    assert {row % k for row, _ in picks} == set(range(k))


@pytest.fixture(scope="module")
def bundle(small: tuple[Any, Path]) -> Path:
    return small[1]


def test_the_bundle_has_them_and_this_machine_answers_alike(
    small: tuple[Any, Path], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = read_golden(bundle)
    assert len(frames) == 12 + DRAWN
    assert {one.kind for one in frames} >= {"drawn", "sure", "strange"}
    manifest = load_manifest(bundle)
    names = {"model.onnx", "golden/golden.json", *(one.file for one in frames)}
    assert set(manifest.files) == names
    assert {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()} == {
        *names,
        "manifest.json",
    }
    verified = Bundle(bundle).verify()
    assert (verified.frames, verified.equal, verified.wrong) == (14, 14, ())
    assert verified.worst <= 1e-6
    assert main(["verify", str(bundle)]) == 0
    assert capsys.readouterr().out.startswith(
        "16 of 16 files are as exported; 14 of 14 golden frames decided as in the"
    )


def test_frames_are_what_the_files_hold(small: tuple[Any, Path], bundle: Path) -> None:
    opened = Bundle(bundle)
    frames = [one.frame(bundle) for one in read_golden(bundle) if one.kind != "drawn"]
    for path, frame in zip(small[0].paths, frames, strict=True):
        assert np.array_equal(frame, opened.read(small[0].root / path).pixels)


def changed(bundle: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the bundle with another list of golden frames, whose checksum is right."""
    shutil.copytree(bundle, folder)
    path = folder / "golden/golden.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    change(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["golden/golden.json"] = file_sha256(path)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def other_probability(tree: dict[str, Any]) -> None:
    tree["frames"][3]["probabilities"][0] += 0.03


def other_decision(tree: dict[str, Any]) -> None:
    tree["frames"][3]["decision"] = 7


@pytest.mark.parametrize("change", [other_probability, other_decision])
def test_a_machine_that_answers_otherwise_is_refused(
    change: Callable[[dict[str, Any]], None], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(bundle, tmp_path / "b", change)
    with pytest.raises(MismatchError, match=r"answers otherwise than the lab: 1[34] of 14 golden frames") as caught:
        Bundle(folder)
    assert caught.value.exit_code == 3
    assert "golden/03.bin" in caught.value.message
    assert main(["verify", str(folder)]) == 3
    assert capsys.readouterr().err.startswith("error: ")
    assert Bundle(folder, verify=False).verify().wrong == ("golden/03.bin",)


def test_a_little_otherwise_is_another_processor(bundle: Path, tmp_path: Path) -> None:
    def little(tree: dict[str, Any]) -> None:
        tree["frames"][3]["probabilities"][0] += 0.015

    assert Bundle(changed(bundle, tmp_path / "b", little)).verify().worst == pytest.approx(0.015, abs=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("file", "../secret.bin", "no list of golden frames .*expected a name inside the folder"),
        ("file", "golden/99.bin", "not in the manifest, so it is not opened"),
        ("file", "model.onnx", "bytes, at most 196,608 are read"),
        ("shape", [1, 1, 3], "196,608 bytes, at most 3 are read"),
        ("shape", [64, 64], "no list of golden frames"),
        ("shape", [10**9, 10**9, 3], "no list of golden frames"),
        ("pixels", "object", "no list of golden frames"),
        ("decision", "OK", "no list of golden frames"),
        ("probabilities", [0.5, 0.5], "of another bundle"),
    ],
)
def test_a_hostile_list_is_refused(key: str, value: Any, sentence: str, bundle: Path, tmp_path: Path) -> None:
    folder = changed(bundle, tmp_path / "b", lambda tree: tree["frames"][0].update({key: value}))
    (tmp_path / "secret.bin").write_bytes(bytes(196608))
    with pytest.raises(BundleError, match=sentence):
        Bundle(folder)


def test_a_frame_that_was_changed_is_named(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    data = bytearray((tmp_path / "b/golden/02.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "b/golden/02.bin").write_bytes(data)
    with pytest.raises(BundleError, match=r"golden/02.bin: changed after the export"):
        verify_command(tmp_path / "b")


def test_large_frames_are_made_smaller_unless_a_region_needs_them(
    small: tuple[Any, Path], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, opened = small[0], Bundle(bundle)
    monkeypatch.setattr(module, "SIDE", 40)
    picks: list[module.Pick] = [(0, "sure"), (1, "sure")]

    def sizes(**changes: Any) -> list[tuple[int, ...]]:
        pre = replace(case.pre, **changes)
        return [frame.shape for frame, _ in module._frames(opened, pre, case.root, case.paths, picks)]

    assert sizes() == [(40, 40, 3)] * 4
    assert sizes(roi=(3, 4, 20, 30)) == [(34, 23, 3)] * 2 + [(64, 64, 3)] * 2
    mask: NDArray[np.uint8] = np.ones((64, 64), np.uint8)
    assert sizes(mask=mask) == [(64, 64, 3)] * 4


def test_large_frames_are_fewer(small: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, folder = small
    monkeypatch.setattr(module, "BYTES", 3 * 256 * 256 * 2 + 3 * 64 * 64 * 3)
    files = module.write_golden(
        tmp_path, Bundle(folder), case.pre, case.root, case.paths, [(i, "sure") for i in range(9)]
    )
    assert len(files) == 1 + DRAWN + 3


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_deep_frames(kind: str, make_case: MakeCase, deep_parts: dict[str, Path], tmp_path: Path) -> None:
    case = make_case(deep_parts[kind], pixels=kind, window=(0, 4095))
    case.export(tmp_path / "bundle")
    (one, *_) = (one for one in read_golden(tmp_path / "bundle") if one.kind != "drawn")
    assert (one.pixels, one.frame(tmp_path / "bundle").dtype.name) == (kind, kind)
    assert Bundle(tmp_path / "bundle").verify().equal == 14


def test_several_labels(make_case: MakeCase, tmp_path: Path) -> None:
    make_case(task="multi", thresholds=(0.5, 0.3, 0.95, 0.02)).export(tmp_path / "bundle")
    frames = read_golden(tmp_path / "bundle")
    assert all(isinstance(one.decision, tuple) and len(one.decision) == 4 for one in frames)
    assert Bundle(tmp_path / "bundle").verify().equal == len(frames) == 14
