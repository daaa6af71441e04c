from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvtune.data.index import DatasetIndex, build_index
from cvtune.data.table import read_table, split_labels
from cvtune.errors import DataError

MakeFolder = Callable[..., Path]
Write = Callable[..., Path]
links = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


@pytest.fixture
def write(make_folder: MakeFolder) -> Write:
    """`write("path,label\\n...")`: a table beside the images `img/0.png` to `img/5.png`."""
    folder = make_folder(*(f"img/{i}.png" for i in range(6)))

    def make(text: str | bytes, name: str = "labels.csv") -> Path:
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(data)
        return folder / name

    return make


def labels(index: DatasetIndex) -> dict[str, str]:
    return dict(zip((image.path for image in index.images), index.label_names, strict=True))


FOUR = "path,label\nimg/0.png,ok\nimg/1.png,ok\nimg/2.png,bad\nimg/3.png,bad\n"


def test_paths_start_from_the_folder_of_the_table(write: Write) -> None:
    index = build_index(write(FOUR))
    assert index.root == write(FOUR).parent
    assert index.classes == ("bad", "ok")
    assert labels(index) == {"img/0.png": "ok", "img/1.png": "ok", "img/2.png": "bad", "img/3.png": "bad"}
    assert all((index.root / image.path).is_file() for image in index.images)
    assert (index.multi, index.skipped, index.ungrouped) == (False, (), 0)
    assert all(image.group == image.path for image in index.images)


def test_order_is_that_of_the_paths_not_of_the_rows(write: Write) -> None:
    rows = FOUR.splitlines()
    turned = "\n".join([rows[0], *reversed(rows[1:])])
    assert build_index(write(turned)) == build_index(write(FOUR))


def test_sides_groups_and_columns_in_any_case_and_order(write: Write) -> None:
    text = (
        "Camera,SIDE,Label,Group,Path\n"
        "a,Train,ok,p1,img/0.png\n"
        "a,valid,ok,,img/1.png\n"
        "b,validation,bad,p1,img/2.png\n"
        "b,,bad, p2 ,img/3.png\n"
        "b,test,bad,p3,img/4.png\n"
    )
    index = build_index(write(text))
    assert [image.side for image in index.images] == ["train", "val", "val", None, "test"]
    assert [image.group for image in index.images] == ["p1", "img/1.png", "p1", "p2", "p3"]
    assert index.ungrouped == 0  # nobody asked for groups
    assert dict(read_table(write(text)).columns)["Camera"] == ("a", "a", "b", "b", "b")


def test_group_by_a_column_goes_before_the_column_group(write: Write) -> None:
    text = "path,label,group,camera\nimg/0.png,a,g,c1\nimg/1.png,a,g,c1\nimg/2.png,b,g,c2\nimg/3.png,b,g,\n"
    index = build_index(write(text), group_by="column:camera")
    assert [image.group for image in index.images] == ["c1", "c1", "c2", "img/3.png"]
    assert index.ungrouped == 1


