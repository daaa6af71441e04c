from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cvtune_edge
import lightning as L
import numpy as np
import pytest
import torch
from cvtune_edge import Prediction, Unreadable
from cvtune_edge.bench import Plan
from cvtune_edge.latency import Latency
from lightning.pytorch.loggers.logger import Logger
from torch import nn

import cvtune
from cvtune import api
from cvtune.config import AugmentConfig, Config, TrainConfig
from cvtune.data.augment import Pixels
from cvtune.data.index import build_index
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.errors import BundleError, ConfigError, DataError, ModelError, RunError
from cvtune.evaluation.comparison import Comparison
from cvtune.rundir import RunDir, read_json

NO_STAGES: dict[str, Any] = {"train.tail.steps": 0, "train.all.steps": 0}
MISSPELT: dict[str, Any] = {"train.tail.step": 3}


@pytest.fixture
def run(quick_run: Path) -> cvtune.Run:
    return cvtune.load_run(quick_run)


@pytest.fixture
def always_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each stage: what is trained is asked for here, not whether it helps."""
    verdict = Comparison(0.1, 0.0, True, "kept for the test")
    monkeypatch.setattr("cvtune.evaluation.task.better", lambda new, old: verdict)


# ---- names


def test_public_names() -> None:
    assert len(cvtune.__all__) <= 12
    assert sorted(cvtune.__all__) == cvtune.__all__
    assert {"fit", "load_run", "load_bundle", "Run", "Config", "CvtuneError"} <= set(cvtune.__all__)
    for name in cvtune.__all__:
        assert getattr(cvtune, name) is not None
    assert set(cvtune.__all__) <= set(dir(cvtune))
    with pytest.raises(AttributeError, match="module 'cvtune' has no attribute 'train'"):
        cvtune.train  # noqa: B018


def test_one_error_for_all(tmp_path: Path) -> None:
    assert cvtune.CvtuneError is cvtune_edge.CvtuneError
    with pytest.raises(cvtune.CvtuneError) as caught:
        cvtune.fit(tmp_path)
    assert caught.value.hint


# ---- a run


def test_fit_gives_a_run(quick_run: Path, run: cvtune.Run) -> None:
    assert repr(run) == f"Run({str(quick_run)!r})"
    assert run.path == quick_run
    assert run.exit_code == 0
    assert run.classes == ("dent", "ok", "scratch", "stain")
    assert run.bundle.manifest.backbone == "test_efficientnet"
    assert set(run.metrics) == {"model", "task", "val", "calib", "test", "decisions", "reliability"}
    assert run.metrics["test"]["n"] == 16


def test_load_run_refuses_what_is_none(tmp_path: Path, quick_run: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no config\.toml\n"):
        cvtune.load_run(tmp_path)
    half = shutil.copytree(quick_run, tmp_path / "half", ignore=shutil.ignore_patterns("bundle"))
    with pytest.raises(RunError) as caught:
        cvtune.load_run(half)
    assert str(caught.value) == (
        f"{half}: the run ended before its first model\nhint: fit the folder again with another --out"
    )


def test_load_bundle_takes_a_run_or_a_bundle(quick_run: Path, tmp_path: Path) -> None:
    one, other = cvtune.load_bundle(quick_run), cvtune.load_bundle(str(quick_run / "bundle"), threads=1)
    assert one.classes == other.classes
    with pytest.raises(BundleError, match="is not a cvtune bundle"):
        cvtune.load_bundle(tmp_path)


def test_predict_takes_files_and_folders(run: cvtune.Run, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").touch()
    picture = min((parts / "ok").iterdir())
    answers = list(run.predict([parts / "dent", str(picture), tmp_path / "broken.png"]))
    assert [type(answer) for answer in answers] == [Prediction] * 25 + [Unreadable]
    single = next(iter(run.predict(picture)))
    assert isinstance(single, Prediction)
    assert isinstance(answers[24], Prediction)
    assert single.probabilities.tobytes() == answers[24].probabilities.tobytes()


def test_predict_is_lazy(run: cvtune.Run, parts: Path) -> None:
    asked = 0

    def endless() -> Iterator[Path]:
        nonlocal asked
        while True:
            asked += 1
            yield min((parts / "ok").iterdir())

    stream = run.predict(endless())
    for _ in range(3):
        next(stream)
    assert asked < 10


def test_report_is_rebuilt(quick_run: Path, tmp_path: Path) -> None:
    copy = cvtune.load_run(shutil.copytree(quick_run, tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))
    assert copy.report() == tmp_path / "run" / "report.html"
    assert copy.report().stat().st_size > 10_000


def test_bench_keeps_the_table_with_the_run(quick_run: Path, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(quick_run, tmp_path / "run"))
    model = (run.bundle / "model.onnx").read_bytes()
    found = api.bench(run.root, Plan(threads=(1,), batches=(1,), seconds=0.5))
    assert [set(row.steps) for row in found.rows] == [{"preprocess", "network", "decision"}]
    assert found.startup.frames == 32
    assert found.decoded[0].what == "8 golden frames enlarged to 640 x 480, PNG in memory"
    assert Latency.from_json(read_json(run.latency)) == found
    bundle = cvtune.load_bundle(run.root)  # whole, and of the same answers
    assert bundle.manifest.latency is not None
    assert Latency.from_json(bundle.manifest.latency) == found
    assert (run.bundle / "model.onnx").read_bytes() == model
    page = run.report.read_text(encoding="utf-8")
    assert "<h3>How long it takes</h3>" in page
    assert str(found.machine.processor) in page


def test_bench_leaves_a_run_alone_that_another_process_holds(quick_run: Path, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(quick_run, tmp_path / "run"))
    with run.locked(), pytest.raises(RunError, match="is in use by another cvtune process"):
        api.bench(run.root, Plan(threads=(1,), batches=(1,), seconds=0.2))
    assert not run.latency.exists()


def test_bench_of_a_bundle_writes_nothing(quick_run: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(quick_run / "bundle", tmp_path / "bundle")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    api.bench(bundle, Plan(threads=(1,), batches=(1,), seconds=0.2, size=(64, 64)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def held_out(run: cvtune.Run) -> tuple[list[Path], np.ndarray[Any, Any]]:
    """Files of the test side and the bundle's probabilities, float32 [n, K], of every image that training knew."""
    root = Path(json.loads((run.path / "audit.json").read_text(encoding="utf-8"))["root"])
    answers = [answer for answer in run.predict(root) if isinstance(answer, Prediction)]
    return [Path(answer.path) for answer in answers], np.stack([answer.probabilities for answer in answers])


