"""Classes: how many images they have, on which sides, and what so many can prove."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from cvtune.audit.finding import EXAMPLES, Finding, counted, listed
from cvtune.data.groups import Proposal
from cvtune.data.index import DatasetIndex
from cvtune.data.split import Split
from cvtune.data.units import FEW

_IMBALANCE: Final = 3.0  # largest class over smallest from which training weighs classes noticeably
_PROVES_5_PERCENT: Final = 59  # images without an error that put the rate below 5 %: 0.95 ** 59 < 0.05


def rate_not_excluded(images: int) -> float:
    """The error rate that `images` right answers out of `images` cannot exclude: one-sided 95 % Clopper-Pearson.

    With no error the exact bound is 1 - 0.05 ** (1 / n); the "rule of three", 3 / n, is its approximation
    (Hanley and Lippman-Hand, JAMA 1983).
    """
    return 1 - float(0.05 ** (1 / images))


def groups(index: DatasetIndex, proposal: Proposal | None) -> Iterator[Finding]:
    """Groups on two given sides, images without a group, and groups that the file names suggest."""
    sides: dict[str, set[str]] = defaultdict(set)
    for image in index.images:
        sides[image.group].add(image.side or "train")
    crossing = [group for group, found in sides.items() if len(found) > 1]
    if crossing:
        title = f"{counted(len(crossing), 'group')} on two of the given sides"
        action = "if the names mean the same part or patient, figures flatter: move each group to one side"
        yield listed("groups_across_sides", "warning", title, crossing, action)
    if index.ungrouped:
        alone = [image.path for image in index.images if image.group == image.path]
        title = f"{index.ungrouped} images not matched by --group-by"
        action = "each stands for itself; widen the pattern if they belong together"
        yield Finding("ungrouped", "note", title, index.ungrouped, tuple(alone[:EXAMPLES]), action)
    if proposal is not None and all(image.group == image.path for image in index.images):
        title = f"file names look grouped: {proposal.reason}"
        action = f"if they show the same part, patient or track: --group-by '{proposal.spec}', or figures flatter"
        yield Finding("names_look_grouped", "warning", title, proposal.images, (proposal.example,), action)


def sizes(index: DatasetIndex) -> Iterator[Finding]:
    """Classes that are small, uneven or missing on a given side, and what `--merge` did."""
    counts = dict(zip(index.classes, index.counts(), strict=True))
    few = [f"{name}: {count}" for name, count in counts.items() if count < FEW]
    if few:
        title = f"{counted(len(few), 'class')} with fewer than {FEW} images"
        most = 100 * rate_not_excluded(FEW - 1)
        action = (
            "what is right for so few may be luck: nothing can be known about their error rates, for even "
            f"{FEW - 1} of {FEW - 1} right do not exclude {most:.0f} %; add images"
        )
        yield listed("few_images", "warning", title, few, action)
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[largest] / max(1, counts[smallest])
    if ratio >= _IMBALANCE:
        title = f"class sizes differ by a factor of {ratio:.1f}"
        examples = (f"{largest}: {counts[largest]}", f"{smallest}: {counts[smallest]}")
        action = "classes are weighted in training (train.class_weights); read balanced accuracy, not accuracy"
        yield Finding("imbalance", "note", title, len(counts), examples, action)
    yield from _given_sides(index)
    if index.merged:
        lines = [f"{old} -> {new}: {count}" for old, new, count in index.merged]
        yield listed("merged", "note", f"{counted(len(lines), 'class')} merged into another", lines, "as asked")


def _given_sides(index: DatasetIndex) -> Iterator[Finding]:
    for side in ("val", "test"):
        counts = index.counts(side)
        missing = [name for name, count in zip(index.classes, counts, strict=True) if not count]
        if any(counts) and missing:
            title = f"{counted(len(missing), 'class')} without an image in the given {side}/"
            action = f"add images to {side}/: nothing is said about these classes there"
            yield listed(f"classes_missing_in_{side}", "warning", title, missing, action)


def proof(index: DatasetIndex, split: Split | None) -> Iterator[Finding]:
    """What the test side of a split cannot prove, however good the model."""
    if split is None:
        return
    sets = index.label_sets
    counts = Counter(label for position in split.indices("test") for label in sets[position])
    small = {name: counts[label] for label, name in enumerate(index.classes) if 0 < counts[label] < _PROVES_5_PERCENT}
    if small:
        name = min(small, key=small.__getitem__)
        bound = f"{100 * rate_not_excluded(small[name]):.0f} %"
        title = (
            f"{counted(small[name], 'test image')} of class '{name}' cannot prove an error rate below {bound}, "
            f"even when all are right (95 %); {_PROVES_5_PERCENT} would prove 5 %"
        )
        examples = [f"{name}: {count}" for name, count in small.items()]
        yield listed("test_power", "note", title, examples, "read the intervals; add test images to narrow them")
