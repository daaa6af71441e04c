from __future__ import annotations

from pathlib import Path

import pytest

from cvtune.audit import Finding, audit, duplicate_clusters, load_audit, save_audit
from cvtune.audit.findings import rate_not_excluded
from cvtune.data.folder import Skipped
from cvtune.data.index import DatasetIndex, Image, build_index
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.data.split import Split
from cvtune.errors import RunError


def make(*images: Image, **more: object) -> DatasetIndex:
    filler = [Image(f"{k}/filler{i}", "ab".index(k), None, f"{k}/filler{i}") for k in "ab" for i in range(20)]
    return DatasetIndex(Path("parts"), ("a", "b"), (*images, *filler), **more)  # type: ignore[arg-type]


def image(path: str, side: str | None = None, sha: str = "", group: str = "") -> Image:
    return Image(path, "ab".index(path[0]), side, group or path, sha256=sha)


def only(index: DatasetIndex, split: Split | None = None) -> Finding:
    (finding,) = audit(index, split)
    return finding


def test_a_clean_folder_has_no_findings() -> None:
    assert audit(make()) == ()


def test_copies_within_a_class() -> None:
    finding = only(make(image("a/1", sha="x"), image("a/2", sha="x"), image("a/3", sha="x"), image("b/1", sha="y")))
    assert (finding.code, finding.severity, finding.count) == ("duplicates", "note", 1)
    assert finding.title == "1 picture more than once, byte for byte the same file"
    assert finding.examples == ("a/1 = a/2 = a/3",)


def test_one_picture_under_two_labels() -> None:
    finding = only(make(image("a/1", sha="x"), image("b/1", sha="x")))
    assert (finding.code, finding.severity) == ("label_conflict", "warning")
    assert finding.title == "1 picture under two labels, byte for byte the same file"


def test_copies_and_groups_on_two_given_sides() -> None:
    index = make(
        image("a/1", "train", sha="x", group="g"), image("a/2", "test", sha="x", group="g"), image("b/1", "test")
    )
    assert [(f.code, f.severity) for f in audit(index)] == [
        ("duplicates_across_sides", "warning"),
        ("groups_across_sides", "warning"),
        ("duplicates", "note"),
    ]


def test_clusters_are_positions() -> None:
    index = make(image("a/1", sha="x"), image("b/1", sha="y"), image("a/2", sha="x"), image("b/2", sha="y"))
    assert duplicate_clusters(index) == ((0, 2), (1, 3))
    assert duplicate_clusters(make()) == ()


def test_small_and_uneven_classes() -> None:
    images = (*(Image(f"a/{i}", 0, None, f"a/{i}") for i in range(30)), image("b/1"), image("b/2"))
    few, imbalance = audit(DatasetIndex(Path(), ("a", "b"), images))
    assert few.title == "1 class with fewer than 8 images"
    assert few.examples == ("b: 2",)
    assert imbalance.title == "class sizes differ by a factor of 15.0"
    assert imbalance.examples == ("a: 30", "b: 2")


def test_a_given_test_side_without_a_class() -> None:
    finding = only(make(image("a/1", "test")))
    assert finding.code == "classes_missing_in_test"
    assert finding.title == "1 class without an image in the given test/"
    assert finding.examples == ("b",)


def test_files_and_notes_and_patterns() -> None:
    skipped = tuple(Skipped(f"a/{i}.txt", "not an image") for i in range(9))
    index = make(skipped=skipped, notes=(("16-bit, read at 8 bits", 4),), ungrouped=2)
    assert [f.title for f in audit(index)] == [
        "2 images not matched by --group-by",
        "9 files left out",
        "4 of 40 images: 16-bit, read at 8 bits",
    ]
    assert len(audit(index)[1].examples) == 5


def test_what_the_test_side_can_prove() -> None:
    index = make()
    sides = ["train"] * 40
    sides[:12] = ["test"] * 12
    sides[20:35] = ["test"] * 15
    finding = only(index, Split(tuple(sides)))
    assert finding.code == "test_power"
    assert finding.title.startswith("12 test images of class 'a' cannot prove an error rate below 22 %")
    assert finding.examples == ("a: 12", "b: 15")


@pytest.mark.parametrize(("images", "rate"), [(1, 0.95), (12, 0.2209), (59, 0.0495), (62, 0.0472)])
def test_rate_not_excluded(images: int, rate: float) -> None:
    assert rate_not_excluded(images) == pytest.approx(rate, abs=1e-4)
    assert (1 - rate_not_excluded(images)) ** images == pytest.approx(0.05)


def test_saved_and_loaded(tmp_path: Path) -> None:
    index = make(image("a/1", sha="x"), image("b/1", sha="x"), skipped=(Skipped("ü.txt", "not an image"),))
    findings = audit(index)
    save_audit(tmp_path / "audit.json", findings, index)
    assert load_audit(tmp_path / "audit.json") == findings
    assert '"root": "parts"' in (tmp_path / "audit.json").read_text(encoding="utf-8")
    assert "ü.txt" in (tmp_path / "audit.json").read_text(encoding="utf-8")
    (tmp_path / "audit.json").write_text('{"findings": [{"code": "x"}]}')
    with pytest.raises(RunError, match="damaged"):
        load_audit(tmp_path / "audit.json")


def test_steel_has_one_pair(real_data: Path, tmp_path: Path) -> None:
    index, _ = fill_pixels(build_index(real_data / "neu_steel"), Preprocessing(16), tmp_path)
    assert len(index) == 1800
    assert only(index).examples == ("patches/patches_101.jpg = patches/patches_105.jpg",)
