"""What a reader of pixels may have to say: short stable sentences, so that others can count them."""

from __future__ import annotations

from typing import Final

NOTE_16_BIT: Final = "16-bit, read at 8 bits"
NOTE_12_BIT: Final = "16-bit holding 12 bits or fewer: at most 16 grey levels left at 8 bits"
NOTE_8_BIT: Final = "8-bit, read at 16 bits"
NOTE_WHITE: Final = "white below 65535, values kept as stored"
NOTE_ROUNDED: Final = "whole numbers above 16,777,216 rounded to float32"
NOTE_ALPHA: Final = "transparent pixels laid on the background"
NOTE_EXTRA: Final = "a further channel that is no alpha ignored"
NOTE_CMYK: Final = "CMYK, converted to RGB without its colour profile"
NOTE_PAGES: Final = "several pages or frames, only the first read"
NOTE_ORIENTATION: Final = "illegal EXIF orientation, taken as none"
NOTE_WINDOW: Final = "DICOM, its own window applied"
NOTE_RANGE: Final = "DICOM without a window, scaled over its full stored range"
NOTE_INVERTED: Final = "MONOCHROME1, inverted"

NOTES: Final = (
    NOTE_16_BIT,
    NOTE_12_BIT,
    NOTE_8_BIT,
    NOTE_WHITE,
    NOTE_ROUNDED,
    NOTE_ALPHA,
    NOTE_EXTRA,
    NOTE_CMYK,
    NOTE_PAGES,
    NOTE_ORIENTATION,
    NOTE_WINDOW,
    NOTE_RANGE,
    NOTE_INVERTED,
)
