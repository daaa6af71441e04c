"""Where the limits go: the targets are met on the images they are chosen on, and in the mean on those to come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cvtune_edge.decision import NEVER, REVIEW
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtune.evaluation.objective import Costs, Objective, Target, parse_target
from cvtune.evaluation.operating import allowed, by_cost, place
from cvtune.evaluation.rates import Rate

CLASSES = ("ok", "bad")


def objective(*targets: str, classes: tuple[str, ...] = CLASSES, ok: tuple[int, ...] = (0,), **more: Any) -> Objective:
    return Objective(classes, ok, targets=tuple(map(parse_target, targets)), **more)


def drawn(n: int, seed: int = 0, *, gap: float = 3.0) -> tuple[Any, Any]:
    """Probabilities float32 [n, 2] of two overlapping classes, a third of them defective, and the truth."""
    dice = np.random.default_rng(seed)
    truth = (dice.random(n) < 1 / 3).astype(np.int64)
    bad = 1 / (1 + np.exp(-(dice.normal(size=n) * 1.5 + gap * (truth - 0.5))))
    return np.stack([1 - bad, bad], axis=1).astype(np.float32), truth


def counts(decisions: Any, truth: Any) -> tuple[int, int, int]:
    """Escapes, good ones rejected, and those for a person."""
    escapes, overkill = ((truth == 1) & (decisions == 0)).sum(), ((truth == 0) & (decisions == 1)).sum()
    return int(escapes), int(overkill), int((decisions == REVIEW).sum())


@given(n=st.integers(1, 2000), share=st.floats(0.001, 0.5), proven=st.booleans())
@settings(deadline=None)
def test_as_many_as_allowed_and_not_one_more(n: int, share: float, proven: bool) -> None:
    few = allowed(Target("escape", share), n, proven=proven)

    def holds(k: int) -> bool:
        return Rate(k, n).at_most <= share if proven else (k + 1) / (n + 1) <= share

    assert (few is None) == (not holds(0))
    if few is not None:
        assert holds(few)
        assert few == n - 1 or not holds(few + 1)


@pytest.mark.parametrize("text", ["escape<=5%", "overkill<=5%"])
@pytest.mark.parametrize("proven", [False, True])
def test_a_target_is_used_up_where_the_limit_is_chosen(text: str, proven: bool) -> None:
    probabilities, truth = drawn(900)
    placed = place(objective(text, proven=proven), probabilities, truth)
    escapes, overkill, review = counts(placed.point.decide(probabilities), truth)
    kind, n = (escapes, (truth == 1).sum()) if text.startswith("escape") else (overkill, (truth == 0).sum())
    assert kind == allowed(parse_target(text), int(n), proven=proven)
    assert kind > 0
    assert review == 0
    assert text in placed.notes[0]


def test_the_rate_is_kept_in_the_mean_and_the_bound_nineteen_times_in_twenty() -> None:
    """Four hundred small sides; the limit never sees the images it is judged by."""
    wanted, proven = parse_target("escape<=10%"), []
    rates = []
    for seed in range(400):
        probabilities, truth = drawn(240, seed)
        new, real = drawn(20_000, 10_000 + seed)
        point = place(objective("escape<=10%"), probabilities, truth).point
        few, defects = allowed(wanted, int((truth == 1).sum()), proven=False), int((truth == 1).sum())
        rate = counts(point.decide(new), real)[0] / (real == 1).sum()
        rates.append(rate)
        proven.append(rate <= Rate(few or 0, defects).at_most)
    assert np.mean(rates) <= 0.10 + 2 * np.std(rates) / 20
    assert np.mean(rates) >= 0.08, "a limit that is too careful rejects good parts"
    assert np.mean(proven) >= 0.93


def test_what_cannot_be_shown_is_said() -> None:
    probabilities, truth = drawn(90)
    n = int((truth == 1).sum())
    placed = place(objective("escape<=0.5%"), probabilities, truth)
    assert counts(placed.point.decide(probabilities), truth)[0] == 0
    assert f"beyond what {n} defective images can show" in placed.notes[0]
    assert "598 without an escape would prove it" in placed.notes[0]


def test_what_has_to_be_proven_and_cannot_goes_to_a_person() -> None:
    probabilities, truth = drawn(90)
    placed = place(objective("escape<=0.5%", proven=True), probabilities, truth)
    decisions = placed.point.decide(probabilities)
    assert not (decisions == 0).any(), "nothing is OK"
    assert (decisions == 1).any()
    assert (decisions == REVIEW).any()
    assert "no image is OK without a look" in placed.notes[0]
    both = place(objective("escape<=5%", "overkill<=0.1%", proven=True), probabilities, truth)
    assert both.point.reject == (NEVER, NEVER)


def test_two_targets_leave_the_rest_to_a_person() -> None:
    probabilities, truth = drawn(900, gap=5.0)
    placed = place(objective("escape<=1%", "overkill<=1%"), probabilities, truth)
    escapes, overkill, review = counts(placed.point.decide(probabilities), truth)
    assert escapes <= 0.01 * (truth == 1).sum()
    assert overkill <= 0.01 * (truth == 0).sum()
    assert 0.1 < review / 900 < 0.6
    easy, truth = drawn(900, gap=20.0)
    assert counts(place(objective("escape<=1%", "overkill<=1%"), easy, truth).point.decide(easy), truth)[2] == 0


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_share_for_review_is_that_share(share: float) -> None:
    probabilities, truth = drawn(900)
    plain = counts(place(objective(), probabilities, truth).point.decide(probabilities), truth)
    looked = counts(place(objective(review=share), probabilities, truth).point.decide(probabilities), truth)
    assert looked[2] / 900 == pytest.approx(share, abs=0.005)
    assert looked[0] < plain[0]
    assert looked[1] < plain[1]


def test_without_a_target_the_likelier_one_it_is() -> None:
    probabilities, truth = drawn(100)
    decisions = place(objective(), probabilities, truth).point.decide(probabilities)
    assert decisions.tolist() == (probabilities[:, 1].astype(float) >= 0.5).astype(int).tolist()


def test_limits_lie_between_scores() -> None:
    """An answer that is computed a hair's breadth otherwise on the line is decided alike."""
    probabilities, truth = drawn(300)
    point = place(objective("escape<=3%"), probabilities, truth).point
    away = np.abs(probabilities[:, 1].astype(float) - point.reject[1]).min()
    neighbours = np.diff(np.sort(probabilities[:, 1].astype(float)))
    assert away > np.quantile(neighbours, 0.01) / 3


