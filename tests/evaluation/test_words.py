"""What an inspector reads, word for word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cvtune.config import ObjectiveConfig
from cvtune.errors import ConfigError, RunError
from cvtune.evaluation.objective import build_objective, parse_target
from cvtune.evaluation.operating import ChosenPoint, choose_point, place
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.verdict import Inspection, Sorting, Study, count_labels
from cvtune.evaluation.words import judgements, point_line, proofs
from cvtune.rundir import read_json, write_json

STUDY = Study(Rate(58, 60), Rate(1, 18), Rate(1, 42), 0.9)
FOUND = Inspection(Rate(1, 19), Rate(2, 42), Rate(3, 61), Rate(2, 19), Rate(0, 16), {}, STUDY)


def test_the_words_of_the_factory_and_of_the_clinic() -> None:
    assert point_line(FOUND, "factory") == (
        "escape 1 of 19 (at most 22.6 % at 95 %), overkill 2 of 42 (at most 14.2 % at 95 %), REVIEW 3 of 61"
    )
    assert point_line(FOUND, "clinic") == (
        "sensitivity 18 of 19 (at least 77.4 % at 95 %, 2 of them by REVIEW), "
        "specificity 40 of 42 (at least 85.8 % at 95 %), REVIEW 3 of 61"
    )
    sorting = Sorting(Rate(24, 630), Rate(0, 630), {}, {})
    assert point_line(sorting) == "wrong 24 of 630 decided (at most 5.3 % at 95 %), REVIEW 0 of 630"


def test_targets_are_judged_by_what_was_counted() -> None:
    objective = build_objective(ObjectiveConfig(target=("escape<=1%", "overkill<=20%")), ("ok", "dent"))
    assert proofs(objective.targets, FOUND) == (
        "1 of 19 escapes: at most 22.6 % (95 % sure); escape<=1% is missed",
        "2 of 42 good images rejected: at most 14.2 % (95 % sure); overkill<=20% is proven",
    )
    assert judgements(objective.targets, FOUND) == ("escape<=1% is missed", "overkill<=20% is proven")
    few = tuple(map(parse_target, ("sensitivity>=94%", "specificity>=80%")))
    assert judgements(few, FOUND, "clinic") == (
        "sensitivity>=94% is not proven: 49 positive images without a mistake would prove it",
        "specificity>=80% is proven",
    )
    plain = build_objective(ObjectiveConfig(target=("error<=1%",), ok=()), ("ok", "dent"))
    (told,) = proofs(plain.targets, Sorting(Rate(0, 100), Rate(0, 100), {}, {}))
    assert told.endswith("error<=1% is not proven: 299 decided images without a mistake would prove it")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": ("escape<=1%", "escape<=2%")}, "two targets for escape"),
        ({"target": ("error<=1%",)}, "a class is good, so that the figures are escape and overkill"),
        ({"target": ("escape<=1%",), "ok": ()}, "no class is known to be good, so that the figures are error"),
        ({"targets": {"crack": "escape<=1%"}}, "expected a class that is not good"),
        ({"targets": {"dent": "overkill<=1%"}}, "expected a class that is not good"),
        ({"targets": {"ok": "escape<=1%"}}, "expected a class that is not good"),
        ({"costs": {"escape": 10, "overkill": 1}, "target": ("escape<=1%",)}, "in place of targets"),
        ({"costs": {"escape": 10, "overkill": 1}, "ok": ()}, "need good classes"),
        ({"costs": {"escape": {"crack": 10}, "overkill": 1}}, "no class crack; there are ok, dent"),
        ({"ok": ("okay",)}, "there is no such class"),
    ],
)
def test_what_says_nothing_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_objective(ObjectiveConfig.model_validate(settings), ("ok", "dent"))


def test_labels_are_counted_over_all_and_one_by_one() -> None:
    truth = np.array([[True, False], [True, True], [False, False]])
    found = count_labels(np.array([[1, 1], [0, -1], [-1, 0]]), truth, ("rust", "crack"))
    assert (found.escapes, found.overkill, found.review) == (Rate(1, 3), Rate(1, 3), Rate(2, 6))
    assert found.by_label["rust"].escapes == Rate(1, 2)
    assert found.to_json()["by_label"]["crack"]["review_defects"]["k"] == 1
    with pytest.raises(ConfigError, match="several labels"):
        build_objective(ObjectiveConfig(ok=("rust",)), ("rust", "crack"), several=True)


def test_an_operating_point_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "operating_point.json"
    objective = build_objective(ObjectiveConfig(review_rate=0.2), ("dent", "ok"))
    probabilities = np.random.default_rng(0).dirichlet([1, 1], 50).astype(np.float32)
    truth = (probabilities[:, 1] > 0.5).astype(np.int64)
    chosen = choose_point(objective, probabilities, truth, "clinic")
    chosen.save(path)
    facts, loaded = read_json(path), ChosenPoint.load(path)
    assert loaded == chosen
    assert loaded.limits == place(objective, probabilities, truth).point
    assert (facts["ok"], facts["guessed"], facts["chosen_on"]) == (["ok"], True, 50)
    write_json(path, {**facts, "accept": {}})
    with pytest.raises(RunError, match="not an operating point"):
        ChosenPoint.load(path)
