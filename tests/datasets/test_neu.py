from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

CLASSES = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
SHORT = ("Cr", "In", "Pa", "PS", "RS", "Sc")
DET = {f"NEU-DET/IMAGES/{name}_{i}.jpg": f"{name} {i}".encode() for name in CLASSES for i in (1, 2)}
SPLIT = {f"train/images/{name}/{name}_1.jpg": name.encode() for name in CLASSES}
CLS = {f"NEU surface defect database/{name}_{i}.bmp": f"{name} {i}".encode() for name in SHORT for i in (1, 300)}


@pytest.fixture(scope="module")
def neu(script: Any) -> Any:
    return script("datasets/neu.py")


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


def laid_out(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def voc(*names: str) -> bytes:
    objects = "".join(f"<object><name>{name}</name></object>" for name in names)
    return f"<annotation><folder>x</folder>{objects}</annotation>".encode()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".jpg", ".bmp")
    }


@pytest.mark.parametrize("pack", [zipped, tarred, laid_out])
@pytest.mark.parametrize("files", [DET, SPLIT, CLS], ids=["det", "split", "cls"])
def test_every_layout(neu: Any, tmp_path: Path, pack: Any, files: dict[str, bytes]) -> None:
    archive = pack(tmp_path / "archive", files)
    assert neu.main(["--archive", str(archive), "--out", str(tmp_path / "out")]) == 0
    written = tree(tmp_path / "out")
    assert {path.split("/")[0] for path in written} == set(CLASSES)
    assert sorted(written.values()) == sorted(files.values())
    if files is CLS:
        assert written["pitted_surface/PS_300.bmp"] == b"PS 300"
    assert neu.main(["--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "out"]


@pytest.mark.parametrize(
    "stem, label",
    [
        ("crazing_1", "crazing"),
        ("rolled-in_scale_240", "rolled-in_scale"),
        ("Rolled-In_Scale-7", "rolled-in_scale"),
        ("PS_12", "pitted_surface"),
        ("Sc12", "scratches"),
        ("screw_1", None),
        ("crazing", None),
        ("_1", None),
        ("", None),
    ],
)
def test_the_name_tells_the_class(neu: Any, stem: str, label: str | None) -> None:
    assert neu.class_of(stem) == label


def test_the_annotation_tells_where_the_name_does_not(
    neu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b "crazing">]><annotation><object><name>&b;</name></object></annotation>'
    told = {
        **{f"IMAGES/{i}.jpg": b"picture %d" % i for i in range(5)},
        "ANNOTATIONS/0.xml": voc("Patches", "patches"),
        "ANNOTATIONS/1.xml": voc("patches", "crazing"),
        "ANNOTATIONS/2.xml": bomb,
        "ANNOTATIONS/3.xml": b"<annotation",
        "IMAGES/crazing_9.jpg": b"nine",
        "ANNOTATIONS/crazing_9.xml": voc("patches"),
    }
    archive = zipped(tmp_path / "a.zip", DET | told)
    assert neu.main(["--archive", str(archive), "--out", str(tmp_path / "out")]) == 0
    written = tree(tmp_path / "out")
    assert written["patches/0.jpg"] == b"picture 0"
    assert written["crazing/crazing_9.jpg"] == b"nine"
    assert len(written) == len(DET) + 2
    assert "left out 4 images that tell no class, the first is IMAGES/1.jpg" in capsys.readouterr().err
    card = " ".join((tmp_path / "out/README.md").read_text(encoding="utf-8").split())
    assert "Left out, since nothing tells their class: IMAGES/1.jpg, IMAGES/2.jpg" in card


def test_leftovers_and_other_files_stay_behind(neu: Any, tmp_path: Path) -> None:
    junk = {"__MACOSX/NEU-DET/._crazing_1.jpg": b"junk", "IMAGES/._crazing_1.jpg": b"junk", "crazing_1.txt": b"notes"}
    neu.build(tmp_path / "out", zipped(tmp_path / "a.zip", DET | junk))
    assert sorted(tree(tmp_path / "out").values()) == sorted(DET.values())


def test_the_same_photograph_twice_is_one(neu: Any, tmp_path: Path) -> None:
    neu.build(tmp_path / "out", zipped(tmp_path / "a.zip", DET | {"copy/crazing_1.jpg": b"crazing 1"}))
    assert len(tree(tmp_path / "out")) == len(DET)
    two = zipped(tmp_path / "b.zip", DET | {"other/Crazing_1.jpg": b"another"})
    with pytest.raises(neu.RecipeError, match=r"two different photographs are called Crazing_1\.jpg"):
        neu.build(tmp_path / "two", two)


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(
    "path",
    ["../crazing_3.jpg", "a/../../crazing_3.jpg", "/crazing_3.jpg", "C:/crazing_3.jpg", "..\\crazing_3.jpg", "C:x.jpg"],
)
def test_paths_that_lead_out_are_refused(neu: Any, tmp_path: Path, pack: Any, path: str) -> None:
    archive = pack(tmp_path / "archive", DET | {path: b"outside"})
    with pytest.raises(neu.RecipeError, match="archive: holds the path '"):
        neu.build(tmp_path / "home" / "out", archive)
    assert {path.name for path in tmp_path.rglob("*")} <= {"archive", "home"}


def test_a_name_that_is_none_elsewhere_tells_no_class(neu: Any, tmp_path: Path) -> None:
    neu.build(tmp_path / "out", zipped(tmp_path / "a.zip", DET | {"cra:zing_3.jpg": b"3", "a\\crazing_4.jpg": b"4"}))
    written = tree(tmp_path / "out")
    assert len(written) == len(DET) + 1
    assert written["crazing/crazing_4.jpg"] == b"4"


def test_links_are_refused(neu: Any, tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tgz", DET, {"crazing_3.jpg": "/etc/hostname"})
    with pytest.raises(neu.RecipeError, match=r"holds crazing_3\.jpg, a link or device"):
        neu.build(tmp_path / "out", archive)


def test_a_bomb_costs_little(neu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neu, "MOST_BYTES", 1 << 20)
    archive = zipped(tmp_path / "a.zip", DET | {"crazing_3.jpg": bytes(3 << 20)})
    with pytest.raises(neu.RecipeError, match=r"crazing_3\.jpg: more than 1 MB"):
        neu.build(tmp_path / "out", archive)
    monkeypatch.setattr(neu, "MOST_FILES", 5)
    with pytest.raises(neu.RecipeError, match="more than 5 files"):
        neu.build(tmp_path / "out", zipped(tmp_path / "b.zip", DET))


@pytest.mark.parametrize(
    "data, why",
    [
        (b"Rar!\x1a\x07\x01\x00rest", "is a RAR archive\nhint: unpack it and name the folder with --archive"),
        (b"7z\xbc\xaf\x27\x1crest", "is a 7-Zip archive"),
        (b"no archive", "is neither zip nor tar\nhint: unpack it"),
        (b"PK\x05\x06" + b"\xff" * 18, r"cannot be read \(.*\)\nhint: unpack it"),
        (None, r"cannot be read \(.*No such file"),
    ],
)
def test_what_cannot_be_opened(neu: Any, tmp_path: Path, data: bytes | None, why: str) -> None:
    if data is not None:
        (tmp_path / "a").write_bytes(data)
    with pytest.raises(neu.RecipeError, match=f"a: {why}"):
        neu.build(tmp_path / "out", tmp_path / "a")
    assert not (tmp_path / "out").exists()


def test_a_damaged_member_is_named(neu: Any, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", DET)
    data = bytearray(archive.read_bytes())
    data[data.index(b"crazing_1.jpg") + len("crazing_1.jpg")] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(neu.RecipeError, match=r"crazing_1\.jpg: cannot be read"):
        neu.build(tmp_path / "out", archive)


def test_classes_that_are_missing_are_named(neu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = {path: data for path, data in DET.items() if "patches" not in path} | {"IMAGES/dog.jpg": b"dog"}
    archive = zipped(tmp_path / "a.zip", some)
    assert neu.main(["--archive", str(archive), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "no photographs of patches; 1 images tell no class, the first is IMAGES/dog.jpg" in said
    assert not (tmp_path / "out").exists()


def test_nothing_is_downloaded(neu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert neu.main(["--out", str(tmp_path / "out")]) == 2
    assert "NEU is not downloaded\nhint: name the archive" in capsys.readouterr().err


def test_our_own_folder(neu: Any, real_data: Path, tmp_path: Path) -> None:
    assert neu.build(tmp_path / "out", real_data / "neu_steel")
    assert len(list((tmp_path / "out").glob("*/*.jpg"))) == 1800
