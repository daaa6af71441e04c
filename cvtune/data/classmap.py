"""The class map: classes that are merged into one, and classes that are left out."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cvtune_edge.files import natural_key

from cvtune.data.folder import Found, Skipped
from cvtune.errors import ConfigError


@dataclass(frozen=True)
class ClassMap:
    """What becomes of class names; applied once, so that all names are those of the folder or table.

    Args:
        merge: new name -> the names it stands for. The new name may be one of them, or another class that stays.
        ignore: names that are left out.
    """

    merge: Mapping[str, Sequence[str]]
    ignore: Sequence[str] = ()

    def __post_init__(self) -> None:
        merge = {_composed(to): tuple(map(_composed, names)) for to, names in self.merge.items()}
        object.__setattr__(self, "merge", merge)
        object.__setattr__(self, "ignore", tuple(map(_composed, self.ignore)))

    @property
    def renamed(self) -> dict[str, str]:
        """Old name -> new name of every merged class, also where both are the same."""
        return {name: to for to, names in self.merge.items() for name in names}

    def check(self, known: Collection[str], *, strict: bool = True) -> None:
        """Refuse a map that cannot be meant.

        Args:
            known: class names of the folder or table.
            strict: False lets the map speak of classes that are not there, as when a part of a folder is scored.

        Raises:
            ConfigError: unknown names, each with the nearest one; a class in two merges, or merged and ignored;
                a new name that is itself merged away. All in one message.
        """
        problems = [*self._contradictions(), *(self._unknown(known) if strict else ())]
        if problems:
            raise ConfigError(
                "the class map of --merge and --ignore cannot be used:\n" + "\n".join(f"  {line}" for line in problems),
                hint=f"the classes are: {_some(known)}; for example --merge scratch,dent=defect --ignore misc",
            )

    def _contradictions(self) -> Iterator[str]:
        times = Counter(name for names in self.merge.values() for name in set(names))
        yield from (f"'{name}' is in {count} merges" for name, count in times.items() if count > 1)
        yield from (f"'{name}' is both merged and ignored" for name in dict.fromkeys(self.ignore) if name in times)
        for to, names in self.merge.items():
            if not to or not names:
                yield f"merge '{','.join(names)}={to}': expected at least one class and a name for them"
            if to in self.ignore and to not in times:
                yield f"'{to}' is ignored, but {_listed(names)} should become it"
            if to in self.renamed and to not in names:
                yield f"'{to}' stands for {_listed(names)} and is itself merged into '{self.renamed[to]}'"

    def _unknown(self, known: Collection[str]) -> Iterator[str]:
        for flag, names in (("--merge", self.renamed), ("--ignore", dict.fromkeys(self.ignore))):
            for name in names:
                if name not in known:
                    yield f"{flag}: there is no class '{name}'{did_you_mean(name, known)}"


def apply_map(
    found: Sequence[Found], mapping: ClassMap, *, multi: bool
) -> tuple[list[Found], list[Skipped], tuple[tuple[str, str, int], ...]]:
    """Rename the classes of images, and leave ignored ones out.

    Where an image may have several labels each of them is a question of its own: an ignored label is not asked, and
    the image stays with its other labels.

    Returns:
        The images that stay; one entry for each ignored class, with its count; merges as (from, to, images).
    """
    renamed, ignored = mapping.renamed, set(mapping.ignore)
    merged: Counter[tuple[str, str]] = Counter()
    left_out: Counter[str] = Counter()
    kept: list[Found] = []
    for item in found:
        left_out.update(name for name in item.labels if name in ignored)
        labels = tuple(name for name in item.labels if name not in ignored)
        if not multi and not labels:
            continue
        merged.update((name, renamed[name]) for name in labels if renamed.get(name, name) != name)
        kept.append(replace(item, labels=tuple(dict.fromkeys(renamed.get(name, name) for name in labels))))
    reason = "label ignored by --ignore, kept without it" if multi else "ignored by --ignore"
    skipped = [
        Skipped(name, f"{reason}: {left_out[name]} image{'s' * (left_out[name] != 1)}")
        for name in dict.fromkeys(mapping.ignore)
        if left_out[name]
    ]
    order = sorted(merged, key=lambda pair: (natural_key(pair[1]), natural_key(pair[0])))
    return kept, skipped, tuple((name, to, merged[name, to]) for name, to in order)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`, did you mean 'scratch'?` where a name is near, else an empty text."""
    folded = {other.casefold(): other for other in sorted(known)}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return f", did you mean '{folded[near[0]]}'?" if near else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _some(names: Collection[str], most: int = 20) -> str:
    ordered = sorted(names, key=natural_key)
    return ", ".join(ordered[:most]) + f" and {len(ordered) - most} more" * (len(ordered) > most)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # as the names of class folders
