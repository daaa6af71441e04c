"""Calibration: what makes probabilities mean what they say, one number for all classes or two for each.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: temperature scaling (section 4.2) divides all logits
by one number; vector scaling, its richer sister, gives each class a scale and a shift. The richer one is taken only
where images that neither has seen bear it out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.model_selection import KFold, StratifiedKFold

from cvtune.errors import RunError
from cvtune.rundir import read_json, write_json

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Ints = NDArray[np.int64]
Truth = NDArray[np.int64] | NDArray[np.bool_]

# A small side without a mistake asks for 0, a useless model for infinity; neither is evidence.
TEMPERATURES: Final = (0.25, 10.0)
# Spread of log T before any image was seen: a factor of 1.6 is ordinary. Eighteen images without a mistake would
# otherwise call for certainty; a few hundred with some mistakes outweigh it.
PRIOR: Final = 0.5
# Spread of the log of a class's scale around that of all: half the one above, since one network speaks for all classes.
SCALE_PRIOR: Final = 0.25
# Spread of a shift around 0. The loss weighs a class by one over the square root of its images, which moves the odds of
# two classes by half the log of their ratio: by 1.0, half a unit up and half a unit down, where one is 8 times as many.
SHIFT_PRIOR: Final = 0.5
FEW: Final = 10  # images of each class, from which on a class may have numbers of its own: two in each fold
FOLDS: Final = 5


@dataclass(frozen=True)
class Rivals:
    """Log-losses of both methods on images that they had not seen, in nats.

    Attributes:
        temperature: with one temperature for all classes.
        vector: with a scale and a shift for each class.
        standard_error: of their difference, paired by image.
        folds: of the cross-validation.
    """

    temperature: float
    vector: float
    standard_error: float
    folds: int = FOLDS

    @property
    def vector_wins(self) -> bool:
        """Better by more than one paired standard error; one temperature is simpler, and has the benefit of doubt."""
        return self.temperature - self.vector > self.standard_error


@dataclass(frozen=True)
class Calibration:
    """What the logits go through; the log-losses are those of the `n` images it was fitted on, in nats.

    Attributes:
        temperature: the logits are divided by it; 1 where each class has a scale in its place.
        log_loss_before: of the logits as they are.
        log_loss_after: of the calibrated ones.
        n: images.
        scales: K factors of the logits, see :meth:`apply`; empty where one temperature serves all.
        shifts: what is added to the K logits then.
        rivals: how both methods did on unseen images; None with too few images to ask.

    Raises:
        ValueError: a temperature or a scale outside :data:`TEMPERATURES`, both together, or shifts that do not fit.
    """

    temperature: float
    log_loss_before: float
    log_loss_after: float
    n: int
    scales: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()
    rivals: Rivals | None = None

    def __post_init__(self) -> None:
        low, high = TEMPERATURES
        if not low <= self.temperature <= high:
            raise ValueError(f"temperature {self.temperature} outside {low}..{high}")
        if self.scales and self.temperature != 1:
            raise ValueError(f"temperature {self.temperature} beside scales {self.scales}")
        if len(self.scales) != len(self.shifts) or not np.isfinite(self.shifts).all():
            raise ValueError(f"scales {self.scales} and shifts {self.shifts}")
        if not all(1 / high <= scale <= 1 / low for scale in self.scales):
            raise ValueError(f"scales {self.scales} outside {1 / high}..{1 / low}")

    @property
    def method(self) -> Literal["temperature", "vector"]:
        """Which of the two it is."""
        return "vector" if self.scales else "temperature"

    def apply(self, logits: Floats, *, several: bool = False) -> Floats:
        """Calibrated logits float32 [N, K] of logits [N, K]: divided, or scaled and shifted.

        Args:
            logits: of the classifier.
            several: whether an image may have several labels. Where classes exclude each other the mean of an image's
                logits is taken away before they are scaled: a softmax says the same whatever is added to all of them,
                so that training leaves it to chance, and the models of two folds may differ in it.
        """
        if not self.scales:
            divided: Floats = logits / self.temperature
            return divided
        centred = logits if several else logits - logits.mean(axis=1, keepdims=True)
        moved: Floats = centred * np.array(self.scales, np.float32) + np.array(self.shifts, np.float32)
        return moved

    def save(self, path: Path) -> None:
        """Write calibration.json."""
        write_json(path, {"method": self.method, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read calibration.json; that of a run before vector scaling has a temperature alone.

        Raises:
            RunError: the file is missing or damaged.
        """
        value: Any = read_json(path)
        try:
            temperature, before, after = (
                float(value[key]) for key in ("temperature", "log_loss_before", "log_loss_after")
            )
            scales, shifts = (tuple(map(float, value.get(key, ()))) for key in ("scales", "shifts"))
            rivals = Rivals(**value["rivals"]) if value.get("rivals") else None
            return cls(temperature, before, after, int(value["n"]), scales, shifts, rivals)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: not a calibration ({error})", hint="fit the run again") from error


@dataclass(frozen=True, eq=False)
class _Seen:
    """Images that a calibration is fitted on.

    Attributes:
        logits: [N, K], of each image with a mean of 0 where classes exclude each other.
        truth: int [N], or bool [N, K] where an image may have several labels.
    """

    logits: Wide
    truth: Truth

    @property
    def several(self) -> bool:
        return self.truth.dtype == bool

    @property
    def targets(self) -> Wide:
        """1 for what is true, 0 for the rest, [N, K]."""
        return np.asarray(self.truth if self.several else np.eye(self.logits.shape[1])[self.truth], np.float64)

    @property
    def fewest(self) -> int:
        """Images of the rarest class; with several labels, of those with or without the one that says least."""
        counts = self.targets.sum(axis=0)
        return int(min(counts.min(), (len(self.truth) - counts).min()))

    def at(self, rows: Ints) -> _Seen:
        return _Seen(self.logits[rows], self.truth[rows])

    def losses(self, calibrated: Wide) -> Wide:
        """Of each image [N], in nats; with several labels the mean over them."""
        if self.several:
            return np.asarray(-log_expit(np.where(self.truth, calibrated, -calibrated)).mean(axis=1))
        return np.asarray(-log_softmax(calibrated, axis=1)[np.arange(len(self.truth)), self.truth])


