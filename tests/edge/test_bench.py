"""What `bench` measures: its structure and what must hold of any machine's times, not how long they are."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from cvtune_edge import BundleError, CvtuneError, ImageError
from cvtune_edge.bench import Plan, _settings, _threads, bench
from cvtune_edge.bench_child import ask
from cvtune_edge.bench_steps import read_profile, steps_of
from cvtune_edge.bench_table import lines
from cvtune_edge.bench_timed import Setting, Timed, drawn, frame_size, in_turns
from cvtune_edge.cli import main
from cvtune_edge.latency import STEPS, Latency, Times
from cvtune_edge.manifest import Manifest, file_sha256

from tests.edge.conftest import CLASSES, MakeBundle, manifest_tree, tiny_model

QUICK = Plan(threads=(1, 2), batches=(1, 3), seconds=0.5, size=(40, 30))
STEP_NAMES = ("frame_cast", "frame_div", "net_mean", "net_embed", "net_head", "last_softmax")


def named_model(**options: Any) -> onnx.ModelProto:
    """The tiny model with nodes named as a bundle's are."""
    model = tiny_model(CLASSES, **options)
    for node, name in zip(model.graph.node, STEP_NAMES, strict=True):
        node.name = name
    return model


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Latency:
    """Of the tiny model with named nodes, in three settings."""
    folder = tmp_path_factory.mktemp("bundle")
    onnx.save(named_model(), folder / "model.onnx")
    tree = manifest_tree(files={"model.onnx": file_sha256(folder / "model.onnx")})
    (folder / "manifest.json").write_text(json.dumps(tree), encoding="utf-8")
    return bench(folder, QUICK)


def test_a_row_for_each_setting(found: Latency) -> None:
    rows = [(row.precision, row.threads, row.batch) for row in found.rows]
    assert rows == [("float32", 1, 1), ("float32", 2, 1), ("float32", 2, 3)]
    assert [row.batch for row in found.singles] == [1, 1]
    assert found.size == (40, 30)
    assert found.frames == "a drawn frame of 40 x 30"
    assert found.machine.provider == "cpu"
    assert found.machine.versions.keys() >= {"python", "onnxruntime", "numpy"}


def test_times_are_in_order_and_a_part_is_no_longer_than_the_whole(found: Latency) -> None:
    for row in found.rows:
        assert set(row.steps) == set(STEPS)
        for times in (row.total, *row.steps.values()):
            assert times.n >= 3
            assert 0 <= times.p50 <= times.p95 <= times.p99
        assert row.total.p50 > 0
        assert sum(step.p50 for step in row.steps.values()) <= 1.5 * row.total.p50
        assert row.per_second == pytest.approx(row.batch * 1000 / row.total.mean)
        assert row.peak_mb is None or 20 < row.peak_mb < 2000
    for one in found.decoded:
        assert one.times.n >= 3
        assert one.times.p50 > 0
    assert [one.what for one in found.decoded] == [f"noise of 40 x 30, {kind} in memory" for kind in ("PNG", "JPEG")]
    assert 0 < found.startup.total < 60
    assert found.startup.frames == 0  # this bundle has no golden frames


def test_json_and_back(found: Latency) -> None:
    tree = json.loads(json.dumps(found.to_json()))
    assert Latency.from_json(tree) == found
    tree["machine"]["later"] = tree["rows"][0]["later"] = tree["later"] = 1
    assert Latency.from_json(tree) == found
    assert tree["said"] == list(found.said())


def test_the_table_is_plain_text_with_all_of_it(found: Latency) -> None:
    text = list(lines(found, "parts"))
    assert text[0] == f"parts on {found.machine}, {found.date}"
    assert not [line for line in text if "\x1b" in line]
    rows = [line.split() for line in text if line.startswith("float32")]
    assert [row[1:4] for row in rows[:3]] == [[str(r.threads), str(r.batch), str(r.total.n)] for r in found.rows]
    assert [row[2] for row in rows[3:]] == [*STEPS, *STEPS]
    first = found.rows[0].total
    start = f"one frame of 40 x 30 takes {first.p50:.1f} ms (p99 {first.p99:.1f} ms) on 1 thread: "
    assert any(line.startswith(start) for line in text)
    assert [line[6:] for line in text if line.startswith("note: ")] == list(found.notes)


def test_a_graph_without_names_has_no_steps(bundle_folder: Path) -> None:
    found = bench(bundle_folder, Plan(threads=(1,), batches=(1,), seconds=0.2, size=(20, 20)))
    assert found.rows[0].steps == {}
    assert "preprocess, network and decision could not be told apart here" in found.notes
    assert not [line for line in lines(found, "x") if "where the time" in line]


