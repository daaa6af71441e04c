"""Image files made byte by byte, where Pillow and OpenCV do not write what a test needs."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encoded(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def by_opencv(suffix: str, pixels: NDArray[Any]) -> bytes:
    ok, data = cv2.imencode(suffix, pixels)
    assert ok
    return bytes(data)


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    """What Pillow makes of a file, in RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def colours(height: int = 24, width: int = 37) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.dstack([x * 6, y * 10, x + y]).astype(np.uint8)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG of these raw rows (without filter bytes); `extra` chunks stand before the pixels."""
    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(filtered))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body + chunk(b"IEND", b"")


def bmp(size: int, bits: int, compression: int, masks: tuple[int, ...], pixels: bytes, width: int = 2) -> bytes:
    """A BMP of one row, with a second header of `size` bytes."""
    head = struct.pack("<IiiHHIIiiII", size, width, 1, 1, bits, compression, 0, 2835, 2835, 0, 0)
    head = (head + struct.pack(f"<{len(masks)}I", *masks)).ljust(size, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


def tiff(
    pixels: NDArray[Any],
    *,
    order: Literal["<", ">"] = "<",
    big: bool = False,
    bits: int | None = None,
    raw: bytes | None = None,
    pages: int = 1,
    planar: bool = False,
    tags: dict[int, tuple[int, ...]] | None = None,
) -> bytes:
    """A TIFF in one uncompressed strip (or one a channel).

    Args:
        pixels: [H, W] or [H, W, C].
        order: "<" or ">".
        big: BigTIFF.
        bits: of one sample, where it is not that of the array.
        raw: the strip's bytes instead of the pixels.
        pages: how many directories, all of them of the same strip.
        planar: channels one after another.
        tags: more tags, or other values, as SHORT (or LONG, where they do not fit).
    """
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    stored = np.moveaxis(pixels, 2, 0) if planar else pixels
    data = raw if raw is not None else stored.astype(pixels.dtype.newbyteorder(order)).tobytes()
    strips = samples if planar else 1
    head = 16 if big else 8
    places = tuple(head + i * len(data) // strips for i in range(strips))
    found: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (bits or pixels.dtype.itemsize * 8,) * samples,
        259: (1,),
        262: (2 if samples > 2 else 1,),
        273: places,
        277: (samples,),
        278: (height,),
        279: (len(data) // strips,) * strips,
        284: (2 if planar else 1,),
        339: ({"u": 1, "i": 2, "f": 3}[pixels.dtype.kind],) * samples,
        **(tags or {}),
    }
    body = bytearray(data + bytes(-len(data) % 8))
    start = head + len(body)
    for page in range(pages):
        body += _directory(found, order, big, head + len(body), last=page == pages - 1)
    mark = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    return mark + (struct.pack(order + "HHQ", 8, 0, start) if big else struct.pack(order + "I", start)) + bytes(body)


def _directory(tags: dict[int, tuple[int, ...]], order: str, big: bool, at: int, *, last: bool) -> bytes:
    room, step = (8, 20) if big else (4, 12)
    rows, tail = b"", b""
    end = at + (8 if big else 2) + step * len(tags) + room
    for tag, values in sorted(tags.items()):
        kind, code = (4, "I") if max(values) > 65535 or tag in (256, 257, 273, 279) else (3, "H")
        raw = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(raw) > room:
            raw, tail = struct.pack(order + "IQ"[big], end + len(tail)), tail + raw + bytes(-len(raw) % 8)
        rows += struct.pack(order + "HH" + "IQ"[big], tag, kind, len(values)) + raw.ljust(room, b"\0")
    following = 0 if last else end + len(tail)
    return struct.pack(order + "HQ"[big], len(tags)) + rows + struct.pack(order + "IQ"[big], following) + tail
