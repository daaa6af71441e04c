"""What the shipped model has never been shown: a distance from the training images, and where it becomes too far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cvtune.evaluation.novelty import (
    BANK,
    KINDS,
    Labelled,
    Novelty,
    Space,
    Trial,
    fit_novelty,
    novelty_limit,
    try_kinds,
)
from cvtune.evaluation.robustness import spoil
from cvtune.evaluation.studies import NoveltyStudy
from cvtune.models.backbone import Backbone
from cvtune.models.features import BATCH, embed, full_batches
from cvtune.models.normalize import to_tensor
from cvtune.steps.train import Lab
from cvtune.training.checkpoint import Unit

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_LEAST: Final = 10  # training images; fewer have no spread to speak of
_SPOILT: Final = 16  # images that are spoilt in each of these ways, where the distance is tried
_WAYS: Final = ("noise", "blur", "darker", "rotation")
_STRONG: Final = 2


@dataclass(frozen=True, eq=False)
class Strange:
    """How strange images are to a model.

    Attributes:
        novelty: the distance.
        study: which one it is and where the limit lies.
        trial: how both kinds did on images that were not trained on.
        rows: int64 [m], training images whose embeddings are known.
        embeddings: float32 [m, D], theirs.
    """

    novelty: Novelty
    study: NoveltyStudy
    trial: Trial
    rows: Ints
    embeddings: Floats


@dataclass(frozen=True, eq=False)
class Shown:
    """What is to be compared.

    Attributes:
        train: rows of the images that the model was trained on.
        unseen: rows of images that it was not trained on and that may help to choose, ascending.
        held: rows of the images that the model was asked about, ascending.
        embeddings: float32 [len(held), D], what its head saw of them.
    """

    train: Ints
    unseen: Ints
    held: Ints
    embeddings: Floats

    def of(self, rows: Ints) -> Floats:
        """Embeddings of some of them."""
        return self.embeddings[np.searchsorted(self.held, rows)]


def strangeness(
    lab: Lab, backbone: Backbone, shown: Shown, *, frozen: bool, trial: Trial | None = None
) -> Strange | None:
    """Fit the distance of a model that is shipped; None where its training images are too few.

    Args:
        lab: the parts.
        backbone: of the model, in eval mode.
        shown: the images.
        frozen: whether it is the pretrained one still, whose embeddings are known.
        trial: of the folds, where no image was held back from the model itself.
    """
    if len(shown.train) < _LEAST:
        return None
    rows = bank(lab, shown.train)
    table = embeddings_of(lab, backbone, rows, frozen=frozen)
    labels, space, seed = _labels(lab), Space.of(table), lab.config.seed
    if trial is None:
        known, spoilt = Labelled(table, labels[rows]), _spoilt(lab, backbone, shown.unseen)
        unseen = Labelled(shown.of(shown.unseen), labels[shown.unseen])
        trial = try_kinds(known, unseen, spoilt, seed=seed, space=space)
    novelty = fit_novelty(trial.best, table, labels[rows], seed=seed, space=space)
    return Strange(novelty, _study(lab, trial), trial, rows, table)


def try_fold(lab: Lab, backbone: Backbone, shown: Shown, *, frozen: bool) -> Trial | None:
    """The same for a fold: distances of the images that were held out of it."""
    if len(shown.train) < _LEAST:
        return None
    rows, labels = bank(lab, shown.train), _labels(lab)
    known = Labelled(embeddings_of(lab, backbone, rows, frozen=frozen), labels[rows])
    unseen = Labelled(shown.of(shown.unseen), labels[shown.unseen])
    return try_kinds(known, unseen, _spoilt(lab, backbone, shown.unseen), seed=lab.config.seed)


def trial_tables(trial: Trial | None) -> tuple[dict[str, Any], dict[str, Floats]]:
    """A trial as plain values and tables, for the ledger."""
    if trial is None:
        return {"novelty": None}, {}
    left_out = {kind: {str(number): score for number, score in trial.left_out[kind].items()} for kind in KINDS}
    facts = {"novelty": {"scores": dict(trial.scores), "left_out": left_out}}
    return facts, {f"novelty/{kind}": trial.distances[kind] for kind in KINDS}


def trial_of(unit: Unit) -> Trial | None:
    """From :func:`trial_tables`."""
    facts = unit.facts["novelty"]
    if facts is None:
        return None
    left_out = {kind: {int(number): score for number, score in facts["left_out"][kind].items()} for kind in KINDS}
    return Trial({kind: unit.array(f"novelty/{kind}") for kind in KINDS}, facts["scores"], left_out)


def bank(lab: Lab, train: Ints) -> Ints:
    """The training images that are compared with, ascending: all, or as many as the distance keeps."""
    return np.sort(np.random.default_rng(lab.config.seed).permutation(train)[:BANK])


def embeddings_of(lab: Lab, backbone: Backbone, rows: Ints, *, frozen: bool) -> Floats:
    """Embeddings float32 [len(rows), D]: looked up where the network is still the pretrained one, else computed."""
    frame, seen = lab.data.frame, lab.seen
    if frozen and seen.table is not None and seen.window == frame.window:
        return np.ascontiguousarray(seen.table[rows, : backbone.width])
    progress = lambda done, of: lab.console.progress("novelty", done, of)  # noqa: E731
    return embed(backbone, lab.data.pixels, lab.data.normalize, rows, progress=progress)


def _spoilt(lab: Lab, backbone: Backbone, rows: Ints) -> list[Floats]:
    """Embeddings of a few images that were spoilt strongly, a table for each way."""
    if not len(rows):
        return []
    some = rows[:: max(1, len(rows) // _SPOILT)][:_SPOILT]
    device = next(backbone.parameters()).device
    with torch.inference_mode():  # for so few images onnxruntime would not be worth its graph
        said = [backbone(batch.to(device)).float().cpu().numpy() for batch in full_batches(_batches(lab, some))]
    table = np.concatenate(said)
    return np.split(table[: len(some) * len(_WAYS)], len(_WAYS))


def _batches(lab: Lab, rows: Ints) -> Iterator[torch.Tensor]:
    """All images spoilt in the first way, then in the next; normalised, in batches of the usual size."""
    pictures = np.ascontiguousarray(lab.data.pixels.batch(rows).transpose(0, 2, 3, 1))  # (n, S, S, 3)
    ways = [
        spoil(picture, how, _STRONG, key=(lab.config.seed, int(row)))
        for how in _WAYS
        for row, picture in zip(rows, pictures, strict=True)
    ]
    spoilt = np.ascontiguousarray(np.stack(ways).transpose(0, 3, 1, 2))  # (4 n, 3, S, S)
    for part in torch.split(to_tensor(spoilt), BATCH):
        yield lab.data.normalize(part).contiguous(memory_format=torch.channels_last)


def _study(lab: Lab, trial: Trial) -> NoveltyStudy:
    alarms, classes, kind = lab.config.objective.novelty, lab.data.index.classes, trial.best
    distances = trial.distances[kind]
    limit, share = novelty_limit(distances, alarms) if alarms else (np.inf, 0.0)
    left_out = {classes[number]: score for number, score in trial.left_out[kind].items()}
    scores = {str(kind): score for kind, score in trial.scores.items()}
    return NoveltyStudy(kind, float(limit), share, len(distances), scores, left_out)


def _labels(lab: Lab) -> Ints:
    """int64 [N]; where an image may have several labels all are of one kind."""
    index = lab.data.index
    return np.zeros(len(index), np.int64) if index.multi else index.labels
