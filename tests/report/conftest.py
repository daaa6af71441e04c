"""A run directory as the pipeline leaves it, without the training: real photographs, made-up answers."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvtune.audit import Finding, Suspect
from cvtune.evaluation.calibration import Calibration
from cvtune.evaluation.multilabel import MultiPredictions, score_multi
from cvtune.evaluation.predictions import Predictions, csv_line
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.reliability import reliability
from cvtune.evaluation.robustness import SPOILERS, STRENGTHS, Spoilt
from cvtune.evaluation.slices import slices
from cvtune.evaluation.studies import Alike, Explained, Foreign, NoveltyStudy, Studies
from cvtune.report.facts import read_facts
from cvtune.rundir import RunDir, read_json, write_json, write_text

PER_CLASS = 20  # pictures a class on the test side


def answers(classes: tuple[str, ...], paths: list[str], truth: list[int], *, wrong_every: int = 7) -> Predictions:
    """Mostly right answers of differing certainty, seeded."""
    generator = np.random.default_rng(0)
    labels = [(t + 1) % len(classes) if i % wrong_every == 3 else t for i, t in enumerate(truth)]
    logits = generator.normal(0, 1, (len(truth), len(classes)))
    logits[np.arange(len(truth)), labels] += generator.uniform(3, 7, len(truth))
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return Predictions(tuple(paths), np.array(truth, np.int64), probabilities, classes)


def write_run(root: Path, folder: Path, classes: tuple[str, ...], paths: list[list[str]], **skip: bool) -> RunDir:
    """Write every file that the report reads; `paths` holds the test pictures of each class."""
    run = RunDir(root)
    flat = [path for group in paths for path in group]
    truth = [label for label, group in enumerate(paths) for _ in group]
    answers(classes, flat, truth).save(run.predictions("test"))
    write_text(run.config, 'preset = "defects"\nseed = 0\n')
    write_json(run.environment, {"folder": str(folder), "python": "3.11.2", "threads": 2})
    sides = {"train": 180, "val": 30, "calib": 45, "test": 45}
    rows = [f'x,"{name}",g,{side}' for name in classes for side, count in sides.items() for _ in range(count)]
    write_text(run.split, "\n".join(["path,label,group,side", *rows]) + "\n")
    write_json(run.audit, audit_of(folder))
    write_json(run.stages, [stage("probe", 0.91, True), stage("tail", 0.957, True), stage("all", 0.955, False)])
    _write_curves(run.curves)
    Calibration(1.31, 0.214, 0.188, 270).save(run.calibration)
    write_json(run.bundle / "manifest.json", manifest(classes))
    return run


def audit_of(folder: Path) -> dict[str, Any]:
    duplicate = Finding(
        "duplicates", "note", "1 picture is there twice", 1, ("a.jpg = b.jpg",), "both are kept on one side"
    )
    few = Finding("few", "warning", "12 test images cannot prove an error rate below 22 %", 1, (), "add more")
    findings = [{**vars(one), "examples": list(one.examples)} for one in (few, duplicate)]
    skipped = [{"path": "crazing/notes.txt", "reason": "not an image"}]
    return {"root": folder.as_posix(), "findings": findings, "skipped": skipped}


def add_folds(run: RunDir, answered: Predictions | MultiPredictions, k: int = 3) -> None:
    """Make a run one of a cross-validation, as `cvtune.steps.folds` and the book do."""
    answered.save(run.predictions("folds"))
    n = len(answered.paths)
    rows = [
        {"images": len(range(i, n, k)), "trained_on": 70, "stages": ["probe", "tail"], "score": 0.9, "log_loss": 0.3}
        for i in range(k)
    ]
    write_json(run.folds, rows)
    lines = [f"{path},{i % k + 1}" for i, path in enumerate(answered.paths)]
    write_text(run.folds.with_suffix(".csv"), "\n".join(["path,fold", *lines]) + "\n")


def add_suspects(run: RunDir, found: list[Suspect]) -> None:
    """Suspected labels in the run's audit.json."""
    tree = read_json(run.audit)
    write_json(run.audit, {**tree, "suspects": [vars(one) for one in found]})


def add_studies(run: RunDir, *, side: str = "test", near: tuple[str, ...] = (), head_rank: float = 0.1) -> Studies:
    """Add what the step behind the training writes: studies.json, novelty.csv and the reliability in metrics.json.

    `near` are paths that stand for the nearest training images of every image.
    """
    facts = read_facts(run)
    answers = next(one.answers for one in facts.scored if one.side == side)
    generator = np.random.default_rng(2)
    distances = generator.gamma(20, 0.05, len(answers.paths)).astype(np.float32)
    lines = [csv_line((path, repr(float(one)))) for path, one in zip(answers.paths, distances, strict=True)]
    write_text(run.distances, "".join([csv_line(("path", "distance")), *lines]))
    before, after = (reliability(p, answers.truth).to_json() for p in (answers.probabilities**2, answers.probabilities))
    tree = read_json(run.metrics) if run.metrics.is_file() else {}
    write_json(run.metrics, {**tree, "reliability": {side: {"before": before, "after": after}}})
    studies = studies_of(answers, side, near, head_rank)
    studies.save(run.studies)
    return studies


