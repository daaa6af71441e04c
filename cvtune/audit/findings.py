"""The audit: everything known about an index and its split, in sentences, and its file.

Every finding says how many, which for example, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cvtune.audit.classes import groups, proof, rate_not_excluded, sizes
from cvtune.audit.copies import cut_clusters, exact_copies, leakage, near_copies
from cvtune.audit.duplicates import Pair
from cvtune.audit.files import files
from cvtune.audit.finding import EXAMPLES, Finding, counted, worst_severity
from cvtune.audit.labels import Suspect
from cvtune.audit.quality import quality
from cvtune.audit.shortcuts import shortcuts
from cvtune.data.facts import Facts
from cvtune.data.groups import Proposal
from cvtune.data.index import DatasetIndex
from cvtune.data.split import Leaks, Split
from cvtune.errors import RunError
from cvtune.rundir import read_json, write_json

__all__ = ["Finding", "audit", "load_audit", "load_suspects", "rate_not_excluded", "save_audit", "worst_severity"]


def audit(
    index: DatasetIndex,
    split: Split | None = None,
    *,
    facts: Sequence[Facts] = (),
    pairs: Sequence[Pair] = (),
    suspects: Sequence[Suspect] = (),
    proposal: Proposal | None = None,
    leaks: Leaks | None = None,
    label_note: str = "",
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Everything found; warnings first.

    Args:
        index: after `fill_pixels`, which fills in the hashes.
        split: adds what its test side cannot prove, and clusters that it cut.
        facts: of each image, aligned with the index; adds shortcuts and pictures that went wrong.
        pairs: copies; identical files are known without.
        suspects: labels that look wrong.
        proposal: a grouping that the file names suggest.
        leaks: test images with a partner on another side.
        label_note: which labels were not judged and why (`Judged.note`).
        seed: of the folds that shortcuts are measured by.

    Raises:
        ValueError: facts of other images than the index has.
    """
    found: list[Finding] = [
        *exact_copies(index),
        *near_copies(index, pairs),
        *cut_clusters(index, split),
        *groups(index, proposal),
        *leakage(index, leaks),
        *_labels(index, suspects, label_note),
        *sizes(index),
        *files(index),
        *proof(index, split),
    ]
    if facts:
        found += [*shortcuts(index, facts, seed=seed, near=_links(pairs)), *quality(index, facts)]
    return tuple(sorted(found, key=lambda finding: finding.severity != "warning"))


def _links(pairs: Iterable[Pair]) -> list[tuple[int, int]]:
    return [(pair.a, pair.b) for pair in pairs if pair.kind == "near"]


def _labels(index: DatasetIndex, suspects: Sequence[Suspect], note: str) -> Iterator[Finding]:
    if suspects:
        title = f"{counted(len(suspects), 'label')} of {len(index):,} {'looks' if len(suspects) == 1 else 'look'} wrong"
        lines = (
            f"{one.path}: '{one.label}' ({100 * one.p_label:.0f} %), looks like '{one.proposed}'"
            f" ({100 * one.p_proposed:.0f} %)"
            for one in suspects[:EXAMPLES]
        )
        action = "look at them; corrections.csv proposes labels, --corrections applies those that you leave in it"
        yield Finding("suspect_labels", "warning", title, len(suspects), tuple(lines), action)
    if note:
        yield Finding("labels_not_judged", "note", note, 1, (), "nothing to do; look at these labels yourself")


def save_audit(
    path: Path,
    findings: Sequence[Finding],
    index: DatasetIndex,
    *,
    suspects: Sequence[Suspect] = (),
    pairs: Sequence[Pair] = (),
) -> None:
    """Write audit.json: the folder, findings, every skipped file, every suspect, every pair of near-duplicates."""
    near = [
        {"a": index.images[pair.a].path, "b": index.images[pair.b].path, "score": round(float(pair.score), 6)}
        for pair in pairs
        if pair.kind == "near"
    ]
    write_json(
        path,
        {
            "root": index.root.as_posix(),
            "findings": [asdict(finding) for finding in findings],
            "skipped": [asdict(item) for item in index.skipped],
            "suspects": [asdict(suspect) for suspect in suspects],
            "near_duplicates": near,
        },
    )


def load_audit(path: Path) -> tuple[Finding, ...]:
    """Read the findings of audit.json.

    Raises:
        RunError: missing or damaged.
    """
    rows = _rows(path, "findings")
    try:
        return tuple(Finding(**{**row, "examples": tuple(row["examples"])}) for row in rows)
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def load_suspects(path: Path) -> tuple[Suspect, ...]:
    """Read the suspects of audit.json, the worst first; none from a run of an earlier version.

    Raises:
        RunError: missing or damaged.
    """
    rows = _rows(path, "suspects", missing=[])
    try:
        return tuple(Suspect(**row) for row in rows)
    except TypeError as error:
        raise _damaged(path, error) from error


def _rows(path: Path, key: str, *, missing: Any = None) -> Any:
    tree = read_json(path)
    rows = tree.get(key, missing) if isinstance(tree, dict) else None
    if not isinstance(rows, list):
        raise _damaged(path, f"no list '{key}'")
    return rows


def _damaged(path: Path, problem: object) -> RunError:
    return RunError(f"{path}: damaged ({problem!r})", hint="fit the run again")
