from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cvtune.models.features import embed
from cvtune.models.head import LinearHead
from cvtune.rundir import RunDir, Terminated
from cvtune.training.averaging import take
from cvtune.training.checkpoint import Ledger, Store
from cvtune.training.session import Judgement, Plan, Recipe, Session, StageResult
from cvtune.training.stage import answers
from cvtune.training.stages import stages
from cvtune.training.stop import StopRequest
from cvtune.training.trainer import Extras
from cvtune.training.trials import StepCost

MakeSession = Callable[..., Session]


def clone_state(module: nn.Module) -> dict[str, Tensor]:
    return take(module, module.state_dict())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def names(session: Session) -> list[str]:
    """Of the stages that ran, each cut of the tail counted once."""
    return list(dict.fromkeys(result.name.partition("-")[0] for result in stages(session)))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("test_resnet", ["probe", "tail", "all"]),
        ("test_vit", ["probe", "tail", "all"]),
        ("test_nfnet", ["probe", "all"]),
    ],
)
def test_a_backbone_that_cannot_be_cut_skips_the_tail(name: str, wanted: list[str], make_session: MakeSession) -> None:
    assert names(make_session(backbone=name, verdict=True)) == wanted


def test_what_is_left_out_is_said(make_session: MakeSession) -> None:
    said: list[tuple[str, str]] = []

    def note(name: str, reason: str) -> None:
        said.append((name, reason))

    names(make_session({"train.cut": 0.6}, verdict=False, left_out=note))
    names(make_session({"train.tail.steps": 0}, left_out=note, deadline=time.monotonic()))
    assert said == [
        ("all", "the tail gained nothing"),
        ("tail", "no steps are asked for"),
        ("all", "the budget is used up"),
    ]


def test_live_training_that_cannot_see_each_image_once_is_left_out(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, str]] = []
    slow = StepCost(False, 1000.0, None)
    monkeypatch.setattr("cvtune.training.stages.step_cost", lambda *a, **k: slow)
    session = make_session(
        {"train.tail.steps": 0}, left_out=lambda *told: said.append(told), deadline=time.monotonic() + 600
    )
    assert names(session) == ["probe"]
    assert said[-1] == ("all", "the time that is left is too short for one pass over the images")


def test_after_a_probe_that_is_always_right_nothing_is_trained_unless_time_is_given(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, str]] = []
    right = lambda new, old: Judgement(True, "the first", 1.0, 0.01)  # noqa: E731

    def ran(**changes: Any) -> list[str]:
        return names(make_session({"train.cut": 0.6}, judge=right, left_out=lambda *told: said.append(told), **changes))

    assert ran() == ["probe", "tail", "all"], "20 images prove too little"
    monkeypatch.setattr("cvtune.training.stages._ENOUGH", 20)
    assert ran(deadline=time.monotonic() + 600) == ["probe", "tail", "all"]
    assert said == []
    assert ran() == ["probe"]
    assert said == [(name, "the probe is right on all 20 images: no gain could be seen") for name in ("tail", "all")]


def test_where_a_final_fit_follows_it_gets_the_time_of_live_training(make_session: MakeSession) -> None:
    said: list[tuple[str, str]] = []

    def ran(flags: dict[str, Any], **changes: Any) -> list[str]:
        flags = {"train.cut": 0.6, **flags}
        return names(make_session(flags, verdict=True, left_out=lambda *told: said.append(told), **changes))

    assert ran({}, keep_views=True) == ["probe", "tail"]
    assert said == [("all", "its time is for the final fit, on more images")]
    assert ran({"train.final_fit": "all"}, keep_views=True) == ["probe", "tail", "all"]
    assert ran({}) == ["probe", "tail", "all"]
    assert ran({"train.tail.steps": 0}, keep_views=True) == ["probe", "all"]


def test_live_training_goes_on_as_long_as_it_gains(make_session: MakeSession) -> None:
    plans: dict[str, Any] = {}
    flags = {"train.tail.steps": 0, "train.all.rounds": 4, "train.all.learning_rate": 4e-4}
    session = make_session(flags, planned=plans.__setitem__)
    answers = iter([True, True, True, False])
    session.judge = lambda new, old: Judgement(next(answers), "told", 0.5, 0.5)
    results = list(stages(session))
    assert [one.name for one in results] == ["probe", "all", "all-2", "all-3"]
    assert [one.kept for one in results] == [True, True, True, False]
    assert [plans[one.name]["learning_rate"] for one in results[1:]] == [4e-4, 2e-4, 1e-4]
    assert names(make_session({**flags, "train.all.rounds": 2}, verdict=True)) == ["probe", "all"]


