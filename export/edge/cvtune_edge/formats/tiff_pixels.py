"""The pixels of a TIFF, also where OpenCV would turn, scramble or shorten them without a word (seen in 5.0).

The file is given to OpenCV with another first directory: without its orientation, which is applied for all formats
alike; packed pixels as bytes; grey and alpha, or separate planes, as grey pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.formats import tiff
from cvtune_edge.formats.header import Header
from cvtune_edge.opencv import UNCHANGED, imdecode

_PLAIN: dict[int, tuple[int, ...] | None] = {tiff.ORIENTATION: None, tiff.EXTRA_SAMPLES: None, tiff.COLORMAP: None}


def read_pixels(data: bytes, header: Header) -> NDArray[Any] | None:
    """Decode the first page.

    Returns:
        [H, W], [H, W, 2] (grey, alpha), [H, W, 3] (BGR) or [H, W, 4] (BGRA), as stored but for palettes and inks, which
        are RGB; None where OpenCV refuses.
    """
    page = tiff.first_directory(data)
    bits, samples = page.number(tiff.BITS, 1), page.number(tiff.SAMPLES, 1)
    if bits < 8 and (bits > 1 or header.channels == "palette"):
        return _packed(page, header, bits)
    if samples > 1 and page.number(tiff.PLANAR, 1) == 2 and (bits != 8 or samples == 2):
        pixels = _planes(page, samples, bits)
    elif samples == 2:
        pixels = _pairs(page, header, bits)
    else:
        turned = page.number(tiff.ORIENTATION, 1) != 1
        pixels = imdecode(tiff.rewritten(page, {tiff.ORIENTATION: None}) if turned else data, UNCHANGED)
    if pixels is None or bits <= 8:
        return pixels
    if header.maxval:  # OpenCV moves 10, 12 and 14 bits up to the top of the 16
        pixels = pixels >> (16 - bits)
    if page.number(tiff.PHOTOMETRIC, 1) == 0:
        pixels = (header.maxval or 65535) - pixels  # 0 is white; at 8 bits libtiff has turned it round
    return pixels


def premultiplied(data: bytes, header: Header) -> bool:
    """Whether the colours come out multiplied by alpha: stored so, or by libtiff on its way to 8 bits."""
    page = tiff.first_directory(data)
    return page.numbers(tiff.EXTRA_SAMPLES)[:1] == (1,) or (header.bits == 8 and page.number(tiff.SAMPLES, 1) == 4)


def _packed(page: tiff.Directory, header: Header, bits: int) -> NDArray[np.uint8] | None:
    """1, 2 or 4 bits a pixel: rows are whole bytes, so they are read as a narrower grey picture and unpacked."""
    width = (header.width * bits + 7) // 8
    bytewise = {**_PLAIN, tiff.WIDTH: (width,), tiff.BITS: (8,), tiff.PHOTOMETRIC: (1,)}
    rows = imdecode(tiff.rewritten(page, bytewise), UNCHANGED)
    if rows is None or rows.dtype != np.uint8 or rows.shape != (header.height, width):
        return None
    most = 2**bits - 1
    values = (rows[..., None] >> np.arange(8 - bits, -1, -bits, dtype=np.uint8)) & most
    values = values.reshape(header.height, -1)[:, : header.width]
    if header.channels == "palette":
        colours = page.array(tiff.COLORMAP).reshape(3, -1).T[:, ::-1]  # BGR
        table = (colours >> np.uint64(8 if colours.max() > 255 else 0)).astype(np.uint8)
        return np.asarray(table[values])
    white = page.number(tiff.PHOTOMETRIC, 1) == 0
    return np.asarray((most - values if white else values) * np.uint8(255 // most))


def _pairs(page: tiff.Directory, header: Header, bits: int) -> NDArray[Any] | None:
    """Grey and a second channel, pixel by pixel: a grey picture of twice the width."""
    double = {**_PLAIN, tiff.WIDTH: (2 * header.width,), tiff.SAMPLES: (1,), tiff.BITS: (bits,)}
    double |= {tiff.PHOTOMETRIC: (1,), tiff.SAMPLE_FORMAT: (page.number(tiff.SAMPLE_FORMAT, 1),)}
    if tiff.TILE_WIDTH in page.entries:
        double[tiff.TILE_WIDTH] = (2 * page.number(tiff.TILE_WIDTH, 0),)
    pixels = imdecode(tiff.rewritten(page, double), UNCHANGED)
    if pixels is None or pixels.shape != (header.height, 2 * header.width):
        return None
    return pixels.reshape(header.height, header.width, 2)


def _planes(page: tiff.Directory, samples: int, bits: int) -> NDArray[Any] | None:
    """Each channel in strips of its own: as many grey pictures."""
    places, sizes = (tiff.TILES, tiff.TILE_BYTES) if tiff.TILES in page.entries else (tiff.STRIPS, tiff.STRIP_BYTES)
    offsets, counts = page.array(places).reshape(samples, -1), page.array(sizes).reshape(samples, -1)
    planes = []
    for offset, count in zip(offsets, counts, strict=True):
        values = {**_PLAIN, places: tuple(map(int, offset)), sizes: tuple(map(int, count)), tiff.PLANAR: (1,)}
        values |= {tiff.SAMPLES: (1,), tiff.BITS: (bits,), tiff.PHOTOMETRIC: (1,)}
        values[tiff.SAMPLE_FORMAT] = (page.number(tiff.SAMPLE_FORMAT, 1),)
        plane = imdecode(tiff.rewritten(page, values), UNCHANGED)
        if plane is None or plane.ndim != 2:
            return None
        planes.append(plane)
    order = (0, 1) if samples == 2 else (2, 1, 0, 3)[:samples]  # BGR, as OpenCV has it
    return np.dstack([planes[i] for i in order])