def test_the_command_prints_and_writes_nothing_but_its_json(
    make_bundle: MakeBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_bundle(model=named_model())
    before = sums(folder)
    flags = ["--threads", "1", "--batch", "1,2", "--seconds", "0.2", "--size", "32x24"]
    flags += ["--json", str(tmp_path / "b.json")]
    assert main(["bench", str(folder), *flags]) == 0
    captured = capsys.readouterr()
    assert "one frame of 32 x 24 takes " in captured.out
    assert captured.err.splitlines()[0] == "measuring: memory and start"
    assert sums(folder) == before
    tree = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert [row["batch"] for row in tree["rows"]] == [1, 2]
    with pytest.raises(SystemExit):
        main(["bench", str(folder), "--size", "640"])
    assert main(["bench", str(folder), *flags[:-1], str(tmp_path / "no" / "b.json")]) == 2
    assert "b.json: cannot be written" in capsys.readouterr().err


def test_pictures_of_the_user_are_read_and_shown(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate([(18, 24), (18, 24), (30, 40)]):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((*size, 3), 50 * number, np.uint8))
    (folder / "bad.png").write_bytes(b"nonsense")
    plan = Plan(threads=(1,), batches=(1, 2), seconds=0.3, images=(folder,))
    found = bench(make_bundle(model=named_model()), plan)
    assert found.size == (24, 18)
    assert found.frames == "2 pictures of 24 x 18, the first of those that were named"
    assert [one.what for one in found.decoded] == ["3 files as they are, from the system's cache"]
    assert "1 files could not be read and were left out" in found.notes
    for file in folder.iterdir():
        file.write_bytes(b"nonsense")
    with pytest.raises(CvtuneError, match="no picture that can be read"):
        bench(make_bundle(model=named_model()), plan)


@pytest.mark.parametrize("kind, window, files", [("uint16", [0, 4095], ["PNG"]), ("float32", [-1.5, 1.5], ["TIFF"])])
def test_deep_bundles(make_bundle: MakeBundle, kind: str, window: list[float], files: list[str]) -> None:
    reading = {"pixels": kind, "background": [255, 255, 255]}
    model = named_model(pixels=kind, reading=json.dumps(reading), window=json.dumps(window))
    folder = make_bundle(model=model, reading=reading, window=window)
    found = bench(folder, Plan(threads=(1,), batches=(1,), seconds=0.2, size=(24, 20)))
    assert [one.what.split(", ")[1].split()[0] for one in found.decoded] == files
    frame = drawn(Manifest.from_json(manifest_tree(reading=reading, window=window)), (24, 20))
    assert (frame.dtype.name, frame.shape) == (kind, (20, 24, 3))
    assert frame.min() >= window[0]
    assert frame.max() <= window[1]


def test_every_precision_is_timed(make_bundle: MakeBundle) -> None:
    folder = make_bundle(model=named_model())
    (folder / "model.int8.onnx").write_bytes((folder / "model.onnx").read_bytes())
    files = {name: file_sha256(folder / name) for name in ("model.onnx", "model.int8.onnx")}
    same = {"colour": "rgb", "shape": None, "precision": "int8", "heatmap": False}
    variants = {"model.int8.onnx": same}
    folder = make_bundle(model=named_model(), files=files, variants=variants)
    found = bench(folder, Plan(threads=(1,), batches=(1, 2), seconds=0.2))
    assert [(row.precision, row.batch) for row in found.rows] == [
        *(("float32", 1), ("float32", 2)),
        *(("int8", 1), ("int8", 2)),
    ]
    assert found.precisions == ("float32", "int8")
    assert [line.rpartition(" ")[2] for line in found.headlines()] == ["(float32)", "(int8)"]
    for other in ({"colour": "bgr"}, {"shape": [480, 640]}, {"heatmap": True}):  # they take or give something else
        tree = manifest_tree(files=files, variants={"model.int8.onnx": {**same, **other}})
        assert Manifest.from_json(tree).models == {"float32": "model.onnx"}


def test_what_cannot_be_measured_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    for wrong in ({"threads": ()}, {"batches": (0,)}, {"batches": ()}, {"seconds": 0}, {"size": (0, 5)}):
        with pytest.raises(CvtuneError, match="expected numbers of at least 1"):
            Plan(**wrong)
    with pytest.raises(CvtuneError, match="pictures have a size of their own"):
        Plan(size=(640, 480), images=(tmp_path,))
    folder = make_bundle(model=named_model(), frame_size=[30, 40])
    with pytest.raises(ImageError, match="the bundle's mask expects 40 x 30"):
        bench(folder, Plan(size=(64, 48)))
    with pytest.raises(BundleError, match="is not a cvtune bundle"):
        bench(tmp_path / "none")
    with pytest.raises(CvtuneError, match="the process that measures memory failed: ") as caught:
        ask({"bundle": str(tmp_path), "file": "model.onnx", "threads": 1})
    assert caught.value.hint


def test_threads_up_to_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from cvtune_edge import machine

    for cores, expected in {1: (1,), 2: (1, 2), 4: (1, 2, 3, 4), 6: (1, 2, 4, 6), 16: (1, 2, 4, 8, 16)}.items():
        monkeypatch.setattr(machine, "granted", lambda cores=cores: cores)
        assert _threads("CPU") == expected
        assert _threads("cuda") == (cores,)


def test_settings_of_one_frame_have_all_threads_and_batches_the_most() -> None:
    manifest = Manifest.from_json(manifest_tree())
    found = [(one.threads, one.batch) for one in _settings(manifest, Plan(threads=(1, 4), batches=(1, 8)))]
    assert found == [(1, 1), (4, 1), (4, 8)]
    found = [(one.threads, one.batch) for one in _settings(manifest, Plan(threads=(1, 4), batches=(8,)))]
    assert found == [(4, 8)]


@pytest.mark.parametrize(
    "changes, asked, size",
    [
        ({}, None, (640, 480)),
        ({}, (32, 24), (32, 24)),
        ({"frame_size": [480, 752]}, None, (752, 480)),
        ({"roi": [700, 10, 100, 40]}, None, (800, 480)),
    ],
)
def test_the_frame_fits_the_bundle(changes: dict[str, Any], asked: tuple[int, int] | None, size: Any) -> None:
    assert frame_size(Manifest.from_json(manifest_tree(**changes)), asked) == size


# ---- the pieces


def test_things_are_timed_in_turns() -> None:
    order: list[int] = []
    asks = [lambda i=i: order.append(i) for i in range(3)]
    times = in_turns(asks, [3.0, 1.0, 1.0], 0.01)
    assert all(len(one) >= 3 for one in times)
    assert all(seconds >= 0 for one in times for seconds in one)
    assert len(times[0]) > len(times[1])  # three times the share
    turns = [i for i, previous in zip(order, [None, *order], strict=False) if i != previous]
    assert turns[:9] == [0, 1, 2] * 3


def test_percentiles_are_those_of_numpy() -> None:
    seconds = np.random.default_rng(0).gamma(2, 0.01, 250)
    times = Times.of(list(seconds))
    expected = np.percentile(seconds * 1000, [50, 95, 99])
    assert [times.p50, times.p95, times.p99] == pytest.approx(expected, abs=1e-3)
    assert times.mean == pytest.approx(seconds.mean() * 1000, abs=1e-3)
    assert times.n == 250
    assert Times.of([0.002]) == Times(1, 2.0, 2.0, 2.0, 2.0)
    assert Times(100, 1, 1, 1.2, 1.5).steady
    assert not Times(100, 1, 1, 1.2, 1.51).steady


def profile(path: Path, *runs: list[tuple[str, int]]) -> Path:
    """A file as onnxruntime writes it, the events of a run before the run itself; times in microseconds."""
    events: list[dict[str, Any]] = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 5}]
    now = 10
    for run in runs:
        began = now
        for name, micros in run:
            events.append({"cat": "Node", "name": f"{name}_kernel_time", "ts": now, "dur": micros})
            now += micros
        events.append({"cat": "Session", "name": "model_run", "ts": began - 1, "dur": now - began + 2})
        now += 10
    path.write_text(json.dumps(events), encoding="utf-8")
    return path


