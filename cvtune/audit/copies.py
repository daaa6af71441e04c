"""The same picture more than once: where it does no harm, where it flatters, and where it contradicts itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from cvtune.audit.duplicates import Pair, exact_clusters
from cvtune.audit.finding import EXAMPLES, Finding, Severity, counted, listed
from cvtune.data.index import DatasetIndex
from cvtune.data.split import Leaks, Split


def exact_copies(index: DatasetIndex) -> Iterator[Finding]:
    """Byte-identical files: under two labels, on two given sides, and the rest."""
    within: list[str] = []
    labels: list[str] = []
    sides: list[str] = []
    for cluster in exact_clusters(index):
        images = [index.images[position] for position in cluster]
        text = " = ".join(image.path for image in images)
        (labels if is_conflict(index, cluster) else within).append(text)
        if len({image.side or "train" for image in images}) > 1:
            sides.append(text)
    if labels:
        title = f"{counted(len(labels), 'picture')} under two labels, byte for byte the same file"
        action = "decide which class is right and remove the others"
        yield listed("label_conflict", "warning", title, labels, action)
    if sides:
        title = f"{counted(len(sides), 'picture')} on two of the given sides, byte for byte the same file"
        action = "figures flatter: remove them from one side"
        yield listed("duplicates_across_sides", "warning", title, sides, action)
    if within:
        title = f"{counted(len(within), 'picture')} more than once, byte for byte the same file"
        yield listed("duplicates", "note", title, within, "nothing to do: copies are kept on one side of the split")


def near_copies(index: DatasetIndex, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Pictures that were saved again: under two labels, on two given sides, and the rest."""
    near = [pair for pair in pairs if pair.kind == "near"]
    labels = {pair for pair in near if is_conflict(index, (pair.a, pair.b))}
    sides = {pair for pair in near if (index.images[pair.a].side or "train") != (index.images[pair.b].side or "train")}
    if labels:
        action = "decide which class is right and remove the others"
        yield _near("near_label_conflict", "warning", index, labels, "under two labels", action)
    if sides:
        action = "figures flatter: remove them from one side"
        yield _near("near_duplicates_across_sides", "warning", index, sides, "on two of the given sides", action)
    if rest := set(near) - labels - sides:
        action = "nothing to do: they are kept on one side of the split"
        yield _near("near_duplicates", "note", index, rest, "more than once", action)


def _near(
    code: str, severity: Severity, index: DatasetIndex, pairs: Collection[Pair], where: str, action: str
) -> Finding:
    best = sorted(pairs, key=lambda pair: (-pair.score, pair.a, pair.b))
    lines = [f"{index.images[pair.a].path} ~ {index.images[pair.b].path}" for pair in best]
    images = len({position for pair in pairs for position in (pair.a, pair.b)})
    title = f"{counted(images, 'image')} with the same picture {where}: saved again, resized, cropped or brightened"
    return Finding(code, severity, title, images, tuple(lines[:EXAMPLES]), action)


def leakage(index: DatasetIndex, leaks: Leaks | None) -> Iterator[Finding]:
    """Test images that training has seen something of."""
    if leaks is not None and leaks.rows:
        causes = [counted(leaks.groups, "group")] * bool(leaks.groups)
        causes += [counted(leaks.duplicates, "picture")] * bool(leaks.duplicates)
        title = f"{counted(len(leaks.rows), 'test image')} with a partner on another side"
        one = leaks.groups + leaks.duplicates == 1
        title += f": {' and '.join(causes)} {'crosses' if one else 'cross'}" if causes else ""
        lines = [index.images[row].path for row in leaks.rows]
        action = "figures flatter: they are told with and without these images; move each group to one side"
        yield listed("leakage", "warning", title, lines, action)


def cut_clusters(index: DatasetIndex, split: Split | None) -> Iterator[Finding]:
    """Clusters of near-duplicates that would have held most of a class."""
    if split is not None and split.cuts:
        names = [(index.classes[cut.label], cut) for cut in split.cuts]
        lines = [f"{name}: {cut.images} of {cut.total}, {index.images[cut.cluster[0]].path}" for name, cut in names]
        title = f"{counted(len(lines), 'cluster')} of near-duplicates that would hold more than half of a class"
        action = "their links were dropped, so that the class can be divided: look whether they are the same picture"
        yield listed("clusters_cut", "note", title, lines, action)


def is_conflict(index: DatasetIndex, cluster: Sequence[int]) -> bool:
    """Whether positions that show the same picture do not all have the same labels."""
    sets = index.label_sets
    return len({sets[position] for position in cluster}) > 1


def conflicts(index: DatasetIndex, pairs: Sequence[Pair] = ()) -> dict[int, tuple[str, ...]]:
    """For each image whose picture is also under another label: a clause for each of those, naming label and path."""
    found: dict[int, list[str]] = defaultdict(list)
    exact = {(a, b) for cluster in exact_clusters(index) for a in cluster for b in cluster if a != b}
    near = {(pair.a, pair.b) for pair in pairs if pair.kind == "near"}
    both = exact | near | {(b, a) for a, b in near}
    names, sets = index.label_names, index.label_sets
    for a, b in sorted(both):
        if sets[a] != sets[b]:
            same = "the same" if (a, b) in exact else "nearly the same"
            found[a].append(f"{same} picture is also under '{names[b]}': {index.images[b].path}")
    return {position: tuple(clauses) for position, clauses in found.items()}
