from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="module")
def synthetic(script: Any) -> Any:
    return script("datasets/synthetic.py")


def test_layout_counts_and_size(synthetic: Any, tmp_path: Path) -> None:
    assert synthetic.generate(tmp_path, per_class=2, size=48, views=3) == 24
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert len(names) == 24
    assert names[:3] == ["dent/p000000-1.png", "dent/p000000-2.png", "dent/p000000-3.png"]
    pixels = cv2.imread(str(tmp_path / names[0]), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels.shape == (48, 48)


def test_a_picture_depends_on_its_own_seed_only(synthetic: Any, tmp_path: Path) -> None:
    synthetic.generate(tmp_path / "few", per_class=2, size=32, classes=["ok"])
    synthetic.generate(tmp_path / "many", per_class=4, size=32, classes=["stain", "ok"], views=2)
    for file in (tmp_path / "few").rglob("*.png"):
        assert file.read_bytes() == (tmp_path / "many" / file.relative_to(tmp_path / "few")).read_bytes()
    assert (synthetic.draw("ok", 0, seed=1) != synthetic.draw("ok", 0, seed=2)).any()


def test_views_show_the_same_part_elsewhere(synthetic: Any) -> None:
    first, second = (synthetic.draw("scratch", 5, view, size=64).astype(float) for view in (0, 1))
    assert not np.array_equal(first, second)
    assert abs(first.mean() - second.mean()) < 25


@pytest.mark.parametrize("label", ["dent", "scratch", "stain"])
def test_every_defect_can_be_seen(synthetic: Any, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_defect = [synthetic.draw(label, part, size=96).astype(int) for part in range(10)]
    monkeypatch.setitem(synthetic._PAINTERS, label, synthetic._PAINTERS["ok"])
    without = [synthetic.draw(label, part, size=96).astype(int) for part in range(10)]
    for seen, plain in zip(with_defect, without, strict=True):
        assert np.abs(seen - plain).max() >= 25
        assert (seen != plain).mean() < 0.35


def test_wrong_arguments_are_refused(synthetic: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="classes are some of dent, ok, scratch, stain"):
        synthetic.generate(tmp_path, classes=["rust"])


def test_command(synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthetic.main([str(tmp_path / "parts"), "--count", "1", "--size", "16", "--classes", "ok", "dent"]) == 0
    assert capsys.readouterr().out.startswith("wrote 2 images of 2 classes to ")