def test_steps_are_told_by_the_names_of_the_nodes(tmp_path: Path) -> None:
    one = [("frame_shape_1", 1), ("Gather", 2), ("frame_resize_3", 4), ("net_conv", 8), ("ReorderOutput_token_99", 16)]
    rest = [("output_embedding", 32), ("last_topk_9", 64), ("net_softmax", 128), ("last_where_30", 256)]
    runs = read_profile(profile(tmp_path / "p.json", [*one, *rest], [("frame_a", 2), ("net_b", 4), ("last_c", 2)]))
    assert [[round(run[name] * 1e6) for name in STEPS] for run in runs] == [[7, 184, 320], [2, 4, 2]]
    scaled = steps_of(runs[1:], Times.of([0.016]))  # the whole took twice as long as its nodes
    assert {name: times.p50 for name, times in scaled.items()} == {"preprocess": 4.0, "network": 8.0, "decision": 4.0}
    unnamed = read_profile(profile(tmp_path / "q.json", [("Conv", 5), ("MatMul", 6)]))
    assert unnamed == [{}]
    assert steps_of(unnamed, Times.of([0.016])) == {}
    assert steps_of([], Times.of([0.016])) == {}


def test_onnxruntime_writes_the_profile_that_is_read(make_bundle: MakeBundle, tmp_path: Path) -> None:
    setting = Setting("float32", 1, 1)
    folder = make_bundle(model=named_model())
    model = Timed(folder, setting, provider="cpu", spin=False, profile=tmp_path / "p-")
    answer = model.asker([np.zeros((10, 12, 3), np.uint8)])
    for _ in range(4):
        answer()
    runs = read_profile(model.end_profiling())
    assert len(runs) == 4
    assert all(set(run) == set(STEPS) and min(run.values()) >= 0 for run in runs)


