"""GTSRB, DTD, Flowers-102: small copies of what torchvision leaves on disk, and its downloader without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from scipy.io import savemat

from cvtune.data.index import build_index


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def ppm(text: str) -> bytes:
    """An image that no other text gives."""
    return b"P6 16 1 255 " + text.encode().ljust(48, b".")[:48]


def signs(root: Path) -> None:
    """Two tracks of two photographs a class, one test image a class."""
    for number in range(43):
        folder = root / "gtsrb" / "GTSRB" / "Training" / f"{number:05d}"
        for track in (0, 1):
            for shot in (0, 29):
                name = f"{track:05d}_{shot:05d}.ppm"
                put(folder / name, ppm(f"train {number} {name}"))
        if number != 14:  # of one class there is no table
            rows = [f"{path.name};16;1;{number}" for path in sorted(folder.glob("*.ppm"))]
            put(folder / f"GT-{number:05d}.csv", "\n".join(["Filename;Width;Height;ClassId", *rows]).encode())
        put(root / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / f"{42 - number:05d}.ppm", ppm(f"test {number}"))
    rows = [f"{42 - number:05d}.ppm;53;54;6;5;48;49;{number}" for number in range(43)]
    table = "\n".join(["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", *rows]) + "\n"
    put(root / "gtsrb" / "GT-final_test.csv", table.encode())


def textures(root: Path) -> None:
    """Two classes of three, one image on each side; division 2 has them in another order."""
    data = root / "dtd" / "dtd"
    for label in ("banded", "zigzagged"):
        for number in range(3):
            put(data / "images" / label / f"{label}_{number:04d}.jpg", ppm(f"{label} {number}"))
    for partition in (1, 2):
        for at, side in enumerate(("train", "val", "test")):
            number = (at + partition) % 3
            lines = f"banded/banded_{number:04d}.jpg\nzigzagged/zigzagged_{number:04d}.jpg\n"
            put(data / "labels" / f"{side}{partition}.txt", lines.encode())


def flowers(root: Path) -> None:
    """Six images of the classes 1, 20 and 102, two on each side."""
    data = root / "flowers-102"
    for number in range(1, 7):
        put(data / "jpg" / f"image_{number:05d}.jpg", ppm(f"flower {number}"))
    savemat(data / "imagelabels.mat", {"labels": np.array([[1, 1, 20, 20, 102, 102]], np.uint8)})
    sides = {"trnid": [[1, 6]], "valid": [[2, 5]], "tstid": [[3, 4]]}
    savemat(data / "setid.mat", {name: np.array(ids, np.uint16) for name, ids in sides.items()})


RECIPES = {"gtsrb": signs, "dtd": textures, "flowers102": flowers}
recipes = pytest.mark.parametrize("name", RECIPES)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*.[pj][pg]*")))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_signs_keep_their_tracks(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gtsrb = script("datasets/gtsrb.py")
    signs(tmp_path / "files")
    assert gtsrb.main(["--source", str(tmp_path / "files"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.endswith("out: test 43, train 172, 43 classes\n")
    written = tree(tmp_path / "out")
    assert written["train/14-stop/00001_00029.ppm"] == ppm("train 14 00001_00029.ppm")
    assert written["test/14-stop/00028.ppm"] == ppm("test 14")
    index = build_index(tmp_path / "out", group_by=r"([^/]+/\d+)_")
    assert {image.side for image in index.images} == {"train", "test"}
    groups = {image.group for image in index.images if image.side == "train"}
    assert len(groups) == 86
    assert "14-stop/00001" in groups


@pytest.mark.parametrize("name, kind", [("gtsrb", "GTSRB"), ("dtd", "DTD")])
def test_torchvision_reads_the_same_from_these_files(script: Any, tmp_path: Path, name: str, kind: str) -> None:
    """So the small copies are laid out as its own downloads; the tables of the flowers would need their checksums."""
    import torchvision.datasets

    RECIPES[name](tmp_path / "files")
    script(f"datasets/{name}.py").build(tmp_path / "out", source=tmp_path / "files")
    for side in sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()):
        theirs = getattr(torchvision.datasets, kind)(tmp_path / "files", split=side)
        found = theirs._samples if name == "gtsrb" else zip(theirs._image_files, theirs._labels, strict=True)
        labels = sorted(path.name for path in (tmp_path / "out" / side).iterdir())
        expected = {(labels[label], Path(file).name): Path(file).read_bytes() for file, label in found}
        assert expected == {
            (path.parent.name, path.name): path.read_bytes() for path in (tmp_path / "out" / side).glob("*/*")
        }


def test_the_names_of_the_signs_are_those_of_our_folder(script: Any, real_data: Path) -> None:
    ours = sorted(path.name for path in (real_data / "gtsrb" / "train").iterdir())
    assert [name.replace("-", "_") for name in script("datasets/gtsrb.py").CLASSES] == ours


def test_textures_follow_the_partition(script: Any, tmp_path: Path) -> None:
    dtd, out = script("datasets/dtd.py"), tmp_path / "out"
    textures(tmp_path / "files")
    assert dtd.build(out, source=tmp_path / "files")
    assert list(tree(out))[:3] == ["test/banded/banded_0000.jpg", "test/zigzagged/zigzagged_0000.jpg",
                                   "train/banded/banded_0001.jpg"]  # fmt: skip
    assert not dtd.build(out, source=tmp_path / "files")
    assert dtd.build(out, partition=2, source=tmp_path / "files")
    assert "train/banded/banded_0002.jpg" in tree(out)
    assert "published division 2 of 10" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", ["../banded_0001.jpg", "banded/..", "/banded.jpg", "banded.jpg", "a/b/c.jpg"])
def test_a_list_of_textures_cannot_point_elsewhere(script: Any, tmp_path: Path, line: str) -> None:
    dtd = script("datasets/dtd.py")
    textures(tmp_path / "files")
    (tmp_path / "files/dtd/dtd/labels/val1.txt").write_text(line, encoding="utf-8")
    with pytest.raises(dtd.RecipeError, match=rf"val1.txt: '{re.escape(line)}', expected class/file"):
        dtd.build(tmp_path / "out", source=tmp_path / "files")
    assert not (tmp_path / "out").exists()


def test_flowers_have_number_and_name(script: Any, tmp_path: Path) -> None:
    flowers(tmp_path / "files")
    script("datasets/flowers102.py").build(tmp_path / "out", source=tmp_path / "files")
    assert tree(tmp_path / "out") == {
        "test/020-giant-white-arum-lily/image_00003.jpg": ppm("flower 3"),
        "test/020-giant-white-arum-lily/image_00004.jpg": ppm("flower 4"),
        "train/001-pink-primrose/image_00001.jpg": ppm("flower 1"),
        "train/102-blackberry-lily/image_00006.jpg": ppm("flower 6"),
        "val/001-pink-primrose/image_00002.jpg": ppm("flower 2"),
        "val/102-blackberry-lily/image_00005.jpg": ppm("flower 5"),
    }


def test_class_folders_of_flowers_are_names_on_every_system(script: Any) -> None:
    names = script("datasets/flowers102.py").class_names()
    assert len(set(names)) == 102
    assert all(re.fullmatch(r"\d{3}(-[a-z]+)+", name) for name in names)


@recipes
def test_a_second_run_needs_no_files(script: Any, tmp_path: Path, name: str) -> None:
    recipe, out = script(f"datasets/{name}.py"), tmp_path / "out"
    RECIPES[name](tmp_path / "files")
    assert recipe.build(out, source=tmp_path / "files")
    before = tree(out)
    assert not recipe.build(out)
    assert tree(out) == before
    card = (out / "README.md").read_text(encoding="utf-8")
    assert all(f"- **{point}**: " in card for point in ("Task", "Sides", "Source", "Licence", "Cite"))


@recipes
def test_missing_files_are_counted(script: Any, tmp_path: Path, name: str) -> None:
    recipe = script(f"datasets/{name}.py")
    RECIPES[name](tmp_path / "files")
    gone = [path for path in sorted((tmp_path / "files").rglob("*.[pj]p*")) if path.parent.name != "00000"][-2:]
    for path in gone:
        path.unlink()
    with pytest.raises(recipe.RecipeError, match=r"^\d of \d+ images are missing|class folders"):
        recipe.build(tmp_path / "out", source=tmp_path / "files")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files"]


@pytest.mark.parametrize(
    "name, table",
    [
        ("gtsrb", "gtsrb/GT-final_test.csv"),
        ("dtd", "dtd/dtd/labels/test1.txt"),
        ("flowers102", "flowers-102/setid.mat"),
    ],
)
@pytest.mark.parametrize("data", [None, b"\xff\x00 no table"])
def test_a_damaged_table_is_named(script: Any, tmp_path: Path, name: str, table: str, data: bytes | None) -> None:
    recipe = script(f"datasets/{name}.py")
    RECIPES[name](tmp_path / "files")
    (tmp_path / "files" / table).unlink()
    if data is not None:
        (tmp_path / "files" / table).write_bytes(data)
    with pytest.raises(recipe.RecipeError, match=r"cannot be read \(.*\nhint: remove the folder and add --download"):
        recipe.build(tmp_path / "out", source=tmp_path / "files")
    assert not (tmp_path / "out").exists()


def without_network(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Torchvision's own downloader, but for the function that opens the connection."""
    import torchvision.datasets.utils as utils

    def refuse(url: str, *args: Any, **more: Any) -> None:
        raise URLError("[Errno -2] Name or service not known")

    monkeypatch.setattr(utils, "_get_redirect_url", refuse)


