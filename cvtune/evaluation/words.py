"""The same figures for the factory and for the clinic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cvtune.evaluation.objective import Aim, Target, Words
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.verdict import NAMES, Decided, Sorting, judged, proof

_CLINIC: Final[dict[Aim, str]] = {"escape": "positive images", "overkill": "negative images"}


def point_line(found: Decided, words: Words = "factory") -> str:
    """One line: the mistakes that count, with what they are at most, and who has to look."""
    return ", ".join([*_mistakes(found, words), f"REVIEW {found.review}"])


def _mistakes(found: Decided, words: Words) -> Iterator[str]:
    if isinstance(found, Sorting):
        yield f"wrong {found.errors} decided ({_at_most(found.errors)})"
    elif words == "clinic":
        looked = f", {found.review_defects.k} of them by REVIEW" if found.review_defects.k else ""
        yield f"sensitivity {_rest(found.escapes)} ({_at_least(found.escapes)}{looked})"
        yield f"specificity {_rest(found.overkill)} ({_at_least(found.overkill)})"
    else:
        yield f"escape {found.escapes} ({_at_most(found.escapes)})"
        yield f"overkill {found.overkill} ({_at_most(found.overkill)})"


def _rest(mistakes: Rate) -> Rate:
    """Those that were no mistake; who is sent to a person is not missed."""
    return Rate(mistakes.n - mistakes.k, mistakes.n)


def _at_most(rate: Rate) -> str:
    return f"at most {100 * rate.at_most:.1f} % at 95 %" if rate.n else "none to count"


def _at_least(wrong: Rate) -> str:
    return f"at least {100 * (1 - wrong.at_most):.1f} % at 95 %" if wrong.n else "none to count"


def proofs(targets: Iterable[Target], found: Decided) -> tuple[str, ...]:
    """What the figures prove, and of each target whether they prove it."""
    return tuple(proof(rate, target, NAMES[target.aim]) for target, rate in _aimed_at(targets, found))


def judgements(targets: Iterable[Target], found: Decided, words: Words = "factory") -> tuple[str, ...]:
    """Of each target alone whether the figures prove it."""
    images = {aim: name for aim, (_, name) in NAMES.items()} | (_CLINIC if words == "clinic" else {})
    aimed = _aimed_at(targets, found)
    return tuple(judged(rate, target, target.said(words), images[target.aim]) for target, rate in aimed)


def _aimed_at(targets: Iterable[Target], found: Decided) -> Iterator[tuple[Target, Rate]]:
    rates: dict[Aim, Rate] = (
        {"error": found.errors} if isinstance(found, Sorting) else {"escape": found.escapes, "overkill": found.overkill}
    )
    return ((target, rates[target.aim]) for target in targets if target.aim in rates)
