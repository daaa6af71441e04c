"""MODEL_CARD.md: what a bundle is for, what it can do and what it cannot, made from the same files as the report.

The sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv:1810.03993).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from cvtune.evaluation.rates import Rate
from cvtune.evaluation.robustness import Spoilt
from cvtune.evaluation.studies import Studies
from cvtune.evaluation.task import task_named, told
from cvtune.report.decisions import decisions_of
from cvtune.report.facts import Facts
from cvtune.report.names import visible
from cvtune.report.verdict import headline, leak_sentence, sentences

CARD: Final = "MODEL_CARD.md"
_SPECIAL: Final = re.compile(r"[\\`*_{}\[\]<>#|~&!]")  # what Markdown or the HTML in it would take for its own


def build_card(facts: Facts) -> str:
    """The card of a run's bundle, as Markdown.

    Args:
        facts: of a run that has a bundle.
    """
    first = facts.scored[0] if facts.scored else None
    studies = facts.studies or Studies()
    template = _environment().from_string(resources.files("cvtune.report").joinpath("card.md.j2").read_text("utf-8"))
    return template.render(
        facts=facts,
        manifest=facts.manifest,
        name=facts.run.root.resolve().name,
        headline=headline(facts),
        sentences=sentences(facts),
        leak=leak_sentence(facts),
        first=first,
        accuracy="" if first is None else told(task_named(facts.task), first.metrics.accuracy),
        decisions=None if first is None or facts.point is None else decisions_of(first, facts.point),
        worse=tuple(one for one in studies.slices if one.worse),
        weakest=_weakest(studies.robustness),
    )


def _weakest(table: Sequence[Spoilt]) -> Spoilt | None:
    """The way of spoiling pictures, at its slightest, that leaves the fewest answers right."""
    slight = [one for one in table if one.strength == "slight"]
    return min(slight, key=lambda one: one.right.k, default=None)


def _environment() -> Environment:
    environment = Environment(
        autoescape=False,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(rate=_rate, number=lambda n: f"{n:,}")
    return environment


def _plain(value: Any) -> Any:
    """Every value on its way into the card: text that Markdown leaves alone, on one line."""
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", visible(value)) if isinstance(value, str) else value


def _rate(rate: Rate) -> str:
    return f"{rate}, at most {100 * rate.at_most:.1f} %" if rate.n else "none to count"
