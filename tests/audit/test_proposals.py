from __future__ import annotations

import csv
from pathlib import Path

from cvtune.audit.duplicates import Pair
from cvtune.audit.labels import Suspect
from cvtune.audit.proposals import write_corrections
from cvtune.data.corrections import apply_corrections
from cvtune.data.index import DatasetIndex, Image


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def folder(*, multi: bool = False) -> DatasetIndex:
    names = ["a/1.png", "a/ü,\n=2.png", "b/1.png", "b/2.png", "b/3.png", "a/3.png"]
    images = [
        Image(name, "ab".index(name[0]), None, name, sha256="x" if name in ("a/1.png", "b/1.png") else name)
        for name in names
    ]
    if multi:
        images = [Image(i.path, i.label, None, i.path, sha256=i.sha256, labels=(i.label,)) for i in images]
    return DatasetIndex(Path("parts"), ("a", "b"), tuple(images), multi=multi)


def test_suspects_first_then_pictures_under_two_labels(tmp_path: Path) -> None:
    suspects = [Suspect(1, "a/ü,\n=2.png", "a", "b", 0.01234, 0.95), Suspect(2, "b/1.png", "b", "a", 0.1, 0.9)]
    assert write_corrections(tmp_path / "c.csv", folder(), suspects, [Pair(3, 5, "near", 0.9)]) == 5
    table = rows(tmp_path / "c.csv")
    assert list(table[0]) == ["path", "label", "new_label", "p_label", "p_new", "reason"]
    assert [tuple(row.values()) for row in table] == [
        ("a/ü,\n=2.png", "a", "b", "0.0123", "0.9500", "looks like another class"),
        (
            *("b/1.png", "b", "a", "0.1000", "0.9000"),
            "looks like another class; the same picture is also under 'a': a/1.png",
        ),
        ("a/1.png", "a", "", "", "", "the same picture is also under 'b': b/1.png"),
        ("b/2.png", "b", "", "", "", "nearly the same picture is also under 'a': a/3.png"),
        ("a/3.png", "a", "", "", "", "nearly the same picture is also under 'b': b/2.png"),
    ]
    assert b"\r" not in (tmp_path / "c.csv").read_bytes()


def test_what_is_written_can_be_applied(tmp_path: Path) -> None:
    index = folder()
    write_corrections(tmp_path / "c.csv", index, [Suspect(1, "a/ü,\n=2.png", "a", "b", 0.01, 0.95)])
    corrected, changed, removed = apply_corrections(index, tmp_path / "c.csv")
    assert (changed, removed) == (1, 0)
    assert [image.label for image in corrected.images] == [0, 1, 1, 1, 1, 0]


def test_several_labels_and_none(tmp_path: Path) -> None:
    index = folder(multi=True)
    suspects = [Suspect(5, "a/3.png", "a", "", 0.01, 0.99), Suspect(3, "b/2.png", "b", "a;b", 0.02, 0.98)]
    write_corrections(tmp_path / "c.csv", index, suspects)
    assert [row["new_label"] for row in rows(tmp_path / "c.csv")][:2] == [";", "a;b"]
    corrected, changed, removed = apply_corrections(index, tmp_path / "c.csv")
    assert (changed, removed) == (2, 0)
    assert (corrected.images[5].labels, corrected.images[3].labels) == ((), (0, 1))


def test_nothing_to_propose(tmp_path: Path) -> None:
    index = DatasetIndex(Path("parts"), ("a", "b"), ())
    assert write_corrections(tmp_path / "c.csv", index, ()) == 0
    assert (tmp_path / "c.csv").read_text(encoding="utf-8") == "path,label,new_label,p_label,p_new,reason\n"
