"""Golden frames: raw pixels in the bundle with the answers that the lab had for them.

Whoever runs a bundle on another machine, with another onnxruntime or in another language, asks about them first. They
lie as plain numbers in C order, little-endian, so that any language reads them: golden/golden.json says where and what.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.errors import BundleError, MismatchError
from cvtune_edge.manifest import PIXEL_TYPES
from cvtune_edge.results import Prediction

FOLDER: Final = "golden"
INDEX: Final = f"{FOLDER}/golden.json"
CLOSE: Final = 0.02  # of a probability: what another processor, or int8 on it, may differ
SCHEMA: Final = 1
_AGAIN: Final = "export the bundle again with cvtune, or copy the whole folder again"
_MOST: Final = 1 << 28  # bytes of a frame


@dataclass(frozen=True)
class Golden:
    """One frame and the lab's answer for it.

    Attributes:
        file: of the raw pixels, relative to the bundle's folder.
        shape: H, W, 3.
        pixels: their type, that of the graph's input.
        kind: "sure", "unsure", "strange" or "drawn": why it was taken.
        decision: int, or K of them with several labels.
        probabilities: K.
        novelty: distance; None where the bundle measures none.

    Raises:
        ValueError: a shape or type that makes no sense.
    """

    file: str
    shape: tuple[int, int, int]
    pixels: str
    kind: str
    decision: int | tuple[int, ...]
    probabilities: tuple[float, ...]
    novelty: float | None

    def __post_init__(self) -> None:
        sizes = len(self.shape) == 3 and self.shape[2] == 3 and all(isinstance(n, int) and n > 0 for n in self.shape)
        if not sizes or self.pixels not in PIXEL_TYPES or math.prod(self.shape) * 4 > _MOST:
            raise ValueError(f"{self.file}: {self.pixels} {self.shape}, expected pixels [H, W, 3]")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Golden:
        """From :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        decision, novelty = value["decision"], value["novelty"]
        return cls(
            str(value["file"]),
            tuple(value["shape"]),
            value["pixels"],
            str(value["kind"]),
            tuple(map(int, decision)) if isinstance(decision, list) else int(decision),
            tuple(map(float, value["probabilities"])),
            None if novelty is None else float(novelty),
        )

    def frame(self, folder: Path) -> NDArray[Any]:
        """The pixels [H, W, 3].

        Raises:
            BundleError: the file is missing or of another size.
        """
        kind = np.dtype(self.pixels).newbyteorder("<")
        try:
            data = (folder / self.file).read_bytes()
        except OSError as error:
            raise BundleError(f"{folder / self.file}: cannot be read ({error.strerror})", hint=_AGAIN) from error
        if len(data) != math.prod(self.shape) * kind.itemsize:
            raise BundleError(f"{folder / self.file}: {len(data)} bytes, expected {self.shape}", hint=_AGAIN)
        return np.frombuffer(data, kind).reshape(self.shape).astype(self.pixels)


def read_golden(folder: Path) -> tuple[Golden, ...]:
    """The golden frames of a bundle; none where it has none.

    Raises:
        BundleError: the list is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        return ()
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["schema"] != SCHEMA:
            raise ValueError(f"schema {tree['schema']!r}, expected {SCHEMA}")
        return tuple(Golden.from_json(one) for one in tree["frames"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path.as_posix()}: no list of golden frames ({error})", hint=_AGAIN) from error


@dataclass(frozen=True)
class Verified:
    """How this machine answered for the golden frames.

    Attributes:
        frames: asked about.
        equal: decisions equal to the lab's.
        worst: largest difference of a probability.
        wrong: files of those whose decision or probability is another.
    """

    frames: int
    equal: int
    worst: float
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        if not self.frames:
            return "no golden frames in this bundle"
        return (
            f"{self.equal} of {self.frames} golden frames decided as in the lab, "
            f"largest difference of a probability {self.worst:.2g}"
        )


def verify(folder: Path, allowed: frozenset[str], predict: Callable[[NDArray[Any]], Prediction]) -> Verified:
    """Ask about every golden frame.

    Args:
        folder: of the bundle.
        allowed: files whose checksum was verified; no other is opened.
        predict: this machine's answer for a frame [H, W, 3].

    Raises:
        BundleError: the golden frames are damaged.
    """
    found = list(_asked(folder, allowed, predict))
    return Verified(
        len(found),
        sum(same for _, same, _ in found),
        max((apart for *_, apart in found), default=0.0),
        tuple(golden.file for golden, same, apart in found if not same or not apart <= CLOSE),
    )


def _asked(
    folder: Path, allowed: frozenset[str], predict: Callable[[NDArray[Any]], Prediction]
) -> Iterator[tuple[Golden, bool, float]]:
    """Each frame, whether it was decided alike, and how far apart a probability is."""
    for golden in read_golden(folder) if INDEX in allowed else ():
        if golden.file not in allowed:
            raise BundleError(f"{folder / golden.file}: not in the manifest, so it is not opened", hint=_AGAIN)
        answer = predict(golden.frame(folder))
        expected = np.array(golden.probabilities)
        if answer.decision is None or expected.shape != answer.probabilities.shape:
            raise BundleError(f"{folder / INDEX}: of another bundle", hint=_AGAIN)
        apart = float(np.abs(expected - answer.probabilities).max())
        yield golden, np.array_equal(answer.decision, np.array(golden.decision)), apart


def check(verified: Verified, folder: Path) -> None:
    """Refuse a machine that answers otherwise than the lab.

    Raises:
        MismatchError: how many, and by how much.
    """
    if verified.wrong:
        raise MismatchError(
            f"{folder.as_posix()}: this machine answers otherwise than the lab: {verified} "
            f"(at most {CLOSE:g} is allowed); for example {verified.wrong[0]}",
            hint="install the onnxruntime version that the manifest names, and have this machine's memory checked",
        )
