"""Two models on one page: the figures of both, and the images that changed sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.outcomes import Outcome
from cvtune.evaluation.paired import Answers, Versus
from cvtune.report.render import write_page
from cvtune.report.thumbnails import Thumbnail, Thumbnails

MOST: Final = 48  # pictures of each kind


@dataclass(frozen=True)
class Changed:
    """An image that one of the two has right."""

    path: str
    truth: str
    first: str
    second: str
    thumbnail: Thumbnail


@dataclass(frozen=True)
class Wall:
    """Images that changed sides in one way.

    Attributes:
        title: the way.
        of: how many there are.
        shown: as many of them as are shown.
    """

    title: str
    of: int
    shown: tuple[Changed, ...]


def build_versus_page(
    path: Path,
    names: tuple[str, str],
    first: Answers,
    second: Answers,
    found: Versus,
    outcomes: Sequence[Outcome],
    *,
    folder: Path | None,
    untrusted: bool = False,
) -> Path:
    """Write the page.

    Args:
        path: of the page.
        names: of the two models.
        first: answers of the one at hand.
        second: of the other one, about the same images in the same order.
        found: how they compare.
        outcomes: how their decisions compare, if they do.
        folder: where the images' paths start; None shows no pictures.
        untrusted: read the pictures in a child process.

    Returns:
        `path`.
    """
    with Thumbnails(folder, untrusted=untrusted) as thumbnails:
        walls = tuple(
            Wall(title, len(rows), tuple(_changed(first, second, row, thumbnails) for row in rows[:MOST]))
            for title, rows in _sides(found, outcomes)
            if rows
        )
    return write_page(path, "versus.html.j2", names=names, found=found, outcomes=outcomes, walls=walls, n=found.first.n)


def _sides(found: Versus, outcomes: Sequence[Outcome]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for one in outcomes:
        if one.name in ("escapes", "wrong"):
            what = "Escapes" if one.name == "escapes" else "Wrong decisions"
            yield f"{what}, new", one.new
            yield f"{what}, no more", one.gone
    yield "Newly right", found.newly_right
    yield "Newly wrong", found.newly_wrong


def _changed(first: Answers, second: Answers, row: int, thumbnails: Thumbnails) -> Changed:
    told = (_said(first, row), _said(second, row))
    return Changed(first.paths[row], _truth(first, row), *told, thumbnails.of(first.paths[row]))


def _truth(answers: Answers, row: int) -> str:
    if isinstance(answers, MultiPredictions):
        return _labels(answers.classes, answers.truth[row])
    return str(answers.classes[int(answers.truth[row])])


def _said(answers: Answers, row: int) -> str:
    if isinstance(answers, MultiPredictions):
        return _labels(answers.classes, answers.said[row])
    return f"{answers.classes[int(answers.labels[row])]} {answers.probabilities[row].max():.2f}"


def _labels(classes: tuple[str, ...], mask: NDArray[np.bool_]) -> str:
    named: str = ", ".join(name for name, there in zip(classes, mask, strict=True) if there)
    return named or "none"
