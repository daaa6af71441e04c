"""What a model said about a set of labelled images, and the one file that keeps it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cvtune_edge import table
from cvtune_edge.results import Prediction
from numpy.typing import NDArray

from cvtune.errors import RunError
from cvtune.rundir import write_bytes

TRUTH, FIRST_PROBABILITY = 1, 4  # path,truth,label,probability,p:...


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images of K classes, with the truth.

    Args:
        paths: N names, unique to the user, in the order of the rows.
        truth: int64 [N], the true class of each image.
        probabilities: float32 [N, K], each between 0 and 1.
        classes: K names in class order.

    Raises:
        ValueError: no images, shapes that do not fit together, or values out of range.
    """

    paths: tuple[str, ...]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        n, k = len(self.paths), len(self.classes)
        if n == 0:
            raise ValueError("predictions of no images: expected at least one")
        if self.truth.shape != (n,) or self.probabilities.shape != (n, k):
            raise ValueError(
                f"expected truth [{n}] and probabilities [{n}, {k}] for {n} paths and {k} classes, "
                f"got {list(self.truth.shape)} and {list(self.probabilities.shape)}"
            )
        if self.truth.dtype != np.int64 or self.probabilities.dtype != np.float32:
            raise ValueError(f"expected int64 and float32, got {self.truth.dtype} and {self.probabilities.dtype}")
        if self.truth.min() < 0 or self.truth.max() >= k:
            raise ValueError(f"truth outside the classes 0..{k - 1}")
        if not bool(((self.probabilities >= 0) & (self.probabilities <= 1)).all()):  # False for NaN too
            raise ValueError("probabilities outside 0..1")

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class with the largest probability, the first of equal ones; int64 [N]."""
        labels: NDArray[np.int64] = self.probabilities.argmax(axis=1).astype(np.int64)
        return labels

    @property
    def right(self) -> NDArray[np.bool_]:
        """Where the label is the truth, bool [N]."""
        right: NDArray[np.bool_] = self.labels == self.truth
        return right

    @property
    def log_loss(self) -> float:
        """Mean negative log-likelihood of the truth, in nats."""
        return float(self.losses.mean())

    @property
    def losses(self) -> NDArray[np.float64]:
        """Each image's [N]; probabilities held above float32's epsilon, 1.2e-7."""
        chosen = self.probabilities[np.arange(len(self.truth)), self.truth].astype(np.float64)
        return np.asarray(-np.log(np.maximum(chosen, np.finfo(np.float32).eps)))

    def save(self, path: Path) -> None:
        """Write the CSV of `cvtune_edge.table` with the truth; reads back bit for bit."""
        lines = [csv_line(table.header(self.classes, truth=True))]
        for name, truth, row in zip(self.paths, self.truth, self.probabilities, strict=True):
            lines.append(csv_line(table.row(self._prediction(name, row), truth=self.classes[truth])))
        # surrogateescape: a file name that is no UTF-8 (Linux) is kept byte for byte
        write_bytes(path, "".join(lines).encode("utf-8", "surrogateescape"))

    def _prediction(self, name: str, row: NDArray[np.float32]) -> Prediction:
        best = int(row.argmax())
        return Prediction(name, self.classes[best], float(row[best]), row)

    @classmethod
    def load(cls, path: Path, classes: Sequence[str] | None = None) -> Predictions:
        """Read a file that :meth:`save` wrote.

        Args:
            path: the CSV file.
            classes: the classes it must have, in this order; taken from its header when unset.

        Raises:
            RunError: the file is missing, damaged, or made for other classes.
        """
        try:
            return _parse(*read_table(path, classes))
        except (OSError, ValueError, csv.Error) as error:
            raise RunError(f"{path}: cannot be read ({error})", hint="fit the run again") from error


def csv_line(fields: Sequence[str]) -> str:
    """One line of a CSV file, ended by LF on every system."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(fields)  # ends in CR LF: with LF alone Python 3.11 leaves a CR in a name bare
    return text.getvalue().removesuffix("\r\n") + "\n"


def read_table(path: Path, classes: Sequence[str] | None = None) -> tuple[list[list[str]], tuple[str, ...]]:
    """The rows of a file of predictions with the truth, and its classes; see :meth:`Predictions.load`.

    Raises:
        OSError: the file cannot be read.
        ValueError: its columns are not those of the classes.
        csv.Error: it is no CSV.
    """
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    names = tuple(h.removeprefix("p:") for h in header[FIRST_PROBABILITY:]) if classes is None else tuple(classes)
    if header != table.header(names, truth=True):
        raise ValueError(f"its columns are not those of the classes {', '.join(names)}")
    return rows, names


def _parse(rows: Sequence[Sequence[str]], classes: tuple[str, ...]) -> Predictions:
    width = FIRST_PROBABILITY + len(classes)
    for number, row in enumerate(rows, start=2):
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} fields, expected {width}")
        if row[TRUTH] not in classes:
            raise ValueError(f"row {number}: unknown class '{row[TRUTH]}'")
    return Predictions(
        paths=tuple(row[0] for row in rows),
        truth=np.array([classes.index(row[TRUTH]) for row in rows], dtype=np.int64),
        probabilities=np.array([row[FIRST_PROBABILITY:] for row in rows], dtype=np.float32).reshape(-1, len(classes)),
        classes=classes,
    )