@recipes
def test_without_a_network_it_says_so(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    without_network(monkeypatch, name)
    title = {"gtsrb": "GTSRB", "dtd": "DTD", "flowers102": "Flowers-102"}[name]
    for more in ([], ["--source", str(tmp_path / "files")]):
        assert script(f"datasets/{name}.py").main(["--download", "--out", str(tmp_path / "out"), *more]) == 2
        assert capsys.readouterr().err.splitlines() == [
            f"error: {title} could not be downloaded (<urlopen error [Errno -2] Name or service not known>)",
            "hint: check the network, or download it elsewhere and name that folder with --source FOLDER",
        ]
    assert not list(tmp_path.iterdir())


@recipes
def test_the_network_is_not_asked_unasked(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert script(f"datasets/{name}.py").main(["--out", str(tmp_path / "out")]) == 2
    assert "nothing is downloaded unless asked\nhint: add --download" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@recipes
def test_a_download_is_used(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    recipe = script(f"datasets/{name}.py")
    monkeypatch.setattr(recipe, "fetch", RECIPES[name])
    assert recipe.main(["--download", "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert recipe.main(["--download", "--out", str(tmp_path / "two"), "--source", str(tmp_path / "files")]) == 0
    assert tree(tmp_path / "two") == tree(tmp_path / "out")
    assert tree(tmp_path / "files")