def test_large_folders_get_more_live_steps(make_session: MakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session({"train.tail.steps": 0})
    monkeypatch.setattr("cvtune.training.stages._LARGE_FOLDER", len(session.material.train) / 2)
    assert [one.steps for one in stages(session)] == [0, 6]


def test_a_session_with_one_cut(make_session: MakeSession) -> None:
    plans: dict[str, Any] = {}
    session = make_session({"train.cut": 0.6, "train.all.steps": 0}, verdict=True, planned=plans.__setitem__)
    probe, tail = stages(session)
    assert (probe.name, tail.name) == ("probe", "tail")
    assert tail.plan == Plan(**plans["tail"])
    assert (tail.plan.first_group, tail.plan.steps) == (3, 6)
    assert tail.plan.views >= 1
    assert [cut["group"] for cut in plans["cuts"]["cuts"]] == [3]
    assert list(session.views.folder.iterdir()) == [], "the activations are gone"


def test_a_stage_of_no_steps_is_left_out(make_session: MakeSession) -> None:
    assert names(make_session({"train.tail.steps": 0})) == ["probe", "all"]
    assert names(make_session({"train.tail.steps": 0, "train.all.steps": 0})) == ["probe"]


def test_the_probe_says_what_it_found(make_session: MakeSession) -> None:
    session = make_session({"train.tail.steps": 0, "train.all.steps": 0})
    backbone = clone_state(session.classifier.backbone)
    (probe,) = stages(session)
    assert (probe.kept, probe.steps, probe.epochs) == (True, 0, ())
    assert probe.trainable == 4 * (session.classifier.backbone.width + 1)
    assert equal(clone_state(session.classifier.backbone), backbone)
    said = answers(session, session.classifier, session.material.held)
    assert probe.answers is not None
    assert said.logits.shape == (40, 4)
    np.testing.assert_allclose(probe.answers.logits, said.logits, atol=1e-4)
    np.testing.assert_allclose(probe.answers.embeddings, said.embeddings, atol=1e-4)


def test_a_dropped_stage_leaves_no_trace(make_session: MakeSession) -> None:
    session = make_session({"train.tail.learning_rate": 0.1, "train.cut": 0.6}, verdict=False)
    running = stages(session)
    next(running)
    before = clone_state(session.classifier)
    val = session.best_val
    result = next(running)
    assert (result.kept, result.answers) == (False, None)
    assert equal(clone_state(session.classifier), before)
    assert session.best_val is val
    assert not any(module.training for module in session.classifier.modules())
    assert list(running) == [], "the stages after a dropped one are left out"


def test_a_kept_stage_takes_over(make_session: MakeSession) -> None:
    session = make_session({"train.cut": 0.6}, verdict=True)
    running = stages(session)
    next(running)
    for wanted_steps in (6, 3):
        before = clone_state(session.classifier)
        result = next(running)
        assert not equal(clone_state(session.classifier), before)
        assert not any(module.training for module in session.classifier.modules())
        held = answers(session, session.classifier, session.material.held)
        assert result.answers is not None
        assert np.allclose(result.answers.logits, held.logits, atol=1e-4)  # batches of other sizes
        assert np.allclose(result.answers.embeddings, held.embeddings, atol=1e-4)
        val = answers(session, session.classifier, session.material.val).logits
        assert session.best_val is not None
        assert np.array_equal(session.best_val, val)
        assert result.steps == wanted_steps
    total = sum(p.numel() for p in session.classifier.parameters())
    assert result.trainable == total


def test_the_tail_leaves_the_first_groups_alone(make_session: MakeSession) -> None:
    session = make_session({"train.cut": 0.6, "train.all.steps": 0}, verdict=True)
    before = clone_state(session.classifier.backbone)
    list(stages(session))
    after = clone_state(session.classifier.backbone)
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"layer3", "layer4"}


def test_the_budget_bounds_the_clock(make_session: MakeSession) -> None:
    flags = {"train.budget": 4.0, "train.tail.steps": 100_000, "train.tail.patience": 10_000}
    session = make_session(flags, deadline=time.monotonic() + 4)
    started = time.monotonic()
    found = list(stages(session))
    assert time.monotonic() - started < 10
    assert [result.name for result in found][:2] == ["probe", "tail"]
    assert 0 < found[1].steps < 100_000


def test_no_time_left_still_gives_a_probe(make_session: MakeSession) -> None:
    assert names(make_session(deadline=time.monotonic())) == ["probe"]


