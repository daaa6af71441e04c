from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cvtune.audit import (
    Finding,
    Pair,
    Suspect,
    audit,
    exact_clusters,
    load_audit,
    load_suspects,
    rate_not_excluded,
    save_audit,
    worst_severity,
)
from cvtune.data.folder import Skipped
from cvtune.data.groups import Proposal
from cvtune.data.index import DatasetIndex, Image, build_index
from cvtune.data.split import Leaks, Split
from cvtune.errors import RunError
from tests.audit.samples import FACT


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
    assert exact_clusters(index) == ((0, 2), (1, 3))
    assert exact_clusters(make()) == ()


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
        "9 files among the images that are none",
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


def test_small_classes_are_told_what_they_cost() -> None:
    few, _ = audit(
        DatasetIndex(Path(), ("a", "b"), (*(Image(f"a/{i}", 0, None, f"a/{i}") for i in range(30)), image("b/1")))
    )
    assert "even 7 of 7 right do not exclude 35 %" in few.action


def test_merged_classes_are_told() -> None:
    finding = only(make(merged=(("dent", "a", 12), ("scratch", "a", 8))))
    assert (finding.code, finding.severity) == ("merged", "note")
    assert finding.title == "2 classes merged into another"
    assert finding.examples == ("dent -> a: 12", "scratch -> a: 8")


def test_file_names_that_look_grouped() -> None:
    proposal = Proposal(r"person(\d+)_", 12, 40, "person3_1.png, person3_2.png", "40 images share a number")
    (finding,) = audit(make(), proposal=proposal)
    assert (finding.code, finding.severity, finding.count) == ("names_look_grouped", "warning", 40)
    assert finding.title == "file names look grouped: 40 images share a number"
    assert r"--group-by 'person(\d+)_'" in finding.action
    assert audit(make(image("a/1", group="g")), proposal=proposal) == (), "the user groups already"


def suspect(position: int, path: str) -> Suspect:
    return Suspect(position, path, "a", "b", 0.021, 0.953)


def test_labels_that_look_wrong() -> None:
    (finding,) = audit(make(), suspects=[suspect(i, f"a/filler{i}") for i in range(7)])
    assert (finding.code, finding.severity, finding.count) == ("suspect_labels", "warning", 7)
    assert finding.title == "7 labels of 40 look wrong"
    assert finding.examples[0] == "a/filler0: 'a' (2 %), looks like 'b' (95 %)"
    assert len(finding.examples) == 5
    (finding,) = audit(make(), suspects=[suspect(0, "a/filler0")])
    assert finding.title == "1 label of 40 looks wrong"


def test_labels_that_were_not_judged() -> None:
    (finding,) = audit(make(), label_note="labels of 'b' were not judged: fewer than 5 images (or groups)")
    assert (finding.code, finding.severity) == ("labels_not_judged", "note")
    assert finding.title.startswith("labels of 'b' were not judged")


def test_everything_together_warnings_first() -> None:
    index = make(image("a/1", sha="x"), image("a/2", sha="x"), image("b/1"))
    facts = [replace(FACT, quality=90 if one.label else 75) for one in index.images]
    facts[5] = replace(facts[5], sharpness=0.0)
    found = audit(
        index,
        Split(tuple("test" if i % 2 else "train" for i in range(43)), calib_is_val=True),
        facts=facts,
        pairs=[Pair(0, 1, "exact", 1.0), Pair(1, 2, "near", 0.9)],
        suspects=[suspect(1, "a/2")],
        leaks=Leaks((1,), 0, 1),
    )
    assert [(one.code, one.severity) for one in found] == [
        ("near_label_conflict", "warning"),
        ("leakage", "warning"),
        ("suspect_labels", "warning"),
        ("shortcut_quality", "warning"),
        ("flat", "warning"),
        ("duplicates", "note"),
        ("test_power", "note"),
    ]


def test_several_labels_an_image() -> None:
    sets = [(0,), (0, 1), (1,), ()] * 10
    images = [
        Image(f"{i:02d}", one[0] if one else -1, None, f"{i:02d}", sha256=f"{i // 2}", labels=one)
        for i, one in enumerate(sets)
    ]
    index = DatasetIndex(Path("parts"), ("dent", "scratch"), tuple(images), multi=True)
    conflict, power = audit(index, Split(tuple(["test"] * 10 + ["train"] * 30), calib_is_val=True))
    assert (conflict.code, conflict.count) == ("label_conflict", 20)
    assert power.examples == ("dent: 6", "scratch: 5")


def test_the_worst_severity_decides_the_exit_code() -> None:
    warning, note = Finding("w", "warning", "", 1, (), ""), Finding("n", "note", "", 1, (), "")
    assert worst_severity([]) is None
    assert worst_severity([note]) == "note"
    assert worst_severity([note, warning]) == "warning"


def test_saved_and_loaded(tmp_path: Path) -> None:
    index = make(image("a/1", sha="x"), image("b/1", sha="x"), skipped=(Skipped("ü.txt", "not an image"),))
    findings, suspects = audit(index), (suspect(1, "b/1"), suspect(0, "a/1"))
    pairs = [Pair(0, 1, "exact", 1.0), Pair(1, 2, "near", 0.1 + 0.2)]
    save_audit(tmp_path / "audit.json", findings, index, suspects=suspects, pairs=pairs)
    assert load_audit(tmp_path / "audit.json") == findings
    assert load_suspects(tmp_path / "audit.json") == suspects
    tree = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert list(tree) == ["root", "findings", "skipped", "suspects", "near_duplicates"]
    assert tree["root"] == "parts"
    assert tree["skipped"] == [{"path": "ü.txt", "reason": "not an image"}]
    assert tree["near_duplicates"] == [{"a": "b/1", "b": "a/filler0", "score": 0.3}]


@pytest.mark.parametrize(
    ("text", "load"),
    [
        ('{"findings": [{"code": "x"}]}', load_audit),
        ('{"findings": 3}', load_audit),
        ("{}", load_audit),
        ("[]", load_audit),
        ("{", load_audit),
        ('{"suspects": [{"position": 1}]}', load_suspects),
        ('{"suspects": [3]}', load_suspects),
        ("[]", load_suspects),
    ],
)
def test_damaged_files(text: str, load: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(RunError, match="damaged"):
        load(tmp_path / "audit.json")


def test_a_file_of_before_has_no_suspects(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text('{"root": "parts", "findings": [], "skipped": []}')
    assert load_suspects(tmp_path / "audit.json") == ()


def test_steel_has_one_pair(real_data: Path) -> None:
    index = build_index(real_data / "neu_steel")
    images = [
        replace(one, sha256=hashlib.sha256((index.root / one.path).read_bytes()).hexdigest()) for one in index.images
    ]
    finding = only(replace(index, images=tuple(images)))
    assert finding.code == "duplicates"
    assert finding.examples == ("patches/patches_101.jpg = patches/patches_105.jpg",)
