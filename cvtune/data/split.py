"""The split: every image on exactly one side, no group on two, every class where its size allows.

Sides that the folder gives are kept. The rest is dealt out group by group: first each class gets its foot in every door
(two groups in train where it has three, one on each other side), then the remaining groups, largest first, go to train
until it has half of the class, and from there to the side that is furthest from its share. A class keeps about half of
its groups in train, so s further sides need 2 * s.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cvtune.config import DataConfig
from cvtune.data.index import DatasetIndex, read_rows
from cvtune.errors import DataError
from cvtune.rundir import SIDES, write_text

_COLUMNS: Final = ("path", "label", "group", "side")
FEW: Final = 8  # images of a class; below it the test side holds one, and one image says next to nothing


@dataclass(frozen=True)
class Split:
    """Which side each image of an index is on.

    Args:
        sides: train, val, calib or test for each image, aligned with the index.
        calib_is_val: some class was too small for both; `indices("calib")` are those of val.
        notes: what the user should hear about it.

    Raises:
        ValueError: an unknown side.
    """

    sides: tuple[str, ...]
    calib_is_val: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = set(self.sides) - set(SIDES)
        if unknown:
            raise ValueError(f"sides {sorted(unknown)}, expected {SIDES}")
        if self.calib_is_val and "calib" in self.sides:
            raise ValueError("calib is val, but images are on calib")

    def indices(self, side: str) -> npt.NDArray[np.int64]:
        """Positions of the images of one side, ascending."""
        if side not in SIDES:
            raise ValueError(f"side {side!r}, expected one of {SIDES}")
        wanted = "val" if side == "calib" and self.calib_is_val else side
        return np.flatnonzero(np.array(self.sides, dtype=str) == wanted).astype(np.int64)

    @property
    def held(self) -> npt.NDArray[np.int64]:
        """Positions of all images that are not trained on, ascending."""
        return np.unique(np.concatenate([self.indices(side) for side in SIDES if side != "train"]))

    def save(self, path: Path, index: DatasetIndex) -> None:
        """Write split.csv."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for image, side in zip(index.images, self.sides, strict=True):
            writer.writerow((image.path, index.classes[image.label], image.group, side))
        write_text(path, out.getvalue())

    @classmethod
    def load(cls, path: Path, index: DatasetIndex) -> Split:
        """Read split.csv for the same images; notes are not kept in it.

        Raises:
            DataError: missing, damaged, or of other images.
        """
        sides = {row["path"]: row["side"] for row in read_rows(path, _COLUMNS)}
        if set(sides) != {image.path for image in index.images}:
            raise DataError(f"{path}: lists other images than the index", hint="fit the run again")
        try:
            return cls(tuple(sides[image.path] for image in index.images), "calib" not in sides.values())
        except ValueError as error:
            raise DataError(f"{path}: damaged ({error})", hint="fit the run again") from error


@dataclass(frozen=True)
class _Unit:
    """Images that must stay together, and how many of each class they hold."""

    members: tuple[int, ...]
    labels: Mapping[int, int]


def split_index(index: DatasetIndex, data: DataConfig, *, seed: int, same: Sequence[Sequence[int]] = ()) -> Split:
    """Deal the images out to train, val, calib and test.

    The same index, settings and seed give the same split on every machine, in whatever order the images are listed.

    Args:
        index: the images; given sides stay as they are, a missing one is taken from train.
        data: the fractions of val, calib and test; train has the rest.
        seed: of the shuffle.
        same: clusters of positions that show the same picture and must not be on two sides.

    Raises:
        DataError: a class without any image to train from.
    """
    pool = [position for position, image in enumerate(index.images) if image.side in (None, "train")]
    _check_pool(index, pool)
    units = _units(index, pool, same, seed)
    given = {image.side for image in index.images} & {"val", "test"}
    wanted = [side for side in ("test", "val", "calib") if side not in given]
    available = Counter(label for unit in units for label in unit.labels)
    short = {label: count for label, count in sorted(available.items()) if count < 2 * len(wanted)}
    if short:
        wanted.remove("calib")
    dealer = _Dealer(units, _fractions(data, wanted, merge=bool(short)))
    dealer.reserve()
    dealer.deal()
    sides = {member: side for unit, side in zip(units, dealer.sides, strict=True) for member in unit.members}
    result = tuple(sides.get(position) or str(image.side) for position, image in enumerate(index.images))
    grouped = len(units) < len(pool)
    notes = (*_calib_note(index, short, grouped, len(wanted) + 1), *_notes(index, result))
    return Split(result, bool(short), notes)


