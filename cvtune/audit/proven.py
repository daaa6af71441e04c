"""Pairs that were proven before: of the same files, read the same way and seen by the same network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple
from importlib import resources
from typing import Final

import numpy as np
import numpy.typing as npt

from cvtune.audit.duplicates import Pair
from cvtune.data.checked import Checked
from cvtune.data.key import code_sum

_CACHE: Final = Checked("pairs", most=64)  # some kB each
_SOURCES: Final = ("duplicates.py", "neighbours.py", "proof.py", "alignment.py", "thumbnails.py")
_CODE: Final = code_sum(resources.files("cvtune.audit") / name for name in _SOURCES)


def pairs_key(names: Sequence[str], pixels_key: str, embeddings: npt.NDArray[np.float32] | None) -> str:
    """What decides which pairs are found, as 64 hexadecimal digits.

    Args:
        names: sha256 of the N files, in the order of the index.
        pixels_key: how they were read and by which versions, `data.key.store_key`.
        embeddings: float32 [N, D], or None where hashes alone are compared.
    """
    digest = hashlib.sha256(json.dumps([list(names), pixels_key, _CODE]).encode())
    if embeddings is not None:
        digest.update(np.ascontiguousarray(embeddings).data)
    return digest.hexdigest()


def proven(key: str, search: Callable[[], tuple[Pair, ...]]) -> tuple[Pair, ...]:
    """The pairs of an earlier search under the same key; what is searched now is kept for the next time."""
    known = _CACHE.read(key)
    if known is not None:
        return tuple(Pair(*pair) for pair in json.loads(known))
    found = search()
    _CACHE.write(key, json.dumps([astuple(pair) for pair in found]).encode())
    return found
