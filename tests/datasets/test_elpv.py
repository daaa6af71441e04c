from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def elpv(script: Any) -> Any:
    return script("datasets/elpv.py")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package folder of 40 cells, ten in each class and type; the images are only copied, so any bytes do."""
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(40):
        (folder / "images" / f"cell{i:04d}.png").write_bytes(f"image {i}".encode())
        rows.append(f"images/cell{i:04d}.png  {(0.0, 1.0)[i % 2]}   {('mono', 'poly')[i // 2 % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def test_sides_are_stratified_and_bytes_are_kept(elpv: Any, source: Path, tmp_path: Path) -> None:
    assert elpv.build(tmp_path / "out", source=source)
    written = tree(tmp_path / "out")
    strata = Counter((p.split("/")[0], p.split("/")[1], p[-8:-4]) for p in written)
    assert strata == {
        (side, label, kind): n
        for side, n in (("train", 8), ("test", 2))
        for label in ("functional", "defective")
        for kind in ("mono", "poly")
    }
    assert sorted(written.values()) == sorted(p.read_bytes() for p in (source / "images").iterdir())


def test_a_second_run_reuses_and_another_seed_draws_anew(elpv: Any, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert elpv.build(out, source=source)
    first = tree(out)
    assert not elpv.build(out, source=source)
    assert elpv.build(out, seed=1, source=source)
    assert set(tree(out)) != set(first)
    assert elpv.build(out, seed=0, source=source)
    assert tree(out) == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_a_damaged_folder_is_written_anew(elpv: Any, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    elpv.build(out, source=source)
    whole = tree(out)
    (out / next(iter(whole))).unlink()
    assert elpv.build(out, source=source)
    assert tree(out) == whole


@pytest.mark.parametrize("probability, label", [(0.0, "functional"), (1 / 3, "functional"), (2 / 3, "defective")])
def test_defective_is_above_one_half(elpv: Any, probability: float, label: str) -> None:
    assert elpv.Cell(Path("cell0001.png"), probability, "mono").label == label


def test_a_foreign_folder_is_not_touched(elpv: Any, source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(elpv.RecipeError, match="holds something that this recipe did not write"):
        elpv.build(tmp_path / "mine", source=source)
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_missing_images_are_counted(elpv: Any, source: Path, tmp_path: Path) -> None:
    for i in (3, 4):
        (source / "images" / f"cell{i:04d}.png").unlink()
    with pytest.raises(elpv.RecipeError, match=r"2 of 40 images are missing, the first is cell0003\.png"):
        elpv.build(tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


def test_without_the_package_the_command_says_what_to_install(
    elpv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(elpv.importlib.util, "find_spec", lambda name: None)
    assert elpv.main(["--out", str(tmp_path / "out")]) == 2
    assert "hint: python -m pip install elpv-dataset" in capsys.readouterr().err


def test_the_real_package(elpv: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("elpv_dataset")
    assert elpv.main(["--out", str(tmp_path / "elpv")]) == 0
    counts = "test/defective 205, test/functional 450, train/defective 616, train/functional 1,353"
    assert counts in capsys.readouterr().out
    assert "CC BY-NC-SA 4.0" in (tmp_path / "elpv" / "README.md").read_text(encoding="utf-8")
