r"""Patterns that file names may follow when several of them show one part: numbered views, and times in bursts.

Only candidates come from here; `groups.propose_grouping` looks what they would do to the folder and turns most down.

    person12_bacteria_34.jpeg       a number that names, and something after it
    IMG_20250131_120001.jpg         a time of day; photographs of one thing are seconds apart
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

SECONDS: Final = 10.0  # between two photographs of one series
_PAUSE: Final = 60.0  # seconds between series, in the median
_FAMILIES: Final = 4  # kinds of names that are spelled out in one pattern
_DEPTH: Final = 3  # the naming number is the first, second or third that differs between names
_SMALL: Final = 0.02  # share of the names below which a kind of names is passed over
_BREAKS: Final = frozenset("-_ (+,~")  # what may follow the naming number; a dot may begin the suffix
_DATE: Final = r"(?<!\d)(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
_STAMP: Final = re.compile(
    _DATE + r"(?:[-_ T.]|[-_ ]at[-_ ])?(?:[01]\d|2[0-3])([-_.:h]?)[0-5]\d(?:(?:\2|[-_.:m])?)(?P<s>[0-5]\d)"
)
_DAY: Final = re.compile(_DATE)


@dataclass(frozen=True)
class Series:
    """Photographs taken seconds apart.

    Args:
        pattern: regex that groups them by minute.
        bursts: series of two and more, as positions in order of time.
    """

    pattern: str
    bursts: tuple[tuple[int, ...], ...]


def numbered(paths: Sequence[str], depth: int, folders: int = 0) -> str | None:
    """The pattern that names groups by the `depth`-th differing number of the file name, None where there is none.

    Args:
        paths: with `/`.
        depth: 1 to 3.
        folders: how many of the folders above the file are part of the name.
    """
    names = [path.rpartition("/")[2] for path in paths]
    found = [(head, _followers(names, head, rows)) for head, rows in _heads(names, depth)]
    heads = [head for head, follow in found if follow]
    if not heads:
        return None
    if len(heads) > _FAMILIES:
        heads = [r"[^/\d]*\d+" * depth]
    above = r"[^/]+/" * folders
    start = "" if folders else "(?:^|/)"
    named = "|".join(f"({above}{head})" for head in heads)
    choice = named if len(heads) == 1 else f"(?:{named})"
    return f"{start}{choice}{_any_of({text for _, follow in found for text in follow})}[^/]*$"


def depths() -> range:
    """Which differing number of a name may be the one that names the part."""
    return range(1, _DEPTH + 1)


def series(paths: Sequence[str]) -> Series | None:
    """Photographs in bursts, by the times in their names; None where the times do not fall into series.

    A camera above a belt takes a picture of another part every second: then there are no pauses, and no series.
    """
    names = [path.rpartition("/")[2] for path in paths]
    stamps = {row: stamp for row, name in enumerate(names) if (stamp := _STAMP.search(name))}
    times = {row: time for row, stamp in stamps.items() if (time := _time(stamp)) is not None}
    if len(times) < 0.8 * len(paths) or len(times) < 2:
        return None
    order = sorted(times, key=lambda row: (times[row], paths[row]))
    bursts: list[list[int]] = [[order[0]]]
    pauses: list[float] = []
    for before, row in pairwise(order):
        gap = (times[row] - times[before]).total_seconds()
        if gap > SECONDS:
            bursts.append([])
            pauses.append(gap)
        bursts[-1].append(row)
    if not pauses or sorted(pauses)[len(pauses) // 2] < _PAUSE:
        return None
    shapes = Counter(_by_minute(stamps[row]) for row in times)
    pattern = max(sorted(shapes), key=shapes.__getitem__)
    return Series(pattern, tuple(tuple(burst) for burst in bursts if len(burst) > 1))


def _heads(names: Sequence[str], depth: int) -> list[tuple[str, list[int]]]:
    """Regexes of the names up to and with the `depth`-th differing number, and the names that they are for."""
    least = max(2.0, _SMALL * len(names))
    found: list[tuple[str, list[int]]] = []

    def grow(rows: Sequence[int], starts: Sequence[int], head: str, left: int) -> None:
        kinds: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
        for row, start in zip(rows, starts, strict=True):
            piece = re.compile(r"(\D*)(\d+)").match(names[row], start)
            if piece:
                kinds[piece[1]].append((row, piece[2], piece.end()))
        for text, pieces in sorted(kinds.items()):
            if len(pieces) < least:
                continue
            inside, numbers, ends = zip(*pieces, strict=True)
            if len(set(numbers)) == 1:  # NORMAL2-IM-0115: the 2 tells nothing apart; a year will not stay the same
                number = numbers[0] if len(numbers[0]) < 4 else r"\d+"
                grow(inside, ends, head + _literal(text) + number, left)
            elif left > 1:
                grow(inside, ends, head + _literal(text) + r"\d+", left - 1)
            else:
                found.append((head + _literal(text) + r"\d+", list(inside)))

    grow(range(len(names)), [0] * len(names), "", depth)
    return sorted(found, key=lambda item: (-len(item[1]), item[0]))


def _followers(names: Sequence[str], head: str, rows: Sequence[int]) -> set[str]:
    """What comes after the number in the names; nothing where that is no name of a part, but a date."""
    pattern = re.compile(f"{head}({_any_of(_BREAKS)})")
    found = {row: match for row in rows if (match := pattern.match(names[row]))}
    dates = sum(_is_date(names[row], match.start(1)) for row, match in found.items())
    return {match[1] for match in found.values()} if 2 * dates < len(found) else set()


def _is_date(name: str, end: int) -> bool:
    """Whether `end` is inside a time, or after a day: a day's photographs are no group."""
    stamp = _STAMP.search(name)
    if stamp:
        return stamp.start() < end < stamp.end()
    day = _DAY.search(name)
    return bool(day and day.start() < end <= day.end())


def _time(stamp: re.Match[str]) -> datetime | None:
    digits = re.sub(r"\D", "", stamp[0])
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S")
    except ValueError:  # 31 February
        return None


def _by_minute(stamp: re.Match[str]) -> str:
    r"""The time as a regex whose group ends with the minute: `(\d{8}_\d{4})\d{2}`."""
    minute = stamp[0][: stamp.start("s") - stamp.start()]
    kept, rest = minute.rstrip("-_.:m"), minute[len(minute.rstrip("-_.:m")) :]
    return f"({_digits(kept)}){_digits(rest)}\\d{{2}}[^/]*$"


def _digits(text: str) -> str:
    pieces: Iterator[str] = iter(re.findall(r"\d+|\D+", text))
    return "".join(f"\\d{{{len(piece)}}}" if piece.isdigit() else _literal(piece) for piece in pieces)


def _any_of(characters: Iterable[str]) -> str:
    text = "".join(sorted(characters, key=lambda character: (character == "-", character)))  # a last - is itself
    return f"[{text}]" if len(text) > 1 else _literal(text)


def _literal(text: str) -> str:
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)
