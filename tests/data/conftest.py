from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cvtune.data.index import DatasetIndex, Image

MakeFolder = Callable[..., Path]


def write_png(path: Path, seed: int = 0, *, size: tuple[int, int] = (6, 8), dtype: Any = np.uint8) -> None:
    """A PNG of noise, height and width as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (*size, 3), dtype=dtype)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own; the folder of its keys."""
    monkeypatch.setenv("CVTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """`make_folder("ok/1.png", ...)`: a folder of small, different PNGs at these paths."""

    def make(*paths: str, name: str = "parts") -> Path:
        for seed, path in enumerate(paths):
            write_png(tmp_path / name / path, seed)
        return tmp_path / name

    return make


@pytest.fixture
def png() -> Callable[..., None]:
    """`png(path, seed, size=(h, w), dtype=np.uint16)` writes one."""
    return write_png


@pytest.fixture
def make_index() -> Callable[..., DatasetIndex]:
    """`make_index({"ok": 10}, group=..., side=...)`: an index without files; the functions get (class, number)."""

    def make(
        sizes: dict[str, int],
        *,
        group: Callable[[str, int], str] | None = None,
        side: Callable[[str, int], str | None] = lambda name, number: None,
    ) -> DatasetIndex:
        classes = tuple(sizes)
        images = []
        for label, (name, count) in enumerate(sizes.items()):
            for number in range(count):
                path = f"{name}/{number}.png"
                images.append(Image(path, label, side(name, number), group(name, number) if group else path))
        return DatasetIndex(Path("parts"), classes, tuple(images))

    return make