def torch_answers(run: cvtune.Run, model: nn.Module, folder: Path, scratch: Path) -> np.ndarray[Any, Any]:
    """Probabilities [n, K] of all images of a folder by the torch model and model.json, as its docstring says."""
    facts = json.loads((run.path / "model.json").read_text(encoding="utf-8"))
    manifest = run.bundle.manifest
    pre = Preprocessing(size=facts["size"], roi=manifest.roi, interpolation="cubic")
    filled = fill_pixels(build_index(folder), pre, pre.reading, scratch=scratch, cache_gb=0)
    pixels = torch.from_numpy(filled.pixels.batch(range(len(filled.index)))).float() / 255  # (n, 3, S, S)
    mean, std = (torch.tensor(facts[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        logits = model((pixels - mean) / std) / facts["temperature"]
    answers: np.ndarray[Any, Any] = logits.softmax(1).numpy()
    return answers


def test_the_torch_model_answers_like_the_bundle(run: cvtune.Run, parts: Path, tmp_path: Path) -> None:
    model = run.model()
    assert not model.training
    _, exported = held_out(run)
    assert np.abs(torch_answers(run, model, parts, tmp_path) - exported).max() <= 1e-3


# ---- evaluate


def test_evaluate_a_folder_of_classes(run: cvtune.Run, parts: Path) -> None:
    result = run.evaluate(parts)
    assert (result.side, result.skipped, result.unreadable) == ("all", (), 0)
    assert result.metrics.n == 96
    assert Counter(result.predictions.truth.tolist()) == {0: 24, 1: 24, 2: 24, 3: 24}
    assert result.predictions.classes == run.classes


def test_evaluate_scores_the_test_side_alone(run: cvtune.Run, parts: Path, tmp_path: Path) -> None:
    for side, label in (("train", "ok"), ("test", "stain"), ("test", "ok"), ("train", "rust")):
        (tmp_path / side / label).mkdir(parents=True)
        source = "ok" if label == "rust" else label
        for picture in sorted((parts / source).iterdir())[:2]:
            shutil.copy(picture, tmp_path / side / label)
    (tmp_path / "test" / "ok" / "broken.png").touch()
    (tmp_path / "train" / "ok" / "broken.png").touch()
    result = cvtune.load_run(run.path).evaluate(tmp_path)
    assert result.side == "test"
    assert result.metrics.n == 4
    assert [result.predictions.classes[i] for i in result.predictions.truth] == ["ok", "ok", "stain", "stain"]
    assert result.skipped == (("test/ok/broken.png", "empty file"),), "what lies in train/ is not asked about"
    assert result.unreadable == 1


def test_evaluate_needs_classes_that_the_model_knows(run: cvtune.Run, parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "ok", tmp_path / "good")
    with pytest.raises(DataError) as caught:
        run.evaluate(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: classes that the model does not know: good; it knows dent, ok, scratch, stain\n"
        "hint: rename the folders to the model's classes, merge them (--merge), or leave them out (--ignore)"
    )


def test_evaluate_tells_its_progress(run: cvtune.Run, parts: Path) -> None:
    from cvtune.api import evaluate

    seen: list[tuple[int, int]] = []
    evaluate(run.bundle, parts, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(i, 96) for i in range(1, 97)]


# ---- settings


def test_unknown_arguments_are_all_named(parts: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        cvtune.fit(parts, backbon="resnet18", **MISSPELT)
    assert str(caught.value).splitlines() == [
        "2 problems in the settings from the flags:",
        "  train.tail.step: unknown key, did you mean 'train.tail.steps'?",
        "  backbon: unknown key, did you mean 'model.backbone'?",
        "hint: configs/default.toml lists every key with what it does",
    ]


def settled(parts: Path, out: Path, *arguments: Any, **flags: Any) -> Config:
    """The settings of a fit that goes no further than the probe."""
    small: dict[str, Any] = {"backbone": "test_efficientnet", "from_scratch": True, "size": 64, "budget": 1e-3}
    run = cvtune.fit(parts, out=out, **small, **flags)
    assert [stage["name"] for stage in json.loads((run.path / "stages.json").read_text("utf-8"))] == ["probe"]
    return cvtune.load_config(file=run.path / "config.toml")


def test_a_config_object_with_a_preset_has_its_keys(parts: Path, tmp_path: Path) -> None:
    mine = Config(preset="xray", seed=5, augment=AugmentConfig(rotate=1.0))
    config = settled(parts, tmp_path / "a", config=mine)
    assert (config.seed, config.augment.rotate, config.augment.hflip, config.augment.vflip) == (5, 1.0, True, False)
    config = settled(parts, tmp_path / "b", config=Config(), preset="traffic-signs", seed=7)
    assert (config.seed, config.augment.scale, config.augment.hflip) == (7, (0.6, 1.0), False)
    with pytest.raises(ConfigError, match="unknown preset 'x-ray'"):
        cvtune.fit(parts, config=Config(preset="x-ray"))


# ---- plugging in


class OwnHead(nn.Module):
    """A head with a layer between."""

    asked: list[tuple[int, int]] = []  # noqa: RUF012  every call is written down

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.asked.append((width, classes))
        self.layers = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


class Watch(L.Callback):
    def __init__(self) -> None:
        self.stages = 0
        self.batches = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, cvtune.FineTuner)
        self.stages += 1

    def on_train_batch_end(self, *args: Any) -> None:
        self.batches += 1


class Notebook(Logger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    @property
    def name(self) -> str:
        return "notebook"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(metrics)


def test_own_parts_are_used(always_better: None, parts: Path, quick_config: Path, tmp_path: Path) -> None:
    watch, notebook, shapes = Watch(), Notebook(), Counter[tuple[int, ...]]()
    OwnHead.asked.clear()

    def inverted(*, image: Pixels) -> dict[str, Any]:
        shapes[image.shape] += 1
        return {"image": 255 - image}

    run = cvtune.fit(
        parts,
        out=tmp_path / "run",
        config=quick_config,
        head=OwnHead,
        augmentation=inverted,
        callbacks=[watch],
        loggers=[notebook],
        trainer={"accelerator": "cpu", "log_every_n_steps": 1},
    )
    assert OwnHead.asked[-1] == (run.bundle.manifest.embedding, 4)
    assert {classes for _, classes in OwnHead.asked} == {4}, "it is tried before the probe settles the width"
    assert (watch.stages, watch.batches) == (2, 6), "tail and all, 4 and 2 steps"
    assert {"val_loss", "val_balanced_accuracy", "train_loss"} <= {key for row in notebook.rows for key in row}
    assert set(shapes) == {(64, 64, 3)}

    facts = json.loads((run.path / "model.json").read_text(encoding="utf-8"))
    assert facts["head"] == "OwnHead"
    with pytest.raises(RunError) as caught:
        run.model()
    assert str(caught.value) == f"{run.path}: its head is your own, OwnHead\nhint: pass head=... to model()"
    model = run.model(head=OwnHead)
    assert isinstance(model.head, OwnHead)
    _, exported = held_out(run)
    assert np.abs(torch_answers(run, model, parts, tmp_path / "scratch") - exported).max() <= 1e-3


def test_a_factory_is_not_needed_where_the_linear_head_stayed(run: cvtune.Run) -> None:
    assert not isinstance(run.model(head=OwnHead).head, OwnHead)


def test_a_head_that_does_not_fit_is_known_before_training(parts: Path, quick_config: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the head gives \(2, 7\) for embeddings of shape .*, expected \(2, 4\)"):
        cvtune.fit(parts, out=tmp_path / "run", config=quick_config, head=lambda width, classes: nn.Linear(width, 7))
    assert not (tmp_path / "run").exists()


def test_without_stages_the_probe_is_the_model(parts: Path, quick_config: Path, tmp_path: Path) -> None:
    run = cvtune.fit(parts, out=tmp_path / "run", config=quick_config, **NO_STAGES)
    assert run.metrics["model"] == "probe"
    assert (run.path / "DONE").read_text(encoding="utf-8") == "complete\n"
    assert (run.path / "metrics.csv").read_text(encoding="utf-8").count("\n") == 1, "the header alone"


def test_a_config_can_be_given_as_a_value(parts: Path, tmp_path: Path) -> None:
    train = TrainConfig.model_validate({"tail": {"steps": 0}, "all": {"steps": 0}})
    config = settled(parts, tmp_path / "run", config=Config(train=train, seed=3))
    assert (config.train.tail.steps, config.train.all.steps, config.seed) == (0, 0, 3)
