"""The plan of training: probe, tail, all. A generator, so that each better model can be exported before the next."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Final

import numpy as np
import torch

from cvtune.config import StageConfig
from cvtune.models.backbone import Backbone
from cvtune.models.engine import Frozen
from cvtune.models.features import embed
from cvtune.models.head import Classifier
from cvtune.models.normalize import to_tensor
from cvtune.training.activations import room
from cvtune.training.costs import measure_groups
from cvtune.training.cuts import LOOKS_AFTER, Cut, CutPlan, Limits, look_seconds, plan_cuts
from cvtune.training.hardware import device_of, has_fast_bfloat16
from cvtune.training.module import STRIDE, mean_area
from cvtune.training.probe import ProbeFit, fit_probe
from cvtune.training.session import Answers, Choices, Floats, Ints, Plan, Recipe, Session, StageResult
from cvtune.training.stage import LOOKED_AT, new_candidate, new_tuner, run_stage, stage_data, superseded
from cvtune.training.trials import FACTORS, StepCost, fitting_batch, probe_rates, sprint, step_cost
from cvtune.training.views import Interrupted, storage_of

_SPRINT: Final = 40  # steps of a short run for the learning rate,
_SPRINTS: Final = 24  # and at most a twenty-fourth of those of the stage
_FEW: Final = 2000  # images
_NOMINAL: Final = 300.0  # seconds at least for the tail of few images where no budget is given,
_PASSES: Final = 25  # or so many passes of the network over them
_LARGE_FOLDER: Final = 20_000  # images on the training side; from there on more of them get more steps
_FIRST_SIDE: Final = 0.7  # of the side, in the first steps of live training: half the pixels
_LARGE: Final = 128  # pixels, from which on that is worth it
_ENOUGH: Final = 300  # images that are all right, after which less than 1 % is left to gain (rule of three)
_HOPELESS: Final = 0.5  # of a pass over the images, by estimate: with less time left a step is not even timed
_SHARE: Final = 0.85  # of the time that is left is planned with; the rest is for what was not foreseen


def stages(session: Session) -> Iterator[StageResult]:
    """Run the stages one by one; one that is not better on the validation side is undone.

    Yields:
        The result of each stage. Between two of them `session.classifier` is the best model so far, in eval mode.
    """
    probe = run_probe(session)
    session.score = probe.score
    yield from _shown(session, probe)
    gained: list[bool] = []
    try:
        for name, stage, plan in _plans(session) if session.recipe is None else _repeated(session, session.recipe):
            if session.stop:
                return
            if reason := _why_not(session, name, stage, gained):
                session.left_out(name, reason)
                continue
            chosen = plan()
            if not chosen.steps:
                session.left_out(name, "the time that is left is too short for one pass over the images")
                continue
            result = run_stage(session, name, stage, chosen)
            gained.append(result.kept)
            yield from _shown(session, result)
    except Interrupted:
        return
    finally:
        if not session.keep_views:
            session.views.forget()


def _shown(session: Session, result: StageResult) -> Iterator[StageResult]:
    """Yield a result; exporting it costs about as much the next time."""
    started = time.monotonic()
    session.results.append(result)
    yield result
    if result.plan is None:  # of the probe, whose embeddings are known
        session.exporting = time.monotonic() - started


_Next = tuple[str, StageConfig, Callable[[], Plan]]  # a stage's name, its settings, and how what it needs is chosen


def _repeated(session: Session, recipe: Mapping[str, Recipe]) -> Iterator[_Next]:
    """The stages of a recipe."""
    train = session.config.train
    for name, known in recipe.items():
        stage = train.all if known.plan.first_group == 0 else train.tail
        yield name, stage, partial(_planned, session, name, known.plan)
    for name in sorted({"tail", "all"} - {name.partition("-")[0] for name in recipe}, reverse=True):
        session.left_out(name, "not worth it in the folds")


def _plans(session: Session) -> Iterator[_Next]:
    """The stages that may follow the probe."""
    train, groups = session.config.train, len(session.classifier.backbone.groups)
    asked = len(session.material.val)
    if session.deadline == math.inf and session.score >= 1 and asked >= _ENOUGH:
        for name in ("tail", "all"):
            session.left_out(name, f"the probe is right on all {asked} images: no gain could be seen")
        return
    an_image = 0.0
    if groups > 1 and train.tail.steps:
        found = _cuts(session)
        an_image = sum(group.train for group in found.costs.groups)
        for turn, cut in enumerate(found.cuts):
            name = "tail" if turn == 0 else f"tail-{turn + 1}"
            yield name, train.tail, partial(_tail_plan, session, name, cut, found.costs.frozen)
    elif groups > 1:
        session.left_out("tail", "no steps are asked for")
    for turn in range(train.all.rounds):
        name = f"all-{turn + 1}" if turn else "all"
        yield name, train.all, partial(_all_plan, session, name, an_image, 0.5**turn)
        last = session.results[-1]
        if last.name != name or not last.kept:
            return


def _why_not(session: Session, name: str, stage: StageConfig, gained: Sequence[bool]) -> str:
    if session.recipe is not None or (session.ledger and name in session.ledger.names):
        return ""
    if not stage.steps:
        return "no steps are asked for"
    # A deeper cut may gain what a shallow one does not; where no cut gained anything, live training will not either.
    if name == "all" and gained and not any(gained):
        return "the tail gained nothing"
    if name == "all" and any(gained) and session.keep_views and session.config.train.final_fit == "auto":
        return "its time is for the final fit, on more images"
    return "the budget is used up" if session.seconds <= 0 else ""


def _cuts(session: Session) -> CutPlan:
    """Where the frozen part ends in each stage of the tail, from what the layers cost on this machine."""

    def measure() -> Choices:
        material, train = session.material, session.config.train
        pixels = material.pixels.batch(material.train[: train.batch_size])
        costs = measure_groups(
            session.classifier,
            session.normalize,
            to_tensor(pixels),
            bfloat16=_bfloat16(),
            frozen_depthwise=train.tail.depthwise == "frozen",
            transform=session.views.transform,
            window=material.window,
        )
        session.answer = costs.answer
        limits = Limits(
            images=len(material.train),
            val_images=len(material.val),
            batch_size=train.batch_size,
            seconds=_allowance(session, sum(group.forward for group in costs.groups)),
            disk=room(session.views.folder),
            storage=storage_of(costs.frozen),
            viewed=len(session.views.rows),
            plain=len(session.views.rows),
            trial_steps=len(FACTORS) * _SPRINT,
            trial_share=len(FACTORS) / _SPRINTS,
            gap=max(0.0, 1 - session.score),
        )
        groups = len(session.classifier.backbone.groups)
        asked = None if train.cut is None else min(groups - 1, max(1, round(train.cut * groups)))
        return plan_cuts(costs, limits, group=asked).to_json()

    plan = CutPlan.from_json(session.choose("cuts", measure))
    session.answer = plan.costs.answer
    session.told("cuts", plan.reason)
    return plan


def _planned(session: Session, name: str, known: Plan) -> Plan:
    session.planned(name, asdict(known))
    return known


def _allowance(session: Session, forward: float) -> float:
    """Seconds that the tail may take: what is left of the budget, or what is worth waiting for where there is none.

    Args:
        session: with the deadline.
        forward: seconds an image; a slow machine gets the time that it needs for the same.
    """
    if session.deadline < math.inf:
        return max(0.0, _SHARE * session.seconds)
    return max(_NOMINAL, _PASSES * _FEW * forward) * max(1.0, len(session.material.train) / _FEW)


def _tail_plan(session: Session, name: str, cut: Cut, frozen: Frozen) -> Plan:
    train = session.config.train
    plan = Plan(
        first_group=cut.group,
        steps=min(cut.steps, train.tail.steps),
        batch_size=train.batch_size,
        learning_rate=train.tail.learning_rate,
        views=cut.slots,
        every=cut.every,
        frozen=frozen,
    )

    def measure() -> Choices:
        half = _cost(session, name, train.tail, plan).half
        return asdict(_with_rate(session, name, train.tail, replace(plan, half=half)))

    return Plan(**session.choose(name, measure))


def _cost(session: Session, name: str, stage: StageConfig, plan: Plan) -> StepCost:
    """Of a step of the stage, timed on its own images."""
    tuner = new_tuner(session, new_candidate(session), stage, plan)
    cost = step_cost(tuner, stage_data(session, plan), bfloat16=_bfloat16())
    session.told(name, str(cost))
    return cost


def _bfloat16() -> bool:
    return has_fast_bfloat16() and device_of() == "cpu"


def _with_rate(session: Session, name: str, stage: StageConfig, plan: Plan) -> Plan:
    """The plan with the learning rate that a few short runs on the cache found."""
    steps = min(_SPRINT, math.ceil(plan.steps / _SPRINTS))
    short, candidate = replace(plan, steps=steps), new_candidate(session)

    def run(rate: float) -> float:
        tried = replace(short, learning_rate=rate)
        tuner = new_tuner(session, candidate, stage, tried)
        loss = sprint(tuner, stage_data(session, tried), stop=lambda: bool(session.stop))
        if session.stop:
            raise Interrupted
        return loss

    found = probe_rates(run, stage.learning_rate)
    session.told(name, str(found))
    return replace(plan, learning_rate=found.rate)


def _all_plan(session: Session, name: str, an_image: float, share: float) -> Plan:
    """Live training for as many steps as there is time for.

    Args:
        session: the run's.
        name: of the stage.
        an_image: roughly the seconds of one, 0 if unknown.
        share: of the learning rate.
    """
    train, images = session.config.train, len(session.material.train)
    steps = round(train.all.steps * max(1.0, images / _LARGE_FOLDER))
    nominal = Plan(0, steps, train.batch_size, share * train.all.learning_rate)

    def measure() -> Choices:
        looks = look_seconds(LOOKS_AFTER, min(LOOKED_AT, len(session.material.val)), an_image)
        if _HOPELESS * images * an_image > session.seconds - looks:
            return asdict(replace(nominal, steps=0))
        plan = _fitting(session, train.all, nominal)
        cost, full = _cost(session, name, train.all, plan), session.classifier.backbone.size
        small = _small(session.classifier.backbone) if share == 1 else 0
        seconds = cost.seconds * (mean_area(plan.steps, small=small, full=full) if small else 1)
        affordable = plan.steps if session.deadline == math.inf else int(_SHARE * (session.seconds - looks) / seconds)
        least = min(plan.steps, images // plan.batch_size)
        steps = min(plan.steps, affordable) if affordable >= least else 0
        return asdict(replace(plan, steps=steps, half=cost.half, small=small))

    return Plan(**session.choose(name, measure))


def _fitting(session: Session, stage: StageConfig, plan: Plan) -> Plan:
    """The plan with a batch that fits into the memory of a GPU."""
    tuner = new_tuner(session, new_candidate(session), stage, plan)
    return replace(plan, batch_size=fitting_batch(tuner, stage_data(session, plan), device_of()))


def _small(backbone: Backbone) -> int:
    """Pixels with which live training begins: about 0.7 of the side; 0 where it is small already, or has to be full."""
    side = round(_FIRST_SIDE * backbone.size / STRIDE) * STRIDE
    return side if backbone.size >= _LARGE and backbone.takes(side) else 0


def run_probe(session: Session) -> StageResult:
    """Stage 0: one pass of the frozen backbone over all images, then a linear head.

    The backbone comes with taps; those that the best head has no use for are taken off.
    """
    started, material, backbone = time.monotonic(), session.material, session.classifier.backbone
    rows = np.concatenate([material.train, material.held])
    table = _embeddings(session, rows)
    at = {int(row): i for i, row in enumerate(rows)}
    fit = fit_probe(
        table[: len(material.train)],
        material.labels[material.train],
        [material.groups[row] for row in material.train],
        weights=session.loss().weights.numpy(),
        seed=session.config.seed,
        taps=backbone.tap_widths,
        flipped=None if material.mirrored is None else material.mirrored(material.train),
        known=session.probe,
    )
    session.probe = fit.plan
    session.planned("probe", {"taps": list(fit.taps), "fitted": fit.strength, **asdict(fit.plan)})
    session.told("probe", _competition(fit))
    backbone = copy.deepcopy(backbone)
    backbone.set_taps(fit.taps)
    session.views.backbone = backbone
    session.classifier = Classifier(backbone, fit.head).eval()
    own = np.ascontiguousarray(table[:, : backbone.width])
    with torch.inference_mode():
        logits = fit.head(torch.from_numpy(own)).numpy()
    held = None if superseded(session, "probe") else [at[int(row)] for row in material.held]
    session.best_val = logits[[at[int(row)] for row in material.val]]
    verdict = session.judge(session.best_val, None)
    return StageResult(
        "probe",
        True,
        verdict.reason,
        verdict.score,
        verdict.log_loss,
        time.monotonic() - started,
        steps=0,
        trainable=sum(p.numel() for p in fit.head.parameters()),
        answers=None if held is None else Answers(logits[held], own[held]),
    )


def _competition(fit: ProbeFit) -> str:
    """Which head won, and the log-losses of all."""
    rest = ", ".join(f"{name} {score:.3f}" for name, score in sorted(fit.scores.items(), key=lambda item: item[1]))
    depths = "features of several depths" if fit.taps else "the network's own features"
    return f"{fit.plan.kind} on {depths}" + (f" (cross-validated log-loss: {rest})" if rest else "")


def _embeddings(session: Session, rows: Ints) -> Floats:
    """float32 [len(rows), D] of the pretrained backbone."""
    if session.material.table is not None:
        return session.material.table[rows]
    progress = lambda done, of: session.progress("probe", done, of)  # noqa: E731
    return embed(session.classifier.backbone, session.material.pixels, session.normalize, rows, progress=progress)
