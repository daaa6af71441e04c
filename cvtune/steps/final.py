"""The final fit: on small folders, what was chosen on the sides is repeated on all images but the test ones.

Folds of the same recipe answer for each of these images by a model that has not seen it: those answers calibrate the
final model and are its figures beside those of the test side, since no image is held back for it. Where a budget is
too short for folds, the model that was chosen stands in for them: it has not seen the images of val and calib.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from cvtune.data.split import Leaks, Split, held_out, leaks
from cvtune.evaluation.novelty import Trial
from cvtune.evaluation.task import task_of, told
from cvtune.models.head import Classifier, LinearHead
from cvtune.steps.folds import answers_of, fold_facts, judged, merged_trials, write_folds
from cvtune.steps.strange import Shown, trial_of, trial_tables, try_fold
from cvtune.steps.train import Crossed, Lab, nothing, wants_final
from cvtune.training.session import Floats, Ints, Judgement, Material, Recipe, Session, StageResult
from cvtune.training.stage import FINAL
from cvtune.training.stages import stages

_PATIENCE: Final = 900.0  # seconds for it, where neither a budget is given nor the final fit is asked for
_FOLDS: Final = (5, 3, 1)  # as many as the budget allows; one is what was chosen, held back from val and calib


@dataclass(frozen=True)
class FinalFit:
    """A model trained on all images but the test ones.

    Attributes:
        crossed: the answers of the folds.
        split: train has what was val and calib.
        leaks: test images with a partner among those trained on.
        stage: its row for the stage table, with the answers for the images that were held back before.
        classifier: the model.
    """

    crossed: Crossed
    split: Split
    leaks: Leaks
    stage: StageResult
    classifier: Classifier


def final_fit(lab: Lab, split: Split, session: Session) -> FinalFit | None:
    """Repeat the stages that were kept, in folds and then on everything; None where that is not asked for or worth it.

    The frozen layers' activations are those that the stages have left, for all images.

    Args:
        lab: the parts.
        split: on which the stages were chosen.
        session: whose stages have run.
    """
    started, kept = time.monotonic(), [result for result in session.results if result.kept]
    try:
        if not wants_final(lab.config, split) or lab.stop:
            return None
        pool = split.outside_test
        folds, reason = _folds(lab, pool, session, kept)
        if reason:
            lab.console.step(FINAL, f"left out: {reason}")
            return None
        if not folds:
            crossed = _chosen(lab, session, kept)
        else:
            answered = _cross(lab, session, kept, pool, folds)
            if answered is None:
                return None
            if reason := _worse(lab, session, pool, answered.logits):
                lab.console.step(FINAL, f"left out: {reason}")
                return None
            crossed = replace(_crossed(lab, pool, answered.logits, len(folds)), trial=answered.trial)
        return _everything(lab, split, session, kept, crossed, started)
    finally:
        session.views.forget()


def _folds(lab: Lab, pool: Ints, session: Session, kept: Sequence[StageResult]) -> tuple[tuple[Ints, ...], str]:
    """The rows of each fold, none where one fold is all, or why there is no final fit.

    What the clock decides is in plan.json.
    """
    whole = any(result.plan is not None and result.plan.first_group == 0 for result in kept)
    if whole and lab.config.train.final_fit == "auto":
        return (), f"every layer was trained, and {_FOLDS[0]} folds of that take hours; --final-fit all does it"

    def measure() -> dict[str, Any]:
        each = sum(result.seconds for result in kept[1:]) * len(pool) / len(session.material.train)
        left = lab.to_train - session.reserve
        if left == math.inf and lab.config.train.final_fit == "auto":
            left = _PATIENCE
        return {"folds": next((k for k in _FOLDS if (k + 1 if k > 1 else 1) * each <= left), 0)}

    k = session.choose(FINAL, measure)["folds"]
    if not k:
        return (), "the budget is used up"
    if k == 1:
        return (), ""
    same, near = lab.seen.same, lab.seen.near
    folds = held_out(lab.data.index, [int(row) for row in pool], k, seed=lab.config.seed, same=same, near=near)
    return folds, "" if folds else "a class has fewer than three images, or groups of them"


@dataclass(frozen=True, eq=False)
class _Answered:
    """What the model of a fold said of the images that were held out of it, or all of them of the whole pool.

    Attributes:
        logits: float32 [n, K].
        trial: how strange the images were to it; None with too few training images.
    """

    logits: Floats
    trial: Trial | None


def _cross(
    lab: Lab, session: Session, kept: Sequence[StageResult], pool: Ints, folds: Sequence[Ints]
) -> _Answered | None:
    """Each image's answer by the model of the fold that it was held out of, [len(pool), K]; None when stopped."""
    done: list[_Answered] = []
    facts: list[dict[str, Any]] = []
    for number, held in enumerate(folds, start=1):
        train = np.setdiff1d(pool, held)
        answered = _fold(lab, session, kept, train, held, f"{FINAL}-fold-{number}")
        if answered is None:
            return None
        done.append(answered)
        accuracy, score, log_loss = judged(lab.data.index, held, answered.logits)
        lab.console.detail(f"fold {number}", told(task_of(lab.data.index), accuracy))
        facts.append(fold_facts(held, len(train), kept, score, log_loss))
    write_folds(lab.run, lab.data.index, folds, facts)
    order = np.argsort(np.concatenate(folds))
    logits = np.concatenate([one.logits for one in done])[order]
    return _Answered(logits, merged_trials([one.trial for one in done], order))


