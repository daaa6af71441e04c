from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cvtune.errors import RunError
from cvtune.evaluation.predictions import Predictions

CLASSES = ("ok", "scratch, deep", "1e3")


def make(probabilities: list[list[float]], truth: list[int], classes: tuple[str, ...] = CLASSES) -> Predictions:
    paths = tuple(f"part/{i}.png" for i in range(len(truth)))
    return Predictions(paths, np.array(truth, np.int64), np.array(probabilities, np.float32), classes)


def test_label_is_the_largest_and_the_first_of_equals() -> None:
    predictions = make([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], [1, 1])
    assert predictions.labels.tolist() == [1, 0]
    assert predictions.right.tolist() == [True, False]


names = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(
    probabilities=hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(0, 1, width=32)),
    name=names,
    classes=st.lists(names, min_size=3, max_size=3, unique=True),
)
def test_round_trip_is_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, probabilities: np.ndarray, name: str, classes: list[str]
) -> None:
    file = tmp_path_factory.mktemp("p") / "predictions-test.csv"
    n = len(probabilities)
    before = Predictions((name,) * n, np.arange(n, dtype=np.int64) % 3, probabilities, tuple(classes))
    before.save(file)
    for after in (Predictions.load(file, classes), Predictions.load(file)):
        assert (after.paths, after.classes) == (before.paths, before.classes)
        assert after.probabilities.tobytes() == before.probabilities.tobytes()
        assert np.array_equal(after.truth, before.truth)


def test_a_name_that_is_no_utf8_is_kept(tmp_path: Path) -> None:
    name = b"part-\xff.png".decode("utf-8", "surrogateescape")
    Predictions((name,), np.array([0]), np.array([[1, 0]], np.float32), ("a", "b")).save(tmp_path / "p.csv")
    assert Predictions.load(tmp_path / "p.csv").paths == (name,)


def test_columns_are_the_ones_scripts_rely_on(tmp_path: Path) -> None:
    make([[0.25, 0.5, 0.25]], [0]).save(tmp_path / "p.csv")
    lines = (tmp_path / "p.csv").read_bytes().decode().split("\n")
    assert lines[0] == 'path,truth,label,probability,p:ok,"p:scratch, deep",p:1e3'
    assert lines[1] == 'part/0.png,ok,"scratch, deep",0.5,0.25,0.5,0.25'


@pytest.mark.parametrize(
    ("probabilities", "truth", "message"),
    [
        ([], [], "at least one"),
        ([[0.5, 0.5]], [0], r"probabilities \[1, 3\]"),
        ([[0.5, 0.5, 0.0]], [3], "truth outside"),
        ([[0.5, 0.5, 0.0]], [-1], "truth outside"),
        ([[0.5, float("nan"), 0.0]], [0], "outside 0..1"),
        ([[0.5, 1.5, 0.0]], [0], "outside 0..1"),
    ],
)
def test_refuses_what_does_not_fit(probabilities: list[list[float]], truth: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(probabilities, truth)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("path,truth,label,probability,p:a,p:b\n", "no images"),
        ("path,label\n", "not those of the classes"),
        ("path,truth,label,probability,p:a,p:b\nx,a,a,1\n", "row 2 has 4 fields, expected 6"),
        ("path,truth,label,probability,p:a,p:b\nx,c,a,1,1,0\n", "unknown class 'c'"),
        ("path,truth,label,probability,p:a,p:b\nx,a,a,1,one,0\n", "could not convert"),
    ],
)
def test_a_damaged_file_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "predictions-val.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=message) as caught:
        Predictions.load(file, ("a", "b"))
    assert str(file) in caught.value.message


def test_other_classes_are_refused(tmp_path: Path) -> None:
    make([[0.25, 0.5, 0.25]], [0]).save(tmp_path / "p.csv")
    with pytest.raises(RunError, match="not those of the classes a, b, c"):
        Predictions.load(tmp_path / "p.csv", ("a", "b", "c"))
    with pytest.raises(RunError, match=r"none\.csv: cannot be read"):
        Predictions.load(tmp_path / "none.csv", CLASSES)
