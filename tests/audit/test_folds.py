from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtune.audit.folds import split_folds, stand_together, strata, too_small
from cvtune.data.index import DatasetIndex, Image


def folder(labels: list[int], groups: list[str] | None = None, shas: list[str] | None = None) -> DatasetIndex:
    names = groups or [f"{i}" for i in range(len(labels))]
    hashes = shas or [""] * len(labels)
    images = [Image(f"{i:03d}", k, None, names[i], sha256=hashes[i]) for i, k in enumerate(labels)]
    return DatasetIndex(Path(), ("a", "b", "c"), tuple(images))


def several(sets: list[tuple[int, ...]]) -> DatasetIndex:
    images = [Image(f"{i:03d}", one[0] if one else -1, None, f"{i}", labels=one) for i, one in enumerate(sets)]
    return DatasetIndex(Path(), ("a", "b", "c"), tuple(images), multi=True)


def same(units: object, *rows: int) -> bool:
    return len({np.asarray(units)[row] for row in rows}) == 1


def test_groups_copies_and_near_copies_stand_together() -> None:
    index = folder([0] * 20, ["g", "g", *(str(i) for i in range(18))], ["", "x", "x", *[""] * 17])
    units = stand_together(index, [(2, 5)])
    assert same(units, 0, 1, 2, 5)
    assert len(np.unique(units)) == 17


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=1, max_size=60), st.integers(0, 5))
def test_every_row_is_judged_once_and_never_with_its_unit(rows: list[tuple[int, int]], seed: int) -> None:
    labels, units = np.array([label for label, _ in rows]), np.array([unit for _, unit in rows])
    folds = split_folds(labels, units, seed)
    if len(set(units.tolist())) < 5:
        assert folds == []
        return
    assert sorted(np.concatenate([judged for _, judged in folds]).tolist()) == list(range(len(rows)))
    for fit_on, judged in folds:
        assert len(fit_on)
        assert len(judged)
        assert not set(units[fit_on]) & set(units[judged])


def test_too_small() -> None:
    index = folder([0] * 5 + [1] * 4)
    assert too_small(index, stand_together(index)) == {1, 2}
    grouped = folder([0] * 8 + [1] * 8, ["g"] * 4 + [str(i) for i in range(12)])
    assert too_small(grouped, stand_together(grouped)) == {2}
    grouped = folder([0] * 8 + [1] * 8, ["g"] * 5 + [str(i) for i in range(11)])
    assert too_small(grouped, stand_together(grouped)) == {0, 2}


def test_too_small_among_several_labels() -> None:
    index = several([(0, 1)] * 6 + [(0,)] * 4)
    assert too_small(index, stand_together(index)) == {0, 1, 2}, "a is on all, b is missing on four, c is on none"
    index = several([(0, 1)] * 6 + [(0,)] * 5)
    assert too_small(index, stand_together(index)) == {0, 2}


@pytest.mark.parametrize(
    ("sets", "expected"), [([(0,), (0, 1), (0, 2), (), (2,)], [0, 1, 2, 3, 2]), ([(0,), (0,), (1,)], [0, 0, 1])]
)
def test_the_rarest_label_stands_for_the_image(sets: list[tuple[int, ...]], expected: list[int]) -> None:
    assert strata(several(sets)).tolist() == expected