def studies_of(
    answers: Predictions | MultiPredictions, side: str, near: tuple[str, ...], head_rank: float = 0.1
) -> Studies:
    """Made-up studies of some answers: every image explained, the folder of a class its slice, spoilt pictures."""
    heat = (255 * np.outer(np.hanning(9)[1:-1], np.hanning(9)[1:-1])).astype(np.uint8)  # [7, 7], warm in the middle
    alike = tuple(Alike(path, answers.classes[0], 0.9 - 0.1 * i) for i, path in enumerate(near))
    labels = [answers.classes[k] for k in answers.probabilities.argmax(axis=1)]
    explained = {path: Explained(path, label, heat, alike) for path, label in zip(answers.paths, labels, strict=True)}
    bright = np.linspace(0, 1, len(answers.paths))
    return Studies(
        side,
        NoveltyStudy(
            "knn",
            1.25,
            0.01,
            99,
            {"knn": 0.94, "mahalanobis": 0.9},
            {name: 0.7 + 0.2 / (k + 1) for k, name in enumerate(answers.classes)},
            (Foreign("other things", Rate(19, 20), 0.991),),
        ),
        slices(~answers.right, {"folder": [str(Path(path).parent) for path in answers.paths], "brightness": bright}),
        tuple(
            Spoilt(how, strength, Rate(40 - 3 * i - j, 40), Rate(2 * i + j, 40))
            for j, how in enumerate(SPOILERS)
            for i, strength in enumerate(STRENGTHS)
        ),
        head_rank,
        explained,
    )


def several(paths: list[str]) -> MultiPredictions:
    """Answers about images that may have any of three labels, a fifth of them wrong in one; seeded."""
    generator = np.random.default_rng(1)
    truth = generator.random((len(paths), 3)) < 0.4
    said = truth.copy()
    said[::5, 1] ^= True
    probabilities = np.where(said, 0.7, 0.1) + generator.uniform(0, 0.2, truth.shape)
    return MultiPredictions(tuple(paths), truth, probabilities.astype(np.float32), said, ("dent", "scratch", "stain"))


def write_multi_run(root: Path, folder: Path, paths: list[str]) -> RunDir:
    """A run on a table of several labels an image."""
    found = several(paths)
    run = write_run(root, folder, found.classes, [paths[:3], paths[3:6], paths[6:9]])
    found.save(run.predictions("test"))
    write_json(run.metrics, {"model": "tail", "task": "multi", "test": score_multi(found).to_json()})
    rows = ["a.png,dent;stain,a.png,train", "b.png,,b.png,train", "c.png,scratch,c.png,test"]
    write_text(run.split, "\n".join(["path,label,group,side", *rows]) + "\n")
    deep = {"reading": {"pixels": "uint16", "background": [0, 0, 0]}, "window": [900, 3960.5]}
    more = {"schema": 2, "task": "multi", "thresholds": [0.5, 0.4321, 0.6], **deep}
    write_json(run.bundle / "manifest.json", manifest(found.classes) | more)
    return run


def stage(name: str, score: float, kept: bool) -> dict[str, Any]:
    reason = {
        "probe": "the first model",
        "tail": "gain +0.047, above one standard error of 0.015; 9 newly right and 0 newly wrong of 180",
        "all": "no clear gain (-0.002, standard error 0.011) and a higher log-loss: 0.190 after 0.181",
    }
    more = {"log_loss": 0.2, "steps": 0 if name == "probe" else 400, "epochs": 8, "trainable": 1_282_304}
    return {"name": name, "seconds": 81.4, "score": score, "kept": kept, "reason": reason[name], **more}


def manifest(classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "steel-1",
        "created": "2025-11-22T10:00:00+00:00",
        "cvtune_version": "0.1.0",
        "classes": list(classes),
        "backbone": "tf_efficientnet_lite0",
        "size": 224,
        "resize": "stretch",
        "roi": None,
        "frame_size": None,
        "embedding": 1280,
        "temperature": 1.31,
        "weights": {"source": "package", "licence": "Apache-2.0", "sha256": "ab" * 32},
        "parity": {"images": 183, "worst": 0.0001, "ties": 0},
        "files": {"model.onnx": "cd" * 32},
        "versions": {"onnxruntime": "1.31.0", "torch": "2.14.0"},
    }


def _write_curves(path: Path) -> None:
    columns = ["stage", "epoch", "step", "train_loss", "val_loss", "val_balanced_accuracy", "learning_rate"]
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        for i in range(12):
            name, value = ("tail", 0.93 - 0.4 / (i + 1)) if i < 8 else ("all", 0.95)
            writer.writerow([name, i, 20 * i, 1.9 / (i + 1), "" if i == 2 else 1.6 / (i + 1) + 0.1, value, 1e-3])


@pytest.fixture(scope="session")
def steel_run(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Six classes of real steel surfaces; do not write to it, :func:`steel_copy` is for that."""
    folder = real_data / "neu_steel"
    classes = tuple(sorted(item.name for item in folder.iterdir() if item.is_dir()))
    paths = [[f"{name}/{file.name}" for file in sorted((folder / name).iterdir())[:PER_CLASS]] for name in classes]
    return write_run(tmp_path_factory.mktemp("runs") / "steel-1", folder, classes, paths)


@pytest.fixture
def steel_copy(steel_run: RunDir, tmp_path: Path) -> RunDir:
    """The same run, the test's own."""
    return RunDir(shutil.copytree(steel_run.root, tmp_path / "steel-1"))
