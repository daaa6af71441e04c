"""Labels that look wrong: what a quick probe, fitted on the other images, says about each image.

Confident learning (Northcutt et al., "Confident learning: estimating uncertainty in dataset labels", JAIR 2021) as
cleanlab implements it decides which answers contradict the label enough. Nothing is changed: the proposals go to a CSV,
which the user reads and hands to `cvtune fit --corrections`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from cvtune_edge.manifest import LABEL_SEPARATOR
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from cvtune.audit.finding import EXAMPLES
from cvtune.audit.folds import FOLDS, Ints, split_folds, stand_together, strata, too_small
from cvtune.data.index import DatasetIndex

Floats = NDArray[np.float32]
Probabilities = NDArray[np.float64]
Progress = Callable[[int, int], None]

_WIDTH: Final = 128  # principal components; with 64 as many wrong labels are found on neu_steel, fewer on ELPV
_STRENGTH: Final = 0.1  # scikit-learn's C; 0.03 to 0.3 differ by 2 points of recall (steel, planted, seeds 5-9)
# Of cleanlab's rules. 5 % planted on neu_steel, seeds 5-9, recall / precision: both .90 / .98, prune_by_noise_rate
# .92 / .96, confident_learning .84 / 1.00 with a seed at .78, predicted_neq_given 1.00 / .87. Untouched: 0 of 1,800 on
# steel; both 23, prune_by_noise_rate 41, predicted_neq_given 219 of 1,920 on gtsrb.
_RULE: Final = "both"
# cleanlab compares with the class's mean confidence, which in a clean folder is near 1: of 3 planted in the 1,800 of
# neu_steel it finds 2, of 18 it finds 13. With labels that are contradicted outright 3 and 17.8 are found (means of
# seeds 5-8), still none on the untouched folder, none more on ELPV.
_UNLIKELY: Final = 0.2
_LIKELY: Final = 0.7
# Of one label among several; each image has K of them to be wrong about. Mixtures of neu_steel's classes, 2,700 images:
# 11 suspects instead of 9 where nothing is planted, 39 at 0.2.
_UNLIKELY_STATE: Final = 0.05
# Of 1,800 embeddings with labels drawn at random the rule contradicts 45 % (2 classes) to 70 % (43); of real folders
# 0 to 13 % (ELPV with 5 % planted).
_HOPELESS: Final = 1 / 3


@dataclass(frozen=True)
class Suspect:
    """An image whose label looks wrong.

    Attributes:
        position: in the index.
        path: as in the index.
        label: the label it has; `dent;scratch` for several, empty for none.
        proposed: the label that it looks like, likewise.
        p_label: probability of the label it has, by a probe that did not see the image; of several labels, that of
            the least likely state (there or not there) among those that are to change.
        p_proposed: of the proposed one, likewise.
    """

    position: int
    path: str
    label: str
    proposed: str
    p_label: float
    p_proposed: float


@dataclass(frozen=True)
class Judged:
    """What came of judging the labels.

    Attributes:
        suspects: labels that look wrong, the worst first.
        note: what was not judged and why, "" where all were.
    """

    suspects: tuple[Suspect, ...]
    note: str = ""


def suspects(
    index: DatasetIndex,
    embeddings: Floats,
    *,
    seed: int,
    near: Sequence[Sequence[int]] = (),
    progress: Progress | None = None,
) -> tuple[Suspect, ...]:
    """The suspects of :func:`judge_labels`."""
    return judge_labels(index, embeddings, seed=seed, near=near, progress=progress).suspects


def judge_labels(
    index: DatasetIndex,
    embeddings: Floats,
    *,
    seed: int,
    near: Sequence[Sequence[int]] = (),
    progress: Progress | None = None,
) -> Judged:
    """Look for labels that look wrong.

    Groups and copies stay in one fold. Classes with fewer than five images (or groups) are neither learned from nor
    suspected. Nothing is proposed where the probe contradicts more than a third of all labels: then it is the probe
    that cannot tell the classes apart.

    Args:
        index: the images.
        embeddings: float32 [N, D] of the pretrained network, aligned with the index.
        seed: of the folds.
        near: clusters of positions that show the same picture; identical files are known without.
        progress: called with the folds done and all folds.

    Raises:
        ValueError: other embeddings than images, or values that are not finite.
    """
    if embeddings.shape[:1] != (len(index),) or embeddings.ndim != 2:
        raise ValueError(f"embeddings {embeddings.shape}, expected [{len(index)}, D]")
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings hold NaN or infinity")
    units = stand_together(index, near)
    small = too_small(index, units)
    judge = _judge_several if index.multi else _judge_single
    with threadpool_limits(1, user_api="blas"):  # on busy machines the fits wait for threads: 4 s become 60
        found = tuple(judge(index, embeddings, units, small, seed, progress or (lambda done, of: None)))
    if len(found) > _HOPELESS * len(index):
        return Judged((), f"labels were not judged: the network contradicts {len(found):,} of {len(index):,} of them")
    return Judged(found, _left_out(index, small))


def _left_out(index: DatasetIndex, small: frozenset[int]) -> str:
    left, least = len(index.classes) - len(small), f"{FOLDS} images (or groups)"
    if index.multi and not left:
        return f"labels were not judged: no class has {least} with it and {FOLDS} without"
    if not index.multi and left < 2:
        return f"labels were not judged: no two classes have {least} to compare"
    if not small:
        return ""
    names = ", ".join(f"'{index.classes[label]}'" for label in sorted(small)[:EXAMPLES])
    more = f" and {len(small) - EXAMPLES} more" if len(small) > EXAMPLES else ""
    which = f"{least} with or without" if index.multi else least
    return f"labels of {names}{more} were not judged: fewer than {which}"


def _judge_single(
    index: DatasetIndex, embeddings: Floats, units: Ints, small: frozenset[int], seed: int, progress: Progress
) -> Iterator[Suspect]:
    kept = np.array([label for label in range(len(index.classes)) if label not in small], np.int64)
    rows = np.flatnonzero(np.isin(index.labels, kept))
    if len(kept) < 2:
        return
    labels = np.searchsorted(kept, index.labels[rows])
    probabilities, known = _out_of_fold(embeddings[rows], labels, units[rows], seed, progress)
    rows, labels, probabilities = rows[known], labels[known], probabilities[known]
    for i in _issues(labels, probabilities):
        others = probabilities[i].copy()
        others[labels[i]] = -1
        proposed = int(others.argmax())
        yield Suspect(
            position=int(rows[i]),
            path=index.images[rows[i]].path,
            label=index.classes[kept[labels[i]]],
            proposed=index.classes[kept[proposed]],
            p_label=float(probabilities[i, labels[i]]),
            p_proposed=float(probabilities[i, proposed]),
        )


def _out_of_fold(
    embeddings: Floats, labels: Ints, units: Ints, seed: int, progress: Progress
) -> tuple[Probabilities, NDArray[np.bool_]]:
    """Probabilities [N, K] by probes that saw neither the image nor its group, and [N] whether its class was seen."""
    probabilities = np.zeros((len(labels), int(labels.max()) + 1))
    known = np.zeros(len(labels), bool)
    for fit_on, judged in _folds(embeddings, labels, units, seed, progress):
        model = _probe(fit_on.reduced, labels[fit_on.rows])
        probabilities[np.ix_(judged.rows, model.classes_)] = model.predict_proba(judged.reduced)
        known[judged.rows] = np.isin(labels[judged.rows], model.classes_)
    return probabilities, known


@dataclass(frozen=True)
class _Part:
    """One side of a fold: `rows`, and their embeddings by the principal components of the fitting side."""

    rows: Ints
    reduced: Floats


def _folds(
    embeddings: Floats, labels: Ints, units: Ints, seed: int, progress: Progress
) -> Iterator[tuple[_Part, _Part]]:
    for done, (fit_on, judged) in enumerate(split_folds(labels, units, seed)):
        progress(done, FOLDS)
        width = min(_WIDTH, embeddings.shape[1], len(fit_on))
        with np.errstate(invalid="ignore"):  # the ratio of variances where all images are the same
            # randomized: 128 of 1,280 components of 8,000 images in 2 s instead of 8, equal to 6 digits
            pca = PCA(width, svd_solver="randomized", random_state=0).fit(embeddings[fit_on])
        # one scale for all components: whitening would blow up those that are noise
        scale = np.float32(1 / np.sqrt(pca.explained_variance_.mean() + 1e-12))
        yield (
            _Part(fit_on, pca.transform(embeddings[fit_on]) * scale),
            _Part(judged, pca.transform(embeddings[judged]) * scale),
        )
    progress(FOLDS, FOLDS)


def _probe(reduced: Floats, labels: NDArray[np.generic]) -> LogisticRegression:
    """Without class weights: cleanlab estimates rates of wrong labels from the classes' own shares."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an answer that is nearly the best one will do
        return LogisticRegression(C=_STRENGTH, max_iter=200).fit(reduced, labels)


