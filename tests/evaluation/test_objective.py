"""What the user wants, as it is said."""

from __future__ import annotations

import pytest

from cvtune.errors import ConfigError
from cvtune.evaluation.objective import Costs, Objective, Target, good_classes, parse_target


@pytest.mark.parametrize(
    ("text", "aim", "share"),
    [
        ("escape<=0.5%", "escape", 0.005),
        ("escapes <= 0.005", "escape", 0.005),
        (" Overkill<2 % ", "overkill", 0.02),
        ("error=1%", "error", 0.01),
        ("sensitivity>=99.5%", "escape", 0.005),
        ("specificity>=0.98", "overkill", 0.02),
        ("accuracy>=99%", "error", 0.01),
    ],
)
def test_targets(text: str, aim: str, share: float) -> None:
    found = parse_target(text)
    assert found.aim == aim
    assert found.share == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("escpae<=1%", "did you mean escape"),
        ("sensitivity<=1%", "for example"),
        ("escape>=1%", "for example"),
        ("escape<=0%", "for example"),
        ("escape<=100%", "for example"),
        ("escape<=1.2.3%", "for example"),
        ("1%", "for example"),
        ("", "for example"),
    ],
)
def test_no_targets(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target(text)
    assert f"target '{text}'" in str(caught.value)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(("share", "needed"), [(0.005, 598), (0.01, 299), (0.05, 59), (0.5, 5)])
def test_how_many_images_would_prove_it(share: float, needed: int) -> None:
    """The rule of three, exactly: 0 of n proves 1 - 0.05 ** (1 / n)."""
    assert Target("escape", share).needed == needed
    assert 1 - 0.05 ** (1 / needed) <= share < 1 - 0.05 ** (1 / (needed - 1))


def test_good_classes_are_guessed_from_their_names() -> None:
    assert good_classes(["dent", "I.O.", "ok"], None) == ((1, 2), True)
    assert good_classes(["PNEUMONIA", "NORMAL"], None) == ((1,), True)
    assert good_classes(["00_speed_20", "01_speed_30"], None) == ((), False)
    assert good_classes(["ok", "good"], None) == ((), False)


def test_good_classes_are_those_that_are_asked_for() -> None:
    assert good_classes(["a", "b", "c"], ["c", "a"]) == ((0, 2), False)
    assert good_classes(["ok", "dent"], []) == ((), False)
    with pytest.raises(ConfigError, match="--ok functinal: there is no such class") as caught:
        good_classes(["functional", "defective"], ["functinal"])
    assert caught.value.hint == "did you mean functional?"
    with pytest.raises(ConfigError, match="every class"):
        good_classes(["a", "b"], ["a", "b"])


def test_costs() -> None:
    costs = Costs({"crack": 100, "": 10}, 1, 0.3)
    assert [costs.of(name) for name in ("crack", "dent")] == [100, 10]
    assert Costs({"crack": 100}, 1).of("dent") == 100
    for wrong in (
        {"escape": {}, "overkill": 1},
        {"escape": {"": 0}, "overkill": 1},
        {"escape": {"": 1}, "overkill": -1},
    ):
        with pytest.raises(ConfigError, match="expected positive numbers"):
            Costs(**wrong)  # type: ignore[arg-type]


def test_an_objective_knows_its_parts() -> None:
    objective = Objective(("a", "ok", "b"), (1,), targets=(parse_target("escape<=1%"),))
    assert objective.defects == (0, 2)
    assert str(objective.target("escape")) == "escape<=1%"
    assert objective.target("overkill") is None
