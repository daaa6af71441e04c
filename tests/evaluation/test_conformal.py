"""Sets hold the truth as often as promised, class by class."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cvtune.evaluation.conformal import fit_sets, risk_coverage
from tests.evaluation.test_reliability import said


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
