"""Rates with exact intervals: never a percentage without its counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta


@dataclass(frozen=True)
class Rate:
    """`k` of `n`, with Clopper-Pearson limits (Biometrika 26, 1934: exact, never too narrow).

    Raises:
        ValueError: `k` is not between 0 and `n`.
    """

    k: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.k <= self.n:
            raise ValueError(f"{self.k} of {self.n} is no rate")

    @property
    def value(self) -> float | None:
        """The share k / n; None where nothing was counted."""
        return self.k / self.n if self.n else None

    @property
    def low(self) -> float:
        """Lower end of the two-sided 95 % interval; 0 where nothing was counted."""
        return float(beta.ppf(0.025, self.k, self.n - self.k + 1)) if self.k else 0.0

    @property
    def high(self) -> float:
        """Upper end of the two-sided 95 % interval; 1 where nothing was counted."""
        return self._upper(0.975)

    @property
    def at_most(self) -> float:
        """The one-sided 95 % upper limit: "at most x"."""
        return self._upper(0.95)

    def _upper(self, level: float) -> float:
        return float(beta.ppf(level, self.k + 1, self.n - self.k)) if self.k < self.n else 1.0

    def __str__(self) -> str:
        return f"{self.k} of {self.n}"

    @property
    def with_interval(self) -> str:
        """0.883 [0.856, 0.906], the interval being the two-sided 95 % one; "-" where nothing was counted."""
        return "-" if self.value is None else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, Any]:
        """`value` (null where n is 0), `k`, `n`, `low`, `high`."""
        return {"value": self.value, "k": self.k, "n": self.n, "low": self.low, "high": self.high}


def mean_interval(rates: Sequence[Rate]) -> tuple[float, float]:
    """95 % interval of the mean of independent rates.

    MOVER (Zou and Donner, Statistics in Medicine 27, 2008) over the Clopper-Pearson limits. A bootstrap would say
    [1, 1] when no image is wrong, which no finite test side can know.

    Args:
        rates: at least one rate, each with n > 0.
    """
    value = np.array([rate.k / rate.n for rate in rates])
    below = value - np.array([rate.low for rate in rates])
    above = np.array([rate.high for rate in rates]) - value
    mean, share = float(value.mean()), 1 / len(rates)
    low, high = mean - share * np.linalg.norm(below), mean + share * np.linalg.norm(above)
    return max(0.0, float(low)), min(1.0, float(high))
