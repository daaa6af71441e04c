from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvtune.report.names import visible


@pytest.mark.parametrize(
    "name, shown",
    [
        ("crazing_1.jpg", "crazing_1.jpg"),
        ("裂纹 ü 👩‍🏭.png", "裂纹 ü 👩‍🏭.png"),
        ("a\nb\tc", r"a\x0ab\x09c"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff\udc80", r"\xff\x80"),
        ("\ud800", r"\ud800"),
        ("\x85\u2028", r"\x85\u2028"),
        ("<b>&amp;", "<b>&amp;"),  # escaping is the template's
    ],
)
def test_what_cannot_be_seen_is_spelt_out(name: str, shown: str) -> None:
    assert visible(name) == shown


@given(st.text())
def test_any_name_is_one_line_of_utf_8(name: str) -> None:
    shown = visible(name)
    shown.encode("utf-8")
    assert shown.splitlines() in ([], [shown])
    assert not [letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cs")]
    assert visible(shown) == shown
