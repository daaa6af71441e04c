"""Which frames go into the bundle as golden ones, and their writing; `cvtune_edge.golden` reads and asks about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from cvtune_edge.decision import REVIEW, OperatingPoint
from cvtune_edge.errors import ImageError
from cvtune_edge.golden import CLOSE, FOLDER, INDEX, SCHEMA, Golden, read_golden
from cvtune_edge.manifest import file_sha256
from cvtune_edge.results import Prediction
from cvtune_edge.runtime import Bundle
from numpy.typing import NDArray

from cvtune.bundle.gate import Said, margins
from cvtune.data.preprocess import Preprocessing
from cvtune.errors import GateError
from cvtune.rundir import json_text, write_bytes

Kind = Literal["sure", "unsure", "strange", "drawn"]
Pick = tuple[int, Kind]  # a row and why it is taken

FRAMES: Final = 32  # or one of each class and these:
UNSURE: Final = 6
STRANGE: Final = 4
DRAWN: Final = 2
SIDE: Final = 256  # pixels of the longer side, beyond which a frame is made smaller where no region depends on its size
BYTES: Final = 32 << 20  # of all frames together; where a region keeps them large there are fewer
_APART: Final = 1.5 * CLOSE  # from a limit: nearer frames could be decided otherwise by a sound machine


def choose(said: Said, point: OperatingPoint, there: NDArray[np.bool_]) -> list[Pick]:
    """Rows that cover all classes, the unsure and the strange, far enough from every limit where there are such.

    Args:
        said: what the bundle says of n images.
        point: its limits.
        there: bool [n], of which files are at hand.
    """
    near = margins(said, point) < _APART
    rows = np.flatnonzero(there)
    rows = rows[np.argsort(near[rows], kind="stable")]  # those too near to a limit come last
    sure, labels = said.probabilities.max(axis=1), said.probabilities.argmax(axis=1)
    strange = np.zeros(len(sure), bool) if said.novelty is None else point.is_strange(said.novelty)
    review = (said.decisions == REVIEW).reshape(len(sure), -1).any(axis=1) & ~strange
    doubt = rows[review[rows]] if review[rows].any() else rows[np.lexsort((sure[rows], near[rows]))]
    picks: dict[int, Kind] = {}

    def take(some: Iterable[int]) -> None:
        picks.update((int(row), "strange" if strange[row] else "unsure" if review[row] else "sure") for row in some)

    for label in range(said.probabilities.shape[1]):
        own = rows[(labels[rows] == label) & ~strange[rows]]
        take(own[np.lexsort((-sure[own], review[own], near[own]))][:1])
    take(rows[strange[rows]][:STRANGE])
    picks.update((int(row), "unsure") for row in [row for row in doubt if int(row) not in picks][:UNSURE])
    most = max(FRAMES, said.probabilities.shape[1] + UNSURE + STRANGE + DRAWN) - DRAWN
    rest = [row for row in rows.tolist() if row not in picks]
    far = [row for row in rest if not near[row]]
    far = far[:: max(1, len(far) // max(1, most - len(picks)))]
    take([*far, *(row for row in rest if near[row])][: max(0, most - len(picks))])
    return sorted(picks.items())


def write_golden(
    folder: Path, bundle: Bundle, pre: Preprocessing, root: Path, paths: Sequence[str], picks: Iterable[Pick]
) -> dict[str, str]:
    """Write the frames and the bundle's answers for them.

    Args:
        folder: of the bundle that is being written.
        bundle: opened from it.
        pre: frame to pixels.
        root: of the folder of images.
        paths: its images.
        picks: rows of `paths`.

    Returns:
        sha256 of each file that was written.
    """
    found: list[Golden] = []
    size = 0
    for frame, kind in _frames(bundle, pre, root, paths, picks):
        size += frame.nbytes
        if size > BYTES and found:
            break
        file = f"{FOLDER}/{len(found):02}.bin"
        write_bytes(folder / file, frame.astype(frame.dtype.newbyteorder("<")).tobytes())
        found.append(
            Golden(
                file,
                (frame.shape[0], frame.shape[1], 3),
                frame.dtype.name,
                kind,
                **_told(bundle.predict(frame)),
            )
        )
    write_bytes(folder / INDEX, _listed(found))
    return {name: file_sha256(folder / name) for name in (INDEX, *(one.file for one in found))}


def answered_by(bundle: Bundle) -> bytes:
    """The list of a bundle's frames with the answers of its model at hand, without those that it is unsure about.

    Args:
        bundle: opened with one of its lighter models.

    Raises:
        GateError: it is unsure about all of them.
    """
    found: list[Golden] = []
    for golden in read_golden(bundle.path, bundle.manifest.files):
        answer = bundle.predict(golden.frame(bundle.path, bundle.manifest.files))
        assert answer.decision is not None
        novelty = None if answer.novelty is None else np.array([answer.novelty], np.float32)
        said = Said(answer.probabilities[None], novelty, answer.decision[None])
        if margins(said, bundle.manifest.point)[0] >= _APART:
            found.append(replace(golden, **_told(answer)))
    if not found:
        raise GateError(
            f"{bundle.precision} is unsure about every golden frame",
            hint="nothing was written; model.onnx is as it was",
        )
    return _listed(found)


def _told(answer: Prediction) -> dict[str, Any]:
    """An answer as a golden frame has it."""
    assert answer.decision is not None
    decision = answer.decision.tolist()
    return {
        "decision": tuple(decision) if isinstance(decision, list) else decision,
        "probabilities": tuple(map(float, answer.probabilities)),
        "novelty": answer.novelty,
    }


def _listed(found: Sequence[Golden]) -> bytes:
    return json_text({"schema": SCHEMA, "frames": [one.to_json() for one in found]}).encode()


def _frames(
    bundle: Bundle, pre: Preprocessing, root: Path, paths: Sequence[str], picks: Iterable[Pick]
) -> Iterator[tuple[NDArray[Any], Kind]]:
    """The drawn ones first: where frames are large, there is room for a few only."""
    height, width = (SIDE, SIDE) if pre.region is None else pre.least_frame
    dice = np.random.default_rng(0)
    low, high = pre.window or (0, 255)
    noise = low + dice.random((height, width, 3)) * (high - low)
    ramp = np.broadcast_to(np.linspace(low, high, width)[None, :, None], (height, width, 3))
    for drawn in (noise, ramp):
        yield np.ascontiguousarray(drawn.astype(pre.pixels)), "drawn"
    for row, kind in picks:
        try:
            frame = bundle.read(root / paths[row]).pixels
        except ImageError:  # gone by now
            continue
        if pre.region is None and max(frame.shape[:2]) > SIDE:
            frame = _smaller(frame)
        yield np.ascontiguousarray(frame), kind


def _smaller(frame: NDArray[Any]) -> NDArray[Any]:
    factor = SIDE / max(frame.shape[:2])
    height, width = (max(1, round(side * factor)) for side in frame.shape[:2])
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA))
