"""EXIF: how the camera was held, and which camera it was (JEITA CP-3451, tags 271, 272 and 274)."""

from __future__ import annotations

from dataclasses import dataclass

from cvtune_edge.formats.tiff import MAKE, MODEL, ORIENTATION, Directory, first_directory
from cvtune_edge.notes import NOTE_ORIENTATION


@dataclass(frozen=True)
class Exif:
    """What an EXIF block says; `notes` tells of an illegal orientation."""

    orientation: int = 1
    camera: str = ""
    notes: tuple[str, ...] = ()


NONE = Exif()


def parse_exif(block: bytes) -> Exif:
    """Read a block, with or without its "Exif" mark; a damaged one says nothing."""
    try:
        return exif_of(first_directory(block[6:] if block[:6] == b"Exif\0\0" else block))
    except ValueError:
        return NONE


def exif_of(page: Directory) -> Exif:
    """Read the tags of a directory."""
    make, model = page.text(MAKE), page.text(MODEL)
    camera = model if model.startswith(make) else f"{make} {model}".strip()
    orientation = page.number(ORIENTATION, 1)
    if 1 <= orientation <= 8:
        return Exif(orientation, camera)
    return Exif(1, camera, (NOTE_ORIENTATION,))
