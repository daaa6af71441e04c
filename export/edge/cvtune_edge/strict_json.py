"""JSON from other hands: bounded in size, depth and numbers, each key once, as the standard has it (RFC 8259)."""

from __future__ import annotations

import json
import math
from typing import Any, Final

_MOST_LISTS: Final = 1_000_000  # lists and objects; each takes some 60 bytes of memory for 2 in the file
_MOST_DIGITS: Final = 18  # of a whole number: it fits into 64 bits


def parse_json(data: bytes) -> Any:
    """Parse a whole file.

    Args:
        data: UTF-8.

    Raises:
        ValueError: it is no JSON, or more than a reader should be asked to hold; the message is one line.
    """
    if data.count(b"[") + data.count(b"{") > _MOST_LISTS:
        raise ValueError(f"more than {_MOST_LISTS:,} lists and objects")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_once,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError("lists within lists, too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that comes twice, readers take different values: one would check the first and one use the last."""
    tree: dict[str, Any] = {}
    for name, value in pairs:
        if name in tree:
            raise ValueError(f"the key {name[:40]!r} comes twice")
        tree[name] = value
    return tree


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond what 64 bits hold")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)
