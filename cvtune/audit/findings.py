"""Findings about an index and its split; every one says how many, which for example, and what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from cvtune.data.index import DatasetIndex
from cvtune.data.split import FEW, Split
from cvtune.errors import RunError
from cvtune.rundir import read_json, write_json

_EXAMPLES: Final = 5
_IMBALANCE: Final = 3.0  # largest class over smallest from which training weighs classes noticeably
_PROVES_5_PERCENT: Final = 59  # images without an error that put the rate below 5 %: 0.95 ** 59 < 0.05


@dataclass(frozen=True)
class Finding:
    """One thing that the user should know about the folder.

    Args:
        code: stable name, for scripts.
        severity: `note` or `warning`.
        title: a sentence with the count in it.
        count: images, clusters, classes or files, as the title says.
        examples: a few paths or names.
        action: what to do, or what was done.
    """

    code: str
    severity: Literal["note", "warning"]
    title: str
    count: int
    examples: tuple[str, ...]
    action: str


def audit(index: DatasetIndex, split: Split | None = None) -> tuple[Finding, ...]:
    """Everything found; warnings first.

    Args:
        index: after `fill_pixels`, which fills in the hashes.
        split: adds what its test side can and cannot prove.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _duplicates(index),
        lambda: _groups(index),
        lambda: _classes(index),
        lambda: _given_sides(index),
        lambda: _files(index),
        lambda: _proof(index, split),
    )
    found = [finding for check in checks for finding in check()]
    return tuple(sorted(found, key=lambda finding: finding.severity != "warning"))


def duplicate_clusters(index: DatasetIndex) -> tuple[tuple[int, ...], ...]:
    """Positions of byte-identical files, clusters of two and more, in the order of their first image."""
    same: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(index.images):
        if image.sha256:
            same[image.sha256].append(position)
    return tuple(tuple(cluster) for cluster in same.values() if len(cluster) > 1)


def rate_not_excluded(images: int) -> float:
    """The error rate that `images` right answers out of `images` cannot exclude: one-sided 95 % Clopper-Pearson.

    With no error the exact bound is 1 - 0.05 ** (1 / n); the "rule of three", 3 / n, is its approximation
    (Hanley and Lippman-Hand, JAMA 1983).
    """
    return 1 - float(0.05 ** (1 / images))


def save_audit(path: Path, findings: Sequence[Finding], index: DatasetIndex) -> None:
    """Write audit.json: findings, every skipped file, the folder."""
    skipped = [asdict(item) for item in index.skipped]
    write_json(
        path,
        {"root": index.root.as_posix(), "findings": [asdict(finding) for finding in findings], "skipped": skipped},
    )


def load_audit(path: Path) -> tuple[Finding, ...]:
    """Read the findings of audit.json.

    Raises:
        RunError: missing or damaged.
    """
    try:
        rows = read_json(path)["findings"]
        return tuple(Finding(**{**row, "examples": tuple(row["examples"])}) for row in rows)
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error!r})", hint="fit the run again") from error


def _duplicates(index: DatasetIndex) -> Iterator[Finding]:
    within: list[str] = []
    labels: list[str] = []
    sides: list[str] = []
    for cluster in duplicate_clusters(index):
        images = [index.images[position] for position in cluster]
        text = " = ".join(image.path for image in images)
        conflict = len({image.label for image in images}) > 1
        (labels if conflict else within).append(text)
        if len({image.side or "train" for image in images}) > 1:
            sides.append(text)
    if labels:
        title = f"{_count(labels, 'picture')} under two labels, byte for byte the same file"
        yield _finding("label_conflict", "warning", title, labels, "decide which class is right and remove the others")
    if sides:
        title = f"{_count(sides, 'picture')} on two of the given sides, byte for byte the same file"
        yield _finding("duplicates_across_sides", "warning", title, sides, "figures flatter: remove them from one side")
    if within:
        title = f"{_count(within, 'picture')} more than once, byte for byte the same file"
        yield _finding("duplicates", "note", title, within, "nothing to do: copies are kept on one side of the split")


