"""What the reader notes about an ordinary photograph, for tests that change one thing of it."""

from __future__ import annotations

from cvtune.data.facts import Facts

FACT = Facts(
    *("", "JPEG", 200, 200, 8, "grey", False, 9000, 94, "", 1, 1, ()),
    phash=0,
    brightness=0.5,
    border=0.5,
    sharpness=100.0,
    dark=0.0,
    bright=0.0,
)
