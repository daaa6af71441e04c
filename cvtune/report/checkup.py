"""What `cvtune check` found, as one page with pictures: suspected labels, copies side by side, and how to go on."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cvtune.audit import Finding, Pair, Suspect, exact_clusters
from cvtune.audit.finding import EXAMPLES
from cvtune.data.groups import propose_grouping
from cvtune.data.index import GIVEN_SIDES, DatasetIndex
from cvtune.report.gallery import Pictures
from cvtune.report.page import with_pictures
from cvtune.report.render import write_page
from cvtune.report.thumbnails import Thumbnail, Thumbnails

_MOST_SUSPECTS: Final = 60
_MOST_PAIRS: Final = 40
_MOST_SKIPPED: Final = 500


@dataclass(frozen=True)
class ClassCount:
    """Images of a class; `sides` those of each given side, `share` of the largest class."""

    name: str
    images: int
    sides: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class Twin:
    """One of two copies."""

    path: str
    label: str
    side: str
    thumbnail: Thumbnail


@dataclass(frozen=True)
class Twins:
    """Two copies.

    Attributes:
        kind: "exact", byte for byte, or "near".
        labels: they have different labels.
        sides: they are on different given sides.
    """

    kind: str
    labels: bool
    sides: bool
    both: tuple[Twin, Twin]


def build_check_page(
    path: Path,
    index: DatasetIndex,
    findings: Sequence[Finding],
    *,
    suspects: Sequence[Suspect],
    pairs: Sequence[Pair],
    source: Path | None = None,
    untrusted: bool = False,
) -> Path:
    """Write the page.

    Args:
        path: of the page.
        index: the folder, read.
        findings: warnings first.
        suspects: labels that look wrong, the worst first.
        pairs: copies; identical files are known without.
        source: what the user named, a folder or a table; the index's folder when unset.
        untrusted: read the pictures in a child process.

    Returns:
        `path`.
    """
    pairs = _with_exact(index, pairs)
    ordered = _in_order(index, pairs)
    with Thumbnails(index.root, untrusted=untrusted) as thumbnails:
        shown = with_pictures(tuple(suspects[:_MOST_SUSPECTS]), Pictures(thumbnails))
        twins = [_twins(index, pair, thumbnails) for pair in ordered[:_MOST_PAIRS]]
    sides = tuple(side for side in GIVEN_SIDES if any(image.side == side for image in index.images))
    return write_page(
        path,
        "check.html.j2",
        index=index,
        name=(source or index.root).resolve().name,
        source=in_shell(source or index.root),
        headline=_headline(index, findings),
        findings=findings,
        sides=sides,
        counts=tuple(_counts(index, sides)),
        suspects=shown,
        suspected=len(suspects),
        twins=twins,
        pairs=len(pairs),
        skipped=tuple((item.path, item.reason) for item in index.skipped),
        most_skipped=_MOST_SKIPPED,
        most_examples=EXAMPLES,
        to_correct=bool(suspects) or any(_on_two_labels(index, pair) for pair in pairs),
        proposal=propose_grouping(index),
        in_shell=in_shell,
    )


def in_shell(text: Path | str) -> str:
    """An argument as it is typed: in quotes where the shell would take it for something else."""
    plain = str(text)
    if re.fullmatch(r"[\w./\\:~+-]+" if os.name == "nt" else r"[\w./:+-]+", plain, re.ASCII):
        return plain
    return f'"{plain}"' if os.name == "nt" else shlex.quote(plain)


def _headline(index: DatasetIndex, findings: Sequence[Finding]) -> str:
    warnings = sum(finding.severity == "warning" for finding in findings)
    images = f"{len(index):,} {'image' if len(index) == 1 else 'images'}"
    if not findings:
        return f"Nothing found in {images}"
    return f"{warnings or 'No'} {'warning' if warnings == 1 else 'warnings'} in {images}"


def _counts(index: DatasetIndex, sides: tuple[str, ...]) -> Iterator[ClassCount]:
    counts, given = index.counts(), [index.counts(side) for side in sides]
    largest = max(counts, default=0) or 1
    for label, name in enumerate(index.classes):
        yield ClassCount(name, counts[label], tuple(side[label] for side in given), counts[label] / largest)


def _with_exact(index: DatasetIndex, pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Identical files are copies also where nobody looked for others (`data.near_duplicates = false`)."""
    if any(pair.kind == "exact" for pair in pairs):
        return pairs
    return (*(Pair(first, other, "exact", 1.0) for first, *rest in exact_clusters(index) for other in rest), *pairs)


def _in_order(index: DatasetIndex, pairs: Sequence[Pair]) -> list[Pair]:
    """Those under two labels first, then those on two sides; each picture once before any comes again."""
    images = index.images

    def harm(pair: Pair) -> tuple[bool, bool]:
        return not _on_two_labels(index, pair), not _on_two_sides(images[pair.a].side, images[pair.b].side)

    shown: set[int] = set()
    first: list[Pair] = []
    again: list[Pair] = []
    for pair in sorted(pairs, key=harm):
        (again if pair.a in shown or pair.b in shown else first).append(pair)
        shown |= {pair.a, pair.b}
    return sorted([*first, *again], key=harm)


def _on_two_labels(index: DatasetIndex, pair: Pair) -> bool:
    a, b = index.images[pair.a], index.images[pair.b]
    return (a.label, a.labels) != (b.label, b.labels)


def _on_two_sides(one: str | None, other: str | None) -> bool:
    return (one or "train") != (other or "train")


def _twins(index: DatasetIndex, pair: Pair, thumbnails: Thumbnails) -> Twins:
    names, (a, b) = index.label_names, (index.images[pair.a], index.images[pair.b])
    both = (
        Twin(a.path, names[pair.a], a.side or "", thumbnails.of(a.path)),
        Twin(b.path, names[pair.b], b.side or "", thumbnails.of(b.path)),
    )
    return Twins(pair.kind, _on_two_labels(index, pair), _on_two_sides(a.side, b.side), both)
