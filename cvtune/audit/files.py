"""What was left out of the folder, by reason, and what was done to the images that were read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from cvtune_edge.files import IMAGE_SUFFIXES

from cvtune.audit.finding import Finding, Severity, counted, listed
from cvtune.data.folder import Skipped
from cvtune.data.index import DatasetIndex

_LARGE: Final = ".*expected at most|.*more memory than there is"
_BROKEN: Final = "damaged|took longer|needed more|the decoder"
_NONE: Final = "not an image|.* file, not an image"
_OUTSIDE: Final = "not in a class folder|beside train|a class folder without"
_CLOSED: Final = "cannot be|no such file|broken link|vanished"
_SPECIAL: Final = "a link back|not a regular file|a folder"

_OK: Final = "nothing to do"
_COPY: Final = "copy them again from where they came from"
_SAVE: Final = "save them as PNG or TIFF with the program that made them"
_RAISE: Final = "raise data.max_pixels or data.max_bytes if they are what they claim to be"
_SET: Final = "the reasons name the setting"
_MOVE: Final = "move each into the folder of its class"
_OPEN: Final = "check permissions, links and the disk"
_RENAME: Final = "rename them: no table or report could name them"


@dataclass(frozen=True)
class _Kind:
    """Files left out for the same sort of reason.

    Attributes:
        code: the end of the finding's code.
        reasons: a pattern that the reason matches from its start.
        image_named: what the file's suffix must be: an image's (True), another (False), any (None).
        severity: a note where nothing of use was lost.
        noun: what is counted.
        title: goes on after the noun.
        action: what to do.
    """

    code: str
    reasons: str
    image_named: bool | None
    severity: Severity
    noun: str
    title: str
    action: str


_ANY: Final = None
_KINDS: Final = (  # the first that fits
    _Kind("hidden", "hidden", _ANY, "note", "hidden file", "or what an operating system left there", "nothing to do"),
    _Kind("asked", "ignored|label ignored|left out by", _ANY, "note", "entry|entries", "left out as asked", _OK),
    _Kind("truncated", "truncated", _ANY, "warning", "truncated image", "whose end is missing", _COPY),
    _Kind("empty", "empty file", _ANY, "warning", "file", "of 0 bytes", _COPY),
    _Kind("too_large", _LARGE, _ANY, "warning", "image", "larger than allowed", _RAISE),
    _Kind("not_allowed", ".*not allowed here|.*--pixels", _ANY, "warning", "image", "not read by these settings", _SET),
    _Kind("damaged", _BROKEN, _ANY, "warning", "damaged image", "that cannot be decoded", _COPY),
    _Kind("disguised", _NONE, True, "warning", "file", "named like an image but none", _SAVE),
    _Kind("foreign", _NONE, False, "note", "file", "among the images that is none|among the images that are none", _OK),
    _Kind(
        "misplaced", "not in a class folder|beside train", True, "warning", "image", "outside of class folders", _MOVE
    ),
    _Kind("beside", _OUTSIDE, _ANY, "note", "entry|entries", "beside the images", _OK),
    _Kind("unreachable", _CLOSED, _ANY, "warning", "file or folder|files or folders", "that cannot be opened", _OPEN),
    _Kind("special", _SPECIAL, _ANY, "note", "link or device|links or devices", "instead of a file", _OK),
    _Kind("names", "the name is not valid", _ANY, "warning", "name", "that cannot be written as UTF-8", _RENAME),
    _Kind("other", "", _ANY, "warning", "file", "that cannot be used", "see the reasons"),
)


def files(index: DatasetIndex) -> Iterator[Finding]:
    """One finding for each sort of reason, and one for each note of the decoder."""
    sorts: dict[_Kind, list[Skipped]] = defaultdict(list)
    for item in index.skipped:
        sorts[next(kind for kind in _KINDS if _fits(kind, item))].append(item)
    for kind in _KINDS:
        if items := sorts.get(kind):
            lines = [f"{item.path}: {item.reason}" for item in items]
            title = f"{_counted(len(items), kind.noun)} {_of(kind.title, len(items))}"
            action = f"{kind.action}; left out, not touched, all of them are in audit.json"
            yield listed(f"skipped_{kind.code}", kind.severity, title, lines, action)
    for note, count in index.notes:
        title = f"{count:,} of {len(index):,} images: {note}"
        yield Finding("read_with_note", "note", title, count, (), "training and the line read them the same way")


def _fits(kind: _Kind, item: Skipped) -> bool:
    named = PurePosixPath(item.path).suffix.lower() in IMAGE_SUFFIXES
    return kind.image_named in (None, named) and re.match(kind.reasons, item.reason) is not None


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {_of(noun, number)}" if "|" in noun else counted(number, noun)


def _of(text: str, number: int) -> str:
    """`one|several`: the first for one."""
    one, _, several = text.partition("|")
    return several if several and number != 1 else one
