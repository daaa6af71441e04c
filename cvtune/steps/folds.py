"""Cross-validation: every image is answered once, by a model that has not seen it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvtune.config import Config
from cvtune.console import duration
from cvtune.data.index import DatasetIndex, write_rows
from cvtune.data.split import Split, fold_splits
from cvtune.evaluation.novelty import Trial, merged
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.task import task_of, told
from cvtune.rundir import RunDir, write_json
from cvtune.steps.examine import Seen
from cvtune.steps.read import Data
from cvtune.steps.strange import Shown, try_fold
from cvtune.steps.train import Crossed, Lab, PlanWriter, prepare
from cvtune.training.session import Choices, Floats, Recipe, Session, StageResult
from cvtune.training.stages import stages


@dataclass(frozen=True)
class _Fold:
    rows: NDArray[np.int64]
    logits: Floats
    trained: int
    kept: tuple[StageResult, ...]
    accuracy: Rate
    score: float
    log_loss: float
    trial: Trial | None


def cross_validate(lab: Lab) -> Crossed | None:
    """Train on all but one fold and ask about that one, K times; None where no folds are asked for.

    Groups and copies stay in one fold. Each fold chooses and calibrates on images of its own training part, as a run
    without folds does; what is chosen by the clock the first one chooses for all. With a budget every fold and the
    final fit have an equal share of it.

    Raises:
        DataError: a class with fewer groups than folds.
    """
    k = lab.config.data.folds
    if k is None:
        return None
    choices = dict(lab.replay)
    write_down = PlanWriter(lab.run.plan, choices)

    def planned(stage: str, chosen: Choices) -> None:
        choices[stage] = chosen
        write_down(stage, chosen)

    done = []
    for number, (split, rows) in enumerate(_splits(lab.data, lab.seen, lab.config, k), start=1):
        started = time.monotonic()
        session = prepare(lab, split, fold=choices, deadline=started + lab.to_train / (k + 2 - number))
        session.planned = planned
        fold = _fold(lab, session, rows)
        text = f"{told(task_of(lab.data.index), fold.accuracy)}   {fold.kept[-1].name}"
        lab.console.step(f"fold {number}", f"{text}   {duration(time.monotonic() - started)}")
        done.append(fold)
    rows = np.concatenate([fold.rows for fold in done])
    order = np.argsort(rows)
    facts = [fold_facts(fold.rows, fold.trained, fold.kept, fold.score, fold.log_loss) for fold in done]
    write_folds(lab.run, lab.data.index, [fold.rows for fold in done], facts)
    return Crossed(
        k,
        rows[order],
        np.concatenate([fold.logits for fold in done])[order],
        _recipe(done, len(rows)),
        float(np.mean([fold.score for fold in done])),
        float(np.mean([fold.log_loss for fold in done])),
        merged_trials([fold.trial for fold in done], order),
    )


def _splits(data: Data, seen: Seen, config: Config, k: int) -> list[tuple[Split, NDArray[np.int64]]]:
    """For each fold its sides and the rows that are held out in it; a given test/ side is never trained on."""
    index = data.index
    pool = np.array([row for row, image in enumerate(index.images) if image.side != "test"], np.int64)
    at = {int(row): i for i, row in enumerate(pool)}

    def inside(clusters: Sequence[Sequence[int]]) -> list[list[int]]:
        return [[at[row] for row in cluster if row in at] for cluster in clusters]

    part = replace(index, images=tuple(replace(index.images[row], side=None) for row in pool))
    splits = fold_splits(part, config.data, k, seed=config.seed, same=inside(seen.same), near=inside(seen.near))
    result = []
    for split in splits:
        sides = ["test"] * len(index)
        for row, side in zip(pool, split.sides, strict=True):
            sides[row] = side
        result.append((replace(split, sides=tuple(sides)), pool[split.indices("test")]))
    return result


def merged_trials(trials: Sequence[Trial | None], order: NDArray[np.int64]) -> Trial | None:
    """Those of all folds as one, their images in an order; None where a fold had too few images for one."""
    whole = [trial for trial in trials if trial is not None]
    return merged(whole, order) if whole and len(whole) == len(trials) else None


def _fold(lab: Lab, session: Session, rows: NDArray[np.int64]) -> _Fold:
    """Train all stages of a fold and ask the model that is kept about the rows that were held out."""
    kept = tuple(stage for stage in stages(session) if stage.kept)
    said, held = kept[-1].answers, session.material.held
    assert said is not None
    logits = said.logits[np.searchsorted(held, rows)]
    shown = Shown(session.material.train, rows, held, said.embeddings)
    trial = try_fold(lab, session.classifier.backbone, shown, frozen=all(stage.plan is None for stage in kept))
    return _Fold(rows, logits, len(session.material.train), kept, *judged(lab.data.index, rows, logits), trial)


def judged(index: DatasetIndex, rows: NDArray[np.int64], logits: Floats) -> tuple[Rate, float, float]:
    """How many of some images are right, the figure that decides between stages, and the log-loss.

    Args:
        index: the images.
        rows: positions of those that were asked about.
        logits: float32 [len(rows), K].
    """
    task, answers = task_of(index), answers_of(index, rows, logits)
    figures = task.score(answers)
    return figures.accuracy, task.headline(figures), answers.log_loss


def answers_of(index: DatasetIndex, rows: NDArray[np.int64], logits: Floats) -> Any:
    """`Predictions` or `MultiPredictions` of some images, before any temperature; arguments as for :func:`judged`."""
    task = task_of(index)
    paths = [index.images[row].path for row in rows]
    return task.predictions(paths, task.truth(index)[rows], task.probabilities(logits), index.classes)


def _recipe(done: Sequence[_Fold], images: int) -> dict[str, Recipe]:
    """Of each stage that more than half of the folds kept, the median; steps are scaled to all images."""
    found: dict[str, list[Recipe]] = {}
    for fold in done:
        for stage in fold.kept[1:]:
            found.setdefault(stage.name, []).append(stage.recipe.scaled(images / fold.trained))
    return {name: _median(rows) for name, rows in found.items() if 2 * len(rows) > len(done)}


def _median(rows: Sequence[Recipe]) -> Recipe:
    plan = replace(
        rows[0].plan,
        steps=round(median(row.plan.steps for row in rows)),
        learning_rate=median(row.plan.learning_rate for row in rows),
    )
    weights, way = Counter((row.weights, row.way) for row in rows).most_common(1)[0][0]
    return Recipe(plan, round(median(row.take for row in rows)), weights, way)


def fold_facts(
    held: NDArray[np.int64], trained: int, kept: Sequence[StageResult], score: float, log_loss: float
) -> dict[str, Any]:
    """A row of folds.json: how many images were held out and learnt from, the stages that were kept, the figures."""
    return {
        "images": len(held),
        "trained_on": trained,
        "stages": [stage.name for stage in kept],
        "score": score,
        "log_loss": log_loss,
    }


def write_folds(
    run: RunDir, index: DatasetIndex, folds: Sequence[NDArray[np.int64]], facts: Sequence[Mapping[str, Any]]
) -> None:
    """folds.json: what each fold did; folds.csv: which image was held out in which.

    Args:
        run: where they go.
        index: the images.
        folds: rows held out in each.
        facts: of each, from :func:`fold_facts`.
    """
    write_json(run.folds, list(facts))
    held = {int(row): number for number, rows in enumerate(folds, start=1) for row in rows}
    rows = ((index.images[row].path, str(number)) for row, number in sorted(held.items()))
    write_rows(run.folds.with_suffix(".csv"), ("path", "fold"), rows)
