"""Golden frames: raw pixels in the bundle with the answers that the lab had for them.

Whoever runs a bundle on another machine, with another onnxruntime or in another language, asks about them first. They
lie as plain numbers in C order, little-endian, so that any language reads them: golden/golden.json says where and what.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.errors import EXPORT_AGAIN, BundleError, ImageError, MismatchError
from cvtune_edge.inside import MOST_JSON, RefusedError, changed, read_inside, stays_inside
from cvtune_edge.manifest import PIXEL_TYPES
from cvtune_edge.results import Prediction
from cvtune_edge.strict_json import parse_json

FOLDER: Final = "golden"
INDEX: Final = f"{FOLDER}/golden.json"  # of model.onnx
CLOSE: Final = 0.02  # of a probability: what another processor, or int8 on it, may differ
SCHEMA: Final = 1
_MOST: Final = 1 << 28  # bytes of a frame
_MOST_FRAMES: Final = 1000  # a start asks about all of them


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
        ValueError: a shape or type that makes no sense, or a file outside of the bundle.
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
            raise ValueError(f"{self.file!r}: {self.pixels!r} {self.shape}, expected pixels [H, W, 3]")
        if not stays_inside(self.file):
            raise ValueError(f"{self.file!r}: expected a name inside the folder")

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

    def frame(self, folder: Path, files: Mapping[str, str] | None = None) -> NDArray[Any]:
        """The pixels [H, W, 3].

        Args:
            folder: of the bundle.
            files: SHA-256 by name; the file must be among them, and have it.

        Raises:
            BundleError: the file is missing, changed or of another size.
        """
        kind = np.dtype(self.pixels).newbyteorder("<")
        size = math.prod(self.shape) * kind.itemsize
        data = _read(folder, self.file, files, most=size)
        if len(data) != size:
            raise BundleError(f"{folder / self.file}: {len(data)} bytes, expected {self.shape}", hint=EXPORT_AGAIN)
        return np.frombuffer(data, kind).reshape(self.shape).astype(self.pixels)


def index_of(precision: str) -> str:
    """The list of the frames with the answers of a model of this precision, `golden/golden.int8.json`."""
    return INDEX if precision == "float32" else f"{FOLDER}/golden.{precision}.json"


def read_golden(folder: Path, files: Mapping[str, str] | None = None, *, index: str = INDEX) -> tuple[Golden, ...]:
    """The golden frames of a bundle; none where it has none.

    Args:
        folder: of the bundle.
        files: SHA-256 by name; a list that is not among them is none.
        index: which list, from :func:`index_of`.

    Raises:
        BundleError: the list is damaged or changed.
    """
    path = folder / index
    if index not in files if files is not None else not path.is_file():
        return ()
    try:
        tree = parse_json(_read(folder, index, files, most=MOST_JSON))
        if tree["schema"] != SCHEMA:
            raise ValueError(f"schema {str(tree['schema'])[:20]!r}, expected {SCHEMA}")
        if len(tree["frames"]) > _MOST_FRAMES:
            raise ValueError(f"{len(tree['frames'])} frames, expected at most {_MOST_FRAMES}")
        return tuple(Golden.from_json(one) for one in tree["frames"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path.as_posix()}: no list of golden frames ({error})", hint=EXPORT_AGAIN) from error


def _read(folder: Path, name: str, files: Mapping[str, str] | None, *, most: int) -> bytes:
    """A file of the bundle, by its checksum where that is known.

    Raises:
        BundleError: it is missing, changed, too long, no regular file, or none of those that were verified.
    """
    if files is not None and name not in files:
        raise BundleError(f"{folder / name}: not in the manifest, so it is not opened", hint=EXPORT_AGAIN)
    try:
        data = read_inside(folder, name, most=most)
        found = hashlib.sha256(data).hexdigest() if files is not None else ""
        if files is not None and found != files[name]:
            raise RefusedError(changed(found, files[name]))
        return data
    except OSError as error:
        raise BundleError(f"{folder / name}: cannot be read ({error.strerror})", hint=EXPORT_AGAIN) from error


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


def verify(
    folder: Path, files: Mapping[str, str], predict: Callable[[NDArray[Any]], Prediction], *, index: str = INDEX
) -> Verified:
    """Ask about every golden frame.

    Args:
        folder: of the bundle.
        files: SHA-256 by name; no other file is opened.
        predict: this machine's answer for a frame [H, W, 3].
        index: which list, from :func:`index_of`.

    Raises:
        BundleError: the golden frames are damaged.
    """
    found = list(_asked(folder, files, predict, index))
    return Verified(
        len(found),
        sum(same for _, same, _ in found),
        max((apart for *_, apart in found), default=0.0),
        tuple(golden.file for golden, same, apart in found if not same or not apart <= CLOSE),
    )


def _asked(
    folder: Path, files: Mapping[str, str], predict: Callable[[NDArray[Any]], Prediction], index: str
) -> Iterator[tuple[Golden, bool, float]]:
    """Each frame, whether it was decided alike, and how far apart a probability is."""
    for golden in read_golden(folder, files, index=index):
        frame = golden.frame(folder, files)
        try:
            answer = predict(frame)
        except ImageError as error:
            raise BundleError(f"{folder / golden.file}: {error.reason}", hint=EXPORT_AGAIN) from error
        expected = np.array(golden.probabilities)
        if answer.decision is None or expected.shape != answer.probabilities.shape:
            raise BundleError(f"{folder / index}: of another bundle", hint=EXPORT_AGAIN)
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
