"""What is found out about the model that is shipped: where it is weak, what it looks at, what spoilt pictures do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import torch
from cvtune_edge.child import ChildDecoder
from cvtune_edge.decode import read_bytes, read_image
from cvtune_edge.files import find_images
from cvtune_edge.runtime import Bundle, Prediction
from numpy.typing import NDArray
from torch import Tensor

from cvtune.errors import CvtuneError
from cvtune.evaluation.explanation import follows_the_head, heat_maps, most_alike
from cvtune.evaluation.notable import SUSPECTS, notable
from cvtune.evaluation.novelty import auroc
from cvtune.evaluation.robustness import Frame, Spoilt, robustness
from cvtune.evaluation.slices import Attribute, Slice, slices
from cvtune.evaluation.studies import ALIKE, Alike, Explained, Foreign, NoveltyStudy, Studies
from cvtune.models.features import batches
from cvtune.models.head import Classifier
from cvtune.steps.strange import Strange, embeddings_of
from cvtune.steps.train import Lab
from cvtune.training.session import Session

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

STUDY: Final = "study"  # its name in plan.json
_CHECKED: Final = 8  # images whose maps are compared with those of a randomised head
_MOST: Final = 40  # pictures that are spoilt,
_LEAST: Final = 8  # and fewer say nothing
_SHARE: Final = 0.1  # of the time that the fit took, for them,
_PATIENCE: Final = 20.0  # and seconds at most
_BRIEF: Final = 5.0  # seconds of a budget; with less of it left nothing is explained


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the report is about.

    Attributes:
        classifier: the model that is shipped, in eval mode.
        side: "test", or "folds" where there is no test side.
        rows: their positions in the index, int64 [n].
        answers: `Predictions` or `MultiPredictions` of them, in the same order.
        distances: float32 [n], how strange they are; None where that is not known.
        strange: the distance and the training images.
        frozen: whether the backbone is the pretrained one.
    """

    classifier: Classifier
    side: str
    rows: Ints
    answers: Any
    distances: Floats | None
    strange: Strange | None
    frozen: bool


def study(lab: Lab, session: Session, evidence: Evidence) -> Studies:
    """Look into the shipped model; nothing of this changes it.

    Args:
        lab: the parts.
        session: that writes down what the clock decides.
        evidence: the model and its images.
    """
    config, options = lab.config.data, lab.data.options
    with Bundle(lab.run.bundle, options=options, untrusted=config.untrusted, precision="float32") as bundle:
        return _studied(lab, session, evidence, bundle)


def _studied(lab: Lab, session: Session, evidence: Evidence, bundle: Bundle) -> Studies:
    rows = np.random.default_rng(lab.config.seed).permutation(evidence.rows)
    chosen = session.choose(STUDY, lambda: _affordable(lab, bundle, rows))
    explained, rank = _explained(lab, evidence) if chosen["explained"] else ({}, None)
    return Studies(
        evidence.side,
        _novelty(lab, evidence, bundle),
        _slices(lab, evidence),
        _robustness(lab, bundle, rows[: chosen["spoilt"]]),
        rank,
        explained,
    )


def _affordable(lab: Lab, bundle: Bundle, rows: Ints) -> dict[str, Any]:
    """What there is time for; kept in plan.json, since the clock decides."""
    began = time.monotonic()
    tried = _robustness(lab, bundle, rows[:1])
    each = time.monotonic() - began
    most = min(_PATIENCE, _SHARE * (began - lab.began), lab.left / 2)
    spoilt = min(_MOST, int(most / each)) if tried and most >= _LEAST * each else 0
    return {"explained": lab.left >= _BRIEF, "spoilt": spoilt}


def _novelty(lab: Lab, evidence: Evidence, bundle: Bundle) -> NoveltyStudy | None:
    """How the distance does, also on the folders of other things that were named."""
    if evidence.strange is None or evidence.distances is None:
        return None
    found = evidence.strange.study
    foreign = [_foreign(bundle, Path(folder), evidence) for folder in lab.config.data.unknown]
    return replace(found, foreign=tuple(one for one in foreign if one is not None))


def _foreign(bundle: Bundle, folder: Path, evidence: Evidence) -> Foreign | None:
    assert evidence.strange is not None
    assert evidence.distances is not None
    answers = bundle.stream(find_images([folder]))
    away = [one.novelty for one in answers if isinstance(one, Prediction) and one.novelty is not None]
    if not away:
        return None
    distances = np.array(away, np.float32)
    review = evidence.strange.study.beyond(distances)
    return Foreign(folder.as_posix(), review, auroc(evidence.distances, distances))


def _slices(lab: Lab, evidence: Evidence) -> tuple[Slice, ...]:
    return slices(~evidence.answers.right, dict(_attributes(lab, evidence.rows)))


