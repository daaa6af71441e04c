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

SIDE: Final = 128  # pixels of a thumbnail's longer side; 250 of them stay below 3 MB, even of pure noise
SMALL: Final = 64  # of one that stands beside another picture
_QUALITY: Final = 85
_NOISY: Final = 8_000, 60  # bytes from which on a picture is noise, and the quality that shows enough of that
_WORK: Final = 8 * SIDE  # a deep image is thinned to this before it is stretched in double precision
_ENDS: Final = (0.1, 99.9)  # percent


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI; where there is none, `missing` says why in its place."""

    picture: str
    missing: str = ""


@dataclass(frozen=True, eq=False)
class Shrunk:
    """The pixels of a thumbnail.

    Attributes:
        pixels: uint8 [h, w, 3], RGB.
        size: (H, W) of the frame in its file.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


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
        self._shrunk: dict[str, Shrunk | str] = {}
        self._made: dict[tuple[str, int], Thumbnail] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children.values():
            child.close()

    def of(self, path: str, side: int = SIDE) -> Thumbnail:
        """The thumbnail of a file, `side` pixels long; words where it is not there any more or cannot be read."""
        if (path, side) not in self._made:
            shrunk = self.shrunk(path)
            self._made[path, side] = (
                Thumbnail("", shrunk) if isinstance(shrunk, str) else encoded(_shrink(shrunk.pixels, side))
            )
        return self._made[path, side]

    def shrunk(self, path: str) -> Shrunk | str:
        """The pixels of the thumbnail, or the words in their place."""
        if path not in self._shrunk:
            self._shrunk[path] = self._look(path)
        return self._shrunk[path]

    def _look(self, path: str) -> Shrunk | str:
        if self._root is None:
            return "file not found"
        try:
            frame = self._best(self._root / path)
        except CvtuneError as error:  # the folder may have moved or changed since
            gone = isinstance(error, ImageError) and error.reason == "no such file"
            return "file not found" if gone else "cannot be read"
        return Shrunk(_shrink(_in_8_bits(frame), SIDE), (frame.pixels.shape[0], frame.pixels.shape[1]))

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


def encoded(pixels: NDArray[np.uint8]) -> Thumbnail:
    """A picture [h, w, 3], RGB, as JPEG."""
    data = _jpeg(pixels, _QUALITY)
    if len(data) > _NOISY[0]:
        data = _jpeg(pixels, _NOISY[1])
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(data).decode()}")


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()


def _shrink(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
