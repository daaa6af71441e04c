"""Shortcuts: what tells a class without looking at the part - how the file was saved, its size, the camera, the light.

A network takes the easiest way. Where every scratch was photographed in another month, with another camera or another
program, it learns the month (Geirhos et al., "Shortcut learning in deep neural networks", Nature Machine Intelligence
2020) and fails on the line, with a test figure that is perfect. Each cheap feature alone gets a small tree; what it
finds on images that it was not fitted on must be no luck (Fisher's exact test) and must be a lot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom
from sklearn.tree import DecisionTreeClassifier

from cvtune.audit.finding import EXAMPLES, Finding, Severity
from cvtune.audit.folds import FOLDS, Ints, split_folds, stand_together, strata
from cvtune.data.facts import Facts
from cvtune.data.index import DatasetIndex

Columns = NDArray[np.float64]  # [N, features]

_LUCK: Final = 0.001  # probability of a false alarm, all classes and features of a folder together
_ALSO: Final = 0.8  # of the best gain; where one of three classes is told, the others are told by not being it
_CAMERAS: Final = 20  # the most frequent ones have a column each


@dataclass(frozen=True)
class Feature:
    """Something cheap to know about each image.

    Attributes:
        code: the end of the finding's code.
        name: in the title.
        columns: of the facts, one row an image; rows of NaN are not judged.
        bar: the share of a class that is found less the share of others taken for it (Youden's J) that is too much.
        severity: of the finding.
        action: what to do.
    """

    code: str
    name: str
    columns: Callable[[Sequence[Facts]], Columns]
    bar: float
    severity: Severity
    action: str


@dataclass(frozen=True)
class Tell:
    """How well one feature alone tells one class from the others, on images that the tree was not fitted on.

    Attributes:
        label: the class.
        found: images of the class that were told.
        of: images of the class.
        taken: images of other classes that were taken for it.
        others: images of other classes.
        luck: probability of so much or more where the feature says nothing (Fisher's exact test, one-sided), a unit
            of images that belong together counting once.
    """

    label: int
    found: int
    of: int
    taken: int
    others: int
    luck: float

    @property
    def gain(self) -> float:
        """Youden's J: 1 tells all, 0 nothing."""
        return self.found / self.of - self.taken / self.others


def shortcuts(
    index: DatasetIndex, facts: Sequence[Facts], *, seed: int = 0, near: Sequence[Sequence[int]] = ()
) -> tuple[Finding, ...]:
    """Features that alone betray a class, at most one finding a feature.

    Args:
        index: the images; classes with fewer than five of them (or groups) are not judged.
        facts: aligned with the index.
        seed: of the folds.
        near: clusters of positions that show the same picture; they share a fold.

    Raises:
        ValueError: other facts than images.
    """
    if len(facts) != len(index):
        raise ValueError(f"{len(facts)} facts, expected {len(index)}")
    study = study_of(index, near=near, seed=seed)
    return tuple(found for feature in FEATURES for found in _judge(feature, study, index.classes, facts))


@dataclass(frozen=True, eq=False)
class Study:
    """What is the same for all features.

    Attributes:
        targets: bool [N, K], which labels each image has.
        labels: int64 [N], what the tree is to tell: of several labels the rarest.
        units: int64 [N], numbers of the images that belong together.
        folds: rows to fit on and rows to judge.
        seed: of the tree.
    """

    targets: NDArray[np.bool_]
    labels: Ints
    units: Ints
    folds: tuple[tuple[Ints, Ints], ...]
    seed: int


def study_of(index: DatasetIndex, *, near: Sequence[Sequence[int]] = (), seed: int = 0) -> Study:
    """Prepare to measure features of an index."""
    units, labels = stand_together(index, near), strata(index)
    return Study(index.targets > 0, labels, units, tuple(split_folds(labels, units, seed)), seed)


def _judge(feature: Feature, study: Study, classes: Sequence[str], facts: Sequence[Facts]) -> Iterator[Finding]:
    tells = measure_tells(feature, study, facts)
    luck = _LUCK / (max(1, len(tells)) * len(FEATURES))  # Bonferroni
    told = [tell for tell in tells if tell.gain >= feature.bar and tell.luck <= luck]
    if told:
        told.sort(key=lambda tell: -tell.gain)
        told = [tell for tell in told if tell.gain >= _ALSO * told[0].gain]
        best = told[0]
        title = (
            f"{feature.name} alone tells '{classes[best.label]}' from the others: {best.found:,} of {best.of:,} "
            f"images found, {best.taken:,} of {best.others:,} others taken for it"
        )
        lines = [
            f"{classes[tell.label]}: {tell.found} of {tell.of} found, {tell.taken} of {tell.others} others taken"
            for tell in told[:EXAMPLES]
        ]
        yield Finding(f"shortcut_{feature.code}", feature.severity, title, len(told), tuple(lines), feature.action)


def measure_tells(feature: Feature, study: Study, facts: Sequence[Facts]) -> tuple[Tell, ...]:
    """How well the feature tells each class that is large enough; none where it is the same for all images."""
    columns = feature.columns(facts)
    known = np.asarray(np.isfinite(columns).all(axis=1), bool)
    if not known.any() or not np.ptp(columns[known], axis=0).any():
        return ()
    targets, units = study.targets[known], study.units[known]
    large = [
        label
        for label in range(targets.shape[1])
        if len(np.unique(units[targets[:, label]])) >= FOLDS <= len(np.unique(units[~targets[:, label]]))
    ]
    if not large:
        return ()
    told = _told(columns, known, study)[known]
    return tuple(_tell(label, told[:, label], targets[:, label], units) for label in large)


def _told(columns: Columns, known: NDArray[np.bool_], study: Study) -> NDArray[np.bool_]:
    """For each image and class whether a tree that did not see it takes it for the class, bool [N, K].

    One tree for all classes cuts the feature into cells; in a cell, a class is told when its share of all its images
    exceeds the share of the others': each class against the rest, with both sides weighing the same.
    """
    told, classes = np.zeros_like(study.targets), study.targets.shape[1]
    for fit_on, judged in ((fit_on[known[fit_on]], judged[known[judged]]) for fit_on, judged in study.folds):
        if not len(fit_on) or not len(judged):
            continue
        tree = DecisionTreeClassifier(
            max_leaf_nodes=max(16, 2 * classes),
            min_samples_leaf=3,
            class_weight="balanced",
            random_state=study.seed,
        ).fit(columns[fit_on], study.labels[fit_on])
        told[judged] = _told_cells(tree.apply(columns[fit_on]), study.targets[fit_on])[tree.apply(columns[judged])]
    return told


def _told_cells(cells: Ints, targets: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which classes are told in each cell, bool [cells, K]; `cells`, int [n], says where each image fell."""
    size = np.bincount(cells)[:, None]
    inside = np.zeros((len(size), targets.shape[1]))
    np.add.at(inside, cells, targets)
    total = targets.sum(axis=0)
    told = inside / np.maximum(total, 1) > (size - inside) / np.maximum(len(targets) - total, 1)
    return np.asarray(told, bool)


def _tell(label: int, told: NDArray[np.bool_], present: NDArray[np.bool_], units: Ints) -> Tell:
    found, of = int(told[present].sum()), int(present.sum())
    taken, others = int(told[~present].sum()), int((~present).sum())
    inside, outside = len(np.unique(units[present])), len(np.unique(units[~present]))
    k, m = found * inside // of, -(-taken * outside // others)  # units instead of images, rounded to the safe side
    luck = float(hypergeom.sf(k - 1, inside + outside, k + m, inside))
    return Tell(label, found, of, taken, others, luck)


def _numbers(*values: Callable[[Facts], float]) -> Callable[[Sequence[Facts]], Columns]:
    return lambda facts: np.array([[value(one) for value in values] for one in facts], np.float64)


def _names(value: Callable[[Facts], str]) -> Callable[[Sequence[Facts]], Columns]:
    """A column of 0 and 1 for each of the most frequent names."""

    def columns(facts: Sequence[Facts]) -> Columns:
        names, numbers = np.unique([value(one) for one in facts], return_inverse=True)
        frequent = np.argsort(-np.bincount(numbers), kind="stable")[:_CAMERAS]
        return np.asarray(numbers[:, None] == frequent[None], np.float64) if len(names) else np.empty((0, 0))

    return columns


_SAVED: Final = (
    "a network learns how files were saved, not the defect: save all classes with the same program and settings, "
    "from the originals, or leave the odd ones out"
)
_TAKEN: Final = (
    "a network learns the camera, not the defect: take pictures of every class in the same way, "
    "or leave the odd ones out"
)
_LOOK: Final = (
    "fine where the defect itself does it; if the light or the background differs between classes, the network learns "
    "that: take pictures of every class in the same light"
)

# What the file says has nothing to do with the part: a third of a class is too much. Size may have: traffic signs are
# cropped, and double curves are larger on the photograph than others (J = .50). What the pixels say may be the defect
# itself: brightness reaches .53 on neu_steel (pitted surface), the border .57 on gtsrb; .39 on ELPV, .17 on X-rays.
FEATURES: Final = (
    Feature("format", "the file format", _names(lambda f: f.kind), 0.3, "warning", _SAVED),
    Feature(
        "quality",
        "JPEG quality",
        _numbers(lambda f: np.nan if f.quality is None else f.quality),
        0.3,
        "warning",
        _SAVED,
    ),
    Feature("depth", "the bit depth", _numbers(lambda f: f.bits), 0.3, "warning", _SAVED),
    Feature("colour", "grey or colour", _names(lambda f: f"{f.channels} {f.alpha}"), 0.3, "warning", _SAVED),
    Feature("orientation", "the EXIF orientation", _names(lambda f: str(f.orientation)), 0.3, "warning", _TAKEN),
    Feature("camera", "the EXIF camera", _names(lambda f: f.camera), 0.3, "warning", _TAKEN),
    Feature(
        "size",
        "the image size",
        _numbers(lambda f: f.width, lambda f: f.height, lambda f: f.width / f.height),
        0.7,
        "warning",
        _TAKEN,
    ),
    Feature("brightness", "mean brightness", _numbers(lambda f: f.brightness), 0.8, "note", _LOOK),
    Feature("border", "the brightness of the border", _numbers(lambda f: f.border), 0.8, "note", _LOOK),
)
