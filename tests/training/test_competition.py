from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvtune.training.candidates import STRENGTHS, Ints, Sample, losses
from cvtune.training.competition import FOLDS, Entry, Result, compete, entries, split, winner


def sample(n: int = 90, views: int = 1) -> Sample:
    random = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], n // 3)
    x = random.normal(size=(n, 8)) + 2 * random.normal(size=(3, 8))[labels]
    return Sample(
        np.concatenate([x] * views).astype(np.float32),
        np.tile(labels, views),
        np.tile(np.arange(n), views),
        np.tile(np.arange(n), views),
        np.ones(3, np.float32),
        1 / views,
    )


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=9, max_size=40), st.integers(0, 3))
def test_folds_keep_units_whole_and_know_every_class(rows: list[tuple[int, int]], seed: int) -> None:
    labels = np.array([label for label, _ in rows] + [0, 1, 2], np.int64)
    units = np.array([10 * label + part for label, part in rows] + [97, 98, 99])
    for fit_on, score_on in split(labels, units, seed):
        assert not set(units[fit_on]) & set(units[score_on])
        assert set(labels[fit_on]) == {0, 1, 2}
        assert len(score_on)


@pytest.mark.parametrize("units", [np.arange(2), np.zeros(9, np.int64), np.repeat([0, 1], 5)])
def test_too_few_images_or_units_give_no_folds(units: Ints) -> None:
    assert split(np.zeros(len(units), np.int64), units, 0) == []
    assert split(np.zeros((len(units), 2), bool), units, 0) == []


def test_a_class_of_two_images_gives_no_folds() -> None:
    assert split(np.array([0] * 9 + [1] * 2), np.arange(11), 0) == []
    assert len(split(np.array([0] * 9 + [1] * 3), np.arange(12), 0)) == FOLDS


def test_every_kind_is_tried_on_every_number_of_features() -> None:
    assert entries([5, 8], multi=False) == [
        entry
        for width in (5, 8)
        for entry in (Entry("ridge", width), Entry("lda", width), *(Entry("logistic", width, c) for c in STRENGTHS))
    ]
    assert {entry.kind for entry in entries([5], multi=True)} == {"ridge", "logistic"}


def test_answers_come_from_heads_that_have_not_seen_the_image() -> None:
    one = sample()
    folds = split(one.labels, one.units, 0)
    (result,) = compete(one, 1, folds, [Entry("logistic", 8, 0.1)], workers=1)
    by_hand = [Entry("logistic", 8, 0.1).fit(one.take(fit_on))[0](one.x[ask]) for fit_on, ask in folds]
    asked = np.concatenate([ask for _, ask in folds])
    expected = losses(result.factor * np.concatenate(by_hand), one.labels[asked], one.weights)
    np.testing.assert_allclose(result.losses, expected)
    assert result.score == pytest.approx(expected.mean())


def test_of_several_strengths_the_best_is_left() -> None:
    one = sample()
    folds = split(one.labels, one.units, 0)
    several = [Entry("logistic", 8, c) for c in STRENGTHS]
    each = [compete(one, 1, folds, [entry], workers=1)[0] for entry in several]
    (best,) = compete(one, 1, folds, several, workers=2)
    assert best.score == min(result.score for result in each)


def test_further_views_are_fitted_on_and_never_asked() -> None:
    plain, twice = sample(), sample(views=2)
    folds = split(plain.labels, plain.units, 0)
    for entry in (Entry("ridge", 8), Entry("logistic", 5, 0.1)):
        (one,), (two,) = compete(plain, 1, folds, [entry], workers=1), compete(twice, 2, folds, [entry], workers=1)
        assert len(two.losses) == len(one.losses) == 90
        np.testing.assert_allclose(two.losses, one.losses, atol=0.02)


def result(kind: str, width: int, each: list[float]) -> Result:
    return Result(Entry(kind, width), 1.0, np.array(each))  # type: ignore[arg-type]


def test_ties_go_to_fewer_features_and_then_to_the_closed_form() -> None:
    noise = np.random.default_rng(0).normal(size=200)
    results = [
        result("ridge", 5, list(1.0 + 0.5 * noise)),  # worse, and not by chance
        result("lda", 5, list(0.5 + noise)),
        result("ridge", 8, list(0.48 - noise)),
        result("logistic", 8, list(0.47 + 0 * noise)),
    ]
    units = np.arange(200)
    assert winner(results, units).entry == Entry("lda", 5)
    assert winner(results[2:], units).entry == Entry("ridge", 8)
    assert winner([results[0], results[3]], units).entry == Entry("logistic", 8)
    assert winner(results[:1], units).entry == Entry("ridge", 5)


def test_pictures_of_one_unit_are_one_observation() -> None:
    worse = np.random.default_rng(3).normal(0.35, 1, 10)
    results = [result("ridge", 5, list(np.repeat(worse, 50))), result("logistic", 8, [0.0] * 500)]
    assert winner(results, np.arange(500)).entry.kind == "logistic"
    assert winner(results, np.repeat(np.arange(10), 50)).entry.kind == "ridge"
