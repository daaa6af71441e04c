"""Temperature scaling: one number that makes probabilities mean what they say (Guo et al., ICML 2017)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax

from cvtune.errors import RunError
from cvtune.rundir import read_json, write_json

# A small side without a mistake asks for 0, a useless model for infinity; neither is evidence.
TEMPERATURES: Final = (0.25, 10.0)
# Spread of log T before any image was seen: a factor of 1.6 is ordinary. Eighteen images without a mistake would
# otherwise call for certainty; a few hundred with some mistakes outweigh it.
PRIOR: Final = 0.5


@dataclass(frozen=True)
class Calibration:
    """The logits are divided by `temperature`; the log-losses are those of the `n` images it was fitted on, in nats.

    Raises:
        ValueError: the temperature is outside :data:`TEMPERATURES`.
    """

    temperature: float
    log_loss_before: float
    log_loss_after: float
    n: int

    def __post_init__(self) -> None:
        if not TEMPERATURES[0] <= self.temperature <= TEMPERATURES[1]:
            raise ValueError(f"temperature {self.temperature} outside {TEMPERATURES[0]}..{TEMPERATURES[1]}")

    def save(self, path: Path) -> None:
        """Write calibration.json."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read calibration.json.

        Raises:
            RunError: the file is missing or damaged.
        """
        value: Any = read_json(path)
        try:
            temperature, before, after = (float(value[key]) for key in tuple(cls.__annotations__)[:3])
            return cls(temperature, before, after, int(value["n"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: not a calibration ({error})", hint="fit the run again") from error


def fit_temperature(logits: NDArray[np.floating[Any]], truth: NDArray[np.int64] | NDArray[np.bool_]) -> Calibration:
    """Find the temperature with the lowest log-loss, under a weak prior around 1; 1 when none is better than 1.

    Args:
        logits: float [N, K], finite, before any temperature.
        truth: int [N], or bool [N, K] where an image may have several labels: sigmoids in place of the softmax.

    Raises:
        ValueError: no images, shapes that do not fit, or logits that are not finite.
    """
    several = truth.dtype == bool
    if logits.ndim != 2 or truth.shape != logits.shape[: 2 if several else 1] or len(truth) == 0:
        raise ValueError(f"expected logits [N, K] and truth [N], got {list(logits.shape)} and {list(truth.shape)}")
    if not np.isfinite(logits).all():
        raise ValueError("logits that are not finite")
    wide = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = wide / np.exp(log_temperature)
        if several:
            return float(-log_expit(np.where(truth, scaled, -scaled)).mean())
        return float(-log_softmax(scaled, axis=1)[np.arange(len(truth)), truth].mean())

    def objective(log_temperature: float) -> float:
        return len(truth) * loss(log_temperature) + (log_temperature / PRIOR) ** 2 / 2

    low, high = TEMPERATURES
    found = float(minimize_scalar(objective, bounds=(np.log(low), np.log(high)), method="bounded").x)
    before, after = loss(0.0), loss(found)
    if after >= before:
        return Calibration(1.0, before, before, len(truth))
    return Calibration(float(np.clip(np.exp(found), low, high)), before, after, len(truth))
