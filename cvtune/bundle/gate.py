"""The parity gate: the exported file, asked with the user's own files, must answer like the trained network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cvtune_edge.decision import OperatingPoint, defect_scores
from cvtune_edge.runtime import Bundle, Unreadable
from cvtune_edge.session import SESSION_ERRORS, open_session
from numpy.typing import NDArray

from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.errors import CvtuneError, GateError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Wide = NDArray[np.float64]
TIE = 1e-4  # two classes closer than this may swap places, and what is this close to a limit may be on either side
WORST = 1e-3  # largest difference of a probability that the gate lets pass
FARTHEST = 1e-2  # of a distance, in units of its limit: where all images look alike to a network, float32 has no more
SEVERAL = 7  # frames at once, where one at a time is what cvtune itself does
_LEAST = 1e-9
_CHANGED = "the folder changed during the run: fit again"
_ANOTHER_BACKBONE = "no bundle was written for this stage; try another --backbone, and please report this backbone"


@dataclass(frozen=True)
class Parity:
    """Trained network against exported file.

    Attributes:
        images: number compared.
        equal: equal decisions and equal labels; of several labels an image has, all of them.
        ties: decisions that differ although the two classes are within 1e-4 of each other, or what decides, a
            probability or the distance, within 1e-4 of its limit.
        worst: largest difference of a probability.
        vanished: files that are not compared, because they are no longer there.
        distance: largest difference of a distance, as a share of the limit, see :func:`compare`; 0 without distances.
    """

    images: int
    equal: int
    ties: int
    worst: float
    vanished: int = 0
    distance: float = 0.0

    @property
    def passed(self) -> bool:
        """Every decision equal, ties apart, no probability off by 1e-3 and no distance by 1 % of its limit."""
        return self.equal + self.ties == self.images and self.worst <= WORST and self.distance <= FARTHEST


@dataclass(frozen=True, eq=False)
class Said:
    """What a model says about n images.

    Attributes:
        probabilities: float32 [n, K].
        novelty: distances float32 [n]; None where there is no distance.
        decisions: int64 [n], or [n, K] of several labels.
    """

    probabilities: Floats
    novelty: Floats | None
    decisions: Ints

    def where(self, rows: Flags) -> Said:
        """Some of them."""
        return Said(
            self.probabilities[rows], None if self.novelty is None else self.novelty[rows], self.decisions[rows]
        )


def answers(
    bundle: Bundle, root: Path, paths: Sequence[str], *, progress: Callable[[int, int], None]
) -> tuple[Said, Flags]:
    """What the bundle says about files.

    Returns:
        Its answers, and bool [len(paths)]: which files were there. A file that was removed since training read it has
        rows without meaning.

    Raises:
        GateError: a file that was read when training started is there and cannot be read any more, most files are gone,
            or the bundle gives no numbers.
    """
    n, manifest = len(paths), bundle.manifest
    probabilities, novelty = np.zeros((n, len(bundle.classes)), np.float32), np.zeros(n, np.float32)
    decisions = np.zeros(probabilities.shape if manifest.task == "multi" else n, np.int64)
    there = np.ones(n, np.bool_)
    try:
        for i, answer in enumerate(bundle.stream(root / path for path in paths)):
            if isinstance(answer, Unreadable):
                there[i] = _is_there(answer)
            else:
                assert answer.decision is not None
                probabilities[i], decisions[i] = answer.probabilities, answer.decision
                novelty[i] = 0 if answer.novelty is None else answer.novelty
            progress(i + 1, n)
    except GateError:
        raise
    except CvtuneError as error:
        raise GateError(error.message, hint=_ANOTHER_BACKBONE) from error
    gone = int((~there).sum())
    if 2 * gone > n:  # a drive that was taken away; the few files left would prove little
        raise GateError(f"{gone} of {n} files of {root.as_posix()} are no longer there", hint=_CHANGED)
    return Said(probabilities, None if manifest.novelty is None else novelty, decisions), there


def _is_there(answer: Unreadable) -> bool:
    """False for a file that vanished; one that changed is no file that training has seen."""
    if os.path.exists(answer.path):  # noqa: PTH110 - Path's raises where a folder above was closed
        raise GateError(f"{answer.path}: {answer.reason}", hint=_CHANGED)
    return False


def compare(trained: Said, exported: Said, point: OperatingPoint) -> Parity:
    """Compare what two models say about the same images.

    Of two distances it counts how far their squares are apart, in units of the limit: near 0, where copies of training
    images lie, a distance is the root of a rounding error.
    """
    equal, close = (_each_label if point.several else _the_largest)(trained, exported, point)
    worst = float(np.abs(trained.probabilities.astype(np.float64) - exported.probabilities).max(initial=0))
    return Parity(len(equal), int(equal.sum()), int((~equal & close).sum()), worst, 0, _apart(trained, exported, point))


def _apart(trained: Said, exported: Said, point: OperatingPoint) -> float:
    if trained.novelty is None or exported.novelty is None or not len(trained.novelty):
        return 0.0
    ours, theirs = trained.novelty.astype(np.float64), exported.novelty.astype(np.float64)
    unit = point.novelty if point.novelty is not None else float(ours.mean())
    return float((np.abs(ours**2 - theirs**2) / ((ours + unit) * unit)).max()) if unit else 0.0


def _the_largest(trained: Said, exported: Said, point: OperatingPoint) -> tuple[Flags, Flags]:
    """Which answers are equal, bool [N], and which may differ, bool [N]."""
    wide = trained.probabilities.astype(np.float64)
    ours, theirs = wide.argmax(1), exported.probabilities.argmax(1)
    rows = np.arange(len(wide))
    named = ours == theirs
    even = ~named & (np.abs(wide[rows, ours] - wide[rows, theirs]) <= TIE)
    same = trained.decisions == exported.decisions
    return named & same, (named | even) & (same | even | (margins(trained, point) <= TIE))


def _each_label(trained: Said, exported: Said, point: OperatingPoint) -> tuple[Flags, Flags]:
    """The same for images with several labels: those that differ must all be at their limits."""
    same = trained.decisions == exported.decisions
    close = _of_labels(trained, point) <= TIE
    far = (_from_novelty(trained, point) <= TIE)[:, None]
    return same.all(axis=1), (same | close | far).all(axis=1)


def margins(said: Said, point: OperatingPoint) -> Wide:
    """How far what decides is from where the decision becomes another, [n]; of several labels the nearest.

    A probability, a gap between two of them, or the distance as a share of its limit.
    """
    if point.several:
        return np.asarray(np.minimum(_of_labels(said, point).min(axis=1), _from_novelty(said, point)))
    wide = said.probabilities.astype(np.float64)
    if point.ok:
        score, likely, _ = defect_scores(wide, point.ok)
        groups = [[k for k in range(wide.shape[1]) if (k in point.ok) is good] for good in (False, True)]
        gap = np.min([_gap(wide[:, group]) for group in groups], axis=0)
        limits = np.stack([np.array(point.accept)[likely], np.array(point.reject)[likely]])
    else:
        score, gap = wide.max(axis=1), _gap(wide)
        limits = np.array(point.reject)[wide.argmax(axis=1)][None]
    from_limit = np.abs(score - limits).min(axis=0)
    return np.asarray(np.minimum(np.minimum(from_limit, gap), _from_novelty(said, point)))


def _of_labels(said: Said, point: OperatingPoint) -> Wide:
    """How far each probability is from its limits, [n, K]."""
    wide = said.probabilities.astype(np.float64)
    return np.asarray(np.minimum(np.abs(wide - np.array(point.accept)), np.abs(wide - np.array(point.reject))))


def _gap(wide: Wide) -> Wide:
    """Between the two largest of [n, k], [n]; infinite where there is one alone."""
    if wide.shape[1] < 2:
        return np.full(len(wide), np.inf)
    first, second = -np.partition(-wide, 1, axis=1)[:, :2].T
    return np.asarray(first - second)


def _from_novelty(said: Said, point: OperatingPoint) -> Wide:
    """How far the distance is from its limit, as a share of it, [n]; infinite without a limit."""
    if said.novelty is None or point.novelty is None:
        return np.full(len(said.probabilities), np.inf)
    return np.abs(said.novelty.astype(np.float64) / max(point.novelty, _LEAST) - 1)


def check(parity: Parity) -> None:
    """Refuse an export that answers otherwise.

    Raises:
        GateError: how many decisions differ, and by how much.
    """
    if not parity.passed:
        other = parity.images - parity.equal - parity.ties
        raise GateError(
            f"the exported model answers otherwise than the trained one: {other} of {parity.images} decisions differ, "
            f"largest difference of a probability {parity.worst:.2g} (at most {WORST:g} is allowed), of a distance "
            f"{parity.distance:.2g} of its limit",
            hint=_ANOTHER_BACKBONE,
        )


def check_shapes(model: Path, pre: Preprocessing, said: Callable[[NDArray[Any]], Said], point: OperatingPoint) -> None:
    """Ask about frames of sizes that no camera of the folder has, and of several at once.

    Args:
        model: the exported file.
        pre: frame to pixels.
        said: what the trained network says of pixels [N, 3, S, S].
        point: the limits.

    Raises:
        GateError: it answers otherwise, and at which size.
    """
    frame, whole = open_session(frame_graph(pre).SerializeToString()), open_session(model)
    names = [output.name for output in whole.get_outputs()]
    for n, height, width in _shapes(pre):
        frames = _pattern(n, height, width, pre)
        try:
            found = dict(zip(names, whole.run(names, {"image": frames}), strict=True))
        except SESSION_ERRORS as error:
            raise _refused(n, height, width, str(error).splitlines()[0]) from error
        (pixels,) = frame.run(None, {"image": frames})
        exported = Said(found["probabilities"], found.get("novelty"), found["decision"])
        parity = compare(said(pixels), exported, point)
        if not parity.passed:
            raise _refused(n, height, width, f"the largest difference of a probability is {parity.worst:.2g}")


def _refused(n: int, height: int, width: int, why: str) -> GateError:
    what = f"{n} frame{'s' if n > 1 else ''} of {width} x {height} pixels"
    return GateError(
        f"the exported model does not answer like the trained one for {what}: {why}", hint=_ANOTHER_BACKBONE
    )


def _shapes(pre: Preprocessing) -> Iterator[tuple[int, int, int]]:
    """(N, H, W): the smallest frame, a huge one, a narrow one, and seven at once; only what the region allows."""
    if pre.frame_size is not None:
        yield from ((1, *pre.frame_size), (SEVERAL, *pre.frame_size))
        return
    least = pre.least_frame
    for n, height, width in ((1, 1, 1), (1, 3000, 4000), (1, 1200, 30), (SEVERAL, 97, 53)):
        yield n, max(height, least[0]), max(width, least[1])


def _pattern(n: int, height: int, width: int, pre: Preprocessing) -> NDArray[Any]:
    """Frames that are not alike, of all values."""
    values = np.arange(251, dtype=pre.pixels)
    if pre.window is not None:
        low, high = pre.window
        values = (low + values * ((high - low) / 250)).astype(pre.pixels)
    return np.resize(values, n * height * width * 3).reshape(n, height, width, 3)
