"""What is read and shown while a bundle is timed: the user's pictures, or golden frames as files in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import cv2
from numpy.typing import NDArray

from cvtune_edge.bench_timed import drawn
from cvtune_edge.decode import decode
from cvtune_edge.errors import CvtuneError, ImageError
from cvtune_edge.files import find_images
from cvtune_edge.golden import read_golden
from cvtune_edge.runtime import Bundle

_MOST_FILES: Final = 64
_MOST_FRAMES: Final = 8
# what holds the pixels of each type without loss, and JPEG, which most cameras write
_FORMATS: Final = {"uint8": ("PNG", "JPEG"), "uint16": ("PNG",), "float32": ("TIFF",)}


@dataclass(frozen=True)
class Readable:
    """Files that are read in turns: `read` reads the next one, `what` says which they are."""

    what: str
    read: Callable[[], object]


@dataclass(frozen=True)
class Material:
    """What the network is shown, and what is read.

    Attributes:
        said: what the frames are, in words.
        size: (width, height) of the frames.
        frames: [H, W, 3] of one size, one or more.
        files: what is read, each timed by itself.
        notes: what was left out.
    """

    said: str
    size: tuple[int, int]
    frames: tuple[NDArray[Any], ...]
    files: tuple[Readable, ...]
    notes: tuple[str, ...] = ()


def gather(bundle: Bundle, images: Sequence[Path], size: tuple[int, int]) -> Material:
    """What a bundle is timed with.

    Args:
        bundle: as it is on the line.
        images: files and folders of the user; golden frames and a drawn one where there are none.
        size: (width, height) of the drawn frame.

    Raises:
        CvtuneError: no picture can be read.
        ImageError: the bundle takes no frame of that size.
    """
    material = _of_files(bundle, images) if images else _without_files(bundle, size)
    bundle.predict(material.frames[0])  # a frame that does not fit is refused before anything is timed
    return material


def _of_files(bundle: Bundle, images: Sequence[Path]) -> Material:
    read: list[Path] = []
    frames: list[NDArray[Any]] = []
    reasons: list[str] = []
    for path in islice(find_images(images), _MOST_FILES):
        try:
            pixels = bundle.read(path).pixels
        except ImageError as error:
            reasons.append(error.message)
            continue
        read.append(path)
        if len(frames) < _MOST_FRAMES and (not frames or frames[0].shape == pixels.shape):
            frames.append(pixels)
    if not read:
        named = ", ".join(path.as_posix() for path in images)
        raise CvtuneError(
            "\n".join([f"{named}: no picture that can be read", *reasons[:3]]), hint="name a folder of pictures"
        )
    height, width = frames[0].shape[:2]
    turns = cycle(read)
    return Material(
        f"{len(frames)} pictures of {width} x {height}, the first of those that were named",
        (width, height),
        tuple(frames),
        (Readable(f"{len(read)} files as they are, from the system's cache", lambda: bundle.read(next(turns))),),
        (f"{len(reasons)} files could not be read and were left out",) if reasons else (),
    )


def _without_files(bundle: Bundle, size: tuple[int, int]) -> Material:
    width, height = size
    photographs = [one for one in read_golden(bundle.path, bundle.manifest.files) if one.kind != "drawn"]
    # enlarged: golden frames are kept small, and what they show, unlike noise, packs as pictures do
    pictures = [
        cv2.resize(one.frame(bundle.path, bundle.manifest.files), size, interpolation=cv2.INTER_CUBIC)
        for one in photographs[:_MOST_FRAMES]
    ]
    what = f"{len(pictures)} golden frames enlarged to" if pictures else "noise of"
    frame = drawn(bundle.manifest, size)
    return Material(
        f"a drawn frame of {width} x {height}",
        size,
        (frame,),
        tuple(
            _packed(bundle, kind, pictures or [frame], f"{what} {width} x {height}, {kind} in memory")
            for kind in _FORMATS[bundle.manifest.reading["pixels"]]
        ),
    )


def _packed(bundle: Bundle, kind: str, pictures: Sequence[NDArray[Any]], what: str) -> Readable:
    suffix = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif"}[kind]
    packed = [cv2.imencode(suffix, picture[..., ::-1])[1].tobytes() for picture in pictures]
    turns = cycle(packed)
    return Readable(what, lambda: decode(next(turns), f"golden{suffix}", bundle.reading))
