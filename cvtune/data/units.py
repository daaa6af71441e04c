"""What must stay together: groups that the user names, identical files, and pictures that were saved again.

The links form a forest over the positions of an index (union-find). Links between near-duplicates are taken with
care: on smooth images (cells, steel) they chain, and one loose link after the other pulls a whole class together. A
cluster after which more than half of a class would be one lump is cut: only its identical files stay together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:  # which names its groups by `groups`, and that needs FEW from here
    from cvtune.data.index import DatasetIndex

FEW: Final = 8  # images of a class; below it the test side holds one, and one image says next to nothing


@dataclass(frozen=True)
class Unit:
    """Images that must stay together.

    Args:
        members: their positions.
        labels: how many of each class; images without any label count under -1.
    """

    members: tuple[int, ...]
    labels: Mapping[int, int]


@dataclass(frozen=True)
class Cut:
    """A cluster of near-duplicates whose links were dropped.

    Args:
        cluster: its positions.
        label: the class that would have become one lump.
        images: of that class in the lump, counting the groups and clusters that the cluster would have joined.
        total: trainable images of the class.
    """

    cluster: tuple[int, ...]
    label: int
    images: int
    total: int


@dataclass(frozen=True)
class Linked:
    """What belongs together.

    Args:
        whole: for each position the one that stands for all that it is linked with.
        core: likewise by groups and identical files alone.
        cuts: clusters of near-duplicates that were not joined.
    """

    whole: tuple[int, ...]
    core: tuple[int, ...]
    cuts: tuple[Cut, ...]


class Links:
    """A forest over positions: those with the same root belong together."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def root(self, position: int) -> int:
        """The position that stands for all that `position` is linked with."""
        while self._parent[position] != position:
            self._parent[position] = self._parent[self._parent[position]]
            position = self._parent[position]
        return position

    def roots(self) -> tuple[int, ...]:
        """The root of every position."""
        return tuple(map(self.root, range(len(self._parent))))

    def clusters(self) -> tuple[tuple[int, ...], ...]:
        """Positions that are linked, two and more, ascending, in the order of their first."""
        members: dict[int, list[int]] = defaultdict(list)
        for position, root in enumerate(self.roots()):
            members[root].append(position)
        return tuple(tuple(cluster) for cluster in members.values() if len(cluster) > 1)

    def join(self, cluster: Sequence[int]) -> None:
        """Link all positions of a cluster."""
        for position in cluster:
            self._parent[self.root(position)] = self.root(cluster[0])


def link(
    index: DatasetIndex, pool: Iterable[int], same: Sequence[Sequence[int]], near: Sequence[Sequence[int]]
) -> Linked:
    """Join groups, identical files and near-duplicates.

    Args:
        index: N images.
        pool: positions that are dealt out; only they count where a class is about to become one lump.
        same: clusters of identical files, never cut; nor are groups.
        near: clusters of near-duplicates; small ones are joined first, because a long chain is the one to mistrust.
    """
    links = Links(len(index))
    by_group: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(index.images):
        by_group[image.group].append(position)
    for cluster in (*by_group.values(), *same):
        links.join(cluster)
    core = links.roots()
    lumps = _Lumps(index, pool, links)
    by_size = sorted((c for c in near if len(c) > 1), key=lambda c: (len(c), sorted(index.images[i].path for i in c)))
    cuts = tuple(cut for cluster in by_size if (cut := lumps.join(cluster)))
    return Linked(links.roots(), core, cuts)


class _Lumps:
    """How many images of each class hang together, while clusters are joined."""

    def __init__(self, index: DatasetIndex, pool: Iterable[int], links: Links) -> None:
        self._links = links
        self._total = Counter[int]()
        self._labels: dict[int, Counter[int]] = defaultdict(Counter)
        sets = index.label_sets
        for position in pool:
            self._total.update(sets[position])
            self._labels[links.root(position)].update(sets[position])

    def join(self, cluster: Sequence[int]) -> Cut | None:
        """Link a cluster, or say why not."""
        roots = sorted({self._links.root(position) for position in cluster})
        lump = Counter[int]()
        for root in roots:
            lump.update(self._labels[root])
        swallowed = [label for label in lump if self._too_large(lump, label) and not self._was_large(roots, label)]
        if swallowed:
            worst = max(swallowed, key=lambda label: (lump[label] / self._total[label], -label))
            return Cut(tuple(cluster), worst, lump[worst], self._total[worst])
        self._links.join(cluster)
        self._labels[self._links.root(cluster[0])] = lump
        return None

    def _too_large(self, lump: Mapping[int, int], label: int) -> bool:
        return lump[label] >= FEW and 2 * lump[label] > self._total[label]

    def _was_large(self, roots: Iterable[int], label: int) -> bool:
        """The user's groups or identical files are a lump already: then a link more does no harm."""
        return any(self._too_large(self._labels[root], label) for root in roots)


def make_units(index: DatasetIndex, pool: Iterable[int], roots: Sequence[int], seed: int) -> list[Unit]:
    """The units of some images, in a shuffled order that depends on their paths and the seed alone."""
    members: dict[int, list[int]] = defaultdict(list)
    for position in sorted(pool, key=lambda position: index.images[position].path):
        members[roots[position]].append(position)
    sets = index.label_sets
    units = [make_unit(sets, unit) for unit in members.values()]
    return [units[i] for i in np.random.default_rng(seed).permutation(len(units))]


def make_unit(label_sets: Sequence[tuple[int, ...]], members: Sequence[int]) -> Unit:
    """Images as one unit."""
    return Unit(tuple(members), Counter(label for i in members for label in label_sets[i] or (-1,)))
