"""Whether a part gets the same answer every time it is shown: the repeatability of an attribute study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cvtune.evaluation.rates import Rate


@dataclass(frozen=True)
class Part:
    """What several pictures of one part were taken for: how often each answer was given."""

    name: str
    answers: Mapping[str, int]

    @property
    def shots(self) -> int:
        """Pictures of it."""
        return sum(self.answers.values())

    @property
    def same(self) -> bool:
        """Whether all of them got the same answer."""
        return len(self.answers) == 1


@dataclass(frozen=True)
class Repeatability:
    """How parts that were shown several times were answered.

    Attributes:
        parts: with two pictures or more, those with differing answers first.
        single: parts with one picture, which say nothing.
        one_answer: parts with one answer, of these parts.
        agreement: chance that two pictures of one part get the same answer.
        kappa: the same beyond chance (Fleiss 1971, for differing numbers of pictures); None where only one answer was
            ever given.
    """

    parts: tuple[Part, ...]
    single: int
    one_answer: Rate
    agreement: float | None
    kappa: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "parts": {part.name: dict(part.answers) for part in self.parts},
            "single": self.single,
            "one_answer": self.one_answer.to_json(),
            "agreement": self.agreement,
            "kappa": self.kappa,
        }


def repeatability(parts: Sequence[str], answers: Sequence[str]) -> Repeatability:
    """Group the answers by part.

    Args:
        parts: the part on each of N pictures.
        answers: what was said of each.

    Raises:
        ValueError: other numbers of parts and answers.
    """
    if len(parts) != len(answers):
        raise ValueError(f"{len(parts)} parts and {len(answers)} answers")
    told: dict[str, Counter[str]] = {}
    for part, answer in zip(parts, answers, strict=True):
        told.setdefault(part, Counter())[answer] += 1
    found = [Part(name, dict(counts.most_common())) for name, counts in told.items()]
    several = sorted((part for part in found if part.shots > 1), key=lambda part: (part.same, part.name))
    agreement = float(np.mean([_agreement(part) for part in several])) if several else None
    return Repeatability(
        tuple(several),
        len(found) - len(several),
        Rate(sum(part.same for part in several), len(several)),
        agreement,
        _kappa(several, agreement),
    )


def _agreement(part: Part) -> float:
    pairs = part.shots * (part.shots - 1)
    return sum(count * (count - 1) for count in part.answers.values()) / pairs


def _kappa(parts: Sequence[Part], agreement: float | None) -> float | None:
    if agreement is None:
        return None
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.answers)
    total = counts.total()
    chance = sum((count / total) ** 2 for count in counts.values())
    return None if chance == 1 else (agreement - chance) / (1 - chance)
