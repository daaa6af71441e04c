"""Dealing units out to sides and to folds, class by class.

First each class gets its foot in every door (two units in train where it has three, one on each other side), then the
remaining units, largest first, go to train until it has half of the class, and from there to the side that is furthest
from its share. A class keeps about half of its units in train, so s further sides need 2 * s.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from cvtune.data.units import Unit


class Dealer:
    """Assigns units to sides; `need[side][label]` is how many images the side still lacks.

    Args:
        units: in the order in which equals are dealt.
        fractions: share of the images of each side, train among them; together 1.
        fixed: the side that a unit has already, empty for those to be dealt; all are when unset.
    """

    def __init__(self, units: Sequence[Unit], fractions: Mapping[str, float], fixed: Sequence[str] = ()) -> None:
        self.units = units
        self.sides: list[str] = [""] * len(units)
        self.fractions = fractions
        self.total = Counter[int]()
        for unit in units:
            self.total.update(unit.labels)
        self.need = {side: {k: n * share for k, n in self.total.items()} for side, share in fractions.items()}
        self.held = {side: Counter[int]() for side in fractions}  # units of a class
        for number, side in enumerate(fixed):
            if side:
                self._assign(number, side)

    def reserve(self) -> None:
        """Give each class its place in train, then on every other side, the class with the fewest units first."""
        rarest_first = _rarest_first(self.units)
        for label, numbers in rarest_first:
            self._reserve_train(label, numbers)
        for label, numbers in rarest_first:
            self._reserve_others(label, numbers)

    def _reserve_train(self, label: int, numbers: Sequence[int]) -> None:
        places = 2 if len(numbers) >= 3 else 1
        # the largest ones: a class must not lose most of its images to the other sides
        for number in sorted(numbers, key=lambda number: -self.units[number].labels[label]):
            if self.held["train"][label] < places and not self.sides[number]:
                self._assign(number, "train")

    def _reserve_others(self, label: int, numbers: Sequence[int]) -> None:
        others = [side for side in self.fractions if side != "train"]
        for side in others[: len(numbers) // 2]:
            free = [number for number in numbers if not self.sides[number]]
            if free and not self.held[side][label]:
                self._assign(self._fitting(free, side, label), side)

    def _fitting(self, free: Sequence[int], side: str, label: int) -> int:
        """The first unit in the shuffled order that is not larger than the side's share, else the smallest."""
        room = self.fractions[side] * self.total[label]
        small = (number for number in free if self.units[number].labels[label] <= room)
        return next(small, min(free, key=lambda number: self.units[number].labels[label]))

    def deal(self) -> None:
        """Largest units first: to train until it has half of each class, then to the side that lacks most of them."""
        rest = [number for number, side in enumerate(self.sides) if not side]
        for number in sorted(rest, key=lambda number: -len(self.units[number].members)):
            labels = self.units[number].labels
            if any(self._below_half(label) for label in labels):
                self._assign(number, "train")
                continue
            lack = {
                side: sum(count * need[label] / self.total[label] for label, count in labels.items())
                for side, need in self.need.items()
            }
            self._assign(number, max(lack, key=lack.__getitem__))

    def _below_half(self, label: int) -> bool:
        total = self.total[label]
        return 2 * (self.fractions["train"] * total - self.need["train"][label]) < total  # what train has, doubled

    def _assign(self, number: int, side: str) -> None:
        self.sides[number] = side
        for label, count in self.units[number].labels.items():
            self.need[side][label] -= count
            self.held[side][label] += 1


def deal_folds(units: Sequence[Unit], folds: int) -> list[int]:
    """The fold of each unit: rare classes first, large units first, always to the fold that lacks most of the class.

    The rule of iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML 2011), with units for examples: a
    class with at least as many units as folds, none of them shared with another class, is in every fold.
    """
    fold_of = [-1] * len(units)
    held = [Counter[int]() for _ in range(folds)]
    for label, numbers in _rarest_first(units):
        for number in sorted(numbers, key=lambda number: -units[number].labels[label]):
            if fold_of[number] < 0:
                fold = min(range(folds), key=lambda fold: (held[fold][label], held[fold].total(), fold))
                fold_of[number] = fold
                held[fold].update(units[number].labels)
    return fold_of


def _rarest_first(units: Sequence[Unit]) -> list[tuple[int, list[int]]]:
    """Classes with the numbers of their units, those with the fewest units first."""
    of_class: dict[int, list[int]] = defaultdict(list)
    for number, unit in enumerate(units):
        for label in unit.labels:
            of_class[label].append(number)
    return sorted(of_class.items(), key=lambda item: (len(item[1]), item[0]))