def _fold(
    lab: Lab, session: Session, kept: Sequence[StageResult], train: Ints, held: Ints, name: str
) -> _Answered | None:
    """A fold, from the ledger if it is finished; None when stopped."""
    if (unit := lab.ledger.done(name)) is not None:
        return _Answered(unit.array("held"), trial_of(unit))
    part = replace(session.material, train=train, val=held[:0], held=held)
    recipe = {one.name: one.recipe.scaled(len(train) / len(session.material.train)) for one in kept[1:]}
    other = _other(lab, session, part, recipe)
    last = _last(other)
    if last is None or last.answers is None:
        return None
    logits, shown = last.answers.logits, Shown(train, held, held, last.answers.embeddings)
    trial = try_fold(lab, other.classifier.backbone, shown, frozen=last.plan is None)
    facts, tables = trial_tables(trial)
    lab.ledger.write(name, {"kept": False, **facts}, {"held": logits, **tables})
    return _Answered(logits, trial)


def _other(lab: Lab, session: Session, material: Material, recipe: Mapping[str, Recipe]) -> Session:
    """A session that follows a recipe on other images and writes nothing down."""
    return replace(
        session,
        classifier=Classifier(lab.backbone, LinearHead(lab.backbone.width, material.classes)),
        material=material,
        judge=lambda new, old: Judgement(True, "as on the sides", math.nan, math.nan),
        head=lab.plugins.head,
        replay={},
        planned=nothing,
        left_out=nothing,
        told=nothing,
        recipe=recipe,
        deadline=math.inf,
        ledger=None,
        store=nothing,
        best_val=None,
        results=[],
    )


def _last(session: Session) -> StageResult | None:
    """The result of the last stage; None when somebody asked for an early end."""
    for _ in stages(session):
        pass
    return None if session.stop else session.results[-1]


def _worse(lab: Lab, session: Session, pool: Ints, logits: Floats) -> str:
    """Why the recipe does not do without a validation side; empty where it does.

    The models of the folds are asked about images of the validation side, like the model that was chosen there.
    """
    index, val = lab.data.index, session.material.val
    assert session.best_val is not None
    of_folds = answers_of(index, val, logits[np.searchsorted(pool, val)])
    found = task_of(index).better(of_folds, answers_of(index, val, session.best_val))
    if found.gain >= -2 * found.standard_error:
        return ""
    return f"its folds are worse on the images of val: {found.gain:+.3f}, standard error {found.standard_error:.3f}"


def _crossed(lab: Lab, rows: Ints, logits: Floats, k: int) -> Crossed:
    _, score, log_loss = judged(lab.data.index, rows, logits)
    return Crossed(k, rows, logits, {}, score, log_loss)


def _chosen(lab: Lab, session: Session, kept: Sequence[StageResult]) -> Crossed:
    """The answers of the model that was chosen, for the images that were held back from it."""
    assert session.best_val is not None
    crossed = _crossed(lab, session.material.val, session.best_val, 1)
    facts = fold_facts(crossed.rows, len(session.material.train), kept, crossed.score, crossed.log_loss)
    write_folds(lab.run, lab.data.index, [crossed.rows], [facts])
    return crossed


def _everything(
    lab: Lab, split: Split, session: Session, kept: Sequence[StageResult], crossed: Crossed, started: float
) -> FinalFit | None:
    pool = split.outside_test
    material = replace(session.material, train=pool, val=pool[:0])
    factor = len(pool) / len(session.material.train)
    recipe = {f"{FINAL}-{one.name}": one.recipe.scaled(factor) for one in kept[1:]}
    final = replace(
        _other(lab, session, material, recipe),
        planned=session.planned,
        ledger=session.ledger,
        store=session.store,
    )
    last = _last(final)
    if last is None:
        return None
    whole = replace(split, sides=tuple("test" if side == "test" else "train" for side in split.sides))
    stage = replace(
        last,
        name=FINAL,
        reason=f"{' and '.join(one.name for one in kept)} repeated on the {len(pool):,} images outside test",
        score=crossed.score,
        log_loss=crossed.log_loss,
        seconds=time.monotonic() - started,
    )
    return FinalFit(crossed, whole, leaks(lab.data.index, whole, lab.seen.clusters), stage, final.classifier)
