"""Small pictures that travel inside a page, read by the one decoder; deep files are stretched so that they show."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import cv2
import numpy as np
from cvtune_edge.child import ChildDecoder
from cvtune_edge.decode import Frame, ReadOptions, read_image
from cvtune_edge.errors import CvtuneError, ImageError
from numpy.typing import NDArray

SIDE: Final = 128  # pixels of a thumbnail's longer side; 150 of them stay far below 5 MB, even of pure noise
_WORK: Final = 8 * SIDE  # a deep image is thinned to this before it is stretched in double precision
_ENDS: Final = (0.1, 99.9)  # percent


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI; where there is none, `missing` says why in its place."""

    picture: str
    missing: str = ""


class Thumbnails:
    """Makes thumbnails; a context manager, since files in unknown hands are read by child processes.

    Args:
        root: the folder that paths start from; None where it is not known.
        untrusted: read in a child process with a limit of time and memory.
    """

    def __init__(self, root: Path | None, *, untrusted: bool = False) -> None:
        self._root = root
        self._untrusted = untrusted
        self._children: dict[str, ChildDecoder] = {}
        self._made: dict[str, Thumbnail] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children.values():
            child.close()

    def of(self, path: str) -> Thumbnail:
        """The thumbnail of a file; words where it is not there any more or cannot be read."""
        if path not in self._made:
            self._made[path] = self._make(path)
        return self._made[path]

    def _make(self, path: str) -> Thumbnail:
        if self._root is None:
            return Thumbnail("", "file not found")
        try:
            pixels = _in_8_bits(self._best(self._root / path))
        except CvtuneError as error:  # the folder may have moved or changed since
            gone = isinstance(error, ImageError) and error.reason == "no such file"
            return Thumbnail("", "file not found" if gone else "cannot be read")
        ok, data = cv2.imencode(".jpg", _shrink(pixels)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        text = base64.b64encode(data.tobytes()).decode() if ok else ""
        return Thumbnail(f"data:image/jpeg;base64,{text}") if ok else Thumbnail("", "cannot be read")

    def _best(self, path: Path) -> Frame:
        """As 8 bits, or with every level that the file has."""
        try:
            frame = self._read(path, "uint8")
        except ImageError as error:
            try:
                return self._read(path, "float32")
            except ImageError:
                raise error from None
        # a DICOM file names its own window, which its 8 bits follow
        return frame if frame.header.bits == 8 or frame.header.kind == "DICOM" else self._read(path, "uint16")

    def _read(self, path: Path, pixels: str) -> Frame:
        options = ReadOptions(pixels)
        if not self._untrusted:
            return read_image(path, options)
        child = self._children.setdefault(pixels, ChildDecoder(options))
        return child.decode(_bytes(path, options), path.as_posix())


def _bytes(path: Path, options: ReadOptions) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > options.max_bytes:  # a pipe may never end
            raise ImageError(path.as_posix(), "no such file" if not path.exists() else "not a regular file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(path.as_posix(), "cannot be opened") from error


def _in_8_bits(frame: Frame) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]; deep pixels from their own 0.1 % to their 99.9 % percentile."""
    pixels: NDArray[Any] = frame.pixels
    if pixels.dtype == np.uint8:
        return pixels
    step = max(1, max(pixels.shape[:2]) // _WORK)
    values = pixels[::step, ::step].astype(np.float64)  # float32 would overflow at values near its end
    low, high = np.percentile(values, _ENDS)
    stretched: NDArray[np.uint8] = np.clip((values - low) / (high - low or 1.0) * 255 + 0.5, 0, 255).astype(np.uint8)
    return stretched


def _shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    factor = SIDE / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
