"""Sets hold the truth as often as promised, class by class."""

from __future__ import annotations

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from cvtune.evaluation.conformal import fit_sets, risk_coverage
from tests.evaluation.test_promises import saved
from tests.evaluation.test_reliability import said

Probabilities = NDArray[np.float64]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_of_each_class_as_many_sets_hold_it_as_promised(level: float) -> None:
    held: list[NDArray[np.float64]] = []
    for seed in range(100):
        new, truth = said(2000, 1000 + seed)
        sets = fit_sets(*said(300, seed), level).sets(new)
        held.append(np.array([sets[truth == k, k].mean() for k in range(3)]))
    assert np.mean(held, axis=0) == pytest.approx([level] * 3, abs=0.015)
    assert np.mean(held) >= level - 0.002


def test_one_limit_for_all_holds_over_all() -> None:
    held = []
    for seed in range(100):
        new, truth = said(2000, 1000 + seed)
        sets = fit_sets(*said(300, seed), 0.9, by_class=False).sets(new)
        held.append(sets[np.arange(2000), truth].mean())
    assert np.mean(held) == pytest.approx(0.9, abs=0.01)


def test_a_class_with_too_few_images_is_in_every_set() -> None:
    probabilities, truth = said(300, 0)
    truth[truth == 2] = 0
    truth[:8] = 2
    sets = fit_sets(probabilities, truth, 0.95)  # 19 would be enough
    assert sets.limits[2] == 0
    assert sets.sets(probabilities)[:, 2].all()
    with pytest.raises(ValueError, match=r"level 1\.0"):
        fit_sets(probabilities, truth, 1.0)


def test_errors_fall_with_the_least_sure() -> None:
    found = risk_coverage(np.array([0.9, 0.2, 0.7, 0.5]), np.array([True, False, True, False]))
    assert found.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert found.risk == pytest.approx([0, 0, 1 / 3, 0.5])
    assert found.area == pytest.approx((1 / 3 + 0.5) / 4)


class Scores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier for MAPIE, which has probabilities for images."""

    def __init__(self, classes: int) -> None:
        self.classes_ = np.arange(classes)
        self.n_features_in_ = classes

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, images: Probabilities, truth: NDArray[np.int64]) -> Scores:
        return self

    def predict(self, images: Probabilities) -> NDArray[np.int64]:
        return np.asarray(images.argmax(axis=1))

    def predict_proba(self, images: Probabilities) -> Probabilities:
        return images


def of_mapie(
    level: float, chosen_on: Probabilities, truth: NDArray[np.int64], asked: Probabilities
) -> NDArray[np.bool_]:
    """MAPIE's sets with the score 1 - p ("lac"), bool [N, K]."""
    model = SplitConformalClassifier(Scores(chosen_on.shape[1]), confidence_level=level, conformity_score="lac")
    _, sets = model.conformalize(chosen_on, truth).predict_set(asked)
    held: NDArray[np.bool_] = sets[:, :, 0]
    return held


SIDES = [(n, level) for n in (150, 300, 411) for level in (0.8, 0.9, 0.95)]


@pytest.mark.parametrize(("n", "level"), SIDES)
def test_the_sets_are_those_of_mapie(n: int, level: float) -> None:
    chosen_on, truth = wide(n, 1)
    asked, _ = wide(2000, 2)
    ours = fit_sets(chosen_on, truth, level, by_class=False).sets(asked)
    assert (ours == of_mapie(level, chosen_on, truth, asked)).all()
    assert len(set(ours.sum(axis=1))) > 1


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels:UserWarning")  # as meant
@pytest.mark.parametrize(("n", "level"), SIDES)
def test_the_sets_of_each_class_are_those_of_mapie_on_its_images(n: int, level: float) -> None:
    """Mondrian: the column of a class is that of a classifier that was conformalised on the images of that class."""
    chosen_on, truth = wide(n, 1)
    asked, _ = wide(2000, 2)
    ours = fit_sets(chosen_on, truth, level).sets(asked)
    for position in range(3):
        own = truth == position
        assert (ours[:, position] == of_mapie(level, chosen_on[own], truth[own], asked)[:, position]).all()


@pytest.mark.parametrize("name", ["elpv", "neu_steel"])
def test_the_sets_of_real_images_are_those_of_mapie(name: str) -> None:
    answers = saved(name)
    chosen_on, asked = answers.halves(0)
    said, truth = answers.calibrated.astype(np.float64), answers.truth[chosen_on]
    said /= said.sum(axis=1, keepdims=True)  # float32 adds up to 1 within 1e-7, MAPIE wants it closer
    ours = fit_sets(said[chosen_on], truth, 0.9, by_class=False).sets(said[asked])
    assert (ours == of_mapie(0.9, said[chosen_on], truth, said[asked])).all()


def wide(n: int, seed: int) -> tuple[Probabilities, NDArray[np.int64]]:
    """As :func:`said`, in float64: MAPIE rounds at 1e-8."""
    probabilities, truth = said(n, seed)
    exact = probabilities.astype(np.float64)
    return exact / exact.sum(axis=1, keepdims=True), truth
