"""Faults planted in copies of a real folder: labels changed in memory, one class saved again at another quality.

`make test` looks at 60 images a class; `make test-slow` at all 1,800 with five seeds.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from cvtune_edge.decode import ReadOptions
from numpy.typing import NDArray

from cvtune.audit import audit, judge_labels
from cvtune.config import ModelConfig
from cvtune.data.facts import Facts
from cvtune.data.index import DatasetIndex, build_index
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.models.backbone import load_backbone
from cvtune.models.features import embed
from cvtune.models.normalize import Normalize
from cvtune.models.weights import find_weights

FLIPPED = 0.05
PART = 60  # images a class in `make test`


@dataclass(frozen=True)
class Folder:
    """A folder as the audit sees it."""

    index: DatasetIndex
    facts: tuple[Facts, ...]
    embeddings: NDArray[np.float32]


def look(index: DatasetIndex, scratch: Path) -> Folder:
    weights = find_weights("tf_efficientnet_lite0", ModelConfig())
    frame = Preprocessing(weights.size, interpolation=weights.interpolation, mean=weights.mean, std=weights.std)
    filled = fill_pixels(index, frame, ReadOptions(), scratch=scratch, cache_gb=0)
    backbone = load_backbone(weights, size=weights.size, seed=0)
    rows = np.arange(len(filled.index), dtype=np.int64)
    table = embed(backbone, filled.pixels, Normalize(weights.mean, weights.std), rows)
    return Folder(filled.index, filled.facts, table)


def some(index: DatasetIndex, each: int) -> DatasetIndex:
    """The first images of each class."""
    chosen = [row for label in range(len(index.classes)) for row in np.flatnonzero(index.labels == label)[:each]]
    return replace(index, images=tuple(index.images[row] for row in sorted(chosen)))


@pytest.fixture(scope="module")
def steel(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return look(some(build_index(real_data / "neu_steel"), PART), tmp_path_factory.mktemp("steel"))


@pytest.fixture(scope="module")
def whole_steel(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return look(build_index(real_data / "neu_steel"), tmp_path_factory.mktemp("steel"))


def flipped(index: DatasetIndex, seed: int) -> tuple[DatasetIndex, set[int]]:
    """The index with 5 % of its labels changed to another one, drawn at random."""
    generator = np.random.default_rng(seed)
    rows = generator.choice(len(index), round(FLIPPED * len(index)), replace=False)
    labels = index.labels
    labels[rows] = (labels[rows] + generator.integers(1, len(index.classes), len(rows))) % len(index.classes)
    images = [replace(image, label=int(label)) for image, label in zip(index.images, labels, strict=True)]
    return replace(index, images=tuple(images)), set(rows.tolist())


def proposed(folder: Folder, seed: int) -> tuple[float, float, float]:
    """Recall and precision of the proposals, and the share of the planted ones that get their own class back."""
    index, planted = flipped(folder.index, seed)
    found = {one.position: one.proposed for one in judge_labels(index, folder.embeddings, seed=0).suspects}
    hits = planted & set(found)
    names = folder.index.label_names
    right = sum(found[row] == names[row] for row in hits)
    return len(hits) / len(planted), len(hits) / max(1, len(found)), right / len(planted)


def test_changed_labels_are_found(steel: Folder) -> None:
    recall, precision, right = proposed(steel, seed=0)
    assert recall >= 0.8
    assert precision >= 0.7
    assert right >= 0.8


def test_the_untouched_folder_has_nothing_to_report(steel: Folder) -> None:
    judged = judge_labels(steel.index, steel.embeddings, seed=0)
    assert (judged.suspects, judged.note) == ((), "")
    codes = {finding.code for finding in audit(steel.index, facts=steel.facts)}
    assert codes <= {"duplicates", "skipped_asked"}  # one picture is there twice


def test_a_class_saved_at_another_quality_is_a_shortcut(steel: Folder, tmp_path: Path) -> None:
    for image in steel.index.images:
        (tmp_path / "steel" / image.path).parent.mkdir(parents=True, exist_ok=True)
        target = tmp_path / "steel" / image.path
        shutil.copyfile(steel.index.root / image.path, target)
        if image.path.startswith("scratches/"):
            pixels = cv2.imdecode(np.frombuffer(target.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            assert pixels is not None
            target.write_bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())
    filled = fill_pixels(
        build_index(tmp_path / "steel"), Preprocessing(32), ReadOptions(), scratch=tmp_path / "pixels", cache_gb=0
    )
    (finding,) = (one for one in audit(filled.index, facts=filled.facts) if one.code.startswith("shortcut_"))
    assert (finding.code, finding.severity) == ("shortcut_quality", "warning")
    assert finding.title == (
        "JPEG quality alone tells 'scratches' from the others: "
        f"{PART} of {PART} images found, 0 of {5 * PART} others taken for it"
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_changed_labels_are_found_in_the_whole_folder(whole_steel: Folder, seed: int) -> None:
    recall, precision, right = proposed(whole_steel, seed)
    assert recall >= 0.9  # measured .93 to 1.00; asked for .80
    assert precision >= 0.9  # measured .97 to .99; asked for .70
    assert right >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 9])
def test_a_few_wrong_labels_in_a_clean_folder(whole_steel: Folder, number: int) -> None:
    """The usual case: where nearly all labels are right, the rule must not get used to it."""
    index = whole_steel.index
    rows = np.random.default_rng(number).choice(len(index), number, replace=False).tolist()
    images = [
        replace(image, label=(image.label + 1) % 6) if i in rows else image for i, image in enumerate(index.images)
    ]
    wrong = replace(index, images=tuple(images))
    found = {one.position for one in judge_labels(wrong, whole_steel.embeddings, seed=0).suspects}
    assert len(found & set(rows)) >= number - 1
    assert len(found - set(rows)) <= 1


@pytest.mark.slow
def test_the_whole_untouched_folder_has_nothing_to_report(whole_steel: Folder) -> None:
    assert judge_labels(whole_steel.index, whole_steel.embeddings, seed=0).suspects == ()
    found = audit(whole_steel.index, facts=whole_steel.facts)
    assert [finding.code for finding in found] == ["duplicates"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gtsrb", "chest_xray_pneumonia"])
def test_untouched_folders_have_no_shortcut(name: str, real_data: Path, tmp_path: Path) -> None:
    filled = fill_pixels(
        build_index(real_data / name), Preprocessing(32), ReadOptions(), scratch=tmp_path / "pixels", cache_gb=0
    )
    codes = [finding.code for finding in audit(filled.index, facts=filled.facts)]
    assert not [code for code in codes if code.startswith("shortcut_")]


@pytest.mark.slow
def test_hard_labels_are_proposed_in_moderation(script: object, tmp_path: Path) -> None:
    """ELPV: 15 % of its labels stand for a probability of one or two thirds, and among the proposals they are many."""
    pytest.importorskip("elpv_dataset")
    script("datasets/elpv.py").build(tmp_path / "elpv")  # type: ignore[operator]
    cells = {
        Path(line.split()[0]).stem: float(line.split()[1])
        for line in (Path(pytest.importorskip("elpv_dataset").__file__).parent / "data" / "labels.csv")
        .read_text(encoding="utf-8")
        .splitlines()
    }
    folder = look(build_index(tmp_path / "elpv"), tmp_path / "pixels")
    found = judge_labels(folder.index, folder.embeddings, seed=0).suspects
    assert 100 <= len(found) <= 260  # measured 193 of 2,624
    unsure = [0.1 < cells[Path(one.path).stem.rsplit("-", 1)[0]] < 0.9 for one in found]
    assert np.mean(unsure) > 0.3  # measured .36
