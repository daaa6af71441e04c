from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvtune.config import DataConfig
from cvtune.data.index import DatasetIndex, Image, build_index
from cvtune.data.split import Split, split_index
from cvtune.errors import DataError

MakeIndex = Callable[..., DatasetIndex]
DATA = DataConfig()


def table(index: DatasetIndex, split: Split) -> dict[tuple[str, str], int]:
    return Counter((index.classes[i.label], side) for i, side in zip(index.images, split.sides, strict=True))


@st.composite
def indexes(draw: st.DrawFn) -> DatasetIndex:
    """Two to four classes; groups of uneven size, some of them over several classes; given sides or not."""
    sides = draw(st.sampled_from([(None,), ("train", "test"), ("train", "val", "test")]))
    images = []
    for label in range(draw(st.integers(2, 4))):
        groups = draw(st.lists(st.integers(1, 9), min_size=1, max_size=25))
        shared = draw(st.integers(0, 2))
        for number, size in enumerate(groups):
            group = f"shared-{number}" if number < shared else f"{label}-{number}"
            side = "train" if number == 0 and sides[0] else sides[number % len(sides)]
            images += [Image(f"{label}/{number}-{i}", label, side, group) for i in range(size)]
    return DatasetIndex(Path(), ("a", "b", "c", "d")[: 1 + max(i.label for i in images)], tuple(images))


