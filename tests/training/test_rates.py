"""Which learning rate the short runs choose."""

from __future__ import annotations

import math

import pytest

from cvtune.training.trials import probe_rates


@pytest.mark.parametrize(
    ("losses", "wanted", "tried"),
    [
        ({-1: 0.5, 0: 0.3, 1: 0.6}, 0, 3),  # the best one is in the middle
        ({-1: 0.369, 0: 0.480, 1: 0.416, 2: 0.529}, 0, 3),  # about as good as the best: the preset's stays
        ({-1: 0.30, 0: 0.50, 1: 0.29}, 1, 4),  # else the nearest to it, the higher of two
        ({-1: 0.20, 0: 0.50, 1: 0.40, -2: 0.19, -3: 0.18}, -1, 4),
        ({-1: 0.6, 0: 0.5, 1: 0.3, 2: 0.19, 3: 0.1}, 3, 5),  # better the higher it is
        ({-1: 0.3, 0: 0.9, 1: 2.0, -2: 0.19, -3: 0.1}, -3, 5),  # and the lower it is
        ({-1: math.nan, 0: math.inf, 1: math.nan}, 0, 3),  # none is finite: as the preset says
        ({-1: 0.3, 0: math.nan, 1: math.nan, -2: 0.4}, -1, 4),
    ],
)
def test_of_rates_about_as_good_the_one_nearest_to_the_preset(
    losses: dict[int, float], wanted: int, tried: int
) -> None:
    asked: list[int] = []

    def run(rate: float) -> float:
        asked.append(round(math.log(rate / 1e-3, 3)))
        return losses.get(asked[-1], 9.0)

    found = probe_rates(run, 1e-3)
    assert round(math.log(found.rate / 1e-3, 3)) == wanted
    assert len(asked) == tried == len(found.losses)
