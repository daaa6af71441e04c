"""The same figures for the factory and for the clinic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from cvtune.evaluation.objective import Aim, Objective
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.verdict import NAMES, Decided, Sorting, proof

Words = Literal["factory", "clinic"]


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


def proofs(objective: Objective, found: Decided) -> tuple[str, ...]:
    """What the figures prove of each target."""
    rates: dict[Aim, Rate] = (
        {"error": found.errors} if isinstance(found, Sorting) else {"escape": found.escapes, "overkill": found.overkill}
    )
    return tuple(
        proof(rates[target.aim], target, NAMES[target.aim]) for target in objective.targets if target.aim in rates
    )
