"""The facts of a file's header, the same for every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_PAGES: Final = 100_000  # pages and frames are counted no further


@dataclass(frozen=True)
class Header:
    """What an image file says about itself before it is decoded.

    Attributes:
        kind: what :func:`cvtune_edge.files.sniff` says; "" for pixels that came from no file.
        width: pixels as stored, before any rotation.
        height: pixels as stored, before any rotation.
        bits: of one channel as it is decoded: 8 (also for 1, 2 and 4), 16 (also for 10, 12 and 14), 32 or 64.
        sample: "uint", "int" or "float".
        channels: "grey", "rgb", "palette" or "cmyk"; alpha is told apart.
        alpha: whether some pixels may be transparent.
        pages: pages or frames, counted up to `MOST_PAGES` (of a TIFF, up to 10,000); at least 1.
        orientation: by EXIF, 1 to 8; 1 when there is none or an illegal one, which is noted.
        camera: make and model by EXIF, "" when there is none.
        quality: of a JPEG, 1 to 100, estimated from its quantisation table.
        maxval: the value that means white in a PPM, or in a TIFF of 10, 12 or 14 bits; 0 where it is the full range.
        notes: what is odd in the header itself.
    """

    kind: str
    width: int
    height: int
    bits: int = 8
    sample: str = "uint"
    channels: str = "rgb"
    alpha: bool = False
    pages: int = 1
    orientation: int = 1
    camera: str = ""
    quality: int | None = None
    maxval: int = 0
    notes: tuple[str, ...] = ()


def truncated(kind: str) -> ValueError:
    """The error of a file that stops before its end."""
    return ValueError(f"truncated: the end of the {kind} file is missing")
