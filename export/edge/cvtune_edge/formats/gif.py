"""GIF: the screen, the frames, and whether the first one is transparent somewhere (GIF89a specification, 1990)."""

from __future__ import annotations

import struct
from typing import Final

from cvtune_edge.formats.header import MOST_PAGES, Header, truncated

_MOST_STEPS: Final = 60_000  # about 5 ms; the 10,000 frames of a small animation need fewer
_FRAME: Final = b"\x00\x21\xf9\x04"  # end of one block, start of the next frame's control block


def read_header(data: bytes) -> Header:
    """Read the blocks of a GIF.

    Raises:
        ValueError: damaged or truncated.
    """
    if len(data) < 13:
        raise truncated("GIF")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    start = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    try:
        frames, alpha = _walk(data, start)
    except IndexError:
        raise truncated("GIF") from None
    if not frames:
        raise ValueError("damaged: a GIF without a frame")
    return Header("GIF", width, height, channels="palette", alpha=alpha, pages=frames)


def _walk(data: bytes, at: int) -> tuple[int, bool]:
    """Number of frames, and whether the first has a transparent colour; IndexError where the file stops too soon."""
    frames, alpha, steps = 0, False, 0
    while data[at] != 0x3B:
        mark = data[at]
        if mark == 0x2C:
            frames += 1
            flags = data[at + 9]
            at += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)  # descriptor, local colours, code size
        elif mark == 0x21:
            if data[at + 1] == 0xF9 and not frames:
                alpha = bool(data[at + 3] & 1)
            at += 2
        else:
            raise ValueError("damaged: an unknown block in a GIF")
        while size := data[at]:
            at += size + 1
            steps += 1
        at += 1
        steps += 1
        if steps > (_MOST_STEPS if mark == 0x2C else 2 * _MOST_STEPS):  # the rest is searched for, at memory's speed
            return min(frames + data.count(_FRAME, at - 1), MOST_PAGES), alpha
    return frames, alpha
