"""Where a model is worse than elsewhere: by source folder, group, brightness, sharpness and size of the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from cvtune.evaluation.rates import Rate

Bools = NDArray[np.bool_]
Attribute = Sequence[str] | NDArray[np.floating[Any]]

LEAST: Final = 10  # images of a slice; fewer say nothing
BANDS: Final = 5
MOST: Final = 30  # slices of one attribute, the largest
LEVEL: Final = 0.05  # chance that any slice at all is called worse where none is (Holm 1979)


@dataclass(frozen=True)
class Slice:
    """Some of the images of a side.

    Attributes:
        attribute: what they have in common: "folder", "brightness".
        name: which value of it, "below 0.31" for a band.
        wrong: mistakes among them.
        rest: mistakes among the others.
        p: chance of so many mistakes or more, were the slice like the rest (Fisher's exact test).
        worse: whether that is too small for chance, with as many slices as were looked at.
    """

    attribute: str
    name: str
    wrong: Rate
    rest: Rate
    p: float
    worse: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rates = {"wrong": self.wrong.to_json(), "rest": self.rest.to_json()}
        return {"attribute": self.attribute, "name": self.name, **rates, "p": self.p, "worse": self.worse}


def slices(wrong: Bools, attributes: Mapping[str, Attribute]) -> tuple[Slice, ...]:
    """Count the mistakes of each slice, the worst first.

    Args:
        wrong: bool [N], which images were mistakes.
        attributes: N values each; numbers are divided into bands of equal size.

    Raises:
        ValueError: an attribute of another number of images.
    """
    found = []
    for attribute, values in attributes.items():
        if len(values) != len(wrong):
            raise ValueError(f"{attribute}: {len(values)} values for {len(wrong)} images")
        for name, rows in _parts(values):
            if LEAST <= rows.sum() < len(wrong):
                found.append(_slice(attribute, name, wrong, rows))
    found.sort(key=lambda one: (one.p, one.attribute, one.name))
    return tuple(_judged(found))


def _parts(values: Attribute) -> Iterator[tuple[str, Bools]]:
    if not isinstance(values, np.ndarray):
        names = np.array(values, object)
        for name, _ in Counter(values).most_common(MOST):
            yield name, np.asarray(names == name)
        return
    edges = np.unique(np.quantile(values, np.linspace(0, 1, min(BANDS, max(1, len(values) // LEAST)) + 1)[1:-1]))
    band = np.searchsorted(edges, values, side="right")
    texts = [f"{edge:.4g}" for edge in edges]
    for number in range(len(edges) + 1):
        low, high = texts[number - 1] if number else "", texts[number] if number < len(edges) else ""
        yield (f"{low} to {high}" if low and high else f"below {high}" if high else f"from {low}"), band == number


def _slice(attribute: str, name: str, wrong: Bools, rows: Bools) -> Slice:
    own = Rate(int(wrong[rows].sum()), int(rows.sum()))
    rest = Rate(int(wrong[~rows].sum()), int((~rows).sum()))
    table = [[own.k, own.n - own.k], [rest.k, rest.n - rest.k]]
    return Slice(attribute, name, own, rest, float(fisher_exact(table, alternative="greater").pvalue))


def _judged(found: Sequence[Slice]) -> Iterator[Slice]:
    """Holm's procedure, on slices ascending in p."""
    held = True
    for number, one in enumerate(found):
        held = held and one.p <= LEVEL / (len(found) - number)
        yield replace(one, worse=held)
