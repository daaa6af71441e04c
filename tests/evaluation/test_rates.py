from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvtune.evaluation.rates import Rate, mean_interval


def test_known_limits() -> None:
    # Clopper and Pearson as printed in DESIGN and STYLE: 59 of 61, and "0 of 19 (at most 14.6 %)"
    rate = Rate(59, 61)
    assert rate.value is not None
    assert (round(rate.value, 3), round(rate.low, 3), round(rate.high, 3)) == (0.967, 0.887, 0.996)
    assert str(rate) == "59 of 61"
    assert round(Rate(0, 19).at_most, 3) == 0.146


def test_nothing_counted_is_nothing_known() -> None:
    assert Rate(0, 0).to_json() == {"value": None, "k": 0, "n": 0, "low": 0.0, "high": 1.0}
    assert Rate(0, 0).at_most == 1.0


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        Rate(k, n)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_value_and_mirrors(kn: tuple[int, int]) -> None:
    rate, mirror = Rate(*kn), Rate(kn[1] - kn[0], kn[1])
    assert rate.value is not None
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.value <= rate.at_most <= rate.high
    assert rate.low == pytest.approx(1 - mirror.high, abs=1e-9)


def test_the_mean_of_one_rate_keeps_its_interval() -> None:
    assert mean_interval([Rate(59, 61)]) == pytest.approx((Rate(59, 61).low, Rate(59, 61).high))


def test_no_mistake_is_not_certainty() -> None:
    low, high = mean_interval([Rate(15, 15)] * 4)
    assert 0.85 < low < 0.95
    assert high == 1.0


def test_the_mean_interval_covers_the_true_mean() -> None:
    """400 draws of three classes: at least 95 % of the intervals hold the true balanced accuracy."""
    generator = np.random.default_rng(0)
    sizes, true = (12, 30, 60), (0.8, 0.9, 0.97)
    held = 0
    for _ in range(400):
        low, high = mean_interval([Rate(int(generator.binomial(n, p)), n) for n, p in zip(sizes, true, strict=True)])
        held += low <= float(np.mean(true)) <= high
    assert held >= 380