@contextmanager
def _cleanlab() -> Iterator[None]:
    """To import cleanlab in, which takes 1.5 s, and to call it: its advice on arguments is not for the user.

    Its Datalab, which is not used here, would import whatever is called `datasets`: seconds of Hugging Face's package,
    or a script of the user's.
    """
    hidden = "datasets" not in sys.modules
    if hidden:
        sys.modules["datasets"] = None  # type: ignore[assignment]  # Python's way to make an import fail
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if hidden:
            del sys.modules["datasets"]


def _issues(labels: Ints, probabilities: Probabilities) -> Ints:
    """Rows that cleanlab takes for wrong or that are contradicted outright, the worst first."""
    with _cleanlab():
        from cleanlab.filter import find_label_issues

        # its processes would pickle, and are slower below millions of images
        wrong = np.asarray(find_label_issues(labels, probabilities, filter_by=_RULE, n_jobs=1), bool)
    given = probabilities[np.arange(len(labels)), labels]
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1
    best = others.max(axis=1)
    wrong |= (given < _UNLIKELY) & (best > _LIKELY)
    rows = np.flatnonzero(wrong)
    return rows[np.argsort((given - best)[rows], kind="stable")]  # cleanlab's normalised margin


def _judge_several(
    index: DatasetIndex, embeddings: Floats, units: Ints, small: frozenset[int], seed: int, progress: Progress
) -> Iterator[Suspect]:
    kept = [label for label in range(len(index.classes)) if label not in small]
    if not kept:
        return
    present = index.targets[:, kept] > 0
    probabilities = present.astype(np.float64)  # where a fold lacks a label, its answer is what is written
    for fit_on, judged in _folds(embeddings, strata(index), units, seed, progress):
        for column in range(len(kept)):
            if len(np.unique(present[fit_on.rows, column])) == 2:
                model = _probe(fit_on.reduced, present[fit_on.rows, column])
                probabilities[judged.rows, column] = model.predict_proba(judged.reduced)[:, 1]
    wrong = _issues_per_label(present, probabilities)
    likely = np.where(wrong, np.where(present, probabilities, 1 - probabilities), np.inf).min(axis=1)
    for row in sorted(np.flatnonzero(wrong.any(axis=1)).tolist(), key=lambda row: (likely[row], row)):
        changed = {kept[column] for column in np.flatnonzero(wrong[row])}
        proposed = sorted(changed ^ set(index.label_sets[row]))
        yield Suspect(
            position=row,
            path=index.images[row].path,
            label=index.label_names[row],
            proposed=LABEL_SEPARATOR.join(index.classes[label] for label in proposed),
            p_label=float(likely[row]),
            p_proposed=float(1 - likely[row]),
        )


def _issues_per_label(present: NDArray[np.bool_], probabilities: Probabilities) -> NDArray[np.bool_]:
    """Whether label j of image i is wrongly there or missing, bool [N, J]."""
    lists = [np.flatnonzero(row).tolist() for row in present]
    with _cleanlab():
        from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

        found = find_multilabel_issues_per_class(lists, probabilities, filter_by=_RULE, n_jobs=1)
    outright = np.where(present, probabilities, 1 - probabilities) < _UNLIKELY_STATE
    return np.asarray(found, bool) | outright