def _attributes(lab: Lab, rows: Ints) -> Iterator[tuple[str, Attribute]]:
    """What images may have in common, apart from their class."""
    index, facts = lab.data.index, [lab.data.facts[row] for row in rows]
    images = [index.images[row] for row in rows]
    folders = [PurePosixPath(image.path).parent.as_posix() for image in images]
    names = [index.label_names[row] for row in rows]
    if len(set(zip(folders, names, strict=True))) > len(set(names)):  # else all of a class lie in one folder
        yield "folder", folders
    groups = [image.group for image in images]
    if 2 * len(set(groups)) <= len(groups):
        yield "group", groups
    if len({one.camera for one in facts}) > 1:
        yield "camera", [one.camera or "not known" for one in facts]
    yield "brightness", np.array([one.brightness for one in facts])
    yield "sharpness", np.array([one.sharpness for one in facts])
    yield "size (pixels of the longer side)", np.array([float(max(one.width, one.height)) for one in facts])


def _explained(lab: Lab, evidence: Evidence) -> tuple[Mapping[str, Explained], float | None]:
    """Heat maps and nearest training images of what a person should look at, and whether the maps can be trusted."""
    rows = evidence.rows[notable(evidence.answers, evidence.distances).rows]
    suspects = np.array([one.position for one in lab.seen.suspects[:SUSPECTS]], np.int64)
    rows = np.unique(np.concatenate([rows, suspects]))
    said = _said(lab, evidence, rows)
    heat, rank = _heat(lab, evidence.classifier, rows, said)
    alike = _nearest(lab, evidence, rows)
    index = lab.data.index
    return {
        index.images[row].path: Explained(index.images[row].path, index.classes[label], warm, near)
        for row, label, warm, near in zip(rows, said.tolist(), heat, alike, strict=True)
    }, rank


def _said(lab: Lab, evidence: Evidence, rows: Ints) -> Ints:
    """The most probable class of each image: as it was answered, or by the model for images of other sides."""
    known = dict(zip(evidence.rows.tolist(), evidence.answers.probabilities.argmax(axis=1).tolist(), strict=True))
    missing = [row for row in rows.tolist() if row not in known]
    with torch.inference_mode():
        said = [evidence.classifier(x).argmax(dim=1) for x in _images(lab, np.array(missing, np.int64))]
    known |= dict(zip(missing, torch.cat([*said, torch.empty(0, dtype=torch.int64)]).tolist(), strict=True))
    return np.array([known[row] for row in rows.tolist()], np.int64)


def _heat(
    lab: Lab, classifier: Classifier, rows: Ints, said: Ints
) -> tuple[list[NDArray[np.uint8] | None], float | None]:
    if not len(rows) or len(classifier.backbone.groups) < 2:
        return [None] * len(rows), None
    images, targets = torch.cat(list(_images(lab, rows))), torch.from_numpy(said)
    heat = (255 * heat_maps(classifier, images, targets)).round().to(torch.uint8).numpy()
    return list(heat), follows_the_head(classifier, images[:_CHECKED], targets[:_CHECKED], seed=lab.config.seed)


def _images(lab: Lab, rows: Ints) -> Iterator[Tensor]:
    return batches(lab.data.pixels, lab.data.normalize, rows)


def _nearest(lab: Lab, evidence: Evidence, rows: Ints) -> list[tuple[Alike, ...]]:
    """The training images nearest to each; an image that was trained on is not its own neighbour."""
    if evidence.strange is None:
        return [()] * len(rows)
    index, bank = lab.data.index, evidence.strange.rows
    own = embeddings_of(lab, evidence.classifier.backbone, rows, frozen=evidence.frozen)
    near, similar = most_alike(evidence.strange.embeddings, own, ALIKE + 1)
    found = []
    for row, places, cosines in zip(rows, near, similar, strict=True):
        others = [(bank[place], cosine) for place, cosine in zip(places, cosines, strict=True) if bank[place] != row]
        named = (Alike(index.images[one].path, index.label_names[one], float(cosine)) for one, cosine in others[:ALIKE])
        found.append(tuple(named))
    return found


def _robustness(lab: Lab, bundle: Bundle, rows: Ints) -> tuple[Spoilt, ...]:
    """Answers of the bundle about pictures spoilt as cameras and lines spoil them."""

    def answer(frame: Frame) -> frozenset[str]:
        return frozenset(bundle.predict(frame).labels)

    told = lambda done: lab.console.progress("spoilt", done, len(rows))  # noqa: E731
    return robustness(_pictures(lab, rows), answer, seed=lab.config.seed, progress=told)


def _pictures(lab: Lab, rows: Ints) -> Iterator[tuple[Frame, frozenset[str]]]:
    """Frames as the camera delivers them, and their labels; a file that is gone by now is left out.

    They end early where somebody asked for it.
    """
    index, options = lab.data.index, lab.data.options
    child: Any = closing(ChildDecoder(options)) if lab.config.data.untrusted else nullcontext()
    with child as decoder:
        for row in rows:
            if lab.stop:
                return
            path = index.root / index.images[row].path
            with contextlib.suppress(CvtuneError):
                name = path.as_posix()
                frame = decoder.decode(read_bytes(path, options), name) if decoder else read_image(path, options)
                yield frame.pixels, frozenset(index.classes[label] for label in index.label_sets[row])
