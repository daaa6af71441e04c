from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cvtune.data.index import DatasetIndex, Image, build_index, check_usable, labelled
from cvtune.errors import ConfigError, DataError

MakeFolder = Callable[..., Path]
links = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


def reasons(index: DatasetIndex) -> dict[str, str]:
    return {item.path: item.reason for item in index.skipped}


def test_class_folders(make_folder: MakeFolder) -> None:
    index = build_index(make_folder("class 10/1.png", "class 10/2.png", "class 2/a/10.png", "class 2/a/9.png"))
    assert index.classes == ("class 2", "class 10")
    assert [image.path for image in index.images] == [
        "class 2/a/9.png",
        "class 2/a/10.png",
        "class 10/1.png",
        "class 10/2.png",
    ]
    assert [image.label for image in index.images] == [0, 0, 1, 1]
    assert {image.side for image in index.images} == {None}
    assert all(image.group == image.path for image in index.images)
    assert index.counts() == (2, 2)
    assert index.skipped == ()


def test_class_names_stay_strings(make_folder: MakeFolder) -> None:
    index = build_index(make_folder(*(f"{name}/{i}.png" for name in ("no", "1e3", "007", "=1+1") for i in (1, 2))))
    assert set(index.classes) == {"no", "1e3", "007", "=1+1"}


def test_sides_above_the_classes_match_by_name(make_folder: MakeFolder) -> None:
    folder = make_folder(
        "train/b/1.png", "train/b/2.png", "train/a/1.png", "valid/b/3.png", "test/c/4.png", "test/a/5.png"
    )
    (folder / "notes.txt").write_text("hello")
    index = build_index(folder, trainable=False)
    assert index.classes == ("a", "b", "c")
    assert index.counts("train") == (1, 2, 0)
    assert index.counts("val") == (0, 1, 0)
    assert index.counts("test") == (1, 0, 1)
    assert reasons(index) == {"notes.txt": "beside train/, val/ or test/, not in one of them"}


def test_a_class_may_be_called_test(make_folder: MakeFolder) -> None:
    index = build_index(make_folder("test/x/1.png", "test/2.png", "ok/1.png", "ok/2.png"))
    assert index.classes == ("ok", "test")


def test_names_spelled_in_two_unicode_forms_are_one_class(make_folder: MakeFolder) -> None:
    folder = make_folder("train/gru\u0308n/1.png", "train/gru\u0308n/2.png", "train/rot/1.png", "train/rot/2.png")
    make_folder("test/gr\u00fcn/1.png")
    index = build_index(folder)
    assert index.classes == ("gr\u00fcn", "rot")
    assert index.counts("test") == (1, 0)


def test_what_is_no_image_is_listed_and_left_alone(make_folder: MakeFolder) -> None:
    folder = make_folder("a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/.ipynb_checkpoints/1.png")
    (folder / "a/empty.png").touch()
    (folder / "a/labels.csv").write_text("x,y")
    (folder / "a/Thumbs.db").write_bytes(b"x")
    (folder / "a/paper.jpg").write_bytes(b"%PDF-1.7\n")
    (folder / "loose.png").write_bytes((folder / "a/1.png").read_bytes())
    (folder / "nothing").mkdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert reasons(build_index(folder)) == {
        "a/Thumbs.db": "hidden, or left there by the operating system",
        "a/empty.png": "empty file",
        "a/labels.csv": "a text file, not an image that is read",
        "a/paper.jpg": "a PDF file, not an image that is read",
        "b/.ipynb_checkpoints": "hidden, or left there by the operating system",
        "loose.png": "not in a class folder",
        "nothing": "a class folder without any image",
    }
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@links
def test_links_are_followed_but_not_in_circles(make_folder: MakeFolder) -> None:
    folder = make_folder("a/1.png", "a/2.png", "b/1.png")
    elsewhere = make_folder("9.png", name="elsewhere")
    (folder / "b/far").symlink_to(elsewhere, target_is_directory=True)
    (folder / "b/circle").symlink_to(folder, target_is_directory=True)
    (folder / "b/gone.png").symlink_to(folder / "gone.png")
    index = build_index(folder)
    assert "b/far/9.png" in {image.path for image in index.images}
    assert reasons(index) == {"b/circle": "a link back to a folder above it", "b/gone.png": "broken link"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_hang(make_folder: MakeFolder) -> None:
    folder = make_folder("a/1.png", "a/2.png", "b/1.png", "b/2.png")
    os.mkfifo(folder / "a/pipe.png")
    assert reasons(build_index(folder)) == {"a/pipe.png": "not a regular file"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_utf8_is_listed(make_folder: MakeFolder) -> None:
    folder = make_folder("a/1.png", "a/2.png", "b/1.png", "b/2.png")
    (folder / os.fsdecode(b"a/\xe9.png")).write_bytes(b"x")
    assert reasons(build_index(folder)) == {r"a/\udce9.png": "the name is not valid UTF-8"}


def test_group_is_the_first_group_that_matched_something(make_folder: MakeFolder) -> None:
    folder = make_folder("n/IM-01-1.png", "n/IM-01-2.png", "p/person7_1.png", "p/person7_2.png", "p/odd.png")
    index = build_index(folder, group_by=r"(person\d+)_|(IM-\d+)")
    assert [image.group for image in index.images] == ["IM-01", "IM-01", "p/odd.png", "person7", "person7"]
    assert index.ungrouped == 1


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("part(", "is no regular expression"),
        (r"part\d+", "has no group in parentheses"),
        ("(nowhere)", "matches none of the 4 paths, for example"),
    ],
)
def test_useless_group_by(make_folder: MakeFolder, pattern: str, sentence: str) -> None:
    folder = make_folder("a/1.png", "a/2.png", "b/1.png", "b/2.png")
    with pytest.raises(ConfigError, match=sentence):
        build_index(folder, group_by=pattern)


