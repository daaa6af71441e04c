from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cvtune.data.userdirs import cache_dir, data_dir


def test_variables_name_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVTUNE_CACHE", str(tmp_path / "fast"))
    monkeypatch.setenv("CVTUNE_DATA", str(tmp_path / "safe"))
    assert cache_dir() == tmp_path / "fast"
    assert data_dir() == tmp_path / "safe"
    assert not list(tmp_path.iterdir())  # naming a folder creates none


def test_home_and_the_working_folder_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVTUNE_CACHE", "~/cache")
    assert cache_dir() == Path.home() / "cache"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVTUNE_DATA", "kept")
    assert data_dir() == tmp_path / "kept"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_a_variable_the_systems_folders(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    for name in ("CVTUNE_CACHE", "CVTUNE_DATA"):
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    assert cache_dir() != data_dir()
    assert all(folder.is_absolute() and "cvtune" in folder.parts for folder in (cache_dir(), data_dir()))
    if sys.platform.startswith("linux"):
        assert (cache_dir(), data_dir()) == (tmp_path / "caches" / "cvtune", tmp_path / "share" / "cvtune")
