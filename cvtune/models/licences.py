"""Which licences of weights forbid commercial use, and the user's word that this is allowed here."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from cvtune.errors import WeightsError

# "nc" as a word of its own, as in cc-by-nc-4.0, or the word written out.
_NON_COMMERCIAL: Final = re.compile(r"(^|[^a-z])nc([^a-z]|$)|non.?commercial|research.?only")

# Names that do not say it: Apple's research licence, and Meta's SEER, both for research only.
_RESEARCH_ONLY: Final = frozenset({"apple-amlr", "seer-license"})


def is_non_commercial(licence: str) -> bool:
    """Whether the name of a licence says that commercial use is not allowed."""
    name = licence.strip().lower()
    return name in _RESEARCH_ONLY or bool(_NON_COMMERCIAL.search(name))


def require_accepted(licence: str, accepted: Collection[str], *, backbone: str) -> None:
    """Refuse weights under a non-commercial licence that the user has not named.

    Raises:
        WeightsError: with the flag that accepts this licence.
    """
    if not is_non_commercial(licence) or licence.lower() in {name.strip().lower() for name in accepted}:
        return
    name = f'"{licence}"' if " " in licence else licence
    raise WeightsError(
        f"the weights of {backbone} are licensed '{licence}', which does not allow commercial use",
        hint=f"if your use is allowed, say so with `--accept-license {name}`",
    )
