"""One stage of fine-tuning: its data, its training, the choice among its averages, and the verdict on it."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from cvtune.config import StageConfig
from cvtune.models.features import batches
from cvtune.models.head import Classifier, build_head
from cvtune.models.state import State
from cvtune.training.averaging import Candidate, differs, interpolate, pick, take, wise_ft
from cvtune.training.checkpoint import Unit
from cvtune.training.datamodule import PixelDataModule, PixelDataset, StageData
from cvtune.training.mixing import Mixing, when
from cvtune.training.module import FineTuner
from cvtune.training.session import Answers, Floats, Ints, Plan, Recipe, Session, StageResult
from cvtune.training.trainer import Epoch, train_stage
from cvtune.training.trials import validation_loss
from cvtune.training.views import Side

FINAL: Final = "final"  # names of the final fit's units in the ledger begin with it; each is exported by itself
LOOKED_AT: Final = 1000  # images of the validation side at a look inside a stage; the verdict is on all of them


def run_stage(session: Session, name: str, stage: StageConfig, plan: Plan) -> StageResult:
    """Fine-tune as planned; keep the result only if it is better on the validation side.

    A stage that the ledger has is not run again; one that has a checkpoint goes on from there.

    Raises:
        Interrupted: somebody asked for an early end before there was anything to judge.
        TrainingError: the loss is not finite.
        Terminated: SIGTERM.
    """
    unit = session.ledger.done(name) if session.ledger else None
    if unit is not None:
        return _restored(session, unit)
    started = time.monotonic()
    candidate, data, store = new_candidate(session), stage_data(session, plan), session.store(name)
    tuner = new_tuner(session, candidate, stage, plan)
    trained = train_stage(
        name,
        tuner,
        data,
        stop=session.stop,
        deadline=session.deadline - session.reserve,
        progress=session.progress,
        extras=session.extras,
        stop_at=session.recipe[name].take if session.recipe else None,
        store=store,
    )
    if session.recipe is None:
        taken = _pick(session, tuner, data, trained.candidates)
    else:
        taken = _follow(session, tuner, trained.candidates, session.recipe[name])
    val = answers(session, candidate, session.material.val)
    verdict = session.judge(val.logits, session.best_val)
    learnt = [name for name, parameter in candidate.named_parameters() if parameter.requires_grad]
    result = StageResult(
        name,
        verdict.keep,
        verdict.reason,
        verdict.score,
        verdict.log_loss,
        time.monotonic() - started,
        steps=trained.rows[-1].step if trained.rows else trained.best_step,
        trainable=sum(candidate.get_parameter(name).numel() for name in learnt),
        epochs=trained.rows,
        answers=_held(session, candidate, val) if verdict.keep else None,
        plan=plan,
        best_step=trained.best_step,
        picked=taken.text,
        weights=taken.weights,
        way=taken.way,
    )
    if session.ledger and not session.stop:  # one that was cut short goes on from its checkpoint when it is resumed
        _write(session, result, val.logits, take(candidate, candidate.state_dict()) if verdict.keep else {})
        if store is not None:
            store.clear()
    if verdict.keep:
        _take_over(session, candidate, val.logits)
    return result


def new_candidate(session: Session) -> Classifier:
    """A copy of the best model to train on; the user's own head stands in it until a stage with it is kept."""
    candidate = copy.deepcopy(session.classifier)
    if session.head is not None:
        width = candidate.backbone.width
        candidate.head = build_head(session.head, width, session.material.classes, seed=session.config.seed)
    return candidate


def new_tuner(session: Session, candidate: Classifier, stage: StageConfig, plan: Plan) -> FineTuner:
    """The Lightning module of a stage."""
    material, train, seed = session.material, session.config.train, session.config.seed
    strength = when(len(material.train), train.mixup)
    if session.config.model.from_scratch:  # whose statistics are of nothing
        train = train.model_copy(update={"batch_norm": "batch"})
        stage = stage.model_copy(update={"depthwise": "learn"})
    return FineTuner(
        candidate,
        session.normalize,
        first_group=plan.first_group,
        stage=stage.model_copy(update={"learning_rate": plan.learning_rate}),
        train=train,
        loss=session.loss(),
        total_steps=plan.steps,
        seed=seed,
        half=plan.half,
        small=plan.small,
        mixing=Mixing(strength, classes=material.classes, seed=seed) if strength else None,
    )