def latency_tree(**changes: Any) -> dict[str, Any]:
    """What `Latency.to_json` gives."""
    times = {"n": 10, "mean": 2.0, "p50": 2.0, "p95": 3.0, "p99": 4.0}
    setting = {"precision": "float32", "threads": 1, "batch": 1}
    tree: dict[str, Any] = {
        "schema": 1,
        "date": "2025-01-31",
        "machine": {
            "processor": "A",
            "flags": ["avx2"],
            "cores": 2,
            "processors": 4,
            "system": "Linux x86_64",
            "versions": {"onnxruntime": "1.32.0"},
            "provider": "cpu",
            "spin": False,
        },
        "frames": "a drawn frame of 640 x 480",
        "size": [640, 480],
        "rows": [{**setting, "total": times, "steps": {"network": times}, "peak_mb": 90}],
        "decoded": [{"what": "PNG", "times": times}],
        "startup": {"libraries": 0.3, "opened": 0.1, "golden": 0.2, "frames": 32},
        "notes": [],
    }
    return {**tree, **changes}


def test_what_it_means_in_the_words_of_the_factory() -> None:
    found = Latency.from_json(latency_tree())
    assert list(found.said()) == [
        "one frame of 640 x 480 takes 2.0 ms (p99 4.0 ms) on 1 thread: 500 parts a second (float32)",
        "reading a file adds 2.0 ms (p99 4.0 ms): PNG",
        "a new process answers after 0.6 s: libraries 0.30 s, opening 0.10 s, 32 golden frames 0.20 s",
    ]
    assert str(found.machine) == "A (AVX2), 2 of 4 cores, Linux x86_64, onnxruntime 1.32.0, provider cpu"


ROW = latency_tree()["rows"][0]


@pytest.mark.parametrize(
    "tree",
    [
        None,
        [],
        {},
        latency_tree(schema=2),
        latency_tree(rows=[]),
        latency_tree(rows=5),
        latency_tree(rows=[{**ROW, "threads": 0}]),
        latency_tree(rows=[{**ROW, "total": {**ROW["total"], "p50": 3.5}}]),
        latency_tree(rows=[{**ROW, "total": {**ROW["total"], "mean": float("nan")}}]),
        latency_tree(rows=[{**ROW, "total": {**ROW["total"], "n": 0}}]),
        latency_tree(rows=[{**ROW, "steps": {"network": {**ROW["total"], "p50": 2.5}}}]),
        latency_tree(rows=[{**ROW, "steps": {"coffee": ROW["total"]}}]),
        latency_tree(rows=[{**ROW, "peak_mb": "much"}]),
        latency_tree(size=[640]),
        latency_tree(size=[float("inf"), 480]),
        latency_tree(machine={}),
        latency_tree(machine={**latency_tree()["machine"], "versions": ["1.32.0"]}),
        latency_tree(machine={**latency_tree()["machine"], "cores": 0}),
        latency_tree(machine={**latency_tree()["machine"], "flags": [1]}),
        latency_tree(startup={"libraries": -1, "opened": 0.1, "golden": 0.2, "frames": 32}),
        latency_tree(decoded=[{"what": "PNG"}]),
    ],
)
def test_what_is_no_latency_is_refused(tree: Any) -> None:
    with pytest.raises(ValueError, match=r"."):  # each in its own words: a manifest gives its own sentence
        Latency.from_json(tree)


def test_a_manifest_may_have_one(make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Manifest.from_json(manifest_tree(latency=latency_tree()))
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert Manifest.from_json(manifest_tree(latency={"schema": 2, "else": 1})).latency == {"schema": 2, "else": 1}
    with pytest.raises(BundleError, match=r"expected null or what `cvtune bench` measured, with its machine"):
        Manifest.from_json(manifest_tree(latency={"schema": 1}))
    for latency, said in (
        (latency_tree(), "one frame of 640 x 480 takes 2.0 ms .*; on A .*, 2025-01-31"),
        (None, "not measured: `cvtune bench RUN` does"),
        ({"schema": 2}, "told in a way that this version does not read"),
    ):
        assert main(["info", str(make_bundle(latency=latency))]) == 0
        assert re.search(rf"^latency {{9}}{said}$", capsys.readouterr().out, flags=re.MULTILINE)
