"""What a fit finds out about the model that it ships: strangeness, slices, spoilt pictures, explanations, the card."""

from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cvtune_edge import Bundle
from cvtune_edge.decision import REVIEW

import cvtune as library
from cvtune.api import Decision
from cvtune.evaluation.novelty import Novelty
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.studies import Studies
from tests.e2e.conftest import rows, tree

PROBE: dict[str, Any] = {"train.tail.steps": 0, "train.all.steps": 0, "final_fit": "train"}


@pytest.fixture(scope="module")
def run(steel: Path, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """The default backbone with its ImageNet weights, as it is; ten pictures are spoilt, whatever the clock says."""
    place = tmp_path_factory.mktemp("studied")
    with pytest.MonkeyPatch.context() as patch:
        module = import_module("cvtune.steps.study")
        patch.setattr(module, "_PATIENCE", 1e9)
        patch.setattr(module, "_SHARE", 1e9)
        patch.setattr(module, "_MOST", 10)
        return library.fit(steel, out=place / "run", **PROBE)


@pytest.fixture(scope="module")
def signs(real_data: Path) -> list[Path]:
    """Photographs of another world."""
    found = sorted((real_data / "gtsrb").rglob("*.*"))
    return [path for path in found if path.suffix.lower() in (".png", ".jpg", ".ppm")][:40]


def test_distances_are_those_of_the_bundles_embeddings(run: library.Run, steel: Path) -> None:
    distance, told = Novelty.load(run.path / "novelty.safetensors"), rows(run.path / "novelty.csv")
    assert [row["path"] for row in told] == [row["path"] for row in rows(run.path / "predictions-test.csv")]
    bundle = Bundle(run.path / "bundle")
    for row in told[:5]:
        embedding = bundle.predict(steel / row["path"], embedding=True).embedding
        assert embedding is not None
        assert float(distance(embedding[None])[0]) == pytest.approx(float(row["distance"]), rel=1e-4)


def test_what_was_never_shown_goes_to_review(run: library.Run, signs: list[Path], steel: Path) -> None:
    assert len(signs) == 40
    decided = [answer.said for answer in run.decide(signs) if isinstance(answer, Decision)]
    assert decided.count("REVIEW") >= 38  # 95 %
    test = [row["path"] for row in rows(run.path / "predictions-test.csv")]
    known = [one.said for one in run.decide([steel / path for path in test]) if isinstance(one, Decision)]
    assert known.count("REVIEW") <= 1 + len(known) // 20


def test_the_limit_is_in_the_operating_point_and_its_figures(run: library.Run) -> None:
    point, studies = ChosenPoint.load(run.path / "operating_point.json"), Studies.load(run.path / "studies.json")
    assert studies.novelty is not None
    assert point.limits.novelty == studies.novelty.limit
    assert set(studies.novelty.left_out) == {"crazing", "inclusion", "scratches"}
    assert "REVIEW as never seen" in (run.path / "summary.txt").read_text(encoding="utf-8")
    predictions = Predictions.load(run.path / "predictions-test.csv")
    away = np.array([float(row["distance"]) for row in rows(run.path / "novelty.csv")], np.float32)
    looked = int((point.decide(predictions.probabilities, away) == REVIEW).sum())
    assert tree(run.path / "metrics.json")["decisions"]["test"]["review"]["k"] == looked


def test_other_things_are_told_apart_as_asked(steel: Path, signs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "signs"
    folder.mkdir()
    for number, path in enumerate(signs[:12]):
        (folder / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    run = library.fit(steel, out=tmp_path / "run", unknown=[str(folder)], **PROBE)
    novelty = Studies.load(run.path / "studies.json").novelty
    assert novelty is not None
    (found,) = novelty.foreign
    assert (found.folder, found.review.n) == (folder.as_posix(), 12)
    assert found.auroc > 0.95
    assert f"{found.review} images of {folder.as_posix()} go to REVIEW" in (run.path / "summary.txt").read_text()
    with pytest.raises(library.CvtuneError, match="no image in it"):
        library.fit(steel, out=tmp_path / "other", unknown=[str(tmp_path / "nothing")], **PROBE)


def test_without_a_limit_nothing_is_too_strange(steel: Path, tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"backbone": "test_efficientnet", "from_scratch": True, "size": 64}
    run = library.fit(steel, out=tmp_path / "run", **{**PROBE, **tiny, "objective.novelty": 0.0})
    assert ChosenPoint.load(run.path / "operating_point.json").limits.novelty is None


def test_explanations_are_of_mistakes_and_doubtful_images(run: library.Run) -> None:
    studies, predictions = Studies.load(run.path / "studies.json"), Predictions.load(run.path / "predictions-test.csv")
    wrong = {path for path, right in zip(predictions.paths, predictions.right, strict=True) if not right}
    assert wrong <= set(studies.explained)
    train = {row["path"]: row["label"] for row in rows(run.path / "split.csv") if row["side"] == "train"}
    said = dict(zip(predictions.paths, predictions.labels, strict=True))
    assert studies.head_rank is not None
    assert studies.head_rank < 0.9
    for one in studies.explained.values():
        assert one.heat is not None
        assert one.heat.ndim == 2
        assert one.heat.dtype == np.uint8
        assert len(one.alike) == 3
        assert all(train[near.path] == near.label for near in one.alike)
        assert [near.similarity for near in one.alike] == sorted((near.similarity for near in one.alike), reverse=True)
        if one.path in said:
            assert one.label == predictions.classes[said[one.path]]


def test_pictures_are_spoilt_in_every_way(run: library.Run) -> None:
    table = Studies.load(run.path / "studies.json").robustness
    assert len(table) == 18
    assert {one.right.n for one in table} == {10}
    assert tree(run.path / "plan.json")["stages"]["study"] == {"explained": True, "spoilt": 10}


def test_slices_are_of_what_varies_where_folders_are_classes(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    dice = np.random.default_rng(0)
    for label, level in (("ok", 60), ("dent", 160)):
        (folder / label).mkdir(parents=True)
        for number in range(30):
            picture = np.clip(dice.normal(level, 30, (64, 64 + number, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / label / f"{number}.png"), picture)
    tiny: dict[str, Any] = {"backbone": "test_efficientnet", "from_scratch": True, "size": 64}
    run = library.fit(folder, out=tmp_path / "run", **PROBE, **tiny)
    studies = Studies.load(run.path / "studies.json")
    assert studies.side == "test"
    assert {one.attribute for one in studies.slices} <= {"brightness", "sharpness", "size (pixels of the longer side)"}


def test_the_card_is_part_of_the_bundle(run: library.Run) -> None:
    card = (run.path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "MODEL_CARD.md" in tree(run.path / "bundle" / "manifest.json")["files"]
    Bundle(run.path / "bundle").close()  # its checksum is right
    right = tree(run.path / "metrics.json")["test"]["right"]
    assert f"{right} of 18" in card
    assert "Apache" in card or "licence" in card.lower()
    for name in ("crazing", "inclusion", "scratches"):
        assert name in card
    (run.path / "bundle" / "MODEL_CARD.md").write_text("better than it is", encoding="utf-8")
    with pytest.raises(library.CvtuneError, match=r"MODEL_CARD\.md"):
        Bundle(run.path / "bundle")
    (run.path / "bundle" / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def test_names_in_the_card_are_text(steel: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    names = {"crazing": "a|b <script>", "inclusion": "[x](http://x)", "scratches": "# *c*"}
    with table.open("w", newline="", encoding="utf-8") as handle:
        write = csv.writer(handle)
        write.writerow(["path", "label"])
        for folder, name in names.items():
            for file in sorted((steel / folder).iterdir()):
                write.writerow([str(file), name])
    tiny: dict[str, Any] = {"backbone": "test_efficientnet", "from_scratch": True, "size": 64}
    run = library.fit(table, out=tmp_path / "run", **PROBE, **tiny)
    card = (run.path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert r"a\|b \<script\>" in card
    assert r"\[x\](http://x)" in card
    assert r"\# \*c\*" in card
    assert "<script>" not in card
