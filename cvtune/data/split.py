"""The split: every image on exactly one side, no group on two, every class where its size allows.

Sides that the folder gives are kept, and those of earlier runs: an image that a model was trained on never tests a
later one. The rest is dealt out unit by unit (`units`, `dealer`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cvtune.config import DataConfig
from cvtune.data.dealer import Dealer, deal_folds
from cvtune.data.index import DatasetIndex, read_rows, write_rows
from cvtune.data.units import FEW as FEW
from cvtune.data.units import Cut, Unit, link, make_unit, make_units
from cvtune.errors import DataError
from cvtune.rundir import SIDES

_COLUMNS: Final = ("path", "label", "group", "side")
_FEWEST_FOLDS: Final = 3  # models of two would have seen half of the images each


@dataclass(frozen=True)
class Split:
    """Which side each image of an index is on.

    Args:
        sides: train, val, calib or test for each image, aligned with the index.
        calib_is_val: some class was too small for both; `indices("calib")` are those of val.
        notes: what the user should hear about it.
        cuts: clusters of near-duplicates that were not kept together.

    Raises:
        ValueError: an unknown side.
    """

    sides: tuple[str, ...]
    calib_is_val: bool = False
    notes: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()

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

    @property
    def choosing(self) -> npt.NDArray[np.int64]:
        """Positions of the images of val and of calib, ascending."""
        return np.union1d(self.indices("val"), self.indices("calib"))

    @property
    def outside_test(self) -> npt.NDArray[np.int64]:
        """Positions of all images but the test ones, ascending."""
        return np.flatnonzero(np.array(self.sides, dtype=str) != "test").astype(np.int64)

    @property
    def cut(self) -> int:
        """How many clusters of near-duplicates were not kept together."""
        return len(self.cuts)

    def save(self, path: Path, index: DatasetIndex) -> None:
        """Write split.csv."""
        rows = zip(index.images, index.label_names, self.sides, strict=True)
        write_rows(path, _COLUMNS, [(image.path, label, image.group, side) for image, label, side in rows])

    @classmethod
    def load(cls, path: Path, index: DatasetIndex) -> Split:
        """Read split.csv for the same images; notes and cuts are not kept in it.

        Raises:
            DataError: missing, damaged, or of other images.
        """
        sides = saved_sides(path)
        if set(sides) != {image.path for image in index.images}:
            raise DataError(f"{path}: lists other images than the index", hint="fit the run again")
        try:
            return cls(tuple(sides[image.path] for image in index.images), "calib" not in sides.values())
        except ValueError as error:
            raise DataError(f"{path}: damaged ({error})", hint="fit the run again") from error


@dataclass(frozen=True)
class Leaks:
    """Test images that training or choosing has seen something of.

    Args:
        rows: positions of these test images, ascending.
        groups: groups that are on test and on another side.
        duplicates: clusters of copies that are on test and on another side.
    """

    rows: tuple[int, ...]
    groups: int
    duplicates: int


def saved_sides(path: Path) -> dict[str, str]:
    """The side of each image by its path, from what :meth:`Split.save` wrote.

    Raises:
        DataError: it is not such a file.
    """
    return {row["path"]: row["side"] for row in read_rows(path, _COLUMNS)}


def split_index(
    index: DatasetIndex,
    data: DataConfig,
    *,
    seed: int,
    same: Sequence[Sequence[int]] = (),
    near: Sequence[Sequence[int]] = (),
    kept: Mapping[str, str] | None = None,
) -> Split:
    """Deal the images out to train, val, calib and test.

    The same index, settings and seed give the same split on every machine, in whatever order the images are listed.

    Args:
        index: the images; given sides stay as they are, a missing one is taken from train.
        data: the fractions of val, calib and test; train has the rest.
        seed: of the shuffle.
        same: clusters of positions that show the same picture and must not be on two sides.
        near: clusters of near-duplicates; those that would make a class one lump are cut.
        kept: sides of earlier runs by the hash of the file. These images stay there; new ones of their group or
            cluster join them. A side that the folder gives counts for more.

    Raises:
        DataError: a class without any image to train from, or nothing left for val or test.
    """
    pool = [position for position, image in enumerate(index.images) if image.side in (None, "train")]
    _check_pool(index, pool)
    linked = link(index, pool, same, near)
    units = make_units(index, pool, linked.whole, seed)
    wanted = _open_sides(index)
    known = _known(index, pool, kept or {}, wanted)
    short = _short(units, wanted)
    # earlier runs without a calib side used val for both: images of it cannot begin to calibrate alone now
    merge = "calib" not in (kept or {}).values() if known else bool(short)
    if merge:
        wanted.remove("calib")
    parts, torn = _settle(index, units, known, linked.core)
    dealer = Dealer([unit for unit, _ in parts], _fractions(data, wanted, merge=merge), [side for _, side in parts])
    sides = _deal(index, dealer)
    _check_sides(index, sides, bool(known))
    merge = merge or "calib" not in sides
    notes = (
        *_cut_notes(index, linked.cuts),
        *_torn_note(index, torn, known),
        *(_calib_note(index, short, len(units) < len(pool), len(wanted) + 1) if merge else ()),
        *_notes(index, sides),
    )
    return Split(sides, merge, notes, linked.cuts)


def leaks(index: DatasetIndex, split: Split, clusters: Sequence[Sequence[int]]) -> Leaks:
    """Test images that share a group or a picture with train, val or calib.

    They are left where they are: the folder, or an earlier run, put them there. Clusters that the split cut are not
    counted; it mistrusts their links.

    Args:
        index: the images.
        split: of these images.
        clusters: of identical files and of near-duplicates, as positions.
    """
    by_group: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(index.images):
        by_group[image.group].append(position)
    cut = {frozenset(cut.cluster) for cut in split.cuts}
    groups = [rows for rows in by_group.values() if _crosses(split, rows)]
    copies = [rows for rows in clusters if _crosses(split, rows) and frozenset(rows) not in cut]
    rows = {row for rows in (*groups, *copies) for row in rows if split.sides[row] == "test"}
    return Leaks(tuple(sorted(rows)), len(groups), len(copies))


def fold_splits(
    index: DatasetIndex,
    data: DataConfig,
    k: int,
    *,
    seed: int,
    same: Sequence[Sequence[int]] = (),
    near: Sequence[Sequence[int]] = (),
) -> tuple[Split, ...]:
    """Splits for cross-validation: each image is on test in exactly one of the k, whole units in the same one.

    Val and calib are carved from the images that the fold does not test, by the rules of :func:`split_index`. A
    given train/ or val/ is not looked at.

    Args:
        index: the images, none of them with a given test side.
        data: the fractions of val and calib.
        k: number of folds, at least 2.
        seed: of the shuffle.
        same: clusters of positions that show the same picture.
        near: clusters of near-duplicates.

    Raises:
        DataError: a class has fewer units (groups, clusters, single images) than folds.
        ValueError: fewer than 2 folds, or images with a given test side.
    """
    if k < 2 or any(image.side == "test" for image in index.images):
        raise ValueError(f"{k} folds, expected at least 2, and no image with a given test side")
    linked = link(index, range(len(index)), same, near)
    units = make_units(index, range(len(index)), linked.whole, seed)
    label, fewest = _fewest(index, units)
    if fewest < k:
        raise _too_few(index, label, fewest, k, grouped=len(units) < len(index))
    fold_of = deal_folds(units, k)
    grouped = len(units) < len(index)
    return tuple(
        _fold(index, data, [(unit, of == fold) for unit, of in zip(units, fold_of, strict=True)], linked.cuts, grouped)
        for fold in range(k)
    )


def _fold(
    index: DatasetIndex, data: DataConfig, units: Sequence[tuple[Unit, bool]], cuts: Sequence[Cut], grouped: bool
) -> Split:
    rest = [unit for unit, tested in units if not tested]
    wanted = ["val", "calib"]
    short = _short(rest, wanted)
    if short:
        wanted.remove("calib")
    sides = dict.fromkeys((row for unit, tested in units if tested for row in unit.members), "test")
    result = _deal(index, Dealer(rest, _fractions(data, wanted, merge=bool(short))), sides)
    _check_sides(index, result, False)
    calib = _calib_note(index, short, grouped, len(wanted) + 1) if short else ()
    return Split(result, bool(short), (*_cut_notes(index, cuts), *calib, *_notes(index, result)), tuple(cuts))


def held_out(
    index: DatasetIndex,
    rows: Sequence[int],
    k: int,
    *,
    seed: int,
    same: Sequence[Sequence[int]] = (),
    near: Sequence[Sequence[int]] = (),
) -> tuple[npt.NDArray[np.int64], ...]:
    """Folds of some of the images: each is in one of them, whole units in the same one.

    Args:
        index: the images.
        rows: positions of those that are divided.
        k: folds at most; fewer where a class has fewer units (groups, clusters, single images).
        seed: of the shuffle.
        same: clusters of positions that show the same picture.
        near: clusters of near-duplicates.

    Returns:
        The positions of each fold, ascending; nothing where less than three folds are left.
    """
    among = set(rows)
    inside = [[[row for row in cluster if row in among] for cluster in clusters] for clusters in (same, near)]
    units = make_units(index, rows, link(index, rows, *inside).whole, seed)
    k = min(k, _fewest(index, units)[1])
    if k < _FEWEST_FOLDS:
        return ()
    members: list[list[int]] = [[] for _ in range(k)]
    for unit, fold in zip(units, deal_folds(units, k), strict=True):
        members[fold] += unit.members
    return tuple(np.array(sorted(fold), np.int64) for fold in members)


def _fewest(index: DatasetIndex, units: Sequence[Unit]) -> tuple[int, int]:
    """The class with the fewest units, and how many it has."""
    available = Counter(label for unit in units for label in unit.labels if label >= 0)
    label = min(range(len(index.classes)), key=lambda label: available[label])
    return label, available[label]


def _too_few(index: DatasetIndex, label: int, fewest: int, k: int, *, grouped: bool) -> DataError:
    word = "groups" if grouped else "images"
    have = f"{fewest} {word if fewest != 1 else word[:-1]}"
    return DataError(
        f"{index.root}: class '{index.classes[label]}' has {have}, but {k} folds need {k} of each",
        hint=f"--folds {fewest} works, or add {word} of this class" if fewest > 1 else f"add {word} of this class",
    )


def _crosses(split: Split, rows: Iterable[int]) -> bool:
    sides = {split.sides[row] for row in rows}
    return "test" in sides and len(sides) > 1


def _open_sides(index: DatasetIndex) -> list[str]:
    given = {image.side for image in index.images} & {"val", "test"}
    return [side for side in ("test", "val", "calib") if side not in given]


def _known(
    index: DatasetIndex, pool: Iterable[int], kept: Mapping[str, str], wanted: Collection[str]
) -> dict[int, str]:
    """Sides of earlier runs by position; a side that the folder gives by now has none of train's images."""
    sides = ((position, kept.get(index.images[position].sha256, "")) for position in pool)
    return {position: side for position, side in sides if side == "train" or side in wanted}


