"""One thing that the user should know about the folder, and the words that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["note", "warning"]

EXAMPLES: Final = 5


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
    severity: Severity
    title: str
    count: int
    examples: tuple[str, ...]
    action: str


def worst_severity(findings: Sequence[Finding]) -> Severity | None:
    """`warning` where there is one, else `note`, None without findings.

    `cvtune check` ends with exit code 1 for a warning and with 0 otherwise: a note tells what was done or what the
    figures cannot say, and leaves nothing for the user to mend.
    """
    severities = {finding.severity for finding in findings}
    return "warning" if "warning" in severities else "note" if severities else None


def listed(code: str, severity: Severity, title: str, lines: Sequence[str], action: str) -> Finding:
    """A finding that counts `lines` and shows the first of them."""
    return Finding(code, severity, title, len(lines), tuple(lines[:EXAMPLES]), action)


def counted(number: int, word: str) -> str:
    """`1 class`, `2 classes`, `1,800 images`."""
    plural = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{number:,} {word if number == 1 else plural}"