def _check_pool(index: DatasetIndex, pool: Iterable[int]) -> None:
    present = {index.images[position].label for position in pool}
    missing = [name for label, name in enumerate(index.classes) if label not in present]
    if missing:
        raise DataError(
            f"{index.root}: no image to train from for {', '.join(map(repr, missing))}",
            hint="put some of their images under train/, or leave these classes out of val/ and test/",
        )


def _fractions(data: DataConfig, wanted: Sequence[str], *, merge: bool) -> dict[str, float]:
    share = {"val": data.val, "calib": data.calib, "test": data.test}
    if merge:
        share["val"] += share["calib"]
    others = {side: share[side] for side in wanted}
    return {"train": 1 - sum(others.values()), **others}


def _units(index: DatasetIndex, pool: Sequence[int], same: Sequence[Sequence[int]], seed: int) -> list[_Unit]:
    """Groups joined with clusters, in a shuffled order that depends on their paths and the seed alone."""
    root = list(range(len(index)))

    def find(position: int) -> int:
        while root[position] != position:
            root[position] = root[root[position]]
            position = root[position]
        return position

    by_group: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(index.images):
        by_group[image.group].append(position)
    for cluster in (*by_group.values(), *same):
        for position in cluster:
            root[find(position)] = find(cluster[0])
    members: dict[int, list[int]] = defaultdict(list)
    for position in sorted(pool, key=lambda position: index.images[position].path):
        members[find(position)].append(position)
    units = [_Unit(tuple(unit), Counter(index.images[i].label for i in unit)) for unit in members.values()]
    return [units[i] for i in np.random.default_rng(seed).permutation(len(units))]


class _Dealer:
    """Assigns units to sides; `need[side][label]` is how many images the side still lacks."""

    def __init__(self, units: Sequence[_Unit], fractions: Mapping[str, float]) -> None:
        self.units = units
        self.sides: list[str] = [""] * len(units)
        self.fractions = fractions
        self.total = Counter[int]()
        for unit in units:
            self.total.update(unit.labels)
        self.need = {side: {k: n * share for k, n in self.total.items()} for side, share in fractions.items()}
        self.held = {side: Counter[int]() for side in fractions}  # units of a class

    def reserve(self) -> None:
        """Give each class its place in train, then on every other side, the class with the fewest units first."""
        of_class: dict[int, list[int]] = defaultdict(list)
        for number, unit in enumerate(self.units):
            for label in unit.labels:
                of_class[label].append(number)
        rarest_first = sorted(of_class.items(), key=lambda item: (len(item[1]), item[0]))
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


def _calib_note(index: DatasetIndex, short: Mapping[int, int], grouped: bool, sides: int) -> Iterator[str]:
    if short:
        label = min(short, key=lambda label: short[label])
        word = "groups" if grouped else "images"
        more = f" ({len(short)} classes are that small)" if len(short) > 1 else ""
        yield (
            f"calib is val: class '{index.classes[label]}' has {short[label]} {word} to train from, "
            f"{2 * sides} are needed to choose and to calibrate on different ones{more}"
        )


def _notes(index: DatasetIndex, sides: Sequence[str]) -> Iterator[str]:
    counts = index.counts()
    few = [f"'{name}' ({count})" for name, count in zip(index.classes, counts, strict=True) if count < FEW]
    if few:
        yield f"fewer than {FEW} images, so figures for the class say next to nothing: {', '.join(few)}"
    for side in ("val", "test"):
        present = {image.label for image, found in zip(index.images, sides, strict=True) if found == side}
        missing = [f"'{name}'" for label, name in enumerate(index.classes) if label not in present]
        if missing:
            yield f"{side} holds no image of {', '.join(missing)}: nothing can be said about it there"
