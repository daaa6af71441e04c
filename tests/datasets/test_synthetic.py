from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cvtune.data.index import build_index

FINGERPRINTS = [
    ("dent", 0, 0, [86.204, 83.184, 88.657, 85.201]),
    ("ok", 1, 0, [91.866, 84.422, 83.242, 76.604]),
    ("scratch", 2, 1, [84.617, 92.373, 92.345, 101.484]),
    ("stain", 3, 0, [81.487, 77.337, 83.637, 80.409]),
    ("dent", 23, 2, [82.954, 97.786, 94.488, 109.289]),
    ("stain", 11, 0, [89.295, 84.498, 97.450, 92.416]),
]


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


def test_pictures_stay_what_they_were(synthetic: Any) -> None:
    """Means of the four quarters, from before there were holes and boxes; other tests count on these parts."""
    for label, part, view, expected in FINGERPRINTS:
        pixels = synthetic.draw(label, part, view, size=64, seed=0)
        quarters = pixels.reshape(2, 32, 2, 32).mean((1, 3)).ravel()
        assert quarters == pytest.approx(expected, abs=0.02)  # a pixel of 1,024 by one level is 0.001


@pytest.mark.parametrize("label", ["dent", "missing-hole", "scratch", "stain"])
@pytest.mark.parametrize("holes", [False, True])
def test_the_box_is_where_the_defect_is(synthetic: Any, label: str, holes: bool) -> None:
    style = synthetic.Style((160, 120), 3, holes)
    for part in range(8):
        seen, (x, y, width, height) = synthetic.render(label, part, 1, style=style)
        good, none = synthetic.render(label, part, 1, style=style, defect=False)
        assert none is None
        change = np.abs(seen.astype(int) - good.astype(int))
        outside = change.copy()
        outside[y : y + height, x : x + width] = 0
        assert outside.max() <= 7  # 2 % of the range, times the light, rounded twice
        assert change[y : y + height, x : x + width].max() >= 25
        for edge in (change[y], change[y + height - 1], change[:, x], change[:, x + width - 1]):
            assert edge.max() >= 3  # no wider than it has to be


def test_a_missing_hole_is_the_only_difference(synthetic: Any) -> None:
    for part in range(5):
        pixels, box = synthetic.render("missing-hole", part, style=synthetic.Style(200))
        good, _ = synthetic.render("missing-hole", part, style=synthetic.Style(200), defect=False)
        assert holes_in(pixels) == 1 + 5  # the bore, and one of six is not there
        assert holes_in(good) == 1 + 6
        assert abs(box[2] - box[3]) <= 1


def holes_in(pixels: Any) -> int:
    """Dark patches inside of the disc."""
    dark = (cv2.GaussianBlur(pixels, (0, 0), 1.0) < 80).astype(np.uint8)
    count, labels = cv2.connectedComponents(dark)
    behind = {int(label) for label in labels[0] if label}  # what reaches the upper edge is behind the part
    return int(count) - 1 - len(behind)


def test_with_a_missing_hole_all_parts_have_holes(synthetic: Any, tmp_path: Path) -> None:
    synthetic.generate(tmp_path / "plain", per_class=1, size=200, classes=["ok"])
    synthetic.generate(tmp_path / "holes", per_class=1, size=200, classes=["ok", "missing-hole"])
    plain, ok, missing = (
        cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        for name in ("plain/ok/p100000-1.png", "holes/ok/p100000-1.png", "holes/missing-hole/p400000-1.png")
    )
    assert [holes_in(pixels) for pixels in (plain, ok, missing)] == [1, 7, 6]


def test_oblong_pictures_in_either_format(synthetic: Any, tmp_path: Path) -> None:
    assert synthetic.generate(tmp_path, per_class=1, size=(96, 64), kind="jpg", classes=["dent"]) == 1
    pixels = cv2.imread(str(tmp_path / "dent" / "p000000-1.jpg"), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels.shape == (64, 96)
    exact = synthetic.draw("dent", 0, size=(96, 64))
    assert np.abs(pixels.astype(int) - exact).mean() < 3


def test_workers_change_nothing(synthetic: Any, tmp_path: Path) -> None:
    for workers in (1, 3):
        synthetic.generate(tmp_path / str(workers), per_class=3, size=32, boxes=True, workers=workers)
    one, three = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in sorted(tmp_path.iterdir()))
    assert len(one) == 13
    assert one == three


def test_the_table_of_boxes(synthetic: Any, tmp_path: Path) -> None:
    synthetic.generate(tmp_path, per_class=2, size=64, classes=["ok", "scratch"], boxes=True)
    synthetic.generate(tmp_path, per_class=3, size=64, classes=["scratch"], boxes=True)
    lines = (tmp_path / "boxes.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["path,label,x,y,width,height", "ok/p100000-1.png,ok,,,,", "ok/p100001-1.png,ok,,,,"]
    assert [line.split(",")[0] for line in lines[3:]] == [f"scratch/p20000{i}-1.png" for i in range(3)]
    box = synthetic.render("scratch", 2, style=synthetic.Style(64))[1]
    assert lines[-1] == f"scratch/p200002-1.png,scratch,{box[0]},{box[1]},{box[2]},{box[3]}"
    index = build_index(tmp_path / "boxes.csv")
    assert index.classes == ("ok", "scratch")
    assert len(index) == 5


@pytest.mark.parametrize(
    "text, size", [("128", 128), ("640x480", (640, 480)), (" 640X480 ", (640, 480)), ("x", None), ("1x2x3", None)]
)
def test_sizes(synthetic: Any, text: str, size: Any) -> None:
    if size is None:
        with pytest.raises(ValueError, match="expected 256 or 640x480"):
            synthetic.parse_size(text)
    else:
        assert synthetic.parse_size(text) == size


@pytest.mark.parametrize("wrong", [{"classes": ["rust"]}, {"kind": "bmp"}])
def test_wrong_arguments_are_refused(synthetic: Any, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="classes are some of dent, ok, scratch, stain, missing-hole, formats png and"):
        synthetic.generate(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [15, (640, 15), 0])
def test_a_picture_has_at_least_16_pixels(synthetic: Any, tmp_path: Path, size: Any) -> None:
    with pytest.raises(ValueError, match="size is at least 16; got"):
        synthetic.generate(tmp_path, size=size)
    assert not list(tmp_path.iterdir())


def test_command(synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthetic.main([str(tmp_path / "parts"), "--count", "1", "--size", "16", "--classes", "ok", "dent"]) == 0
    assert capsys.readouterr().out.startswith("wrote 2 images of 2 classes to ")


def test_command_with_everything(synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        str(tmp_path),
        "--count",
        "1",
        "--boxes",
        "--format",
        "jpg",
        "--workers",
        "2",
        "--classes",
        "missing-hole",
    ]
    assert synthetic.main([*command, "--size", "40x20"]) == 0
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["boxes.csv", "p400000-1.jpg"]
    assert synthetic.main([*command, "--size", "40x2"]) == 2
    assert "error: size is at least 16; got (40, 2)" in capsys.readouterr().err
