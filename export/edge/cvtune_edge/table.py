"""The columns of predictions, the same for `predict --csv` on the line and for the files of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cvtune_edge.results import Decision, Prediction


def header(classes: Sequence[str], truth: bool = False, *, decided: bool = False) -> list[str]:
    """Column names: path, (truth,) label, probability, then `p:<class>` for each class in class order.

    A table of decisions has decision, novelty and reason at its end, under :func:`decision_cells`.
    """
    first = ["path", *(["truth"] if truth else []), "label", "probability", *(f"p:{name}" for name in classes)]
    return [*first, *(("decision", "novelty", "reason") if decided else ())]


def row(prediction: Prediction, *, truth: str | None = None) -> list[str]:
    """The cells under :func:`header`; `truth` adds the true class, for a table that has that column.

    Several labels of one image stand in one cell with ";" between them, as they do in a table of labels.
    """
    cells = [prediction.path, *([] if truth is None else [truth]), prediction.label]
    return [*cells, number(prediction.probability), *(number(p) for p in prediction.probabilities)]


def decision_cells(decision: Decision) -> list[str]:
    """The last cells of a row of decisions; novelty is empty where the bundle measures none."""
    return [decision.said, "" if decision.novelty is None else number(decision.novelty), decision.reason]


def number(value: float | np.floating) -> str:
    """The shortest text that gives the same float32 back: bit for bit comparable between files."""
    return str(np.float32(value))
