"""studies.json: what was found out about the model that is shipped, beside its figures on the sides."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cvtune.errors import RunError
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.robustness import Spoilt
from cvtune.evaluation.slices import Slice
from cvtune.rundir import read_json, write_json

ALIKE: Final = 3  # training images that are named beside an image
RANDOMISED: Final = 0.5  # rank correlation of maps before and after the head is randomised; more says they show nothing


@dataclass(frozen=True)
class Foreign:
    """A folder of things that are none of the classes.

    Attributes:
        folder: as it was given.
        review: images that go to REVIEW as never seen, of those that can be read.
        auroc: how often one of them lies farther away than an image of the side that the report is about.
    """

    folder: str
    review: Rate
    auroc: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"folder": self.folder, "review": self.review.to_json(), "auroc": self.auroc}


@dataclass(frozen=True)
class NoveltyStudy:
    """How well what was never shown is told from what was.

    Attributes:
        kind: the distance: "knn" or "mahalanobis".
        limit: distance beyond which an image goes to REVIEW; infinite where there is none.
        alarms: share of known images that are expected beyond it.
        chosen_on: images that the limit was chosen on.
        scores: mean AUROC of each kind, by which it was chosen.
        left_out: AUROC of each class, were it unknown; empty where two classes or fewer leave nothing to leave out.
        foreign: folders of other things that the user named.
    """

    kind: str
    limit: float
    alarms: float
    chosen_on: int
    scores: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, float] = field(default_factory=dict)
    foreign: tuple[Foreign, ...] = ()

    def __str__(self) -> str:
        n, share = self.chosen_on, 100 * self.alarms
        images = f"{n:,} known ones" if n > 1 else "the known one"
        return (
            "an image farther from the training images than the limit goes to REVIEW as never seen; about "
            f"{share:.2g} % of known images do (limit {self.limit:.3g}, chosen on {images})"
        )

    def beyond(self, distances: NDArray[np.float32]) -> Rate:
        """How many images of distances [n] are beyond the limit."""
        return Rate(int((distances.astype(np.float64) > self.limit).sum()), len(distances))

    def to_json(self) -> dict[str, Any]:
        """Plain values, null for a limit that is infinite."""
        limit = self.limit if math.isfinite(self.limit) else None
        return {
            "kind": self.kind,
            "limit": limit,
            "alarms": self.alarms,
            "chosen_on": self.chosen_on,
            "scores": dict(self.scores),
            "left_out": dict(self.left_out),
            "foreign": [one.to_json() for one in self.foreign],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NoveltyStudy:
        """From :meth:`to_json`."""
        limit = math.inf if value["limit"] is None else float(value["limit"])
        scores, left_out = ({str(key): float(one) for key, one in value[n].items()} for n in ("scores", "left_out"))
        foreign = (Foreign(str(one["folder"]), _rate(one["review"]), float(one["auroc"])) for one in value["foreign"])
        plain = str(value["kind"]), limit, float(value["alarms"]), int(value["chosen_on"])
        return cls(*plain, scores, left_out, tuple(foreign))


@dataclass(frozen=True)
class Alike:
    """A training image that resembles another image; `similarity` is the cosine of their embeddings."""

    path: str
    label: str
    similarity: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"path": self.path, "label": self.label, "similarity": self.similarity}


@dataclass(frozen=True, eq=False)
class Explained:
    """Why one image was answered as it was.

    Attributes:
        path: of the image, as in the predictions.
        label: the class that the map speaks for: the one it was given.
        heat: uint8 [h, w], 255 where most speaks for it; None where the network has no maps.
        alike: the training images nearest to it, nearest first.
    """

    path: str
    label: str
    heat: NDArray[np.uint8] | None
    alike: tuple[Alike, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; the map as its shape and base64."""
        heat = None
        if self.heat is not None:
            heat = {"shape": list(self.heat.shape), "base64": base64.b64encode(self.heat.tobytes()).decode()}
        return {"path": self.path, "label": self.label, "heat": heat, "alike": [one.to_json() for one in self.alike]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Explained:
        """From :meth:`to_json`."""
        heat = None
        if value["heat"] is not None:
            data = base64.b64decode(value["heat"]["base64"], validate=True)
            heat = np.frombuffer(data, np.uint8).reshape([int(side) for side in value["heat"]["shape"]])
        alike = (Alike(str(one["path"]), str(one["label"]), float(one["similarity"])) for one in value["alike"])
        return cls(str(value["path"]), str(value["label"]), heat, tuple(alike))


@dataclass(frozen=True, eq=False)
class Studies:
    """Everything of the file; empty or None where it was not looked into.

    Attributes:
        side: whose images the slices, the robustness and the explanations are of: "test" or "folds".
        novelty: what was never shown.
        slices: where the model is worse, the worst first.
        robustness: answers on spoilt pictures.
        head_rank: rank correlation of heat maps with those of a randomised head; near 1 they would show nothing.
        explained: by path; mistakes, least sure and most novel images.
    """

    side: str = "test"
    novelty: NoveltyStudy | None = None
    slices: tuple[Slice, ...] = ()
    robustness: tuple[Spoilt, ...] = ()
    head_rank: float | None = None
    explained: Mapping[str, Explained] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file."""
        write_json(
            path,
            {
                "side": self.side,
                "novelty": self.novelty.to_json() if self.novelty else None,
                "slices": [one.to_json() for one in self.slices],
                "robustness": [one.to_json() for one in self.robustness],
                "head_rank": self.head_rank,
                "explained": [one.to_json() for one in self.explained.values()],
            },
        )

    @classmethod
    def load(cls, path: Path) -> Studies:
        """Read the file.

        Raises:
            RunError: it is missing or damaged.
        """
        value: Any = read_json(path)
        try:
            explained = (Explained.from_json(one) for one in value["explained"])
            return cls(
                str(value["side"]),
                None if value["novelty"] is None else NoveltyStudy.from_json(value["novelty"]),
                tuple(_slice(one) for one in value["slices"]),
                tuple(_spoilt(one) for one in value["robustness"]),
                None if value["head_rank"] is None else float(value["head_rank"]),
                {one.path: one for one in explained},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: damaged, no studies ({error!r})", hint="fit the run again") from error


def _rate(value: Mapping[str, Any]) -> Rate:
    return Rate(int(value["k"]), int(value["n"]))


def _slice(value: Mapping[str, Any]) -> Slice:
    rates = _rate(value["wrong"]), _rate(value["rest"])
    return Slice(str(value["attribute"]), str(value["name"]), *rates, float(value["p"]), bool(value["worse"]))


def _spoilt(value: Mapping[str, Any]) -> Spoilt:
    return Spoilt(str(value["how"]), str(value["strength"]), _rate(value["right"]), _rate(value["changed"]))
