from __future__ import annotations

import numpy as np
from cvtune_edge.results import Prediction
from cvtune_edge.table import header, number, row
from hypothesis import given
from hypothesis import strategies as st

CLASSES = ("no", "1e3")


def test_columns() -> None:
    assert header(CLASSES) == ["path", "label", "probability", "p:no", "p:1e3"]
    assert header(CLASSES, truth=True) == ["path", "truth", "label", "probability", "p:no", "p:1e3"]


def test_row_fits_the_header() -> None:
    shares = np.array([0.9, 0.1], np.float32)
    answer = Prediction("a/1.png", "no", float(shares[0]), shares)
    assert row(answer) == ["a/1.png", "no", "0.9", "0.9", "0.1"]
    assert row(answer, truth="1e3") == ["a/1.png", "1e3", "no", "0.9", "0.9", "0.1"]


def test_several_labels_stand_in_one_cell() -> None:
    shares = np.array([0.9, 0.8], np.float32)
    both = Prediction("1.png", "no;1e3", float(shares[0]), shares, labels=("no", "1e3"))
    assert row(both) == ["1.png", "no;1e3", "0.9", "0.9", "0.8"]
    none = Prediction("1.png", "", float(shares[0]), shares)
    assert row(none, truth="no;1e3") == ["1.png", "no;1e3", "", "0.9", "0.9", "0.8"]


@given(st.floats(0, 1, width=32))
def test_numbers_come_back_bit_for_bit(value: float) -> None:
    assert np.float32(number(np.float32(value))).tobytes() == np.float32(value).tobytes()
    assert np.float32(float(number(value))).tobytes() == np.float32(value).tobytes()
