from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage

from cvtune.audit import Pair, clusters, exact_clusters, near_pairs
from cvtune.audit import neighbours as looked
from cvtune.audit.duplicates import oversized
from cvtune.audit.neighbours import candidates, embedding_neighbours, hash_neighbours, thumbnail_neighbours
from cvtune.data.index import DatasetIndex, Image

SIZE = 128


class InMemory:
    """Stands in for the pixel cache."""

    def __init__(self, pictures: list[NDArray[np.uint8]]) -> None:
        square = [cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for picture in pictures]
        self.images = np.repeat(np.array(square)[:, None], 3, axis=1)

    def batch(self, indices: Any, /) -> NDArray[Any]:
        return np.asarray(self.images[np.asarray(indices)])


def photograph(seed: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    layers = [(20, 20), (3, 15), (0.9, 6)]
    fields = [cv2.GaussianBlur(generator.normal(size=(SIZE, SIZE)), (0, 0), blur) for blur, _ in layers]
    total = sum(field * spread / field.std() for field, (_, spread) in zip(fields, layers, strict=True))
    return np.asarray(np.clip(128 + total, 0, 255), np.uint8)


def make(pictures: list[NDArray[np.uint8]]) -> tuple[DatasetIndex, Any, InMemory]:
    """Index, facts and pixels; pictures with the same bytes are identical files."""
    images = tuple(
        Image(f"{'ab'[i % 2]}/{i}.png", i % 2, None, f"{i}", sha256=f"{hash(picture.tobytes())}")
        for i, picture in enumerate(pictures)
    )
    hashes = [int(str(imagehash.phash(PillowImage.fromarray(picture))), 16) for picture in pictures]
    facts = tuple(SimpleNamespace(phash=value) for value in hashes)
    return DatasetIndex(Path("parts"), ("a", "b"), images), facts, InMemory(pictures)


def pairs_of(found: tuple[Pair, ...], kind: str) -> set[tuple[int, int]]:
    return {(pair.a, pair.b) for pair in found if pair.kind == kind}


@pytest.fixture(scope="module")
def folder() -> tuple[DatasetIndex, Any, InMemory]:
    """20 photographs; 20 is 3 again, 21 a crop of 3, 22 a lighter 8, 23 a mirrored 5."""
    pictures = [photograph(seed) for seed in range(20)]
    lighter = np.clip(pictures[8] * 1.04, 0, 255).astype(np.uint8)
    return make([*pictures, pictures[3].copy(), pictures[3][4:-3, 5:], lighter, pictures[5][:, ::-1].copy()])


def test_identical_files_are_exact_and_the_first_stands_for_them(folder: tuple[DatasetIndex, Any, InMemory]) -> None:
    index, facts, pixels = folder
    assert exact_clusters(index) == ((3, 20),)
    found = near_pairs(index, facts, pixels, None)
    assert pairs_of(found, "exact") == {(3, 20)}
    assert pairs_of(found, "near") == {(3, 21), (8, 22)}
    assert list(found) == sorted(found, key=lambda pair: (pair.a, pair.b))
    assert all(0.6 < pair.score <= 1 for pair in found)


def test_embeddings_only_add_candidates(folder: tuple[DatasetIndex, Any, InMemory]) -> None:
    index, facts, pixels = folder
    noise = np.random.default_rng(0).normal(size=(len(index), 16)).astype(np.float32)
    assert near_pairs(index, facts, pixels, noise) == near_pairs(index, facts, pixels, None)


def test_the_hash_alone_proves_nothing() -> None:
    index, _, pixels = make([photograph(seed) for seed in range(6)])
    same = tuple(SimpleNamespace(phash=0) for _ in range(6))
    assert near_pairs(index, same, pixels, None) == ()  # type: ignore[arg-type]


def test_many_copies_of_one_picture_are_one_cluster() -> None:
    whole = photograph(1)
    copies = [whole[i:, : SIZE - i] if i % 2 else np.clip(whole * (1 + i / 200), 0, 255) for i in range(1, 8)]
    pictures = [photograph(seed) for seed in range(12)] + [copy.astype(np.uint8) for copy in copies]
    index, facts, pixels = make(pictures)
    found = near_pairs(index, facts, pixels, None)
    assert clusters(found, len(index)) == ((1, *range(12, 19)),)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_folders_of_a_few_images(number: int) -> None:
    index, facts, pixels = make([photograph(seed) for seed in range(number)])
    table = np.ones((number, 4), np.float32)
    assert near_pairs(index, facts, pixels, table) == ()


def test_other_numbers_of_images_are_refused(folder: tuple[DatasetIndex, Any, InMemory]) -> None:
    index, facts, pixels = folder
    with pytest.raises(ValueError, match="facts of 23 images, expected 24"):
        near_pairs(index, facts[:-1], pixels, None)
    with pytest.raises(ValueError, match=r"embeddings of shape \[23, 8\], expected \[24, D\]"):
        near_pairs(index, facts, pixels, np.zeros((23, 8), np.float32))


def near(*pairs: tuple[int, int]) -> list[Pair]:
    return [Pair(a, b, "near", 0.9) for a, b in pairs]


def test_clusters_join_chains() -> None:
    assert clusters(near((0, 1), (4, 5), (1, 2)), 7) == ((0, 1, 2), (4, 5))
    assert clusters([], 3) == ()


def test_a_long_chain_is_taken_apart_to_its_identical_files() -> None:
    pairs = [*near((0, 1), (1, 2), (2, 3), (5, 6)), Pair(3, 4, "exact", 1.0)]
    assert clusters(pairs, 8, most=5) == ((0, 1, 2, 3, 4), (5, 6))
    assert clusters(pairs, 8, most=4) == ((3, 4), (5, 6))
    assert oversized(pairs, 8, most=4) == ((0, 1, 2, 3, 4),)
    assert oversized(pairs, 8, most=5) == ()


LINKS = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda pair: pair[0] < pair[1]), max_size=30)


