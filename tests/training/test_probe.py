from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cvtune.models.head import LinearHead
from cvtune.training import probe
from cvtune.training.candidates import Floats, Ints
from cvtune.training.competition import FOLDS, Entry, Result
from cvtune.training.losses import class_weights
from cvtune.training.probe import ProbeFit, fit_probe, spread

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


def fit(table: Table, groups: list[str] | None = None, **options: Any) -> ProbeFit:
    features, labels = table
    classes = int(labels.max()) + 1
    weights = options.pop("weights", np.ones(classes, np.float32))
    return fit_probe(features, labels, groups or alone(labels), weights=weights, seed=0, **options)


def probabilities(head: LinearHead, features: Floats) -> Floats:
    with torch.no_grad():
        answer: Floats = torch.softmax(head(torch.from_numpy(features)), 1).numpy()
    return answer


@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("entry", [Entry("ridge", 6), Entry("lda", 6), Entry("logistic", 6, 0.1)])
def test_the_scaling_is_folded_into_the_head(monkeypatch: pytest.MonkeyPatch, classes: int, entry: Entry) -> None:
    """Whatever wins on scaled features answers for plain ones."""
    won: list[Any] = []

    def best(sample: Any, *rest: Any) -> Any:
        won.append(entry.fit(sample)[0].sharpened(0.5)(sample.x))
        return Result(entry, 0.5, np.empty(0)), {}

    monkeypatch.setattr(probe, "_best", best)
    table, labels = clouds(classes)
    found = fit((table, labels))
    assert found.plan.kind == entry.kind
    with torch.no_grad():
        logits = found.head(torch.from_numpy(table)).numpy()
    np.testing.assert_allclose(logits, won[0], rtol=1e-3, atol=1e-3)


def test_features_that_hardly_vary_are_not_blown_up() -> None:
    table = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32) * [2, 2, 1e-4, 0]
    mean, std = spread(table.astype(np.float32), (4,))
    np.testing.assert_allclose(std, np.sqrt([6, 6, 2, 2]), rtol=0.1)
    np.testing.assert_allclose(mean, table.mean(axis=0), atol=1e-6)
    assert (spread(np.ones((3, 2), np.float32), (2,))[1] > 0).all()


def test_each_depth_has_a_scale_of_its_own() -> None:
    table = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32) * [1, 1, 100, 300]
    _, std = spread(table.astype(np.float32), (2, 2))
    np.testing.assert_allclose(std[:2], np.sqrt([2, 2]), rtol=0.1)
    np.testing.assert_allclose(std[2:], np.sqrt([60_000, 140_000]), rtol=0.1)


def tracks() -> tuple[Table, list[str]]:
    """Ten parts, the features say which part it is and nothing about its class."""
    random = np.random.default_rng(0)
    part = np.repeat(np.arange(30), 4)
    table = random.normal(size=(30, 64))[part] + 0.05 * random.normal(size=(120, 64))
    return (table.astype(np.float32), (part % 2).astype(np.int64)), [str(one) for one in part]


def test_pictures_of_one_group_never_help_to_judge_each_other() -> None:
    table, groups = tracks()
    apart, together = fit(table), fit(table, groups)
    assert max(apart.scores.values()) < 0.2
    assert min(together.scores.values()) > 0.6  # chance is 0.69
    assert probabilities(apart.head, table[0]).max(axis=1).mean() > 0.95
    assert probabilities(together.head, table[0]).max(axis=1).mean() < 0.8  # nor to be sure


def test_all_heads_compete_on_both_sets_of_features() -> None:
    found = fit(clouds(3, width=8), taps={3: 2, 5: 1})
    kinds = {"ridge", "lda", "logistic"}
    assert set(found.scores) == {f"{kind}/{columns}" for kind in kinds for columns in ("own", "depths")}
    assert set(fit(clouds(3)).scores) == {f"{kind}/own" for kind in kinds}


def test_depths_are_taken_where_they_help_and_left_where_they_do_not() -> None:
    table, labels = clouds(3, each=40)
    noise = np.random.default_rng(1).normal(size=(len(labels), 6)).astype(np.float32)
    helped = fit((np.hstack([noise, table]), labels), taps={2: 4, 7: 2})
    assert (helped.taps, helped.head.linear.in_features) == ((2, 7), 12)
    left = fit((np.hstack([table, noise]), labels), taps={2: 4, 7: 2})
    assert (left.taps, left.head.linear.in_features) == ((), 6)


