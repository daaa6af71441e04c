"""What can be told about one image cheaply while it is read; the audit looks for copies, blur and shortcuts in it.

Everything depends on the file's bytes and on how files are read (`ReadOptions`) alone, so the pixel cache keeps it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import cv2
import imagehash
import numpy as np
from cvtune_edge.decode import Frame
from numpy.typing import NDArray
from PIL import Image as PillowImage

Grey = NDArray[Any]  # [H, W]

LOOK: Final = 256  # pixels of the shorter side of the copy that is looked at; smaller images are not enlarged
_RIM: Final = 0.05
_END: Final = 0.01  # share of the range that counts as its end: 0 to 2 and 253 to 255 of 8 bits
_HASHED: Final = 32  # side of the picture under the hash: imagehash's 8 x 4


@dataclass(frozen=True)
class Facts:
    """One image file.

    Attributes:
        sha256: of the file's bytes.
        kind: format by its first bytes, as `cvtune_edge.files.sniff` names it.
        width: pixels as read, after EXIF orientation.
        height: likewise.
        bits: of one channel in the file.
        channels: "grey", "rgb", "palette" or "cmyk".
        alpha: whether some pixels may be transparent.
        file_bytes: size of the file.
        quality: of a JPEG, 1 to 100, by its quantisation tables; None for other formats.
        camera: make and model by EXIF, "" without.
        orientation: EXIF, 1 to 8.
        pages: pages or frames, of which the first was read.
        notes: what the decoder changed or left out.
        phash: perceptual hash, 64 bits; copies differ in few of them.
        brightness: mean grey, 0 to 1 of the full range.
        border: mean grey of the outer 5 % on each side, likewise.
        sharpness: variance of the Laplacian of the 8-bit grey picture, shorter side at most 256 px; blurred below
            about 100 (Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548).
        dark: share of pixels in the lowest 1 % of the range.
        bright: share of pixels in the highest 1 %.
    """

    sha256: str
    kind: str
    width: int
    height: int
    bits: int
    channels: str
    alpha: bool
    file_bytes: int
    quality: int | None
    camera: str
    orientation: int
    pages: int
    notes: tuple[str, ...]
    phash: int
    brightness: float
    border: float
    sharpness: float
    dark: float
    bright: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; the hash as 16 hexadecimal digits, because many readers of JSON keep 53 bits of a number."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"notes": list(self.notes), "phash": f"{self.phash:016x}"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Facts:
        """Read what `to_json` gave.

        Raises:
            ValueError: a value is missing or of no use.
        """
        try:
            plain = {field.name: values[field.name] for field in fields(cls)}
            return cls(**plain | {"notes": tuple(values["notes"]), "phash": int(values["phash"], 16)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no facts about an image: {error!r}") from None


def measure(frame: Frame, data: bytes, sha256: str = "") -> Facts:
    """Measure an image that was just decoded.

    Deep pixels are looked at in an 8-bit copy from their 0.1 % to their 99.9 % percentile; brightness, border and both
    ends are told by the full range of the type (or by the largest value that a PPM declares). Float pixels have no full
    range: theirs is the copy's.

    Args:
        frame: what the decoder gave.
        data: the file's bytes.
        sha256: of the bytes where it is known.
    """
    grey: Grey = cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2GRAY)
    small = _shrink(grey)
    look = small if small.dtype == np.uint8 else _stretch(small)
    full = _full_range(frame)
    if not full:
        grey, small, full = look, look, 255
    header = frame.header
    return Facts(
        sha256=sha256 or hashlib.sha256(data).hexdigest(),
        kind=header.kind,
        width=frame.pixels.shape[1],
        height=frame.pixels.shape[0],
        bits=header.bits,
        channels=header.channels,
        alpha=header.alpha,
        file_bytes=len(data),
        quality=header.quality,
        camera=header.camera,
        orientation=header.orientation,
        pages=header.pages,
        notes=frame.notes,
        phash=perceptual_hash(look),
        brightness=_rounded(cv2.mean(grey)[0] / full),
        border=_rounded(_border(small) / full),
        sharpness=_rounded(_sharpness(look)),
        dark=_rounded(_share(grey, 0, _END * full)),
        bright=_rounded(_share(grey, (1 - _END) * full, full)),
    )


def perceptual_hash(look: Grey) -> int:
    """The pHash of an 8-bit grey picture, 64 bits, the first bit highest as in `str(imagehash.phash(...))`.

    imagehash spends its time on resizing with Pillow; OpenCV's area filter gives it the 32 x 32 pixels that it works
    on in a twentieth of the time.
    """
    tiny = cv2.resize(look, (_HASHED, _HASHED), interpolation=cv2.INTER_AREA)
    bits = imagehash.phash(PillowImage.fromarray(tiny)).hash  # bool [8, 8]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _full_range(frame: Frame) -> int:
    """The value that means white; 0 for float pixels, which have none."""
    declared = frame.header.maxval
    return {np.dtype(np.uint8): 255, np.dtype(np.uint16): declared if declared > 255 else 65535}.get(
        frame.pixels.dtype, 0
    )


def _shrink(grey: Grey) -> Grey:
    height, width = grey.shape
    scale = LOOK / min(height, width)
    if scale >= 1:
        return grey
    size = max(LOOK, round(width * scale)), max(LOOK, round(height * scale))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))


def _stretch(small: Grey) -> NDArray[np.uint8]:
    values = small.astype(np.float64)  # float32 would overflow at values near its end
    low, high = np.percentile(values, (0.1, 99.9))
    span = high - low or 1.0
    stretched: NDArray[np.uint8] = np.clip((values - low) / span * 255 + 0.5, 0, 255).astype(np.uint8)
    return stretched


def _border(small: Grey) -> float:
    height, width = small.shape
    y, x = max(1, round(_RIM * height)), max(1, round(_RIM * width))
    rim = np.ones(small.shape, np.uint8)
    rim[y : height - y, x : width - x] = 0
    return float(cv2.mean(small, rim)[0])


def _sharpness(look: Grey) -> float:
    return float(cv2.meanStdDev(cv2.Laplacian(look, cv2.CV_32F))[1][0, 0]) ** 2


def _share(grey: Grey, low: float, high: float) -> float:
    return cv2.countNonZero(cv2.inRange(grey, low, high)) / grey.size


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")  # the last bits differ between processors
