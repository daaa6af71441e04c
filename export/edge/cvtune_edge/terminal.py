"""Text from other hands on a terminal: names that hold control characters are shown, never obeyed."""

from __future__ import annotations

import re
from typing import Final

# C0, DEL and C1; what turns the direction of writing (Unicode, UAX 9), and what is not seen at all
_ACTIVE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def inert(text: str, *, keep: str = "") -> str:
    r"""The text with every character that a terminal would act on as `\x1b`.

    Args:
        text: any.
        keep: characters that stay, such as the line ends of a message of ours.
    """
    return _ACTIVE.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
