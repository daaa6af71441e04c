from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cvtune.data.corrections import apply_corrections
from cvtune.data.folder import Skipped
from cvtune.data.index import DatasetIndex, build_index
from cvtune.errors import DataError

MakeFolder = Callable[..., Path]
Write = Callable[..., Path]


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    return make_folder(*(f"{name}/{i}.png" for name in ("dent", "ok", "scratch") for i in range(4)))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("ok/0.png,ok,dent")`: a file of corrections with these rows."""

    def make(*rows: str, head: str = "path,label,new_label", encoding: str = "utf-8") -> Path:
        file = tmp_path / "corrections.csv"
        file.write_text("\n".join((head, *rows)) + "\n", encoding=encoding)
        return file

    return make


def labels(index: DatasetIndex) -> dict[str, str]:
    return dict(zip((image.path for image in index.images), index.label_names, strict=True))


def test_labels_change_images_go_and_the_rest_stays(folder: Path, write: Write) -> None:
    index = build_index(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    file = write("ok/0.png,ok,dent", "ok/1.png,ok,-", "ok/2.png,ok,", "ok/3.png,ok,ok")
    corrected, relabelled, removed = apply_corrections(index, file)
    assert (relabelled, removed) == (1, 1)
    assert labels(corrected) == {p: n for p, n in labels(index).items() if p != "ok/1.png"} | {"ok/0.png": "dent"}
    assert [image.path for image in corrected.images] == [i.path for i in index.images if i.path != "ok/1.png"]
    assert corrected.skipped == (Skipped("ok/1.png", "left out by corrections corrections.csv"),)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_as_a_spreadsheet_saves_it(folder: Path, write: Write, encoding: str) -> None:
    file = write("ok/0.png;ok;dent;0,9;;", ";;;;;", head="Path;Label;New_Label;p_label;;", encoding=encoding)
    corrected, relabelled, removed = apply_corrections(build_index(folder), file)
    assert (relabelled, removed) == (1, 0)
    assert labels(corrected)["ok/0.png"] == "dent"


@pytest.mark.parametrize("row", ["ok/0.png,ok,dent", "ok/0.png,ok,defect", "ok/0.png,good,scratch"])
def test_names_before_and_after_merging_are_both_known(folder: Path, write: Write, row: str) -> None:
    merge = {"defect": ("dent", "scratch"), "good": ("ok",)}
    corrected, relabelled, _ = apply_corrections(build_index(folder, merge=merge), write(row), merge=merge)
    assert relabelled == 1
    assert labels(corrected)["ok/0.png"] == "defect"


def test_what_is_one_class_now_needs_no_change(folder: Path, write: Write) -> None:
    merge = {"defect": ("dent", "scratch")}
    _, relabelled, _ = apply_corrections(
        build_index(folder, merge=merge), write("dent/0.png,dent,scratch"), merge=merge
    )
    assert relabelled == 0


def test_all_problems_in_one_error(folder: Path, write: Write) -> None:
    (folder / "ok/readme.txt").write_text("x")
    file = write(
        "ok/9.png,ok,dent",
        "ok/readme.txt,ok,-",
        "ok/0.png,dent,scratch",
        "ok/1.png,ok,dnet",
        "ok/2.png,ok",
        "ok/3.png,ok,dent",
        "ok/3.png,ok,scratch",
    )
    with pytest.raises(DataError) as caught:
        apply_corrections(build_index(folder), file)
    assert str(caught.value).split("\n")[1:-1] == [
        "  row 2: ok/9.png is not among the images",
        "  row 3: ok/readme.txt is not among the images: a text file, not an image that is read",
        "  row 4: ok/0.png is labelled 'ok', not 'dent'",
        "  row 5: ok/1.png: there is no class 'dnet', did you mean 'dent'?",
        "  row 6: 2 cells, expected 3; a cell that holds ',' needs double quotes",
        "  and 1 more",
    ]
    assert "corrections.csv: 6 problems in the table" in str(caught.value)


def test_a_row_twice_is_refused_only_where_it_says_two_things(folder: Path, write: Write) -> None:
    index = build_index(folder)
    assert apply_corrections(index, write("ok/3.png,ok,dent", "ok/3.png,ok,dent"))[1] == 1
    with pytest.raises(DataError, match=r"row 3: ok/3\.png: 'dent' in row 2, then '-'"):
        apply_corrections(index, write("ok/3.png,ok,dent", "ok/3.png,ok,-"))


def test_rows_of_an_ignored_class_say_so(folder: Path, write: Write) -> None:
    with pytest.raises(DataError, match=r"dent/0\.png is not among the images: left out by --ignore"):
        apply_corrections(build_index(folder, ignore=("dent",)), write("dent/0.png,dent,ok"))


def test_too_little_left(folder: Path, write: Write) -> None:
    with pytest.raises(DataError, match="'dent' has 1") as caught:
        apply_corrections(build_index(folder), write(*(f"dent/{i}.png,dent,-" for i in range(3))))
    assert "dent/0.png: left out by corrections corrections.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("head", "sentence"),
    [("path,label", "no column 'new_label'"), ("path,old,new", "'label' and 'new_label'"), ("a,b,c", "'path'")],
)
def test_not_a_file_of_corrections(folder: Path, write: Write, head: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        apply_corrections(build_index(folder), write(head=head))


def test_no_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        apply_corrections(build_index(folder), tmp_path / "gone.csv")


def test_several_labels(make_folder: MakeFolder, write: Write) -> None:
    folder = make_folder(*(f"{i}.png" for i in range(8)))
    sets = ("a;b", "a", "b", "", "c;a", "c", "b;c", "")
    (folder / "t.csv").write_text("path,labels\n" + "".join(f"{i}.png,{text}\n" for i, text in enumerate(sets)))
    index = build_index(folder / "t.csv")
    rows = ("0.png,b;a,c", "1.png,a,;", "2.png,b,c;b", "3.png,,-", "4.png,c;a,", "7.png,,a;b")
    corrected, relabelled, removed = apply_corrections(index, write(*rows))
    assert (relabelled, removed) == (4, 1)
    assert corrected.multi
    assert corrected.label_names == ("c", "", "b;c", "a;c", "c", "b;c", "a;b")
    with pytest.raises(DataError, match=r"0\.png is labelled 'a;b', not 'a'"):
        apply_corrections(index, write("0.png,a,c"))
    with pytest.raises(DataError, match="there is no class 'd'"):
        apply_corrections(index, write("0.png,a;b,a;d"))
