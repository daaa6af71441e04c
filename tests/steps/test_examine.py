from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cvtune import steps
from cvtune.audit import Pair
from cvtune.config import Config, load_config
from cvtune.console import Console
from cvtune.models.backbone import Backbone

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def config(quick_config: Path) -> Config:
    return load_config(file=quick_config)


def read(parts: Path, config: Config, scratch: Path) -> tuple[steps.Data, Backbone]:
    weights = steps.find_weights(config)
    data = steps.read(steps.index(parts, config, QUIET), config, weights, scratch, QUIET)
    return data, steps.network(config, weights, data, QUIET)


def test_the_network_shows_three_depths(parts: Path, config: Config, tmp_path: Path) -> None:
    _, backbone = read(parts, config, tmp_path)
    assert backbone.taps == backbone.default_taps() != ()


def test_the_audit_sees_the_networks_own_embedding_and_training_all_depths(
    parts: Path, quick_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def near_pairs(index: Any, facts: Any, pixels: Any, table: Any, **rest: Any) -> tuple[()]:
        seen.append(table)
        return ()

    monkeypatch.setattr(sys.modules["cvtune.steps.examine"], "near_pairs", near_pairs)
    config = load_config(file=quick_config, flags={"data.cache_gb": 0})  # nothing is known the second time
    data, backbone = read(parts, config, tmp_path)
    whole = steps.examine(data, backbone, config, QUIET).table
    assert whole is not None
    assert whole.shape == (96, backbone.width)
    backbone.set_taps(())
    own = steps.examine(data, backbone, config, QUIET).table
    assert own is not None
    assert own.shape == (96, backbone.net_width)
    assert np.array_equal(whole[:, : backbone.net_width], own)
    assert np.array_equal(seen[0], seen[1])
    assert seen[0].flags.c_contiguous


def test_the_second_look_at_a_folder_does_not_run_the_network(
    parts: Path, config: Config, tmp_path: Path, passes: list[int]
) -> None:
    tables = []
    for run in range(2):
        data, backbone = read(parts, config, tmp_path / str(run))
        passes.clear()
        tables.append(steps.examine(data, backbone, config, QUIET).table)
        assert passes == [[32, 32, 32], []][run]
    assert np.array_equal(*tables)  # type: ignore[arg-type]


def test_without_a_cache_the_network_runs_again(parts: Path, config: Config, tmp_path: Path, passes: list[int]) -> None:
    config = load_config(flags={**config.model_dump(exclude_unset=True), "data.cache_gb": 0.0})
    for _ in range(2):
        data, backbone = read(parts, config, tmp_path)
        passes.clear()
        steps.examine(data, backbone, config, QUIET)
        assert len(passes) == 3
    assert not (tmp_path / "cache" / "pixels").exists()


def test_nothing_is_embedded_where_no_copies_are_looked_for(parts: Path, config: Config, tmp_path: Path) -> None:
    config = config.model_copy(update={"data": config.data.model_copy(update={"near_duplicates": False})})
    data, backbone = read(parts, config, tmp_path)
    seen = steps.examine(data, backbone, config, QUIET)
    assert (seen.table, seen.pairs) == (None, ())
    table = data.embedder(seen.window, config)(backbone, np.array([5, 2]))
    assert table.shape == (2, backbone.width)


def test_copies_are_searched_once(parts: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a file changes, or what was kept is damaged."""
    folder = shutil.copytree(parts, tmp_path / "parts")
    first, *_ = sorted(folder.rglob("*.png"))
    picture = cv2.imread(str(first))
    assert picture is not None
    cv2.imwrite(str(first.with_name("again.png")), picture[2:])
    module, searches = sys.modules["cvtune.steps.examine"], []

    def near_pairs(*args: Any, **more: Any) -> tuple[Pair, ...]:
        searches.append(1)
        found: tuple[Pair, ...] = search(*args, **more)
        return found

    search = module.near_pairs
    monkeypatch.setattr(module, "near_pairs", near_pairs)
    found = [pairs_of(folder, config, tmp_path) for _ in range(2)]
    assert found[0] == found[1] != ()
    assert len(searches) == 1
    (kept,) = (tmp_path / "cache" / "pairs").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert pairs_of(folder, config, tmp_path) == found[0]
    assert len(searches) == 2
    first.write_bytes(first.with_name("again.png").read_bytes())
    assert pairs_of(folder, config, tmp_path) != found[0]
    assert len(searches) == 3


def pairs_of(folder: Path, config: Config, scratch: Path) -> tuple[Pair, ...]:
    data, backbone = read(folder, config, scratch)
    return steps.examine(data, backbone, config, QUIET).pairs
