"""From the pixels as they are stored to [H, W, 3] in RGB of the wanted type: alpha, depth, orientation."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cvtune_edge.formats.header import Header
from cvtune_edge.notes import NOTE_8_BIT, NOTE_12_BIT, NOTE_16_BIT, NOTE_ROUNDED, NOTE_WHITE

_EXACT: Final = 2**24  # float32 holds every whole number up to here


def lay_on(
    colours: NDArray[Any], alpha: NDArray[Any], background: tuple[int, int, int], *, premultiplied: bool
) -> NDArray[Any]:
    """Lay transparent pixels on a colour, in whole numbers.

    Args:
        colours: uint8 or uint16 [H, W, 3], RGB.
        alpha: of the same type, [H, W]; the largest value is opaque.
        background: RGB, 0..255.
        premultiplied: the colours were multiplied by alpha already.
    """
    full = int(np.iinfo(colours.dtype).max)
    wide: Any = np.uint16 if full == 255 else np.uint32  # full * full + full / 2 still fits
    ground = np.array(background, wide) * wide(full // 255)
    below: NDArray[Any] = ground * (full - alpha.astype(wide)[..., None]) + wide(full // 2)
    if premultiplied:
        sums = colours.astype(np.uint32) + below // wide(full)
    else:
        sums = (colours * alpha.astype(wide)[..., None] + below) // wide(full)
    return np.asarray(np.minimum(sums, full).astype(colours.dtype))


def to_depth(values: NDArray[Any], header: Header, pixels: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Give the values the type that is wanted; see :class:`cvtune_edge.decode.ReadOptions`.

    Args:
        values: as stored, of any type and shape.
        header: of the file.
        pixels: "uint8", "uint16" or "float32".

    Returns:
        The values in that type, and what was done to them.

    Raises:
        ValueError: values that are not finite.
    """
    if pixels == "float32":
        return _to_float32(values)
    if pixels == "uint16":
        return _to_uint16(values, header.maxval)
    if values.dtype == np.uint8:
        return _scaled(values, header.maxval or 255, 255), ()
    notes = [NOTE_16_BIT]
    if not header.maxval and int(values.max()) < 4096:  # a maxval says how far the values reach
        notes.append(NOTE_12_BIT)
    return _scaled(values, header.maxval or 65535, 255), tuple(notes)


def _to_float32(values: NDArray[Any]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    if values.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise ValueError("float pixels that are not finite in float32 (NaN, infinite or too large)")
    wide = values.dtype.kind != "f" and values.dtype.itemsize == 4
    rounded = wide and (int(values.max()) > _EXACT or int(values.min()) < -_EXACT)
    return numbers, (NOTE_ROUNDED,) if rounded else ()


def _to_uint16(values: NDArray[Any], maxval: int) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    if values.dtype == np.uint8:
        plain = maxval in (0, 255)
        return values.astype(np.uint16) * 257 if plain else _scaled(values, maxval, 65535), (NOTE_8_BIT,)
    return values, (NOTE_WHITE,) if 0 < maxval < 65535 else ()


def _scaled(values: NDArray[Any], white: int, full: int) -> NDArray[Any]:
    """round(full * v / white) in whole numbers; for 255 and 65535 that is round(v / 257)."""
    dtype = np.uint8 if full == 255 else np.uint16
    if white == full:
        return values.astype(dtype, copy=False)
    wide = values.astype(np.uint32)  # 2 * 255 * 65535 still fits
    wide *= 2 * full
    wide += white
    wide //= 2 * white
    return np.minimum(wide, full, out=wide).astype(dtype)


def in_three_channels(values: NDArray[Any]) -> NDArray[Any]:
    """Grey [H, W] becomes [H, W, 3]; uint8, uint16 or float32."""
    return np.asarray(cv2.cvtColor(values, cv2.COLOR_GRAY2RGB)) if values.ndim == 2 else values


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn upright what is stored in one of the eight EXIF orientations (JEITA CP-3451, tag 274)."""
    if orientation == 1:
        return pixels
    if orientation in (2, 4):
        return np.asarray(cv2.flip(pixels, 1 if orientation == 2 else 0))
    if orientation == 5:
        return np.asarray(cv2.transpose(pixels))
    if orientation == 7:
        return np.asarray(cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180))
    how = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
    return np.asarray(cv2.rotate(pixels, how[orientation]))