def test_mirrored_images_are_fitted_on_but_not_asked_about() -> None:
    """A feature that a mirror turns around has no say; the scores are of as many images as before."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    turned = random.normal(size=(80, 1)) + 2 * labels[:, None]
    kept = random.normal(size=(80, 1)) + 2 * labels[:, None]
    plain, mirrored = np.hstack([turned, kept]), np.hstack([-turned, kept])
    one = fit((plain.astype(np.float32), labels)).head.linear.weight.detach().numpy()
    two = (
        fit((plain.astype(np.float32), labels), flipped=mirrored.astype(np.float32)).head.linear.weight.detach().numpy()
    )
    assert abs(one[1, 0] / one[1, 1]) > 0.5
    assert abs(two[1, 0] / two[1, 1]) < 0.35


def test_a_mirror_image_stays_in_the_fold_of_its_image() -> None:
    """Twins on both sides of a fold would make the noise of a picture a perfect sign of its class."""
    random = np.random.default_rng(0)
    table, labels = random.normal(size=(60, 80)).astype(np.float32), np.tile([0, 1], 30)
    found = fit((table, labels), flipped=(table + 0.01 * random.normal(size=table.shape)).astype(np.float32))
    assert min(found.scores.values()) > 0.6


@pytest.mark.parametrize("each", range(1, FOLDS))
def test_classes_too_small_for_folds_get_ridge_on_all_depths(each: int) -> None:
    table, labels = clouds(3, each=each, width=40)
    found = fit((table, labels), taps={2: 10})
    assert (found.plan.kind, found.taps, found.scores) == ("ridge", (2,), {})
    assert probabilities(found.head, table).argmax(1).tolist() == labels.tolist()


@pytest.mark.parametrize("groups", [["a"] * 10 + ["b"] * 10, ["a"] * 20, [f"{i // 7}" for i in range(20)]])
def test_few_groups_are_no_obstacle(groups: list[str]) -> None:
    table, labels = clouds(2, each=10)
    assert np.isfinite(probabilities(fit((table, labels), groups).head, table)).all()


def test_more_features_than_images_and_constant_ones() -> None:
    table, labels = clouds(2, each=8, width=600)
    table[:, ::3] = 7.0
    head = fit((table, labels)).head
    assert np.isfinite(probabilities(head, table)).all()
    assert not head.linear.weight[:, ::3].any()  # what never varied has no say


def test_a_heavier_class_is_named_more_often() -> None:
    table = clouds(2, each=40, width=2, seed=3)
    even = fit(table).head
    uneven = fit(table, weights=np.array([0.2, 5.0], np.float32)).head
    assert probabilities(uneven, table[0])[:, 1].mean() > probabilities(even, table[0])[:, 1].mean() + 0.1


def test_the_same_bytes_twice_and_with_more_threads() -> None:
    threads = torch.get_num_threads()
    first, again = fit(clouds(3)), fit(clouds(3))
    try:
        torch.set_num_threads(3)
        other = fit(clouds(3))
    finally:
        torch.set_num_threads(threads)
    assert first.scores == again.scores == other.scores
    for name, value in first.head.state_dict().items():
        assert torch.equal(value, again.head.state_dict()[name])
        assert torch.equal(value, other.head.state_dict()[name])


def test_of_many_images_some_compete_and_all_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    table, labels = clouds(3, each=100)
    rows = probe._enough(labels, np.arange(300) // 2, 0)
    assert rows.tolist() == list(range(300))
    monkeypatch.setattr(probe, "_ENOUGH", 90)
    rare = np.concatenate([labels[:210], np.full(90, 2)])
    assert np.bincount(rare[probe._enough(rare, np.arange(300), 0)]).tolist() == [30, 30, 30]
    assert len(probe._enough(np.zeros((300, 2), bool), np.arange(300) // 2, 0)) == 90
    fast = fit((table, labels))
    monkeypatch.undo()
    slow = fit((table, labels))
    assert fast.scores != slow.scores
    np.testing.assert_allclose(probabilities(fast.head, table), probabilities(slow.head, table), atol=0.1)


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
    found = fit_probe(features, labels, groups, weights=class_weights(labels, 3), seed=0)
    assert set(found.scores) == {"ridge/own", "logistic/own"}
    unseen, truth = several(seed=1)
    with torch.no_grad():
        p = torch.sigmoid(found.head(torch.from_numpy(unseen))).numpy()
    assert ((p[:, :2] >= 0.5) == truth[:, :2]).mean() >= 0.95
    assert p[:, 2].max() < 0.05  # never seen: its odds, whatever the picture


@pytest.mark.parametrize("count", [1, 2, 5])
def test_several_labels_of_few_images_are_no_obstacle(count: int) -> None:
    features, labels = several(count)
    found = fit_probe(features, labels, [str(i) for i in range(count)], weights=class_weights(labels, 3), seed=0)
    assert found.head(torch.from_numpy(features)).isfinite().all()


def test_weights_of_several_labels_are_roots_of_their_odds() -> None:
    labels = np.zeros((100, 2), bool)
    labels[:20, 0] = labels[:50, 1] = True
    assert class_weights(labels, 2) == pytest.approx(np.sqrt([81 / 20, 51 / 50]))
    assert class_weights(labels, 2, mode="none") == pytest.approx([1, 1])
