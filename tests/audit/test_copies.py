from __future__ import annotations

from pathlib import Path

from cvtune.audit.copies import conflicts, cut_clusters, leakage, near_copies
from cvtune.audit.duplicates import Pair
from cvtune.data.index import DatasetIndex, Image
from cvtune.data.split import Leaks, Split
from cvtune.data.units import Cut


def folder(*paths: str) -> DatasetIndex:
    """`a/1`: class a; `test:a/1`: on a given side; `a/1=x`: with the content x."""
    images = []
    for text in paths:
        place, _, sha = text.partition("=")
        side, _, path = place.rpartition(":")
        images.append(Image(path, "ab".index(path[0]), side or None, path, sha256=sha))
    return DatasetIndex(Path("parts"), ("a", "b"), tuple(images))


def near(*pairs: tuple[int, int]) -> list[Pair]:
    return [Pair(a, b, "near", 1 - i / 100) for i, (a, b) in enumerate(pairs)]


def test_near_copies_within_a_class() -> None:
    index = folder("a/1", "a/2", "a/3", "a/4")
    (finding,) = near_copies(index, near((0, 1), (1, 2)))
    assert (finding.code, finding.severity, finding.count) == ("near_duplicates", "note", 3)
    assert finding.title == "3 images with the same picture more than once: saved again, resized, cropped or brightened"
    assert finding.examples == ("a/1 ~ a/2", "a/2 ~ a/3")


def test_near_copies_under_two_labels_and_on_two_sides() -> None:
    index = folder("train:a/1", "train:b/1", "test:a/2", "train:a/3")
    found = list(near_copies(index, near((0, 1), (2, 3), (0, 3))))
    assert [(one.code, one.severity, one.count) for one in found] == [
        ("near_label_conflict", "warning", 2),
        ("near_duplicates_across_sides", "warning", 2),
        ("near_duplicates", "note", 2),
    ]
    assert [one.examples for one in found] == [("a/1 ~ b/1",), ("a/2 ~ a/3",), ("a/1 ~ a/3",)]


def test_the_surest_pairs_are_shown() -> None:
    index = folder(*(f"a/{i}" for i in range(20)))
    pairs = [Pair(i, i + 1, "near", 0.9 + i / 1000) for i in range(0, 20, 2)]
    (finding,) = near_copies(index, pairs)
    assert (finding.count, len(finding.examples), finding.examples[0]) == (20, 5, "a/18 ~ a/19")


def test_exact_pairs_are_told_elsewhere() -> None:
    assert list(near_copies(folder("a/1=x", "a/2=x"), [Pair(0, 1, "exact", 1.0)])) == []


def test_leaks() -> None:
    index = folder("train:a/1", "test:a/2", "test:b/1")
    (finding,) = leakage(index, Leaks((1, 2), 1, 2))
    assert (finding.code, finding.severity, finding.count) == ("leakage", "warning", 2)
    assert finding.title == "2 test images with a partner on another side: 1 group and 2 pictures cross"
    assert finding.examples == ("a/2", "b/1")
    (finding,) = leakage(index, Leaks((1,), 0, 1))
    assert finding.title == "1 test image with a partner on another side: 1 picture crosses"
    assert list(leakage(index, Leaks((), 0, 0))) == []
    assert list(leakage(index, None)) == []


def test_clusters_that_were_cut() -> None:
    index = folder("a/1", "a/2", "b/1")
    split = Split(("train", "val", "train"), calib_is_val=True, cuts=(Cut((0, 1), 0, 40, 60),))
    (finding,) = cut_clusters(index, split)
    assert (finding.code, finding.severity, finding.count) == ("clusters_cut", "note", 1)
    assert finding.title == "1 cluster of near-duplicates that would hold more than half of a class"
    assert finding.examples == ("a: 40 of 60, a/1",)
    assert list(cut_clusters(index, Split(("train", "val", "train"), calib_is_val=True))) == []


def test_conflicts_name_the_other_label() -> None:
    index = folder("a/1=x", "b/1=x", "a/2", "b/2", "a/3=y", "a/4=y")
    assert conflicts(index, near((2, 3))) == {
        0: ("the same picture is also under 'b': b/1",),
        1: ("the same picture is also under 'a': a/1",),
        2: ("nearly the same picture is also under 'b': b/2",),
        3: ("nearly the same picture is also under 'a': a/2",),
    }


def test_different_sets_of_labels_contradict() -> None:
    images = tuple(
        Image(f"{i}", labels[0], None, f"{i}", sha256="x", labels=labels) for i, labels in enumerate([(0,), (0, 1)])
    )
    index = DatasetIndex(Path(), ("a", "b"), images, multi=True)
    assert conflicts(index) == {
        0: ("the same picture is also under 'a;b': 1",),
        1: ("the same picture is also under 'a': 0",),
    }
