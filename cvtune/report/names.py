"""Names from the user's disk, made visible: a file may be called anything, with line ends in it or read backwards."""

from __future__ import annotations

import re
from typing import Final

# Control characters, line separators, halves of surrogate pairs (bytes of a name that is no UTF-8), and the signs that
# turn the direction of writing, with which "gnp.exe" reads "exe.png" (Unicode technical report 36, 3.2.2).
_INVISIBLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with what cannot be seen spelt out: `part\x0a1.png`, one byte of no UTF-8 as `\xff`."""
    return _INVISIBLE.sub(_spelt, text)


def _spelt(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's surrogateescape
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
