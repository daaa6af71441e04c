"""The parity gate: the exported file, asked with the user's own files, must answer like the trained network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cvtune_edge.results import has_labels
from cvtune_edge.runtime import Bundle, Unreadable
from numpy.typing import NDArray

from cvtune.bundle.graph import Task
from cvtune.errors import CvtuneError, GateError

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
TIE = 1e-4  # two classes closer than this may swap places, and a label this close to its threshold may come and go
WORST = 1e-3  # largest difference of a probability that the gate lets pass
_CHANGED = "the folder changed during the run: fit again"
_ANOTHER_BACKBONE = "no bundle was written for this stage; try another --backbone, and please report this backbone"


@dataclass(frozen=True)
class Parity:
    """Trained network against exported file.

    Attributes:
        images: number compared.
        equal: equal decisions; of several labels an image has, all of them.
        ties: decisions that differ although the two classes are within 1e-4 of each other, or each label that differs
            within 1e-4 of its threshold.
        worst: largest difference of a probability.
        vanished: files that are not compared, because they are no longer there.
    """

    images: int
    equal: int
    ties: int
    worst: float
    vanished: int = 0

    @property
    def passed(self) -> bool:
        """Every decision equal, ties apart, and no probability off by more than 1e-3."""
        return self.equal + self.ties == self.images and self.worst <= WORST


def answers(
    bundle: Bundle, root: Path, paths: Sequence[str], *, progress: Callable[[int, int], None]
) -> tuple[Floats, Floats, Flags]:
    """What the bundle says about files.

    Returns:
        Probabilities float32 [len(paths), K], embeddings [len(paths), D], and bool [len(paths)]: which files were
        there. A file that was removed since training read it has rows without meaning.

    Raises:
        GateError: a file that was read when training started is there and cannot be read any more, most files are gone,
            or the bundle gives no numbers.
    """
    rows = np.zeros((len(paths), len(bundle.classes)), np.float32)
    embeddings = np.zeros((len(paths), bundle.manifest.embedding), np.float32)
    there = np.ones(len(paths), np.bool_)
    try:
        for i, answer in enumerate(bundle.stream((root / path for path in paths), embedding=True)):
            if isinstance(answer, Unreadable):
                there[i] = _is_there(answer)
            else:
                rows[i], embeddings[i] = answer.probabilities, answer.embedding
            progress(i + 1, len(paths))
    except GateError:
        raise
    except CvtuneError as error:
        raise GateError(error.message, hint=_ANOTHER_BACKBONE) from error
    gone = int((~there).sum())
    if 2 * gone > len(paths):  # a drive that was taken away; the few files left would prove little
        raise GateError(f"{gone} of {len(paths)} files of {root.as_posix()} are no longer there", hint=_CHANGED)
    return rows, embeddings, there


def _is_there(answer: Unreadable) -> bool:
    """False for a file that vanished; one that changed is no file that training has seen."""
    if os.path.exists(answer.path):  # noqa: PTH110 - Path's raises where a folder above was closed
        raise GateError(f"{answer.path}: {answer.reason}", hint=_CHANGED)
    return False


def compare(trained: Floats, exported: Floats, *, task: Task = "single", thresholds: Sequence[float] = ()) -> Parity:
    """Compare two sets of probabilities.

    Args:
        trained: [N, K].
        exported: [N, K].
        task: how they become decisions: the largest, or each one against its threshold.
        thresholds: of the K labels, for "multi".
    """
    equal, close = _each_label(trained, exported, thresholds) if task == "multi" else _the_largest(trained, exported)
    worst = float(np.abs(trained.astype(np.float64) - exported).max()) if len(trained) else 0.0
    return Parity(len(trained), int(equal.sum()), int((~equal & close).sum()), worst)


def _the_largest(trained: Floats, exported: Floats) -> tuple[Flags, Flags]:
    """Which decisions are equal, bool [N], and which may differ, bool [N]."""
    ours, theirs = trained.argmax(1), exported.argmax(1)
    rows = np.arange(len(trained))
    return ours == theirs, np.abs(trained[rows, ours] - trained[rows, theirs]) <= TIE


def _each_label(trained: Floats, exported: Floats, thresholds: Sequence[float]) -> tuple[Flags, Flags]:
    """The same for images with several labels: those that differ must all be at their thresholds."""
    same = has_labels(trained, thresholds) == has_labels(exported, thresholds)
    close = np.abs(trained.astype(np.float64) - np.asarray(thresholds, np.float64)) <= TIE
    return same.all(axis=1), (same | close).all(axis=1)


def check(parity: Parity) -> None:
    """Refuse an export that answers otherwise.

    Raises:
        GateError: how many decisions differ, and by how much.
    """
    if not parity.passed:
        other = parity.images - parity.equal - parity.ties
        raise GateError(
            f"the exported model answers otherwise than the trained one: {other} of {parity.images} decisions differ, "
            f"largest difference of a probability {parity.worst:.2g} (at most {WORST:g} is allowed)",
            hint=_ANOTHER_BACKBONE,
        )