@pytest.mark.parametrize(
    "text",
    [
        FOUR,
        FOUR.replace(",", ";"),
        FOUR.replace(",", "\t"),
        "sep=;\n" + FOUR.replace(",", ";"),
        FOUR.replace("\n", "\r\n"),
        "\n" + FOUR + "\n,\n",
        '"path","label"\n' + FOUR.partition("\n")[2],
        " path , label \n" + FOUR.partition("\n")[2].replace(",", " , "),
        FOUR.replace("/", "\\"),
        FOUR.replace("img/", "./img//"),
        FOUR.replace("img/", "img/../img/"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_programs_and_spreadsheets_write(write: Write, text: str, encoding: str) -> None:
    index = build_index(write(text.encode(encoding)))
    assert labels(index) == labels(build_index(write(FOUR, "plain.csv")))


def test_names_that_look_like_numbers_stay_text(write: Write) -> None:
    names = ("no", "1e3", "007", "true", "1", "=1+1")
    rows = "".join(f"img/{i}.png,{name}\n" for i, name in enumerate(names))
    index = build_index(write("path,label\n" + rows), trainable=False)
    assert set(index.classes) == set(names)


def test_several_labels_an_image(write: Write) -> None:
    text = "path,label\nimg/0.png,scratch;dent\nimg/1.png,\nimg/2.png,dent; dent ;\nimg/3.png,dent 10;dent\n"
    index = build_index(write(text), trainable=False)
    assert index.multi
    assert index.classes == ("dent", "dent 10", "scratch")
    assert [image.labels for image in index.images] == [(0, 2), (), (0,), (0, 1)]
    assert [image.label for image in index.images] == [0, -1, 0, 0]
    assert index.label_names == ("dent;scratch", "", "dent", "dent;dent 10")
    assert index.counts() == (3, 1, 1)


def test_a_column_called_labels_is_enough(write: Write) -> None:
    index = build_index(write("path,labels\nimg/0.png,a\nimg/1.png,b\nimg/2.png,\n"), trainable=False)
    assert index.multi
    assert index.counts() == (1, 1)


def test_semicolons_between_cells_and_between_labels(write: Write) -> None:
    rows = 'img/0.png;"scratch;dent"\nimg/1.png;dent\n'
    index = build_index(write("path;label\n" + rows), trainable=False)
    assert index.label_names == ("dent;scratch", "dent")
    with pytest.raises(DataError, match="row 2: 3 cells, expected 2; a cell that holds ';' needs double quotes"):
        read_table(write("path;label\nimg/0.png;scratch;dent\nimg/1.png;dent\n"))


def test_all_wrong_rows_in_one_error(write: Write) -> None:
    text = (
        "path,label,side\n"
        "img/0.png,ok,train\n"
        "./img/0.png,ok,train\n"
        "img/1.png,,train\n"
        "img/2.png,bad,dev\n"
        ",bad,\n"
        "img/3.png,bad\n"
        "img/4.png,,dev\n"
    )
    with pytest.raises(DataError) as caught:
        read_table(write(text))
    assert str(caught.value).split("\n")[1:-1] == [
        "  row 3: img/0.png is in row 2 already",
        "  row 4: img/1.png: no label",
        "  row 5: img/2.png: side 'dev', expected train, val, test or an empty cell",
        "  row 6: no path",
        "  row 7: 2 cells, expected 3; a cell that holds ',' needs double quotes",
        "  and 2 more",
    ]
    assert "7 problems in the table" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "there is no column 'path'; the columns are: none"),
        (b"file,label\na,b\n", "there is no column 'path'; the columns are: file, label"),
        (b"path,class\na,b\n", "there is no column 'label'; the columns are: path, class"),
        (b"path,label,labels\na,b,c\n", "a column 'label' and a column 'labels'"),
        (b"path,label,PATH\na,b,c\n", "several columns are called 'path'"),
        (b"path,label\n\xe9.png,b\n", "not UTF-8 text"),
        (b'path,label\n"a.png,b\n', "damaged in line 2"),
    ],
)
def test_files_that_are_no_table(write: Write, text: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        build_index(write(text))
    assert caught.value.hint


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv: no such file"):
        build_index(tmp_path / "labels.csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_for_a_table_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(DataError, match="not a regular file"):
        build_index(tmp_path / "labels.csv")


def test_a_folder_may_be_called_like_a_table(make_folder: MakeFolder) -> None:
    folder = make_folder("a/1.png", "a/2.png", "b/1.png", "b/2.png", name="parts.csv")
    assert build_index(folder).counts() == (2, 2)


def test_files_that_cannot_be_used_are_listed(write: Write) -> None:
    table = write(FOUR + "img/9.png,ok\nimg,ok\nimg/e.png,ok\nlabels.csv,bad\n" + "x" * 300 + ",ok\nimg/\0.png,ok\n")
    (table.parent / "img/e.png").touch()
    index = build_index(table)
    assert len(index) == 4
    reasons = {item.path: item.reason for item in index.skipped}
    assert reasons.pop("x" * 300) in {"no such file", "cannot be read: File name too long"}
    assert reasons == {
        "img": "not a regular file",
        "img/9.png": "no such file",
        "img/e.png": "empty file",
        "img/\0.png": "no such file",
        "labels.csv": "not an image",
    }


def test_nothing_left_is_an_error(write: Write) -> None:
    with pytest.raises(DataError, match="no readable image") as caught:
        build_index(write("path,label\na.png,ok\nb.png,bad\n"), merge={"all": ("ok",)})
    assert "a.png: no such file" in str(caught.value)


def test_files_outside_of_the_folder_keep_their_whole_path(write: Write, make_folder: MakeFolder) -> None:
    far = make_folder("1.png", name="far") / "1.png"
    inside = write(FOUR).parent / "img/4.png"
    index = build_index(write(FOUR + f"../far/1.png,ok\n{inside},bad\n"))
    assert [image.path for image in index.images if image.path.endswith("1.png")] == [far.as_posix(), "img/1.png"]
    assert "img/4.png" in labels(index)
    assert (index.root / far.as_posix()).samefile(far)
    with pytest.raises(DataError, match="is in row 6 already"):
        build_index(write(FOUR + f"../far/1.png,ok\n{far},ok\n"))


@links
def test_two_dots_after_a_link_lead_where_the_file_system_says(write: Write, make_folder: MakeFolder) -> None:
    far = make_folder("deep/down/1.png", "deep/img/0.png", name="far")
    root = write(FOUR).parent
    (root / "link").symlink_to(far / "deep/down", target_is_directory=True)
    index = build_index(write(FOUR + "link/../img/0.png,ok\n"))
    assert {image.path for image in index.images} >= {"img/0.png", (far / "deep/img/0.png").resolve().as_posix()}


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS finds either form")
def test_the_other_form_of_unicode_is_found(make_folder: MakeFolder) -> None:
    folder = make_folder("gr\u00fcn.png", "2.png")
    (folder / "t.csv").write_text("path,label\ngru\u0308n.png,gru\u0308n\n2.png,gr\u00fcn\n", encoding="utf-8")
    index = build_index(folder / "t.csv", trainable=False)
    assert index.classes == ("gr\u00fcn",)
    assert labels(index) == {"2.png": "gr\u00fcn", "gr\u00fcn.png": "gr\u00fcn"}


def test_parquet(write: Write) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "Path": [f"img/{i}.png" for i in range(4)],
        "label": pa.array([1, 1, 10, 2], pa.int32()),
        "side": pa.array(["train", None, "", "test"]).dictionary_encode(),
        "lot": [1.0, float("nan"), None, 2.5],
        "picture": [b"\xff\xd8"] * 4,
    }
    file = write(b"", "labels.parquet")
    pq.write_table(pa.table(columns), file)
    index = build_index(file, trainable=False)
    assert index.classes == ("1", "2", "10")
    assert [image.side for image in index.images] == ["train", None, None, "test"]
    assert dict(read_table(file).columns) == {"side": ("train", "", "", "test"), "lot": ("1.0", "", "", "2.5")}


@pytest.mark.parametrize("name", ["label", "labels"])
def test_parquet_with_lists_of_labels(write: Write, name: str) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = write(b"", "labels.parquet")
    pq.write_table(pa.table({"path": ["img/0.png", "img/1.png", "img/2.png"], name: [["b"], [], None]}), file)
    index = build_index(file, trainable=False)
    assert index.multi
    assert index.label_names == ("b", "", "")


def test_parquet_problems_name_rows_from_one(write: Write) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = write(b"", "labels.parquet")
    pq.write_table(pa.table({"path": ["img/0.png", "img/1.png"], "label": ["a", None]}), file)
    with pytest.raises(DataError, match=r"row 2: img/1\.png: no label"):
        read_table(file)


@pytest.mark.parametrize("data", [b"", b"PAR1" * 10])
def test_damaged_parquet(write: Write, data: bytes) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="not readable as Parquet"):
        read_table(write(data, "labels.parquet"))


def test_parquet_without_pyarrow_says_what_to_install(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pyarrow is not installed") as caught:
        read_table(write(b"", "labels.parquet"))
    assert "cvtune[parquet]" in caught.value.hint


@given(st.text(alphabet=" ;ab\u00fc", max_size=12))
def test_labels_of_a_cell_are_names_each_once(text: str) -> None:
    names = split_labels(text)
    assert len(set(names)) == len(names)
    assert all(name and name == name.strip() and ";" not in name for name in names)
    assert split_labels(";".join(names)) == names


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.text(alphabet='path,label;\t\n\r"\0img/0.png ', max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_a_plain_error(write: Write, data: bytes) -> None:
    for head in (b"", b"path,label\n"):
        with contextlib.suppress(DataError):  # anything else fails the test
            table = read_table(write(head + data))
            assert len({item.path for item in table.found}) == len(table.found)
