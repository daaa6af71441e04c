from __future__ import annotations

import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvtune.console import Console, duration, parse_duration


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def err() -> io.StringIO:
    return io.StringIO()


def test_steps_go_to_stdout_in_one_column(out: io.StringIO, err: io.StringIO) -> None:
    console = Console(out=out, err=err)
    console.step("split", "train 6 / test 2")
    console.step("tail", "0.960", more=("word " * 40, "second"))
    first, second, *more = out.getvalue().splitlines()
    assert first == "  split     train 6 / test 2"
    assert second == "  tail      0.960"
    assert [line[:14] for line in more] == [" " * 14] * 3
    assert max(map(len, more)) <= 120
    assert more[-1].strip() == "second"
    assert console.lines == out.getvalue().splitlines()
    assert err.getvalue() == ""


def test_details_need_verbose(out: io.StringIO, err: io.StringIO) -> None:
    Console(out=out, err=err).detail("found", "12 files")
    assert out.getvalue() == ""
    Console(verbose=True, out=out, err=err).detail("found", "12 files")
    assert out.getvalue() == "  found     12 files\n"


def test_quiet_prints_nothing_and_remembers_the_summary(out: io.StringIO, err: io.StringIO) -> None:
    clock = Clock()
    console = Console(quiet=True, verbose=True, out=out, err=err, clock=clock)
    console.step("split", "all of it")
    for done in range(1, 4):
        clock.now += 60
        console.progress("reading", done, 3)
    assert (out.getvalue(), err.getvalue()) == ("", "")
    assert console.lines == ["  split     all of it"]


def test_piped_progress_is_a_line_every_ten_seconds_with_the_time_left(out: io.StringIO, err: io.StringIO) -> None:
    clock = Clock()
    console = Console(out=out, err=err, clock=clock)
    for done in range(1, 101):
        clock.now += 1.0
        console.progress("reading", done, 100)
    lines = err.getvalue().splitlines()
    assert len(lines) == 9  # at 11, 21, ... 91 seconds: the bar begins at the first image
    assert lines[0] == "  reading   11 of 100, about 1 min 21 s left"
    assert lines[-1] == "  reading   91 of 100, about 9 s left"
    assert out.getvalue() == ""


def test_each_piece_of_work_has_its_own_clock(out: io.StringIO, err: io.StringIO) -> None:
    clock = Clock()
    console = Console(out=out, err=err, clock=clock)
    console.progress("probe", 1, 100)
    clock.now += 9
    console.progress("tail", 1, 50)  # new work: its ten seconds begin now
    clock.now += 9
    console.progress("tail", 2, 50)
    assert err.getvalue() == ""
    clock.now += 2
    console.progress("tail", 4, 50)
    assert err.getvalue() == "  tail      4 of 50, about 2 min 06 s left\n"


def test_nothing_done_says_nothing_about_the_time_left(out: io.StringIO, err: io.StringIO) -> None:
    clock = Clock()
    console = Console(out=out, err=err, clock=clock)
    console.progress("tail", 0, 50)
    clock.now += 20
    console.progress("tail", 0, 50)
    assert err.getvalue() == "  tail      0 of 50\n"


def test_a_terminal_gets_a_bar_that_goes_away(out: io.StringIO) -> None:
    terminal = Terminal()
    console = Console(out=out, err=terminal)
    console.progress("reading", 1, 2)
    console.progress("reading", 2, 2)
    console.step("indexed", "2 images")
    assert "reading" in terminal.getvalue()
    assert out.getvalue() == "  indexed   2 images\n"
    assert console._bar is None


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),  # rounded before it is divided: never 60 s
        (182, "3 min 02 s"),
        (3599.6, "1 h 00 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "text, seconds",
    [("30s", 30), ("5m", 300), ("5 min", 300), ("2h", 7200), ("90", 90), ("1.5h", 5400), (" 10 s ", 10)],
)
def test_durations_from_words(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "s", "0", "0s", "-5m", "abc", "5 days", "5ms", "1h30m", "nan", "inf", "1e3", "1e999h", "5 m m", "9" * 400],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=f"^'{re.escape(text)}' is no duration; expected 30s, 5m or 2h$"):
        parse_duration(text)


@given(st.text(max_size=8))
def test_any_text_is_a_positive_number_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 < seconds < math.inf


@given(st.floats(0, 1e7))
def test_words_are_right_to_the_unit_that_they_show(seconds: float) -> None:
    text = duration(seconds)
    units = {"h": 3600, "min": 60, "s": 1}
    numbers = re.findall(r"(\d+) (h|min|s)", text)
    assert abs(sum(int(number) * units[unit] for number, unit in numbers) - seconds) <= (60 if "h" in text else 0.5)
    assert all(int(number) < 60 for number, unit in numbers if unit != "h")
