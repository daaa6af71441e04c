from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from cvtune.models.head import LinearHead
from cvtune.training.probe import FOLDS, STRENGTHS, Floats, Ints, _folds, _spread, class_weights, fit_probe

Table = tuple[Floats, Ints]


def clouds(classes: int, *, each: int = 20, width: int = 6, seed: int = 0) -> Table:
    """Overlapping clouds around random centres, on scales from a thousandth to a thousand."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    points = random.normal(size=(classes, width))[labels] + random.normal(size=(len(labels), width))
    table = (5 + points) * np.logspace(-3, 3, width)
    return table.astype(np.float32), labels


def alone(labels: Ints) -> list[str]:
    return [str(i) for i in range(len(labels))]


def fit(table: Table, groups: list[str] | None = None, **options: Any) -> tuple[LinearHead, float]:
    features, labels = table
    classes = int(labels.max()) + 1
    weights = options.pop("weights", np.ones(classes, np.float32))
    return fit_probe(features, labels, groups or alone(labels), weights=weights, seed=0)


def probabilities(head: LinearHead, features: Floats) -> Floats:
    with torch.no_grad():
        answer: Floats = torch.softmax(head(torch.from_numpy(features)), 1).numpy()
    return answer


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_the_scaling_is_folded_into_the_head(classes: int) -> None:
    table, labels = clouds(classes)
    head, strength = fit((table, labels))
    scaled = (table - table.mean(0, dtype=np.float64)) / _spread(table)
    plain = LogisticRegression(C=strength, max_iter=1000, tol=1e-7).fit(scaled, labels)
    np.testing.assert_allclose(probabilities(head, table), plain.predict_proba(scaled), atol=2e-3, rtol=0)


def test_features_that_hardly_vary_are_not_blown_up() -> None:
    table = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32) * [2, 2, 1e-4, 0]
    spread = _spread(table.astype(np.float32))
    np.testing.assert_allclose(spread, np.sqrt([6, 6, 2, 2]), rtol=0.1)
    assert (_spread(np.ones((3, 2), np.float32)) > 0).all()


def test_pictures_of_one_group_never_help_to_judge_each_other() -> None:
    random = np.random.default_rng(0)
    part = np.repeat(np.arange(30), 4)
    labels = (part % 2).astype(np.int64)  # the features say which part it is, and nothing about its class
    table = (random.normal(size=(30, 64))[part] + 0.05 * random.normal(size=(120, 64))).astype(np.float32)
    assert fit((table, labels))[1] == max(STRENGTHS)
    assert fit((table, labels), [str(one) for one in part])[1] == min(STRENGTHS)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=9, max_size=40), st.integers(0, 3))
def test_folds_keep_groups_whole_and_know_every_class(rows: list[tuple[int, int]], seed: int) -> None:
    labels = np.array([label for label, _ in rows] + [0, 1, 2], np.int64)
    groups = np.array([f"{label}/{part}" for label, part in rows] + ["x", "y", "z"])
    for fit_on, score_on in _folds(labels, [str(group) for group in groups], seed):
        assert not set(groups[fit_on]) & set(groups[score_on])
        assert set(labels[fit_on]) == {0, 1, 2}
        assert len(score_on)


@pytest.mark.parametrize("each", range(1, FOLDS))
def test_classes_too_small_for_folds_get_a_careful_head(each: int) -> None:
    table, labels = clouds(3, each=each, width=40)
    head, strength = fit((table, labels))
    assert strength == 1e-2
    assert probabilities(head, table).argmax(1).tolist() == labels.tolist()


@pytest.mark.parametrize("groups", [["a"] * 10 + ["b"] * 10, ["a"] * 20, [f"{i // 7}" for i in range(20)]])
def test_few_groups_are_no_obstacle(groups: list[str]) -> None:
    table, labels = clouds(2, each=10)
    head, strength = fit((table, labels), groups)
    assert strength in STRENGTHS
    assert np.isfinite(probabilities(head, table)).all()


def test_more_features_than_images_and_constant_ones() -> None:
    table, labels = clouds(2, each=8, width=600)
    table[:, ::3] = 7.0
    head, _ = fit((table, labels))
    assert np.isfinite(probabilities(head, table)).all()
    assert not head.linear.weight[:, ::3].any()  # what never varied has no say


def test_a_heavier_class_is_named_more_often() -> None:
    table = clouds(2, each=40, width=2, seed=3)
    even, _ = fit(table)
    uneven, _ = fit(table, weights=np.array([0.2, 5.0], np.float32))
    assert probabilities(uneven, table[0])[:, 1].mean() > probabilities(even, table[0])[:, 1].mean() + 0.1


def test_the_same_bytes_twice() -> None:
    first, second = (fit(clouds(3))[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_class_weights_are_one_over_the_root_of_the_count_with_mean_one() -> None:
    labels = np.repeat([0, 1], [100, 4])
    weights = class_weights(labels, 2)
    assert weights.dtype == np.float32
    assert weights[1] / weights[0] == pytest.approx(5.0)
    assert weights[labels].mean() == pytest.approx(1.0)
    assert class_weights(labels, 2, mode="none").tolist() == [1.0, 1.0]
    assert class_weights(np.repeat([0, 1], 7), 2).tolist() == [1.0, 1.0]
    assert np.isfinite(class_weights(labels, 3)).all()  # a class without an image


def several(n: int = 90, seed: int = 0) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Three labels, the third on no image; the first two show in features of their own."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, 3), bool)
    labels[:, 0], labels[:, 1] = rng.random(n) < 0.5, rng.random(n) < 0.2
    features = rng.normal(0, 1, (n, 6))
    features[:, 0] += 4 * labels[:, 0]
    features[:, 3] += 4 * labels[:, 1]
    return features.astype(np.float32), labels


@pytest.mark.parametrize("grouped", [False, True])
def test_several_labels_are_learned_apart(grouped: bool) -> None:
    features, labels = several()
    groups = [f"g{i // 3}" if grouped else str(i) for i in range(len(features))]
    head, strength = fit_probe(features, labels, groups, weights=class_weights(labels, 3), seed=0)
    assert strength in STRENGTHS
    unseen, truth = several(seed=1)
    with torch.no_grad():
        p = torch.sigmoid(head(torch.from_numpy(unseen))).numpy()
    assert ((p[:, :2] >= 0.5) == truth[:, :2]).mean() >= 0.95
    assert p[:, 2].max() < 0.02  # never seen: its odds, whatever the picture


def test_weights_of_several_labels_are_roots_of_their_odds() -> None:
    labels = np.zeros((100, 2), bool)
    labels[:20, 0] = labels[:50, 1] = True
    assert class_weights(labels, 2) == pytest.approx(np.sqrt([81 / 20, 51 / 50]))
    assert class_weights(labels, 2, mode="none") == pytest.approx([1, 1])