def three(n: int) -> tuple[Any, Any]:
    """ok, scratch, and a dent that looks like a scratch or like nothing."""
    dice = np.random.default_rng(1)
    truth = dice.integers(0, 3, n)
    logits = dice.normal(size=(n, 3)) + 2.5 * np.eye(3)[truth]
    logits[truth == 2] = dice.normal(size=((truth == 2).sum(), 3)) + np.array([1.2, 1.0, 1.2])
    e = np.exp(logits)
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32), truth


def test_a_class_can_have_a_target_of_its_own() -> None:
    probabilities, truth = three(600)
    classes = ("ok", "scratch", "dent")
    plain = place(objective("escape<=10%", classes=classes), probabilities, truth).point.decide(probabilities)
    own = objective("escape<=10%", classes=classes, own={2: parse_target("escape<=1%")})
    placed = place(own, probabilities, truth)
    strict, dents = placed.point.decide(probabilities), truth == 2
    assert (plain[dents] == 0).sum() > 10
    assert (strict[dents] == 0).sum() <= 0.01 * dents.sum()
    assert (strict == REVIEW).sum() == 0
    assert any("dent escape<=1%" in note for note in placed.notes)


def test_costs_decide_as_the_cheapest_decision_would() -> None:
    """Chow's rule, against every decision's expected cost on a fine grid."""
    wanted = objective(costs=Costs({"": 20.0}, 1.0, 0.3))
    accept, reject = by_cost(wanted, wanted.costs or Costs({"": 1}, 1))
    p = np.linspace(0.0005, 0.9995, 1000)
    expected = np.stack([20 * p, 1 - p, np.full_like(p, 0.3)]).argmin(axis=0)
    found = np.where(p < accept[1], 0, np.where(p >= reject[1], 1, 2))
    assert (expected == found).all()
    assert set(found) == {0, 1, 2}
    dear = by_cost(wanted, Costs({"": 20.0}, 1.0, 0.99))  # a look that costs more than it saves
    assert dear[0] == pytest.approx(1 / 21)
    assert (dear[0] == dear[1]).all()


def test_without_good_classes_the_least_sure_go_to_review() -> None:
    probabilities, truth = three(600)
    wanted = objective("error<=5%", classes=("a", "b", "c"), ok=())
    decisions = place(wanted, probabilities, truth).point.decide(probabilities)
    decided = decisions != REVIEW
    assert 0.2 < decided.mean() < 0.9
    assert (decisions[decided] != truth[decided]).mean() <= 0.05
    share = place(objective(classes=("a", "b", "c"), ok=(), review=0.1), probabilities, truth).point
    assert (share.decide(probabilities) == REVIEW).mean() == pytest.approx(0.1, abs=0.005)
    everything = place(objective(classes=("a", "b", "c"), ok=()), probabilities, truth).point
    assert (everything.decide(probabilities) == probabilities.argmax(axis=1)).all()


def test_each_label_gets_limits_of_its_own() -> None:
    dice = np.random.default_rng(2)
    truth = dice.random((400, 2)) < 0.4
    logits = dice.normal(size=(400, 2)) * [1, 2] + np.where(truth, [2, 1], [-2, -1])
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    wanted = Objective(("rust", "crack"), targets=(parse_target("escape<=5%"), parse_target("overkill<=5%")))
    placed = place(wanted, probabilities, truth)
    decisions = placed.point.decide(probabilities)
    for label in range(2):
        own, has = decisions[:, label], truth[:, label]
        assert (own[has] == 0).mean() <= 0.05
        assert (own[~has] == 1).mean() <= 0.05
    assert (decisions[:, 1] == REVIEW).mean() > (decisions[:, 0] == REVIEW).mean()
    assert placed.notes[0].startswith("rust: ")


def test_shapes_are_checked() -> None:
    probabilities, truth = drawn(10)
    with pytest.raises(ValueError, match=r"\[10, 2\] of 9 images"):
        place(objective(), probabilities, truth[:9])