def _short(units: Iterable[Unit], wanted: Sequence[str]) -> dict[int, int]:
    """Classes with too few units for a calib side of their own."""
    available = Counter(label for unit in units for label in unit.labels if label >= 0)
    return {label: count for label, count in sorted(available.items()) if count < _needed(len(wanted))}


def _needed(sides: int) -> int:
    """Units of a class to carve so many sides from, calib the last of them.

    As many are left to train from; of three, where val and test are given, one would go, and two tell more than one.
    """
    return max(2 * sides, 4)


def _settle(
    index: DatasetIndex, units: Iterable[Unit], known: Mapping[int, str], core: Sequence[int]
) -> tuple[list[tuple[Unit, str]], list[Unit]]:
    """Units with the side they have already, empty for none; and those that earlier runs put on several sides.

    Of the latter, images that are known stay where they are. New ones join their own group, else the larger part of
    the unit; train if in doubt.
    """
    parts: list[tuple[Unit, str]] = []
    torn: list[Unit] = []
    for unit in units:
        found = [(row, known[row]) for row in unit.members if row in known]
        most = _most(side for _, side in found)
        if len({side for _, side in found}) < 2:
            parts.append((unit, most))
            continue
        torn.append(unit)
        inner: dict[int, list[str]] = defaultdict(list)
        for row, side in found:
            inner[core[row]].append(side)
        side_of = {row: known.get(row) or _most(inner[core[row]]) or most for row in unit.members}
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, side in side_of.items():
            rows_of[side].append(row)
        parts += [(make_unit(index.label_sets, rows), side) for side, rows in rows_of.items()]
    return parts, torn


