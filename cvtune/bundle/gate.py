"""The parity gate: the exported file, asked with the user's own files, must answer like the trained network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cvtune_edge.runtime import Bundle, Unreadable
from numpy.typing import NDArray

from cvtune.errors import CvtuneError, GateError

Floats = NDArray[np.float32]
TIE = 1e-4  # two classes closer than this may swap places
WORST = 1e-3  # largest difference of a probability that the gate lets pass
_ANOTHER_BACKBONE = "no bundle was written for this stage; try another --backbone, and please report this backbone"


@dataclass(frozen=True)
class Parity:
    """Trained network against exported file.

    Attributes:
        images: number compared.
        equal: equal decisions.
        ties: decisions that differ although the two classes are within 1e-4 of each other.
        worst: largest difference of a probability.
    """

    images: int
    equal: int
    ties: int
    worst: float

    @property
    def passed(self) -> bool:
        """Every decision equal, ties apart, and no probability off by more than 1e-3."""
        return self.equal + self.ties == self.images and self.worst <= WORST


def answers(bundle: Bundle, root: Path, paths: Sequence[str], *, progress: Callable[[int, int], None]) -> Floats:
    """What the bundle says about files, float32 [len(paths), K].

    Raises:
        GateError: a file that was read when training started cannot be read any more, or the bundle gives no numbers.
    """
    rows = np.empty((len(paths), len(bundle.classes)), np.float32)
    try:
        for i, answer in enumerate(bundle.stream(root / path for path in paths)):
            if isinstance(answer, Unreadable):
                raise GateError(f"{answer.path}: {answer.reason}", hint="the folder changed during the run: fit again")
            rows[i] = answer.probabilities
            progress(i + 1, len(paths))
    except GateError:
        raise
    except CvtuneError as error:
        raise GateError(error.message, hint=_ANOTHER_BACKBONE) from error
    return rows


def compare(trained: Floats, exported: Floats) -> Parity:
    """Compare two sets of probabilities [N, K]."""
    ours, theirs = trained.argmax(1), exported.argmax(1)
    rows = np.arange(len(trained))
    close = np.abs(trained[rows, ours] - trained[rows, theirs]) <= TIE
    differ = ours != theirs
    worst = float(np.abs(trained.astype(np.float64) - exported).max()) if len(trained) else 0.0
    return Parity(len(trained), int((~differ).sum()), int((differ & close).sum()), worst)


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
