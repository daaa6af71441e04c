"""Small files in the user's cache, each with the sum of its content before it; the oldest make room."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cvtune.data.userdirs import cache_dir
from cvtune.rundir import write_bytes


@dataclass(frozen=True)
class Checked:
    """A folder of them.

    Attributes:
        name: of the folder below the user's cache.
        most: files that are kept.
    """

    name: str
    most: int

    def file(self, key: str) -> Path:
        """Where the content of a key lies, if it is there."""
        return cache_dir() / self.name / key

    def read(self, key: str) -> bytes | None:
        """What was written under a key; None where there is nothing, or something else than was written."""
        try:
            digest, _, content = self.file(key).read_bytes().partition(b"\n")
        except OSError:
            return None
        return content if _sum(content) == digest else None

    def write(self, key: str, content: bytes) -> None:
        """Keep it, where there is a cache that can be written to."""
        with contextlib.suppress(OSError):
            file = self.file(key)
            write_bytes(file, _sum(content) + b"\n" + content)
            others = sorted(file.parent.glob("[!.]*"), key=lambda other: other.stat().st_mtime, reverse=True)
            for old in others[self.most :]:
                old.unlink(missing_ok=True)


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
