"""A bundle that decides: what the graph says, in words, in lines, in tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from cvtune_edge.decision import REVIEW, OperatingPoint
from cvtune_edge.errors import BundleError, ImageError
from cvtune_edge.predict import predict_command
from cvtune_edge.results import Decision, Unreadable
from cvtune_edge.runtime import Bundle
from cvtune_edge.session import open_session
from numpy.typing import NDArray

from cvtune.bundle.decide import add_decision
from cvtune.evaluation.novelty import fit_novelty
from tests.edge.conftest import CLASSES, WIDTH, MakeBundle, tiny_model

Made = tuple[Bundle, OperatingPoint, Any]
Make = Callable[..., Made]

COLOURS = np.random.default_rng(1).integers(0, 256, (40, 3)) * np.linspace(0.02, 0.5, 40)[:, None]
FRAMES = np.ascontiguousarray(np.broadcast_to(COLOURS[:, None, None].astype(np.uint8), (40, 8, 8, 3)))
BLACK, WHITE = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
GOOD = OperatingPoint((0,), (0.4, 0.3, 0.3), (0.6, 0.7, 0.5))
PLAIN = OperatingPoint((), (0.0,) * 3, (0.6, 0.4, 0.9))
SEVERAL = OperatingPoint((), (0.6, 0.55, 0.6), (0.9, 0.65, 0.8), several=True)


def write_png(path: Path, frame: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".png", frame[..., ::-1])[1].tobytes())
    return path


@pytest.fixture
def make(make_bundle: MakeBundle) -> Make:
    """`make(point, limit=share)`: a bundle, its limits, and its distance from half of the frames, where it has one."""

    def made(point: OperatingPoint, share: float | None = None) -> Made:
        task = "multi" if point.several else "single"
        plain, novelty = tiny_model(CLASSES, task=task), None
        if share is not None:
            bundle = Bundle(make_bundle(model=plain, task=task, thresholds=list(point.reject) if point.several else []))
            seen = np.array([bundle.predict(frame, embedding=True).embedding for frame in FRAMES])
            novelty = fit_novelty("knn", seen[::2], np.zeros(20, np.int64))
            limit = float(np.quantile(novelty(seen), share))
            point = OperatingPoint(point.ok, point.accept, point.reject, limit, several=point.several)
        model = onnx.ModelProto()
        model.CopyFrom(plain)
        add_decision(model, point, novelty)
        onnx.checker.check_model(model, full_check=True)
        about = None if novelty is None else {"kind": "knn", "neighbours": 5, "points": 20}
        folder = make_bundle(
            model=model,
            schema=3,
            task=task,
            thresholds=list(point.reject) if point.several else [],
            limits=point.to_json(),
            novelty=about,
            region=None,
            targets=[],
            training="",
        )
        return Bundle(folder, threads=1), point, novelty

    return made


@pytest.mark.parametrize("share", [None, 0.7])
@pytest.mark.parametrize("point", [GOOD, PLAIN, SEVERAL])
def test_the_graph_decides_as_the_limits_do(point: OperatingPoint, share: float | None, make: Make) -> None:
    bundle, point, novelty = make(point, share)
    answers = [bundle.predict(frame, embedding=True) for frame in FRAMES]
    shares = np.stack([one.probabilities for one in answers])
    distances = None if novelty is None else novelty(np.array([one.embedding for one in answers]))
    found = np.array([one.decision for one in answers])
    assert np.array_equal(found, point.decide(shares, distances))
    assert len(np.unique(found)) >= (3 if point.ok or point.several else 2), (
        "nothing is tested where all decisions are alike"
    )
    if distances is not None:
        away = np.array([one.novelty for one in answers])
        np.testing.assert_allclose(away, distances, rtol=1e-4, atol=1e-6)
        assert (found[distances > point.novelty] == REVIEW).all()
    ok = bundle._session.run(["ok"], {"image": FRAMES})[0] if point.ok else None
    if ok is not None:
        assert ok.dtype == bool
        assert ok.tolist() == point.is_ok(found).tolist()


def test_a_batch_and_files_give_what_frames_give(make: Make, tmp_path: Path) -> None:
    bundle, *_ = make(GOOD, 0.7)
    paths = [write_png(tmp_path / f"{i}.png", frame) for i, frame in enumerate(FRAMES[:6])]
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    by_frame = bundle.decide(list(FRAMES[:6]))
    by_path = bundle.decide(paths)
    streamed = list(bundle.decisions([*paths, tmp_path / "bad.png"]))
    assert isinstance(streamed.pop(), Unreadable)
    for one, two, three in zip(by_frame, by_path, streamed, strict=True):
        assert isinstance(three, Decision)
        assert (one.said, one.decision, one.ok, one.novelty) == (two.said, two.decision, two.ok, two.novelty)
        assert (two.said, two.reason, two.path) == (three.said, three.reason, three.path)
    with pytest.raises(ImageError, match=r"uint8 \[6, 8, 8, 3\], expected uint8 \[H, W, 3\]"):
        bundle.decide(FRAMES[:6])


def test_what_a_person_reads(make: Make) -> None:
    bundle, point, _ = make(GOOD)
    seen = {}
    for one in bundle.decide(list(FRAMES)):
        seen[one.said] = one
        assert one.ok is (one.said == "OK")
        assert bool(one.reason) is (one.said == "REVIEW")
        assert one.label == CLASSES[int(one.prediction.probabilities.argmax())]
    assert {"OK", "REVIEW"} <= set(seen)
    assert any(said.startswith("NG (") for said in seen)
    assert seen["REVIEW"].decision == REVIEW
    assert seen["REVIEW"].reason.startswith("between the limits: a defect 0.")
    ng = np.array([0.2, 0.5, 0.3], np.float32)
    assert point.reason(point.decide(ng[None])[0], ng, None, CLASSES) == ""


def test_far_images_are_said_to_be_far(make: Make) -> None:
    bundle, point, _ = make(PLAIN, 0.0)
    found = [one for one in bundle.decide([WHITE, BLACK]) if one.reason]
    assert found
    for one in found:
        assert one.said == "REVIEW"
        assert one.ok is None
        assert one.reason == f"never seen: distance {one.novelty:.3g}, known images are within {point.novelty:.3g}"


def test_several_labels(make: Make) -> None:
    bundle, point, _ = make(SEVERAL)
    unsure = 0
    for one in bundle.decide(list(FRAMES)):
        assert isinstance(one.decision, tuple)
        marks = {1: "", REVIEW: "?"}
        assert one.said == ";".join(n + marks[d] for n, d in zip(CLASSES, one.decision, strict=True) if d in marks)
        assert bool(one.reason) is (REVIEW in one.decision)
        assert one.reason.count("between the limits") == one.decision.count(REVIEW)
        unsure += REVIEW in one.decision
    assert unsure
    assert point.said(np.array([0, 0, 0]), CLASSES) == ""


def test_no_number_is_never_ok() -> None:
    """Compared with whatever limit: the graph and Python say REVIEW."""
    nothing = np.full((1, 3), np.nan, np.float32)
    for point in (GOOD, PLAIN, SEVERAL):
        assert (point.decide(nothing) == REVIEW).all()
    far = OperatingPoint((0,), (0.9,) * 3, (0.9,) * 3, novelty=1.0)
    assert far.decide(np.array([[1, 0, 0]], np.float32), np.array([np.nan])).tolist() == [REVIEW]


@pytest.mark.parametrize("point", [GOOD, PLAIN, SEVERAL])
def test_no_number_is_never_ok_in_the_graph(point: OperatingPoint) -> None:
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", width])
        for name, width in (("given", 3), ("embedding", WIDTH))
    ]
    shares = onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", 3])
    nodes = [onnx.helper.make_node("Identity", ["given"], ["probabilities"])]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [shares])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    add_decision(model, point, None)
    rows = np.array([[np.nan] * 3, [0.98, np.nan, 0.01], [np.nan, 0.0, 0.0]], np.float32)
    given = {"given": rows, "embedding": np.zeros((3, WIDTH), np.float32)}
    (decision,) = open_session(model.SerializeToString()).run(["decision"], given)
    assert np.array_equal(decision, point.decide(rows))
    assert (decision[0] == REVIEW).all()
    if point.ok:
        assert not set(decision[1:2].ravel().tolist()) & set(point.ok)


def test_lines_tables_and_counts(make: Make, tmp_path: Path) -> None:
    bundle, *_ = make(GOOD, 0.7)
    for i, frame in enumerate(FRAMES[:12]):
        write_png(tmp_path / "in" / f"{i:02}.png", frame)
    expected = bundle.decide(sorted((tmp_path / "in").iterdir()))
    out, err = io.StringIO(), io.StringIO()
    assert predict_command(bundle.path, [tmp_path / "in"], csv=str(tmp_path / "t.csv"), out=out, err=err) == 0
    for line, one in zip(out.getvalue().splitlines(), expected, strict=True):
        reason = f"  ({one.reason})" if one.reason else ""
        assert line == f"{one.path}  {one.said}  {one.label}  {one.probability:.3f}{reason}"
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == [
        "path",
        "label",
        "probability",
        *(f"p:{n}" for n in CLASSES),
        "decision",
        "novelty",
        "reason",
    ]
    assert [(row["decision"], row["reason"]) for row in rows] == [(one.said, one.reason) for one in expected]
    assert [float(row["novelty"]) for row in rows] == pytest.approx([one.novelty for one in expected], rel=1e-6)
    counts = {said: sum(one.said == said for one in expected) for said in {one.said for one in expected}}
    assert err.getvalue().splitlines() == [f"{said}: {n} of 12 images" for said, n in sorted(counts.items())]
    out = io.StringIO()
    predict_command(bundle.path, [tmp_path / "in"], json=True, out=out, err=err)
    for line, one in zip(out.getvalue().splitlines(), expected, strict=True):
        tree = json.loads(line)
        assert (tree["said"], tree["decision"], tree["ok"], tree["reason"]) == (
            one.said,
            one.decision,
            one.ok,
            one.reason,
        )
        assert tree["novelty"] == pytest.approx(one.novelty, rel=1e-6)


def test_a_bundle_that_does_not_decide_says_so(bundle_folder: Path) -> None:
    bundle = Bundle(bundle_folder)
    assert bundle.predict(BLACK).decision is None
    with pytest.raises(BundleError, match="does not decide: schema 2 has probabilities alone"):
        bundle.decide(BLACK)
    with pytest.raises(BundleError, match="does not decide"):
        next(bundle.decisions([]))


@pytest.mark.parametrize("name", ["decision", "ok", "novelty"])
def test_a_model_without_an_output_is_refused(name: str, make: Make, make_bundle: MakeBundle) -> None:
    bundle, *_ = make(GOOD, 0.7)
    model = onnx.load(bundle.path / "model.onnx")
    (output,) = (one for one in model.graph.output if one.name == name)
    model.graph.output.remove(output)
    manifest = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    folder = make_bundle(model=model, **{k: v for k, v in manifest.items() if k != "files"})
    with pytest.raises(BundleError, match=rf"{name} is missing \[\], expected"):
        Bundle(folder)


def test_a_model_with_other_limits_than_the_manifest_is_refused(make: Make, make_bundle: MakeBundle) -> None:
    bundle, point, _ = make(GOOD)
    model = onnx.load(bundle.path / "model.onnx")
    other: NDArray[Any] = np.array(point.accept) / 2
    told = OperatingPoint(point.ok, tuple(other.tolist()), point.reject).to_json()
    onnx.helper.set_model_props(model, {"classes": json.dumps(CLASSES), "limits": json.dumps(told)})
    manifest = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    folder = make_bundle(model=model, **{k: v for k, v in manifest.items() if k != "files"})
    with pytest.raises(BundleError, match="limits in the model: "):
        Bundle(folder)


def test_a_limit_without_a_distance_is_no_graph() -> None:
    point = OperatingPoint((0,), (0.5,) * 3, (0.5,) * 3, novelty=1.0)
    with pytest.raises(ValueError, match="needs a distance"):
        add_decision(tiny_model(CLASSES), point, None)