class Deep(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def test_the_users_head_stands_in_from_the_tail_on(make_session: MakeSession) -> None:
    session = make_session(head=Deep, verdict=True)
    heads = {result.name: type(session.classifier.head) for result in stages(session)}
    assert heads.pop("probe") is LinearHead
    assert set(heads.values()) == {Deep}


def test_a_users_head_that_is_not_better_is_dropped(make_session: MakeSession) -> None:
    session = make_session(head=Deep, verdict=False)
    assert {type(session.classifier.head) for _ in stages(session)} == {LinearHead}


def test_the_users_augmentation_sees_every_training_image(make_session: MakeSession) -> None:
    seen: list[tuple[int, ...]] = []

    def watch(*, image: np.ndarray[Any, Any]) -> dict[str, Any]:
        seen.append(image.shape)
        return {"image": image}

    session = make_session({"train.cut": 0.6}, augmentation=watch, verdict=True)
    _, tail, every = stages(session)
    assert tail.plan is not None
    views = tail.plan.views * len(session.views.rows)
    assert set(seen) == {(64, 64, 3)}
    assert len(seen) >= views + every.steps * 16


def test_a_request_between_two_stages_ends_the_plan(make_session: MakeSession) -> None:
    stop = StopRequest()
    found = []
    for result in stages(make_session(stop=stop)):
        found.append(result.name)
        stop.signum = signal.SIGINT if result.name == "tail" else None
    assert found == ["probe", "tail"]


def test_a_request_inside_a_stage_still_judges_it(make_session: MakeSession) -> None:
    stop = StopRequest()

    def progress(what: str, done: int, of: int) -> None:
        if what == "tail" and done == 2:
            stop.signum = signal.SIGINT

    flags = {"train.tail.steps": 400, "train.cut": 0.6}
    found = list(stages(make_session(flags, stop=stop, progress=progress, verdict=True)))
    assert [(result.name, result.kept, result.steps) for result in found] == [("probe", True, 0), ("tail", True, 2)]


def test_a_request_while_views_are_computed_ends_the_plan(make_session: MakeSession) -> None:
    stop = StopRequest()

    def progress(what: str, done: int, of: int) -> None:
        if what == "views":
            stop.signum = signal.SIGINT

    session = make_session(stop=stop, progress=progress, verdict=True)
    assert [result.name for result in stages(session)] == ["probe"]
    assert list(session.views.folder.iterdir()) == []


class Interruption:
    """Sends SIGTERM's flag at one moment, and keeps what a run leaves on the disk for the next one."""

    def __init__(self, make: MakeSession, root: RunDir, flags: dict[str, Any]) -> None:
        self.make, self.root, self.flags = make, root, flags
        self.plan: dict[str, Any] = {}

    def session(self, at: tuple[str, int] | None) -> Session:
        stop = StopRequest()

        def progress(what: str, done: int, of: int) -> None:
            if (what, done) == at:
                stop.signum = signal.SIGTERM

        return self.make(
            self.flags,
            verdict=True,
            stop=stop,
            progress=progress,
            replay=dict(self.plan),
            planned=self.plan.__setitem__,
            ledger=Ledger(self.root, key="k"),
            store=lambda name: Store(self.root, name, key="k"),
        )


@pytest.mark.parametrize("at", [("tail", 1), ("tail", 5), ("tail", 6), ("all", 1), ("all", 3)])
def test_a_run_goes_on_and_ends_in_the_same_bytes(
    at: tuple[str, int], make_session: MakeSession, tmp_path: Path
) -> None:
    flags = {"train.cut": 0.6}
    plan: dict[str, Any] = {}
    whole = make_session(flags, verdict=True, planned=plan.__setitem__)
    wanted = list(stages(whole))
    parts = Interruption(make_session, RunDir(tmp_path / "run"), flags)
    parts.plan = plan
    killed, done = parts.session(at), list[str]()
    with pytest.raises(Terminated):
        done.extend(result.name for result in stages(killed))
    again = parts.session(None)
    found = list(stages(again))
    assert done == [] or found[0].name == "probe"
    assert equal(clone_state(again.classifier), clone_state(whole.classifier))
    assert [without_clock(one) for one in found] == [without_clock(one) for one in wanted]
    for one, other in zip(found[-1:], wanted[-1:], strict=True):
        assert one.answers is not None
        assert other.answers is not None
        assert np.array_equal(one.answers.logits, other.answers.logits)
        assert np.array_equal(one.answers.embeddings, other.answers.embeddings)


def without_clock(result: StageResult) -> StageResult:
    rows = tuple(replace(row, train_loss=0) for row in result.epochs)
    return replace(result, seconds=0, epochs=rows, answers=None)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_two_sessions_with_one_plan_give_the_same_bytes(make_session: MakeSession) -> None:
    plan: dict[str, Any] = {}
    states = []
    for workers in (0, 0, 2):
        session = make_session(
            {"train.workers": workers},
            backbone="test_efficientnet",
            verdict=True,
            replay=dict(plan),
            planned=plan.__setitem__,
        )
        list(stages(session))
        states.append(clone_state(session.classifier))
        torch.rand(5)
    assert equal(states[0], states[1])
    assert equal(states[0], states[2])


def test_the_seed_matters(make_session: MakeSession) -> None:
    states = []
    for seed in (0, 1):
        session = make_session({"seed": seed, "train.all.steps": 0}, verdict=True)
        list(stages(session))
        states.append(clone_state(session.classifier))
    assert not equal(*states)


def test_what_the_clock_chose_is_written_first_and_can_be_repeated(make_session: MakeSession) -> None:
    flags = {"train.cut": 0.6, "train.all.steps": 0}
    plan: dict[str, Any] = {}
    running = stages(make_session(flags, planned=plan.__setitem__))
    next(running)
    assert set(plan) == {"probe"}
    list(running)
    assert set(plan) == {"probe", "cuts", "tail"}
    wanted = plan | {"tail": {**plan["tail"], "steps": 5}}
    again: dict[str, Any] = {}
    *_, tail = stages(make_session(flags, replay=wanted, planned=again.__setitem__))
    assert (again["tail"]["steps"], tail.steps) == (5, 5)


@pytest.mark.parametrize(("mode", "rare"), [("auto", 2.005), ("none", 1.0)])
def test_rare_classes_weigh_more_unless_switched_off(mode: str, rare: float, make_session: MakeSession) -> None:
    session = make_session({"train.class_weights": mode, "train.all.steps": 0})
    m = session.material
    first = np.flatnonzero(m.labels[m.train] == 0)
    session.material = replace(m, train=np.delete(m.train, first[3:]))  # 3 of class 0, 14 of the others
    seen: list[Tensor] = []

    class Watch(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            seen.append(pl_module.loss.weights)

    session.extras = Extras((Watch(),))
    list(stages(session))
    assert seen[0].tolist() == pytest.approx([rare, *[(45 - 3 * rare) / 42] * 3], rel=0.02)


def test_a_recipe_is_followed_to_the_step_without_a_validation_side(make_session: MakeSession) -> None:
    plain = make_session()
    everything = np.arange(len(plain.material.labels))
    material = replace(plain.material, train=everything, val=everything[:0], held=everything)
    always = lambda new, old: Judgement(True, "as in the folds", 0.5, 0.5)  # noqa: E731
    said: list[tuple[str, str]] = []
    session = make_session(
        verdict=None,
        material=material,
        judge=always,
        left_out=lambda name, reason: said.append((name, reason)),
        recipe={"tail": Recipe(Plan(3, 12, 16, 1e-3, views=2), 7)},
    )
    results = list(stages(session))
    assert [(one.name, one.steps, one.kept) for one in results] == [("probe", 0, True), ("tail", 7, True)]
    assert results[1].best_step == 7
    assert results[1].answers is not None
    assert results[1].answers.logits.shape == (96, 4)
    assert said == [("all", "not worth it in the folds")]


def test_embeddings_that_are_known_are_not_computed_again(make_session: MakeSession) -> None:
    only_probe = {"train.tail.steps": 0, "train.all.steps": 0}
    plain = make_session(only_probe)
    rows = np.arange(len(plain.material.labels))
    table = embed(plain.classifier.backbone, plain.material.pixels, plain.normalize, rows)
    told: list[str] = []
    session = make_session(
        only_probe,
        classifier=copy.deepcopy(plain.classifier),
        material=replace(plain.material, table=table),
        progress=lambda what, done, of: told.append(what),
    )
    (first,), (second,) = list(stages(plain)), list(stages(session))
    assert "probe" not in told
    assert first.answers is not None
    assert second.answers is not None
    assert np.allclose(first.answers.logits, second.answers.logits, atol=1e-4)  # batches of other sizes


def test_several_labels_an_image_train_with_sigmoids(make_session: MakeSession) -> None:
    plain = make_session()
    labels = plain.material.labels
    several = np.stack([labels == 0, labels >= 2, labels % 2 == 0, labels == 3], axis=1)
    always = lambda new, old: Judgement(True, "the first", 0.5, 0.5)  # noqa: E731
    session = make_session({"train.cut": 0.6}, material=replace(plain.material, labels=several), judge=always)
    results = list(stages(session))
    assert [one.name for one in results] == ["probe", "tail", "all"]
    assert all(np.isfinite(epoch.val_loss) and 0 <= epoch.val_balanced_accuracy <= 1 for epoch in results[1].epochs)