def stage_data(session: Session, plan: Plan) -> StageData:
    """The loaders of a stage: activations from the cache, or images augmented as they are asked for."""
    material, config, labels = session.material, session.config, session.material.labels
    looked, seed = material.val[:: max(1, len(material.val) // LOOKED_AT)], config.seed
    rows, epoch = material.train, max(1, len(material.train) // plan.batch_size)
    how: dict[str, Any] = {
        "batch_size": plan.batch_size,
        "seed": seed,
        "validate_every": epoch if plan.steps >= 2 * epoch else max(1, plan.steps // 4),
    }
    if plan.views:
        layers, views = (plan.first_group, plan.frozen), session.views
        train = Side(views, layers, rows, labels[rows], shown=plan.views, every=plan.every, seed=seed)
        return StageData(train, Side(views, layers, looked, labels[looked]), workers=0, **how)
    transform, window = session.views.transform, material.window
    return PixelDataModule(
        PixelDataset(material.pixels, rows, labels[rows], transform=transform, seed=seed, window=window),
        PixelDataset(material.pixels, looked, labels[looked]),
        workers=config.train.workers,
        **how,
    )


def answers(session: Session, classifier: Classifier, rows: Ints) -> Answers:
    """Answers of a classifier in eval mode."""
    classifier.eval()
    logits = np.empty((len(rows), session.material.classes), np.float32)  # none of none in a final fit
    embeddings = np.empty((len(rows), classifier.backbone.width), np.float32)
    said = batches(
        session.material.pixels,
        session.normalize,
        rows,
        progress=lambda done, of: session.progress("answers", done, of),
    )
    done = 0
    with torch.inference_mode():
        for x in said:
            place = slice(done, done := done + len(x))
            for table, part in zip((logits, embeddings), classifier.parts(x), strict=True):
                table[place] = part.float().cpu().numpy()
    return Answers(logits, embeddings)


def _held(session: Session, classifier: Classifier, val: Answers) -> Answers:
    """Answers for the images that are held back; those of the validation side are known."""
    held = session.material.held
    known = np.isin(held, session.material.val)
    rest = answers(session, classifier, held[~known])
    tables = [(val.logits, rest.logits), (val.embeddings, rest.embeddings)]
    whole = [np.empty((len(held), one.shape[1]), np.float32) for one, _ in tables]
    for table, (ours, theirs) in zip(whole, tables, strict=True):
        table[known], table[~known] = ours, theirs
    return Answers(*whole)


@dataclass(frozen=True)
class _Taken:
    """Which weights the classifier has now, as `StageResult` has it."""

    weights: str = "last"
    way: float = 1.0
    text: str = ""


def _pick(session: Session, tuner: FineTuner, data: StageData, found: Sequence[Candidate]) -> _Taken:
    """The weights with the lowest log-loss on the validation side: of an epoch, averaged, or on the way from before."""
    if not found:
        return _Taken()

    def score(state: Mapping[str, Tensor]) -> float:
        tuner.classifier.load_state_dict(state, strict=False)
        return validation_loss(tuner, data)

    picked = pick(found, score)
    way: Iterator[Candidate] = wise_ft(_before(session, picked.state), picked.state)
    known = lambda state: picked.score if state is picked.state else score(state)  # noqa: E731
    further = pick([Candidate(picked.name, picked.state), *way], known)
    tuner.classifier.load_state_dict(further.state, strict=False)
    tuner.classifier.eval()
    return _Taken(picked.name, further.way, str(replace(further, scores=picked.scores + further.scores[1:])))


def _follow(session: Session, tuner: FineTuner, found: Sequence[Candidate], recipe: Recipe) -> _Taken:
    """The weights that a recipe names; the last ones where there are none of that name."""
    states = {"mean" if one.name.startswith("mean") else one.name: one.state for one in found}
    state = states.get("mean" if recipe.weights.startswith("mean") else recipe.weights, states["last"])
    old = _before(session, state)
    if recipe.way < 1 and not differs(old, state):
        state = interpolate(old, state, recipe.way)
    tuner.classifier.load_state_dict(state, strict=False)
    tuner.classifier.eval()
    return _Taken(recipe.weights, recipe.way)


def _before(session: Session, state: State) -> State:
    """The same tensors of the model before, as far as it has them."""
    before = session.classifier.state_dict()
    return {name: before[name] for name in state if name in before}


def _take_over(session: Session, candidate: Classifier, val: Floats) -> None:
    session.classifier, session.best_val, session.head = candidate, val, None


def _write(session: Session, result: StageResult, val: Floats, state: Mapping[str, Tensor]) -> None:
    assert session.ledger is not None
    facts = {
        **asdict(replace(result, answers=None, epochs=())),
        "epochs": [asdict(row) for row in result.epochs],
    }
    tables: dict[str, Any] = {f"weights/{name}": value for name, value in state.items()}
    if result.answers is not None:
        tables |= {"val": val, "held": result.answers.logits, "embeddings": result.answers.embeddings}
    session.ledger.write(result.name, facts, tables)


def _restored(session: Session, unit: Unit) -> StageResult:
    """A stage as the ledger has it; the classifier is the one that stood after it."""
    facts = {**unit.facts, "epochs": tuple(Epoch(**row) for row in unit.facts["epochs"])}
    result = StageResult(**{**facts, "plan": Plan(**facts["plan"])})
    if not result.kept:
        return result
    candidate = new_candidate(session)
    names = {name: value for name, value in unit.tensors.items() if name.startswith("weights/")}
    candidate.load_state_dict({name.removeprefix("weights/"): value for name, value in names.items()})
    _take_over(session, candidate.eval(), unit.array("val"))
    if superseded(session, unit.name):
        return result
    return replace(result, answers=Answers(unit.array("held"), unit.array("embeddings")))


def superseded(session: Session, name: str) -> bool:
    """Whether a later stage was kept before the run was interrupted, so that this one need not be exported again."""
    if name.startswith(FINAL) or session.ledger is None:
        return False
    names = [name for name in session.ledger.names if not name.startswith(FINAL)]
    later = names[names.index(name) + 1 :] if name in names else names
    units = [session.ledger.done(name) for name in later]
    return any(unit is not None and unit.facts["kept"] for unit in units)