def _most(sides: Iterable[str]) -> str:
    """The side that occurs most, of equals the first, which is train; empty for none."""
    found = Counter(sides)
    return max(SIDES, key=lambda side: found[side]) if found else ""


def _deal(index: DatasetIndex, dealer: Dealer, others: Mapping[int, str] | None = None) -> tuple[str, ...]:
    """Sides of all images: those dealt out, `others`, and the given ones."""
    dealer.reserve()
    dealer.deal()
    sides = dict(others or {})
    for unit, side in zip(dealer.units, dealer.sides, strict=True):
        sides.update(dict.fromkeys(unit.members, side))
    return tuple(sides.get(position) or str(image.side) for position, image in enumerate(index.images))


def _fractions(data: DataConfig, wanted: Sequence[str], *, merge: bool) -> dict[str, float]:
    share = {"val": data.val, "calib": data.calib, "test": data.test}
    if merge:
        share["val"] += share["calib"]
    others = {side: share[side] for side in wanted}
    return {"train": 1 - sum(others.values()), **others}


def _check_pool(index: DatasetIndex, pool: Iterable[int]) -> None:
    sets = index.label_sets
    present = {label for position in pool for label in sets[position]}
    missing = [name for label, name in enumerate(index.classes) if label not in present]
    if missing:
        raise DataError(
            f"{index.root}: no image to train from for {', '.join(map(repr, missing))}",
            hint="put some of their images under train/, or leave these classes out of val/ and test/",
        )


