from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cvtune.errors import RunError
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.robustness import Spoilt
from cvtune.evaluation.slices import Slice
from cvtune.evaluation.studies import Alike, Explained, Foreign, NoveltyStudy, Studies

STUDIES = Studies(
    "folds",
    NoveltyStudy(
        "knn", 0.5, 0.01, 120, {"knn": 0.9, "mahalanobis": 0.8}, {"dent": 0.93}, (Foreign("belt", Rate(9, 10), 0.97),)
    ),
    (Slice("folder", "line 2", Rate(3, 20), Rate(1, 80), 0.02, worse=True),),
    (Spoilt("blur", "strong", Rate(70, 100), Rate(31, 100)),),
    0.1,
    {"a.png": Explained("a.png", "dent", np.arange(6, dtype=np.uint8).reshape(2, 3), (Alike("b.png", "ok", 0.75),))},
)


def test_a_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    STUDIES.save(tmp_path / "studies.json")
    read = Studies.load(tmp_path / "studies.json")
    assert (read.side, read.novelty, read.slices, read.robustness, read.head_rank) == (
        STUDIES.side,
        STUDIES.novelty,
        STUDIES.slices,
        STUDIES.robustness,
        STUDIES.head_rank,
    )
    one = read.explained["a.png"]
    assert (one.label, one.alike) == ("dent", (Alike("b.png", "ok", 0.75),))
    assert one.heat is not None
    np.testing.assert_array_equal(one.heat, [[0, 1, 2], [3, 4, 5]])


def test_what_was_not_looked_into_is_empty(tmp_path: Path) -> None:
    Studies().save(tmp_path / "studies.json")
    read = Studies.load(tmp_path / "studies.json")
    assert (read.side, read.novelty, read.explained) == ("test", None, {})


def test_no_limit_is_no_number_in_the_file(tmp_path: Path) -> None:
    Studies(novelty=NoveltyStudy("knn", math.inf, 0.1, 3)).save(tmp_path / "studies.json")
    assert json.loads((tmp_path / "studies.json").read_text())["novelty"]["limit"] is None
    read = Studies.load(tmp_path / "studies.json").novelty
    assert read is not None
    assert read.limit == math.inf


@pytest.mark.parametrize(
    "change",
    [
        {"novelty": 3},
        {"slices": [{}]},
        {"explained": [{"path": "a", "label": "b", "heat": {"shape": [9], "base64": "AA=="}}]},
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "studies.json"
    STUDIES.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=r"studies\.json: damaged"):
        Studies.load(path)