def _groups(index: DatasetIndex) -> Iterator[Finding]:
    sides: dict[str, set[str]] = defaultdict(set)
    for image in index.images:
        sides[image.group].add(image.side or "train")
    crossing = [group for group, found in sides.items() if len(found) > 1]
    if crossing:
        title = f"{_count(crossing, 'group')} on two of the given sides"
        action = "if the names mean the same part or patient, figures flatter: move each group to one side"
        yield _finding("groups_across_sides", "warning", title, crossing, action)
    if index.ungrouped:
        alone = [image.path for image in index.images if image.group == image.path]
        title = f"{index.ungrouped} images not matched by --group-by"
        action = "each stands for itself; widen the pattern if they belong together"
        yield Finding("ungrouped", "note", title, index.ungrouped, tuple(alone[:_EXAMPLES]), action)


def _classes(index: DatasetIndex) -> Iterator[Finding]:
    counts = dict(zip(index.classes, index.counts(), strict=True))
    few = [f"{name}: {count}" for name, count in counts.items() if count < FEW]
    if few:
        title = f"{_count(few, 'class')} with fewer than {FEW} images"
        action = "what is right for so few may be luck: nothing can be known about their error rates; add images"
        yield _finding("few_images", "warning", title, few, action)
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[most] / max(1, counts[least])
    if ratio >= _IMBALANCE:
        title = f"class sizes differ by a factor of {ratio:.1f}"
        examples = [f"{most}: {counts[most]}", f"{least}: {counts[least]}"]
        action = "classes are weighted in training (train.class_weights); read balanced accuracy, not accuracy"
        yield Finding("imbalance", "note", title, len(counts), tuple(examples), action)


def _given_sides(index: DatasetIndex) -> Iterator[Finding]:
    for side in ("val", "test"):
        counts = index.counts(side)
        missing = [name for name, count in zip(index.classes, counts, strict=True) if not count]
        if any(counts) and missing:
            title = f"{_count(missing, 'class')} without an image in the given {side}/"
            action = f"add images to {side}/: nothing is said about these classes there"
            yield _finding(f"classes_missing_in_{side}", "warning", title, missing, action)


def _files(index: DatasetIndex) -> Iterator[Finding]:
    if index.skipped:
        lines = [f"{item.path}: {item.reason}" for item in index.skipped]
        action = "they were left out and not touched; all of them are in audit.json"
        yield _finding("skipped", "note", f"{_count(lines, 'file')} left out", lines, action)
    for note, count in index.notes:
        title = f"{count} of {len(index)} images: {note}"
        yield Finding("read_with_note", "note", title, count, (), "training and the line read them the same way")


def _proof(index: DatasetIndex, split: Split | None) -> Iterator[Finding]:
    if split is None:
        return
    counts = [0] * len(index.classes)
    for position in split.indices("test"):
        counts[index.images[position].label] += 1
    small = {name: n for name, n in zip(index.classes, counts, strict=True) if 0 < n < _PROVES_5_PERCENT}
    if small:
        name = min(small, key=small.__getitem__)
        bound = f"{100 * rate_not_excluded(small[name]):.0f} %"
        title = (
            f"{small[name]} test images of class '{name}' cannot prove an error rate below {bound}, "
            f"even when all are right (95 %); {_PROVES_5_PERCENT} would prove 5 %"
        )
        examples = [f"{name}: {count}" for name, count in small.items()]
        yield _finding("test_power", "note", title, examples, "read the intervals; add test images to narrow them")


def _finding(code: str, severity: Literal["note", "warning"], title: str, lines: Sequence[str], action: str) -> Finding:
    return Finding(code, severity, title, len(lines), tuple(lines[:_EXAMPLES]), action)


def _count(lines: Sequence[str], word: str) -> str:
    plural = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{len(lines)} {word if len(lines) == 1 else plural}"