@given(indexes(), st.integers(0, 3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_properties(index: DatasetIndex, seed: int) -> None:
    split = split_index(index, DATA, seed=seed)
    assert len(split.sides) == len(index)
    groups: dict[str, set[str]] = defaultdict(set)
    for image, side in zip(index.images, split.sides, strict=True):
        if image.side in ("val", "test"):
            assert side == image.side
        else:
            groups[image.group].add(side)
    assert all(len(sides) == 1 for sides in groups.values())
    assert {index.images[i].label for i in split.indices("train")} == set(range(len(index.classes)))
    assert split == split_index(index, DATA, seed=seed)


@given(st.lists(st.integers(2, 60), min_size=2, max_size=5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_single_images_meet_the_fractions(sizes: list[int], seed: int) -> None:
    images = tuple(Image(f"{k}/{i}", k, None, f"{k}/{i}") for k, size in enumerate(sizes) for i in range(size))
    index = DatasetIndex(Path(), tuple("abcde"[: len(sizes)]), images)
    split = split_index(index, DATA, seed=seed)
    assert split.calib_is_val == (min(sizes) < 6)
    counts = table(index, split)
    shares = {"train": 0.6, "val": 0.1, "calib": 0.15, "test": 0.15}
    if split.calib_is_val:
        shares = {"train": 0.6, "val": 0.25, "test": 0.15}
    for name, size in zip(index.classes, sizes, strict=True):
        assert counts[name, "train"] >= size / 2
        for side, share in shares.items():
            assert abs(counts[name, side] - share * size) < 1.5
            assert counts[name, side] > 0 or size < 4


@given(st.lists(st.integers(1, 30), min_size=6, max_size=40), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_uneven_groups_leave_half_of_a_class_in_train(sizes: list[int], seed: int) -> None:
    images = tuple(
        Image(f"{k}/{g}-{i}", k, None, f"{k}/{g}") for k in (0, 1) for g, n in enumerate(sizes) for i in range(n)
    )
    index = DatasetIndex(Path(), ("a", "b"), images)
    split = split_index(index, DATA, seed=seed)
    counts = table(index, split)
    assert not split.calib_is_val
    for name in index.classes:
        assert counts[name, "train"] >= sum(sizes) / 2
        assert all(counts[name, side] for side in ("val", "calib", "test"))


def test_the_listing_order_does_not_matter(make_index: MakeIndex) -> None:
    index = make_index({"a": 40, "b": 30}, group=lambda name, i: f"{name}{i // 3}")
    shuffled = np.random.default_rng(1).permutation(len(index))
    other = replace(index, images=tuple(index.images[i] for i in shuffled))
    one, two = split_index(index, DATA, seed=3), split_index(other, DATA, seed=3)
    assert dict(zip([i.path for i in index.images], one.sides, strict=True)) == dict(
        zip([i.path for i in other.images], two.sides, strict=True)
    )
    assert one.sides != split_index(index, DATA, seed=4).sides


def test_the_same_picture_stays_on_one_side(make_index: MakeIndex) -> None:
    index = make_index({"a": 40, "b": 40}, group=lambda name, i: f"{name}{i // 2}")
    same = [(0, 50, 7), (7, 30), (60, 61)]
    for seed in range(10):
        sides = split_index(index, DATA, seed=seed, same=same).sides
        linked = [0, 1, 6, 7, 30, 31, 50, 51]  # through the groups of two as well
        assert len({sides[i] for i in linked}) == 1
        assert len({sides[i] for i in (60, 61)}) == 1


def test_given_test_takes_75_10_15(make_index: MakeIndex) -> None:
    index = make_index({"a": 120, "b": 120}, side=lambda name, i: "test" if i < 20 else "train")
    counts = table(index, split_index(index, DATA, seed=0))
    assert [counts["a", side] for side in ("train", "val", "calib", "test")] == [75, 10, 15, 20]


def test_given_val_is_kept(make_index: MakeIndex) -> None:
    index = make_index({"a": 120, "b": 120}, side=lambda name, i: "val" if i < 20 else "train")
    counts = table(index, split_index(index, DATA, seed=0))
    assert [counts["a", side] for side in ("train", "val", "calib", "test")] == [70, 20, 15, 15]


def test_three_tracks_a_class(make_index: MakeIndex) -> None:
    index = make_index(
        {"a": 40, "b": 40},
        group=lambda name, i: f"{name}{i // 10}",
        side=lambda name, i: "test" if i >= 30 else "train",
    )
    split = split_index(index, DATA, seed=0)
    assert split.calib_is_val
    assert table(index, split) == {(k, s): n for k in "ab" for s, n in (("train", 20), ("val", 10), ("test", 10))}
    np.testing.assert_array_equal(split.indices("calib"), split.indices("val"))
    assert split.notes == (
        "calib is val: class 'a' has 3 groups to train from, 4 are needed to choose and to calibrate on different "
        "ones (2 classes are that small)",
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [(2, (1, 0, 0, 1)), (3, (2, 0, 0, 1)), (4, (2, 1, 0, 1)), (5, (3, 1, 0, 1))],
)
def test_tiny_classes(make_index: MakeIndex, size: int, expected: tuple[int, ...]) -> None:
    index = make_index({"big": 100, "tiny": size})
    split = split_index(index, DATA, seed=0)
    counts = table(index, split)
    assert tuple(counts["tiny", side] for side in ("train", "val", "calib", "test")) == expected
    assert tuple(counts["big", side] for side in ("train", "val", "calib", "test")) == (60, 25, 0, 15)
    assert split.notes[0].startswith(f"calib is val: class 'tiny' has {size} images to train from, 6 are needed")
    assert split.notes[1].startswith(
        f"fewer than 8 images, so figures for the class say next to nothing: 'tiny' ({size})"
    )
    missing = ("val holds no image of 'tiny': nothing can be said about it there",) if size < 4 else ()
    assert split.notes[2:] == missing


def test_a_class_without_images_to_train_from(make_index: MakeIndex) -> None:
    index = make_index({"a": 9, "b": 9}, side=lambda name, i: "test" if name == "b" else "train")
    with pytest.raises(DataError, match="no image to train from for 'b'"):
        split_index(index, DATA, seed=0)


def test_saved_and_loaded(make_index: MakeIndex, tmp_path: Path) -> None:
    index = make_index({"a": 20, "b": 5})
    split = split_index(index, DATA, seed=0)
    split.save(tmp_path / "split.csv", index)
    assert Split.load(tmp_path / "split.csv", index) == replace(split, notes=())
    with pytest.raises(DataError, match="lists other images than the index"):
        Split.load(tmp_path / "split.csv", make_index({"a": 20, "b": 6}))
    (tmp_path / "split.csv").write_text("path,label,group,side\na/0.png,a,a/0.png,left\n")
    with pytest.raises(DataError, match="damaged"):
        Split.load(tmp_path / "split.csv", make_index({"a": 1}))


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="left"):
        Split(("train", "left"))
    with pytest.raises(ValueError, match="calib is val"):
        Split(("train", "calib"), calib_is_val=True)
    with pytest.raises(ValueError, match="expected one of"):
        Split(("train",)).indices("left")


def test_real_tracks_and_patients(real_data: Path) -> None:
    signs = build_index(real_data / "gtsrb", group_by=r"([^/]+/\d+)_\d+\.ppm$")
    split = split_index(signs, DATA, seed=0)
    assert split.calib_is_val
    counts = table(signs, split)
    assert all((counts[name, "train"], counts[name, "val"]) == (20, 10) for name in signs.classes)
    lungs = build_index(real_data / "chest_xray_pneumonia", group_by=r"(person\d+)_|((?:NORMAL2-)?IM-\d+)")
    split = split_index(lungs, DATA, seed=0)
    assert not split.calib_is_val
    assert [len(split.indices(side)) for side in ("train", "val", "calib", "test")] == [3912, 522, 782, 624]