def _check_sides(index: DatasetIndex, sides: Sequence[str], kept: bool) -> None:
    """A side without images gives no figure, and a class that is not trained on cannot be right."""
    hint = "--new-split deals the images out anew" if kept else "add images, or name smaller groups with --group-by"
    empty = [side for side in ("val", "test") if side not in sides]
    if empty:
        raise DataError(
            f"{index.root}: no image is left for {' and '.join(empty)}: to be on train, val and test, a class needs 4 "
            "images, or 4 groups of them",
            hint=hint,
        )
    missing = _missing(index, sides, "train")
    if missing:
        raise DataError(f"{index.root}: no image is left to train from for {', '.join(missing)}", hint=hint)


def _missing(index: DatasetIndex, sides: Sequence[str], side: str) -> list[str]:
    present = {
        label for labels, found in zip(index.label_sets, sides, strict=True) if found == side for label in labels
    }
    return [f"'{name}'" for label, name in enumerate(index.classes) if label not in present]


def _cut_notes(index: DatasetIndex, cuts: Sequence[Cut]) -> Iterator[str]:
    worst: dict[int, Cut] = {}
    for cut in sorted(cuts, key=lambda cut: -cut.images):
        worst.setdefault(cut.label, cut)
    for label, cut in sorted(worst.items()):
        yield (
            f"pictures that look alike hang together in a chain of {cut.images} of the {cut.total} images of class "
            f"'{index.classes[label]}': too many to be copies, so only identical files and groups stay on one side"
        )


def _torn_note(index: DatasetIndex, torn: Sequence[Unit], known: Mapping[int, str]) -> Iterator[str]:
    if torn:
        rows = {known[row]: row for row in reversed(torn[0].members) if row in known}
        example = " and ".join(f"{index.images[row].path} ({side})" for side, row in sorted(rows.items()))
        what = "1 group or picture is" if len(torn) == 1 else f"{len(torn)} groups or pictures are"
        yield (
            f"{what} on several sides of the earlier run, for example {example}: known images stay, new ones join the "
            "larger part; --new-split deals all out anew"
        )


def _calib_note(index: DatasetIndex, short: Mapping[int, int], grouped: bool, sides: int) -> Iterator[str]:
    if not short:
        yield "calib is val, as in the earlier run on this folder; --new-split deals the images out anew"
        return
    label = min(short, key=lambda label: short[label])
    word = "groups" if grouped else "images"
    more = f" ({len(short)} classes are that small)" if len(short) > 1 else ""
    yield (
        f"calib is val: class '{index.classes[label]}' has {short[label]} {word} to train from, "
        f"{_needed(sides)} are needed to choose and to calibrate on different ones{more}"
    )


def _notes(index: DatasetIndex, sides: Sequence[str]) -> Iterator[str]:
    counts = index.counts()
    few = [f"'{name}' ({count})" for name, count in zip(index.classes, counts, strict=True) if count < FEW]
    if few:
        yield f"fewer than {FEW} images, so figures for the class say next to nothing: {', '.join(few)}"
    for side in ("val", "test"):
        missing = _missing(index, sides, side)
        if missing:
            yield f"{side} holds no image of {', '.join(missing)}: nothing can be said about it there"