def fit_temperature(logits: NDArray[np.floating[Any]], truth: Truth) -> Calibration:
    """Find the temperature with the lowest log-loss, under a weak prior around 1; 1 when none is better than 1.

    Args:
        logits: float [N, K], finite, before any temperature.
        truth: int [N], or bool [N, K] where an image may have several labels: sigmoids in place of the softmax.

    Raises:
        ValueError: no images, shapes that do not fit, or logits that are not finite.
    """
    return _with_temperature(_seen(logits, truth))


def fit_calibration(logits: NDArray[np.floating[Any]], truth: Truth, *, seed: int = 0) -> Calibration:
    """One temperature, or a scale and a shift for each class where a cross-validation on these images bears them out.

    With fewer than ten images of a class it is the temperature.

    Args:
        logits: as for :func:`fit_temperature`.
        truth: likewise.
        seed: of the folds.

    Raises:
        ValueError: as for :func:`fit_temperature`.
    """
    seen = _seen(logits, truth)
    simple = _with_temperature(seen)
    if seen.fewest < FEW:
        return simple
    rivals = _rivals(seen, seed)
    if not rivals.vector_wins:
        return replace(simple, rivals=rivals)
    scales, shifts = _vector(seen, simple.temperature)
    after = float(seen.losses(seen.logits * scales + shifts).mean())
    own = tuple(scales.tolist()), tuple(shifts.tolist())
    return Calibration(1.0, simple.log_loss_before, after, simple.n, *own, rivals)


def _seen(logits: NDArray[np.floating[Any]], truth: Truth) -> _Seen:
    several = truth.dtype == bool
    if logits.ndim != 2 or truth.shape != logits.shape[: 2 if several else 1] or len(truth) == 0:
        raise ValueError(f"expected logits [N, K] and truth [N], got {list(logits.shape)} and {list(truth.shape)}")
    if not np.isfinite(logits).all():
        raise ValueError("logits that are not finite")
    wide = logits.astype(np.float64)
    return _Seen(wide if several else wide - wide.mean(axis=1, keepdims=True), truth)


def _with_temperature(seen: _Seen) -> Calibration:
    n = len(seen.truth)

    def loss(log_temperature: float) -> float:
        return float(seen.losses(seen.logits / np.exp(log_temperature)).mean())

    def objective(log_temperature: float) -> float:
        return n * loss(log_temperature) + (log_temperature / PRIOR) ** 2 / 2

    low, high = TEMPERATURES
    found = float(minimize_scalar(objective, bounds=(np.log(low), np.log(high)), method="bounded").x)
    before, after = loss(0.0), loss(found)
    if after >= before:
        return Calibration(1.0, before, before, n)
    return Calibration(float(np.clip(np.exp(found), low, high)), before, after, n)


def _vector(seen: _Seen, temperature: float) -> tuple[Wide, Wide]:
    """Scales and shifts [K] that make the truth most likely, under priors around one temperature and no shift.

    L-BFGS over the logs of the scales, so that none turns its class around. Each label of an image is evidence of its
    own here, because it has numbers of its own.
    """
    classes, centre, targets = seen.logits.shape[1], -np.log(temperature), seen.targets

    def objective(place: Wide) -> tuple[float, Wide]:
        away, shifts = place[:classes] - centre, place[classes:]
        scaled = seen.logits * np.exp(place[:classes])  # [N, K]
        said = expit(scaled + shifts) if seen.several else softmax(scaled + shifts, axis=1)
        total = seen.losses(scaled + shifts).sum() * (classes if seen.several else 1)
        prior = ((away / SCALE_PRIOR) ** 2).sum() / 2 + ((shifts / SHIFT_PRIOR) ** 2).sum() / 2
        slopes = [((said - targets) * scaled).sum(axis=0) + away / SCALE_PRIOR**2]
        slopes.append((said - targets).sum(axis=0) + shifts / SHIFT_PRIOR**2)
        return float(total + prior), np.concatenate(slopes)

    low, high = TEMPERATURES
    start = np.concatenate([np.full(classes, centre), np.zeros(classes)])
    bounds = [(-np.log(high), -np.log(low))] * classes + [(None, None)] * classes
    found = np.asarray(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x)
    return np.clip(np.exp(found[:classes]), 1 / high, 1 / low), found[classes:]


def _rivals(seen: _Seen, seed: int) -> Rivals:
    """Both methods, fitted on four fifths of the images and asked about the fifth that is left."""
    kind = KFold if seen.several else StratifiedKFold
    n = len(seen.truth)
    losses = np.zeros((n, 2))
    for rows, left in kind(FOLDS, shuffle=True, random_state=seed).split(np.zeros(n), seen.truth):
        fitted, asked = seen.at(rows), seen.at(left)
        temperature = _with_temperature(fitted).temperature
        scales, shifts = _vector(fitted, temperature)
        losses[left, 0] = asked.losses(asked.logits / temperature)
        losses[left, 1] = asked.losses(asked.logits * scales + shifts)
    by_temperature, by_vector = losses.mean(axis=0)
    error = np.std(losses[:, 0] - losses[:, 1], ddof=1) / np.sqrt(n)
    return Rivals(float(by_temperature), float(by_vector), float(error))
