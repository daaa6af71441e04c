"""Copies planted all over a folder: the split that keeps them together stays honest, the plain one flatters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import cvtune

EACH = 300  # photographs of a class; with half as many the interval of the clean figure is as wide as the flattery
COPIES = 3
PROBE: dict[str, Any] = {"size": 128, "train.tail.steps": 0, "train.all.steps": 0, "preset": "defects"}


@pytest.fixture(scope="module")
def cells(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solar cells, 300 defective and 300 functional: hard enough to be wrong about every sixth."""
    pytest.importorskip("elpv_dataset", reason="no photographs of solar cells: pip install elpv-dataset")
    recipe = script("datasets/elpv.py")
    folder: Path = tmp_path_factory.mktemp("cells")
    recipe.build(folder / "elpv")
    for label in ("defective", "functional"):
        (folder / "clean" / label).mkdir(parents=True)
        files = sorted((folder / "elpv" / "train" / label).iterdir())
        for number in np.random.default_rng(0).permutation(len(files))[:EACH]:
            file = files[number]
            (folder / "clean" / label / file.name).write_bytes(file.read_bytes())
    return folder / "clean"


@pytest.fixture(scope="module")
def planted(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with three copies of each: saved again as JPEG, smaller, a little brighter or darker, names shuffled."""
    folder: Path = tmp_path_factory.mktemp("planted") / "cells"
    random = np.random.default_rng(1)
    for file in sorted(cells.rglob("*.png")):
        place = folder / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{random.integers(10**9)}.png").write_bytes(file.read_bytes())
        for data in _again(file, random):
            (place / f"{random.integers(10**9)}.jpg").write_bytes(data)
    return folder


def _again(file: Path, random: np.random.Generator) -> Iterator[bytes]:
    pixels = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    for _ in range(COPIES):
        side = int(random.integers(220, 300))
        small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        lit = np.clip(small * random.uniform(0.95, 1.05), 0, 255).astype(np.uint8)
        yield cv2.imencode(".jpg", lit, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(70, 95))])[1].tobytes()


def test_copies_across_sides_do_not_flatter_the_figure(cells: Path, planted: Path, tmp_path: Path) -> None:
    clean = cvtune.fit(cells, out=tmp_path / "clean", **PROBE).metrics["test"]
    honest = cvtune.fit(planted, out=tmp_path / "honest", **PROBE).metrics["test"]
    plain = cvtune.fit(
        planted, out=tmp_path / "plain", new_split=True, settings={"data.near_duplicates": False}, **PROBE
    ).metrics["test"]
    low, high = clean["accuracy_interval"]
    print(f"clean {clean['accuracy']:.3f} [{low:.3f}, {high:.3f}]")
    print(f"with copies: kept together {honest['accuracy']:.3f}, dealt out {plain['accuracy']:.3f}")
    assert low <= honest["accuracy"] <= high
    assert plain["accuracy"] > high


@pytest.mark.slow
def test_the_validation_figure_of_tracks_kept_whole_is_that_of_other_tracks(real_data: Path, tmp_path: Path) -> None:
    """Signs filmed from a car: neighbouring pictures of one track on both sides would promise twice the test figure."""
    signs = real_data / "gtsrb"
    flags: dict[str, Any] = {"train.tail.steps": 0, "train.all.steps": 0, "preset": "traffic-signs"}
    grouped = cvtune.fit(signs, out=tmp_path / "grouped", group_by=r"([^/]+/\d+)_\d+\.ppm$", **flags).metrics
    random = cvtune.fit(
        signs, out=tmp_path / "random", new_split=True, settings={"data.near_duplicates": False}, **flags
    ).metrics
    for name, figures in (("grouped", grouped), ("random", random)):
        print(f"{name}: val {figures['val']['accuracy']:.3f}, test {figures['test']['accuracy']:.3f}")
    assert abs(grouped["val"]["accuracy"] - grouped["test"]["accuracy"]) <= 0.08
    assert random["val"]["accuracy"] - random["test"]["accuracy"] > 0.2