def test_folder_missing_file_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        build_index(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file, not a folder"):
        build_index(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder is empty"):
        build_index(tmp_path / "empty")


def test_flat_folder_says_where_images_belong(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="no readable image in class folders") as caught:
        build_index(make_folder("1.png", "2.png"))
    assert "1.png: not in a class folder" in str(caught.value)
    assert "put the images of each class into its own folder" in caught.value.hint


def test_one_class_only(make_folder: MakeFolder) -> None:
    folder = make_folder("ok/1.png", "ok/2.png")
    with pytest.raises(DataError, match=r"only one class, 'ok' \(2 images\)"):
        build_index(folder)
    assert build_index(folder, trainable=False).classes == ("ok",)


def test_all_small_classes_in_one_error(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match=r"at least 2 images.*: 'a' has 1, 'c' has 1"):
        build_index(make_folder("a/1.png", "b/1.png", "b/2.png", "c/1.png"))


def test_saved_and_loaded(make_folder: MakeFolder, tmp_path: Path) -> None:
    index = build_index(make_folder('a,"b/1.png', 'a,"b/2.png', "ü/1.png", "ü/2.png"))
    index.save(tmp_path / "index.csv")
    assert DatasetIndex.load(tmp_path / "index.csv", root=index.root) == index
    assert (tmp_path / "index.csv").read_bytes().startswith(b"path,label,side,group,width,height,sha256\n")


def test_names_with_line_ends_survive(tmp_path: Path) -> None:
    names = ("a\rb", "a\nb", "a\r\nb", "\r", "c,d", 'e"f', "#", " ")
    images = tuple(Image(f"{name}/1", label, None, name) for label, name in enumerate(sorted(names)))
    index = DatasetIndex(tmp_path, tuple(sorted(names)), images)
    index.save(tmp_path / "index.csv")
    loaded = DatasetIndex.load(tmp_path / "index.csv", root=tmp_path)
    assert set(loaded.classes) == set(names)
    assert loaded.with_classes(index.classes) == index


def test_a_class_with_a_semicolon_stays_one_class(make_folder: MakeFolder, tmp_path: Path) -> None:
    index = build_index(make_folder("a;b/1.png", "a;b/2.png", "c/1.png", "c/2.png"))
    assert (index.multi, index.classes) == (False, ("a;b", "c"))
    index.save(tmp_path / "index.csv")
    assert DatasetIndex.load(tmp_path / "index.csv", root=index.root) == index


def multi(*sets: tuple[int, ...], classes: tuple[str, ...] = ("a", "b", "c"), **more: object) -> DatasetIndex:
    images = tuple(
        Image(f"{i}.png", (*labels, -1)[0], None, f"{i}.png", labels=labels) for i, labels in enumerate(sets)
    )
    return DatasetIndex(Path(), classes, images, multi=True, **more)  # type: ignore[arg-type]


def test_one_label_an_image(make_folder: MakeFolder) -> None:
    index = build_index(make_folder("a/1.png", "a/2.png", "b/1.png", "b/2.png"))
    assert index.labels.tolist() == [0, 0, 1, 1]
    assert index.labels.dtype == "int64"
    assert index.label_sets == ((0,), (0,), (1,), (1,))
    assert index.label_names == ("a", "a", "b", "b")
    assert index.targets.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_several_labels_an_image(tmp_path: Path) -> None:
    index = multi((0, 2), (), (1,))
    assert index.label_sets == ((0, 2), (), (1,))
    assert index.targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert index.targets.dtype == "float32"
    assert index.counts() == (1, 1, 1)
    with pytest.raises(ValueError, match="expected label_sets or targets"):
        _ = index.labels
    index.save(tmp_path / "index.csv")
    assert (tmp_path / "index.csv").read_bytes().startswith(b"path,labels,side,group,width,height,sha256\n0.png,a;c,")
    assert DatasetIndex.load(tmp_path / "index.csv", root=Path()) == index


def test_counts_of_one_side_count_every_label() -> None:
    index = multi((0, 2), (0,), (1,))
    sided = replace(index, images=(replace(index.images[0], side="test"), *index.images[1:]))
    assert sided.counts("test") == (1, 0, 1)
    assert sided.counts("train") == (0, 0, 0)


def test_other_class_lists_are_matched_by_name() -> None:
    index = multi((0, 2), (), (2,))
    moved = index.with_classes(("c", "x", "a"))  # b has no image
    assert moved.label_sets == ((0, 2), (), (0,))
    assert moved.label_names == ("c;a", "", "c")
    assert [image.label for image in moved.images] == [0, -1, 0]
    with pytest.raises(ValueError, match=r"\['c'\] are not among"):
        index.with_classes(("a", "b"))


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (multi((0, 1), (0, 1), (), (), (2,)), "'c' is on 1 of 5"),
        (multi((0, 1), (0, 1), (0, 2), (2,)), r"2 that do not.*: 'a' is on 3 of 4"),
        (multi((0, 1), (0, 1), (), (), classes=("a", "b", "c")), "'c' is on 0 of 4"),
        (multi((0,), (0,), (), (), classes=("a",)), r"only one label, 'a' \(2 images\); expected at least two"),
        (multi((), (), classes=()), "no label at all"),
    ],
)
def test_labels_that_cannot_be_learned(index: DatasetIndex, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        check_usable(index)


def test_labels_that_can_be_learned() -> None:
    check_usable(multi((0, 1), (0,), (1,), (), classes=("a", "b")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "path,label\n",
        "path,label,side,group,width,height,sha256\na,b,c,d,x,1,\n",
        "path,label,side,group,width,height,sha256\na,b\n",
        "path,labels,side,group,width,height,sha256\na\n",
        "path,label,side,group,width,height,sha256\na,b,,d,1,1,,,\n",
    ],
)
def test_damaged_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(DataError, match=r"index\.csv"):
        DatasetIndex.load(tmp_path / "index.csv", root=tmp_path)


@pytest.mark.parametrize(
    "images",
    [
        (Image("a", 2, None, "a"),),
        (Image("a", 0, "calib", "a"),),
        (Image("a", 0, None, "a"), Image("a", 1, None, "a")),
        (Image("a", -1, None, "a"),),
        (Image("a", 0, None, "a", labels=(0, 1)),),
    ],
)
def test_impossible_indexes_are_refused(images: tuple[Image, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected|twice"):
        DatasetIndex(Path(), ("x", "y"), images)


@pytest.mark.parametrize(("label", "labels"), [(0, (0, 2)), (1, (1, 0)), (0, (0, 0)), (0, ()), (1, (0, 1)), (-1, (0,))])
def test_impossible_label_sets_are_refused(label: int, labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        DatasetIndex(Path(), ("x", "y"), (Image("a", label, None, "a", labels=labels),), multi=True)


def test_one_class_is_no_more_and_no_less_than_one() -> None:
    with pytest.raises(ValueError, match="2 classes, expected one"):
        labelled(Image("a", 0, None, "a"), (0, 1), multi=False)


def test_real_folders(real_data: Path) -> None:
    steel = build_index(real_data / "neu_steel")
    assert steel.counts() == (300,) * 6
    signs = build_index(real_data / "gtsrb", group_by=r"([^/]+/\d+)_\d+\.ppm$")
    assert (len(signs.classes), sum(signs.counts("train")), sum(signs.counts("test"))) == (43, 1290, 630)
    assert signs.classes[2] == "02_speed_50"
    assert len({image.group for image in signs.images if image.side == "train"}) == 3 * 43
    lungs = build_index(real_data / "chest_xray_pneumonia", group_by=r"(person\d+)_|((?:NORMAL2-)?IM-\d+)")
    assert lungs.ungrouped == 0
    assert len({image.group for image in lungs.images if image.side == "train"}) == 2846
    with pytest.raises(DataError, match="7 left out"):
        build_index(real_data / "quirky")


def test_check_usable_after_reading() -> None:
    with pytest.raises(DataError, match="'x' has 0"):
        check_usable(DatasetIndex(Path(), ("x", "y"), (Image("a", 1, None, "a"), Image("b", 1, None, "b"))))
