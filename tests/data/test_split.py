from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from cvtune.config import DataConfig
from cvtune.data.index import DatasetIndex, Image, build_index
from cvtune.data.split import FEW, Leaks, Split, fold_splits, leaks, split_index
from cvtune.errors import DataError

MakeIndex = Callable[..., DatasetIndex]
DATA = DataConfig()
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]


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


@st.composite
def clustered(draw: st.DrawFn) -> tuple[DatasetIndex, list[list[int]], list[list[int]]]:
    """An index, clusters of identical files and clusters of near-duplicates, anywhere."""
    index = draw(indexes())
    cluster = st.lists(st.integers(0, len(index) - 1), min_size=2, max_size=6, unique=True)
    return index, draw(st.lists(cluster, max_size=3)), draw(st.lists(cluster, max_size=5))


def divided(index: DatasetIndex, seed: int, **more: Any) -> Split:
    """The split; what has too few units for it is not looked at further."""
    try:
        return split_index(index, DATA, seed=seed, **more)
    except DataError as error:
        if "no image is left" not in error.message:
            raise
        reject()


def hashed(index: DatasetIndex) -> DatasetIndex:
    """The same images, read: each file has a hash of its own."""
    return replace(index, images=tuple(replace(image, sha256=f"sha of {image.path}") for image in index.images))


def sides_by_hash(index: DatasetIndex, split: Split) -> dict[str, str]:
    return {image.sha256: side for image, side in zip(index.images, split.sides, strict=True)}


@given(clustered(), st.integers(0, 3))
@settings(max_examples=50, deadline=None, suppress_health_check=SLOW)
def test_properties(drawn: tuple[DatasetIndex, list[list[int]], list[list[int]]], seed: int) -> None:
    index, same, near = drawn
    split = divided(index, seed, same=same, near=near)
    assert len(split.sides) == len(index)
    groups: dict[str, list[int]] = defaultdict(list)
    for position, (image, side) in enumerate(zip(index.images, split.sides, strict=True)):
        if image.side in ("val", "test"):
            assert side == image.side
        groups[image.group].append(position)
    cut = [set(cut.cluster) for cut in split.cuts]
    for cluster in (*groups.values(), *same, *(cluster for cluster in near if set(cluster) not in cut)):
        dealt = {split.sides[i] for i in cluster if index.images[i].side in (None, "train")}
        assert len(dealt) < 2
    assert {index.images[i].label for i in split.indices("train")} == set(range(len(index.classes)))
    assert split == split_index(index, DATA, seed=seed, same=same, near=near)


@given(clustered(), st.integers(0, 3), st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=SLOW)
def test_known_images_never_move(
    drawn: tuple[DatasetIndex, list[list[int]], list[list[int]]], seed: int, data: st.DataObject
) -> None:
    whole, _, near = drawn
    whole = hashed(whole)
    old = data.draw(st.lists(st.sampled_from(range(len(whole))), min_size=1, unique=True))
    part = replace(whole, images=tuple(whole.images[i] for i in sorted(old)))
    assume({image.label for image in part.images if image.side in (None, "train")} == set(range(len(whole.classes))))
    assume({image.side for image in part.images} == {image.side for image in whole.images})  # a new test/ wins
    before = divided(part, seed)  # without the clusters: they may bridge sides later
    kept = sides_by_hash(part, before)
    after = divided(whole, seed + 1, near=near, kept=kept)
    assert sides_by_hash(whole, after).items() >= kept.items()
    assert after.calib_is_val == before.calib_is_val
    groups = defaultdict(set)
    for image, side in zip(whole.images, after.sides, strict=True):
        if image.side in (None, "train"):
            groups[image.group].add(side)
    assert all(len(sides) == 1 for sides in groups.values())  # new images join the group's side


@given(clustered(), st.integers(2, 5), st.integers(0, 3))
@settings(max_examples=50, deadline=None, suppress_health_check=SLOW)
def test_properties_of_folds(drawn: tuple[DatasetIndex, list[list[int]], list[list[int]]], k: int, seed: int) -> None:
    index, same, near = drawn
    index = replace(index, images=tuple(replace(image, side=None) for image in index.images))
    try:
        splits = fold_splits(index, DATA, k, seed=seed, same=same, near=near)
    except DataError:
        reject()
    assert len(splits) == k
    tested = np.concatenate([split.indices("test") for split in splits])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(index)))
    groups: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(index.images):
        groups[image.group].append(position)
    cut = [set(cut.cluster) for cut in splits[0].cuts]
    for split in splits:
        for cluster in (*groups.values(), *same, *(cluster for cluster in near if set(cluster) not in cut)):
            assert len({split.sides[i] for i in cluster}) == 1
        assert {index.images[i].label for i in split.indices("train")} == set(range(len(index.classes)))