@given(LINKS, st.integers(1, 20))
def test_clusters_hold_each_image_once_and_keep_linked_ones_together(links: list[tuple[int, int]], most: int) -> None:
    found = clusters(near(*links), 20)
    members = [position for cluster in found for position in cluster]
    assert len(members) == len(set(members))
    assert all(any({a, b} <= set(cluster) for cluster in found) for a, b in links)
    assert set(clusters(near(*links), 20, most=most)) == {cluster for cluster in found if len(cluster) <= most}


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=40))
def test_nearest_hashes_are_the_nearest(values: list[int]) -> None:
    hashes = np.array(values, np.uint64)
    distance = np.array([[(a ^ b).bit_count() for b in values] for a in values])
    np.fill_diagonal(distance, 99)
    for row, column in hash_neighbours(hashes, most=1):
        assert distance[row, column] == distance[row].min() <= 20
    assert {int(row) for row, _ in hash_neighbours(hashes, most=1)} == set(np.flatnonzero(distance.min(1) <= 20))


def test_embeddings_of_copies_are_nearest_where_all_images_look_alike() -> None:
    generator = np.random.default_rng(0)
    common = 50 * generator.normal(size=(1, 32)) + 20 * generator.normal(size=(60, 1)) * generator.normal(size=(1, 32))
    own = generator.normal(size=(60, 32))
    own[30:] = own[:30] + 0.1 * generator.normal(size=(30, 32))  # 30 is a copy of 0, 31 of 1
    found = {tuple(pair) for pair in embedding_neighbours((common + own).astype(np.float32), most=1).tolist()}
    assert len(found & {(i, i + 30) for i in range(30)}) >= 27


def test_thumbnails_find_crops() -> None:
    pictures = [photograph(seed) for seed in range(40)]
    crops = [picture[6:-6, 6:-6] for picture in pictures[:10]]
    images = InMemory([*pictures, *crops]).images[:, 0]
    small = np.array([cv2.resize(image, (28, 28), interpolation=cv2.INTER_AREA) for image in images], np.float32)
    found = {tuple(sorted(pair)) for pair in thumbnail_neighbours(small, most=1).tolist()}
    assert {(i, i + 40) for i in range(10)} <= found


def test_candidates_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**16, 50).astype(np.uint64)  # near one another
    table, small = generator.normal(size=(50, 8)), generator.normal(size=(50, 28, 28))
    whole = candidates(hashes, table.astype(np.float32), small.astype(np.float32))
    monkeypatch.setattr(looked, "_CHUNK", 7)
    chunked = candidates(hashes, table.astype(np.float32), small.astype(np.float32))
    assert (whole[:, 0] < whole[:, 1]).all()
    assert len(whole) <= 50 * 8
    shared = {tuple(pair) for pair in whole.tolist()} & {tuple(pair) for pair in chunked.tolist()}
    assert len(shared) >= 0.8 * len(whole)  # hashes at the same distance are interchangeable
