"""Parts that were shown several times."""

from __future__ import annotations

import numpy as np
import pytest

from cvtune.evaluation.rates import Rate
from cvtune.evaluation.repeatability import repeatability

# Fleiss 1971, as in every textbook: 10 subjects, 14 raters, 5 categories
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def test_kappa_is_that_of_fleiss() -> None:
    shots = [
        (f"p{part}", str(k)) for part, row in enumerate(FLEISS) for k, count in enumerate(row) for _ in range(count)
    ]
    found = repeatability(*map(list, zip(*shots, strict=True)))
    assert found.agreement == pytest.approx(0.378, abs=5e-4)
    assert found.kappa == pytest.approx(0.210, abs=5e-4)
    assert found.one_answer == Rate(1, 10)


def test_parts_that_differ_come_first() -> None:
    found = repeatability(["a", "b", "b", "c", "c", "c", "d"], ["OK", "OK", "OK", "OK", "NG", "OK", "NG"])
    assert [part.name for part in found.parts] == ["c", "b"]
    assert found.parts[0].answers == {"OK": 2, "NG": 1}
    assert (found.one_answer, found.single) == (Rate(1, 2), 2)
    assert found.to_json()["parts"]["c"] == {"OK": 2, "NG": 1}


def test_answers_at_random_have_no_kappa() -> None:
    dice = np.random.default_rng(0)
    parts = [str(part) for part in np.repeat(np.arange(400), 3)]
    found = repeatability(parts, [str(answer) for answer in dice.integers(0, 3, 1200)])
    assert found.kappa == pytest.approx(0, abs=0.05)


def test_nothing_to_compare() -> None:
    alone = repeatability(["a", "b"], ["OK", "OK"])
    assert (alone.one_answer, alone.agreement, alone.kappa) == (Rate(0, 0), None, None)
    assert repeatability(["a", "a"], ["OK", "OK"]).kappa is None
    with pytest.raises(ValueError, match="2 parts and 1 answers"):
        repeatability(["a", "a"], ["OK"])