@given(st.lists(st.integers(2, 60), min_size=2, max_size=5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_single_images_meet_the_fractions(sizes: list[int], seed: int) -> None:
    images = tuple(Image(f"{k}/{i}", k, None, f"{k}/{i}") for k, size in enumerate(sizes) for i in range(size))
    index = DatasetIndex(Path(), tuple("abcde"[: len(sizes)]), images)
    split = divided(index, seed)
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


def test_two_tracks_to_train_from_stay_together_where_val_and_test_are_given(make_index: MakeIndex) -> None:
    index = make_index(
        {"a": 40, "b": 40},
        group=lambda name, i: f"{name}{i // 10}",
        side=lambda name, i: "test" if i >= 30 else "val" if i >= 20 else "train",
    )
    split = split_index(index, DATA, seed=0)
    assert table(index, split) == {(k, s): n for k in "ab" for s, n in (("train", 20), ("val", 10), ("test", 10))}
    assert split.notes[0].startswith("calib is val: class 'a' has 2 groups to train from, 4 are needed")
    index = make_index(
        {"a": 60, "b": 60},
        group=lambda name, i: f"{name}{i // 10}",
        side=lambda name, i: "test" if i >= 50 else "val" if i >= 40 else "train",
    )
    assert table(index, split_index(index, DATA, seed=0))["a", "calib"] == 10


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


def test_near_duplicates_stay_on_one_side_unless_they_swallow_a_class(make_index: MakeIndex) -> None:
    index = make_index({"a": 40, "b": 40})
    chain = tuple(range(21))  # more than half of a
    for seed in range(5):
        split = split_index(index, DATA, seed=seed, near=[(41, 42, 43), chain, (60, 5)], same=[(0, 1)])
        assert len({split.sides[i] for i in (41, 42, 43)}) == 1
        assert split.sides[60] == split.sides[5]
        assert split.sides[0] == split.sides[1]  # identical files stay together in the chain too
        assert len({split.sides[i] for i in chain}) > 1
        assert split.cut == 1
        assert split.notes == (
            "pictures that look alike hang together in a chain of 21 of the 40 images of class 'a': too many to be "
            "copies, so only identical files and groups stay on one side",
        )
    assert split_index(index, DATA, seed=0, near=[chain[:19], (60, 5)]).cut == 0


def test_chains_through_groups_are_cut_and_groups_are_not(make_index: MakeIndex) -> None:
    index = make_index({"a": 40, "b": 40}, group=lambda name, i: f"{name}{i // 6}")
    split = split_index(index, DATA, seed=0, near=[(0, 6), (6, 12), (12, 18), (45, 50)])  # four groups of 6
    assert [(cut.cluster, cut.images, cut.total) for cut in split.cuts] == [((6, 12), 24, 40)]
    assert split.sides[0] == split.sides[6]
    assert split.sides[12] == split.sides[18]
    large = make_index({"a": 40, "b": 40}, group=lambda name, i: f"{name}{max(0, i - 28)}")  # 29 of 40 by the user
    for seed in range(5):
        split = split_index(large, DATA, seed=seed, near=[(0, 39)])
        assert split.cuts == ()
        assert {split.sides[i] for i in (*range(29), 39)} == {"train"}


def test_small_classes_are_not_cut(make_index: MakeIndex) -> None:
    index = make_index({"a": 40, "b": FEW - 1})
    split = split_index(index, DATA, seed=0, near=[range(40, 40 + FEW - 2)])
    assert split.cut == 0
    assert "class 'b' has 2 groups to train from" in split.notes[0]


def test_new_images_join_and_new_classes_get_their_places(make_index: MakeIndex) -> None:
    def group(name: str, i: int) -> str:
        return f"{name}{i // 2}"

    before = hashed(make_index({"a": 39, "b": 60}, group=group))
    kept = sides_by_hash(before, split_index(before, DATA, seed=0))
    index = hashed(make_index({"a": 79, "b": 60, "c": 40}, group=group))
    split = split_index(index, DATA, seed=5, kept=kept, near=[(1, 61)])
    now = sides_by_hash(index, split)
    assert now.items() >= kept.items()
    assert now["sha of a/39.png"] == kept["sha of a/38.png"]
    assert now["sha of a/60.png"] == now["sha of a/61.png"] == kept["sha of a/1.png"]  # a new group, by its copy
    counts = table(index, split)
    for name, size in (("a", 79), ("b", 60), ("c", 40)):
        for side, share in (("train", 0.6), ("val", 0.1), ("calib", 0.15), ("test", 0.15)):
            assert abs(counts[name, side] - share * size) <= 2
    assert split.notes == ()


def test_bridges_between_known_sides_are_told(make_index: MakeIndex) -> None:
    index = hashed(make_index({"a": 20, "b": 20}))
    kept = sides_by_hash(index, split_index(index, DATA, seed=0))
    train = [i for i in range(20) if kept[f"sha of a/{i}.png"] == "train"][:2]
    test = next(i for i in range(20) if kept[f"sha of a/{i}.png"] == "test")
    more = hashed(make_index({"a": 21, "b": 20}))
    split = split_index(more, DATA, seed=0, kept=kept, near=[(*train, test, 20)])
    assert split.sides[20] == "train"
    assert split.sides[test] == "test"
    paths = f"a/{test}.png (test) and a/{train[0]}.png (train)"
    assert split.notes == (
        f"1 group or picture is on several sides of the earlier run, for example {paths}: known images stay, new ones "
        "join the larger part; --new-split deals all out anew",
    )
    assert leaks(more, split, [(*train, test, 20)]) == Leaks((test,), 0, 1)


def test_calib_stays_what_it_was(make_index: MakeIndex) -> None:
    small = hashed(make_index({"a": 40, "b": 5}))
    split = split_index(small, DATA, seed=0)
    assert split.calib_is_val
    grown = hashed(make_index({"a": 40, "b": 50}))
    later = split_index(grown, DATA, seed=0, kept=sides_by_hash(small, split))
    assert later.calib_is_val
    assert later.notes == ("calib is val, as in the earlier run on this folder; --new-split deals the images out anew",)
    large = hashed(make_index({"a": 40, "b": 40}))
    kept = sides_by_hash(large, split_index(large, DATA, seed=0))
    third = hashed(make_index({"a": 40, "b": 40, "c": 4}))
    assert not split_index(third, DATA, seed=0, kept=kept).calib_is_val


def test_given_sides_win_over_known_ones(make_index: MakeIndex) -> None:
    flat = hashed(make_index({"a": 60, "b": 60}))
    kept = sides_by_hash(flat, split_index(flat, DATA, seed=0))
    given = hashed(make_index({"a": 60, "b": 60}, side=lambda name, i: "test" if i < 15 else "train"))
    split = split_index(given, DATA, seed=0, kept=kept)
    for image, side in zip(given.images, split.sides, strict=True):
        if image.side == "test":
            assert side == "test"
        else:
            assert side == kept[image.sha256] or kept[image.sha256] == "test" != side


def test_sides_that_lost_their_images(make_index: MakeIndex) -> None:
    index = hashed(make_index({"a": 20, "b": 20}))
    kept = sides_by_hash(index, split_index(index, DATA, seed=0))
    rest = replace(index, images=tuple(image for image in index.images if kept[image.sha256] != "val"))
    with pytest.raises(DataError, match=r"no image is left for val.*\nhint: --new-split deals the images out anew"):
        split_index(rest, DATA, seed=0, kept=kept)
    rest = replace(index, images=tuple(i for i in index.images if i.label or kept[i.sha256] != "train"))
    with pytest.raises(DataError, match="no image is left to train from for 'a'"):
        split_index(rest, DATA, seed=0, kept=kept)


def test_too_few_images_for_three_sides(make_index: MakeIndex) -> None:
    with pytest.raises(DataError, match="no image is left for val: to be on train, val and test, a class needs 4"):
        split_index(make_index({"a": 3, "b": 3}), DATA, seed=0)


def test_leaks_between_given_sides(make_index: MakeIndex) -> None:
    index = make_index(
        {"a": 30, "b": 30},
        group=lambda name, i: f"{name}{i // 2}" if i in (20, 21) else f"{name}/{i}",
        side=lambda name, i: "test" if i > 20 else "train",
    )
    split = split_index(index, DATA, seed=0)
    assert leaks(index, split, []) == Leaks((21, 51), 2, 0)
    clusters = [(0, 1), (2, 25, 26), (28, 29), (5, 55)]
    assert leaks(index, split, clusters) == Leaks((21, 25, 26, 51, 55), 2, 2)
    chain = tuple(range(8, 28))  # cut, so not believed
    cut = split_index(index, DATA, seed=0, near=[chain])
    assert cut.cut == 1
    assert leaks(index, cut, [chain]) == Leaks((21, 51), 2, 0)


def labelled(sets: list[tuple[int, ...]]) -> DatasetIndex:
    """A multi-label index of three classes without files."""
    images = tuple(
        Image(f"{i:04d}.png", (*some, -1)[0], None, f"{i:04d}.png", 0, 0, "", some) for i, some in enumerate(sets)
    )
    return DatasetIndex(Path(), ("a", "b", "c"), images, multi=True)


def test_several_labels_an_image() -> None:
    rng = np.random.default_rng(0)
    sets = [tuple(np.flatnonzero(row).tolist()) for row in rng.random((400, 3)) < (0.6, 0.2, 0.05)]
    index = labelled(sets)
    split = split_index(index, DATA, seed=0)
    assert not split.calib_is_val
    for side, share in (("train", 0.6), ("val", 0.1), ("calib", 0.15), ("test", 0.15)):
        rows = split.indices(side)
        for label, total in enumerate(index.counts()):
            assert abs(sum(label in sets[row] for row in rows) - share * total) < 0.05 * total + 2
        assert abs(sum(not sets[row] for row in rows) - share * sets.count(())) < 0.05 * sets.count(()) + 2
    folds = fold_splits(index, DATA, 4, seed=0)
    for fold in folds:
        for label, total in enumerate(index.counts()):
            assert abs(sum(label in sets[row] for row in fold.indices("test")) - total / 4) < 0.05 * total + 2


def test_labels_are_written_out(tmp_path: Path) -> None:
    index = labelled([(0, 2), (), (1,), (0, 1, 2)] * 8)
    split = split_index(index, DATA, seed=0)
    split.save(tmp_path / "split.csv", index)
    rows = (tmp_path / "split.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:5]] == ["a;c", "", "b", "a;b;c"]
    assert Split.load(tmp_path / "split.csv", index) == replace(split, notes=())


def test_folds_are_stratified(make_index: MakeIndex) -> None:
    index = make_index({"a": 40, "b": 20}, side=lambda name, i: "val" if i < 3 else "train")
    splits = fold_splits(index, DATA, 5, seed=0)
    for split in splits:
        counts = table(index, split)
        assert (counts["a", "test"], counts["b", "test"]) == (8, 4)
        assert [counts["a", side] for side in ("train", "val", "calib")] == [24, 3, 5]
        assert split.notes == ()
    assert splits == fold_splits(index, DATA, 5, seed=0)
    assert splits != fold_splits(index, DATA, 5, seed=1)


def test_folds_of_small_classes(make_index: MakeIndex) -> None:
    index = make_index({"a": 40, "b": 12}, group=lambda name, i: f"{name}{i // 4}")
    splits = fold_splits(index, DATA, 3, seed=0)
    assert all(split.calib_is_val for split in splits)
    assert splits[0].notes[0].startswith("calib is val: class 'b' has 2 groups to train from, 4 are needed")
    with pytest.raises(DataError, match="class 'b' has 3 groups, but 4 folds need 4 of each\nhint: --folds 3 works"):
        fold_splits(index, DATA, 4, seed=0)
    lonely = make_index({"a": 40, "b": 12}, group=lambda name, i: f"{name}{i if name == 'a' else ''}")
    with pytest.raises(DataError, match="class 'b' has 1 group, but 2 folds need 2 of each\nhint: add groups"):
        fold_splits(lonely, DATA, 2, seed=0)


def test_folds_without_a_given_test_side(make_index: MakeIndex) -> None:
    index = make_index({"a": 40, "b": 12}, side=lambda name, i: "test" if i < 3 else "train")
    with pytest.raises(ValueError, match="no image with a given test side"):
        fold_splits(index, DATA, 2, seed=0)


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


def test_any_name_is_read_back(make_index: MakeIndex, tmp_path: Path) -> None:
    index = make_index({"a": 20, "b": 20})
    names = ["a/new\nline", "a/return\r", 'a/"quoted", comma', "a/=cmd", "a/\u00fc\U0001f600"]
    images = tuple(replace(image, path=name, group=name) for image, name in zip(index.images, names, strict=False))
    for part in (images, images[2:]):
        odd = replace(index, images=(*part, *index.images[len(names) :]))
        split = split_index(odd, DATA, seed=0)
        split.save(tmp_path / "split.csv", odd)
        assert Split.load(tmp_path / "split.csv", odd) == replace(split, notes=())


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
