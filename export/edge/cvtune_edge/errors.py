"""The errors of cvtune, shared by the training PC and the line.

    CvtuneError               exit code 2: the input is at fault, the message says where and the hint how to mend it
    |- ImageError             an image that cannot be read
    |- BundleError            a folder that is no bundle, or one whose files are not the ones that were exported
    |- MismatchError          exit code 3: a bundle that answers otherwise on this machine than in the lab
    `- (cvtune.errors adds)   DataError, ConfigError, WeightsError, ModelError, RunError, GateError

Every error carries what happened (with the path or the value), what was expected, and a hint that mends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

EXPORT_AGAIN: Final = "export the bundle again with cvtune, or copy the whole folder again"  # a hint
_MOST_LINES: Final = 20


def first_line(error: Exception, most: int | None = None) -> str:
    """The first line of what another library's error says, or so many characters of it; its kind where it is silent."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:most]


def listed(problems: Sequence[str]) -> str:
    """`3 problems` and a line each, the first of them where there are too many to read."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = problems if len(problems) <= _MOST_LINES else [*problems[:_MOST_LINES], "..."]
    return "\n".join([count, *(f"  {line}" for line in lines)])


class CvtuneError(Exception):
    """Something the user can mend.

    Args:
        message: what happened and what was expected, one sentence or several lines.
        hint: the command or the change that mends it; empty when the message says it already.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ImageError(CvtuneError):
    """An image that cannot be read; `reason` is the short cause without the path."""

    def __init__(self, path: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = path
        self.reason = reason


class BundleError(CvtuneError):
    """A folder that is not a cvtune bundle, or whose files were changed after the export."""


class MismatchError(CvtuneError):
    """A bundle that is whole, and answers otherwise on this machine than in the lab."""

    exit_code = 3
