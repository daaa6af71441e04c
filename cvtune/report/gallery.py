"""Images of one side that a person should look at, each with what the model looked at and what it resembles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.notable import notable
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.studies import ALIKE, Alike, Explained
from cvtune.report.facts import Facts, Scored
from cvtune.report.heat import View, warmed
from cvtune.report.thumbnails import SMALL, Thumbnail, Thumbnails, encoded

_MOST_PICKS: Final = 24


@dataclass(frozen=True)
class Near:
    """A training image that resembles another image; `similarity` is the cosine of their embeddings."""

    path: str
    label: str
    similarity: float
    thumbnail: Thumbnail


@dataclass(frozen=True)
class Why:
    """Why an image was answered as it was.

    Attributes:
        label: the class that the heat map speaks for.
        warm: the thumbnail under its heat map; None where there is no map.
        near: the nearest training images.
    """

    label: str
    warm: Thumbnail | None
    near: tuple[Near, ...]


@dataclass(frozen=True)
class Pictures:
    """Thumbnails, and what is known about the images they show.

    Attributes:
        thumbnails: the small pictures.
        explained: by path.
        view: how the network saw frames; None where a map cannot be laid over a frame.
        side: whose answers are explained; elsewhere other models may have answered.
    """

    thumbnails: Thumbnails
    explained: Mapping[str, Explained] = field(default_factory=dict)
    view: View | None = None
    side: str = ""

    def of(self, side: str) -> Pictures:
        """Those for a side: without explanations where they are of another one."""
        return self if side == self.side else Pictures(self.thumbnails)

    def why(self, path: str) -> Why | None:
        """None where nobody asked why."""
        found = self.explained.get(path)
        if found is None:
            return None
        return Why(found.label, self._warm(found), tuple(self._near(one) for one in found.alike[:ALIKE]))

    def _warm(self, found: Explained) -> Thumbnail | None:
        picture = self.thumbnails.shrunk(found.path)
        if found.heat is None or found.heat.ndim != 2 or not found.heat.size or self.view is None:
            return None
        return None if isinstance(picture, str) else encoded(warmed(picture, found.heat, self.view))

    def _near(self, one: Alike) -> Near:
        return Near(one.path, one.label, one.similarity, self.thumbnails.of(one.path, SMALL))


@dataclass(frozen=True)
class Card:
    """One image.

    Attributes:
        path: as in the predictions.
        truth: the class it has, or its labels.
        label: the class it was given, or its labels.
        right: whether they are the same.
        detail: how sure the model was; of several labels each one that is wrong.
        decided: what the limits make of it; empty where there are none.
        groups: positions of the classes of both.
        thumbnail: the picture.
        why: what the model looked at.
    """

    path: str
    truth: str
    label: str
    right: bool
    detail: str
    decided: str
    groups: tuple[int, ...]
    thumbnail: Thumbnail
    why: Why | None


@dataclass(frozen=True)
class Wall:
    """Cards of one kind: "mistakes", "unsure" or "strange"; `of` is how many there are, `above` shown before."""

    kind: str
    cards: tuple[Card, ...]
    of: int
    above: int = 0


@dataclass(frozen=True)
class Pick:
    """A class to filter by; `cards` are those that have it or were given it."""

    group: int
    name: str
    cards: int


@dataclass(frozen=True)
class Gallery:
    """The walls of one side that have a card, and the classes to filter them by, those of most cards if too many."""

    walls: tuple[Wall, ...]
    picks: tuple[Pick, ...]
    classes: int

    @property
    def warm(self) -> bool:
        """Whether any card has a heat map."""
        return any(card.why and card.why.warm for wall in self.walls for card in wall.cards)

    @property
    def near(self) -> bool:
        """Whether any card has training images beside it."""
        return any(card.why and card.why.near for wall in self.walls for card in wall.cards)


def pictures_of(facts: Facts, thumbnails: Thumbnails) -> Pictures:
    """The thumbnails with the explanations of a run."""
    view = View.of(facts.manifest) if facts.manifest else None
    if facts.studies is None:
        return Pictures(thumbnails, view=view)
    return Pictures(thumbnails, facts.studies.explained, view, facts.studies.side)


def gallery_of(scored: Scored, point: ChosenPoint | None, pictures: Pictures) -> Gallery:
    """Choose the images of a side and make their cards; each is shown once."""
    answers, shown = scored.answers, set[int]()
    chosen = notable(answers, scored.novelty)
    walls = []
    for kind, rows, of in (
        ("mistakes", chosen.mistakes, int((~answers.right).sum())),
        ("unsure", chosen.unsure, len(answers.paths)),
        ("strange", chosen.strange, len(answers.paths)),
    ):
        new = [row for row in rows.tolist() if row not in shown]
        shown.update(new)
        cards = tuple(_card(scored, row, kind, point, pictures) for row in new)
        walls.append(Wall(kind, cards, of, len(rows) - len(new)))
    return Gallery(tuple(wall for wall in walls if wall.cards), *_picks(walls, answers.classes))


def _picks(walls: Sequence[Wall], classes: Sequence[str]) -> tuple[tuple[Pick, ...], int]:
    found = Counter(group for wall in walls for card in wall.cards for group in card.groups)
    most = sorted(group for group, _ in found.most_common(_MOST_PICKS))
    return tuple(Pick(group, classes[group], found[group]) for group in most), len(found)


def _card(scored: Scored, row: int, kind: str, point: ChosenPoint | None, pictures: Pictures) -> Card:
    answers, path = scored.answers, scored.answers.paths[row]
    truth, said = _named(answers, row)
    detail = _how_wrong(answers, row) if kind == "mistakes" else _how_sure(answers, row)
    if kind == "strange":
        detail = _how_far(scored, row, point)
    return Card(
        path,
        ", ".join(answers.classes[k] for k in truth) or "none",
        ", ".join(answers.classes[k] for k in said) or "none",
        bool(answers.right[row]),
        detail,
        _decided(scored, row, point),
        tuple(sorted({*truth, *said})),
        pictures.thumbnails.of(path),
        pictures.why(path),
    )


def _named(answers: Predictions | MultiPredictions, row: int) -> tuple[list[int], list[int]]:
    """Positions of the classes that an image has, and of those it was given."""
    if isinstance(answers, Predictions):
        return [int(answers.truth[row])], [int(answers.labels[row])]
    return np.flatnonzero(answers.truth[row]).tolist(), np.flatnonzero(answers.said[row]).tolist()


def _how_wrong(answers: Predictions | MultiPredictions, row: int) -> str:
    if isinstance(answers, Predictions):
        return f"probability {answers.probabilities[row].max():.3f}"
    return ", ".join(_wrong_labels(answers, row))


def _wrong_labels(answers: MultiPredictions, row: int) -> Iterator[str]:
    for k in np.flatnonzero(answers.truth[row] != answers.said[row]):
        how = "missed" if answers.truth[row, k] else "wrongly given"
        yield f"{answers.classes[k]} {how} at {answers.probabilities[row, k]:.3f}"


def _how_sure(answers: Predictions | MultiPredictions, row: int) -> str:
    """The two most probable classes, or the label nearest to being said otherwise."""
    probabilities = answers.probabilities[row]
    if isinstance(answers, MultiPredictions):
        likely = [int(np.abs(probabilities - 0.5).argmin())]
    else:
        likely = np.argsort(-probabilities, kind="stable")[:2].tolist()
    return ", ".join(f"{answers.classes[k]} {probabilities[k]:.3f}" for k in likely)


def _how_far(scored: Scored, row: int, point: ChosenPoint | None) -> str:
    assert scored.novelty is not None
    distance, limit = float(scored.novelty[row]), point.limits.novelty if point else None
    if limit is None:
        return f"distance {distance:.3g}"
    return f"distance {distance:.3g}, {'beyond' if distance > limit else 'within'} the limit of {limit:.3g}"


def _decided(scored: Scored, row: int, point: ChosenPoint | None) -> str:
    """The decision in words; of several labels the card has them already."""
    if point is None or point.limits.several:
        return ""
    return point.said(scored.answers.probabilities[row], None if scored.novelty is None else scored.novelty[row])
