"""Image files damaged at random, the same by their number each time.

    python -m tests.mutants FIRST COUNT

decodes these in the process itself, naming each number before it is tried, so that a crash says whose it was.
"""

from __future__ import annotations

import json
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np
from cvtune_edge.decode import Frame, ReadOptions, decode
from cvtune_edge.errors import ImageError

from tests import hostile

Random = np.random.Generator
SEED: Final = 3
ALL: Final = 10_000
# What a careless parser trips over: nothing, one, the ends of signed and unsigned numbers, far too much.
_NUMBERS: Final = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 4096, 32767, 32768, 65535, 1 << 20, (1 << 31) - 1, 1 << 31)
_DEPTHS: Final = ("uint8", "uint8", "uint16", "float32")


def options_of(number: int) -> ReadOptions:
    """How a mutant is read: half of them as 8 bits, the others as 16 bits or float."""
    return ReadOptions(pixels=_DEPTHS[number % len(_DEPTHS)])


def mutant(number: int) -> tuple[str, bytes]:
    """A name that says how it came about, and the damaged file."""
    random = np.random.default_rng([SEED, number])
    names = list(hostile.good())
    name = names[random.integers(len(names))]
    data = bytearray(hostile.good()[name])
    done = []
    for _ in range(1 + int(random.random() < 0.3)):
        change = _CHANGES[random.integers(len(_CHANGES))]
        data = change(data, random)
        done.append(change.__name__.strip("_"))
    if name.endswith(".png") and random.random() < 0.7:  # else nearly all of them end at a checksum
        data = _mend_checksums(data)
        done.append("mended")
    return f"{number}: {name} {' '.join(done)}", bytes(data)


def _flip_bits(data: bytearray, random: Random) -> bytearray:
    for at in random.integers(len(data), size=random.integers(1, 9)):
        data[at] ^= 1 << int(random.integers(8))
    return data


def _change_bytes(data: bytearray, random: Random) -> bytearray:
    for at in random.integers(len(data), size=random.integers(1, 40)):
        data[at] = int(random.integers(256))
    return data


def _change_the_head(data: bytearray, random: Random) -> bytearray:
    for at in random.integers(min(len(data), 200), size=random.integers(1, 6)):
        data[at] = int(random.integers(256))
    return data


def _cut(data: bytearray, random: Random) -> bytearray:
    return data[: int(random.integers(1, len(data)))]


def _remove(data: bytearray, random: Random) -> bytearray:
    start = int(random.integers(len(data)))
    del data[start : start + int(random.integers(1, 200))]
    return data or bytearray(b"\0")


def _repeat(data: bytearray, random: Random) -> bytearray:
    start = int(random.integers(len(data)))
    piece = data[start : start + int(random.integers(1, 300))]
    data[start:start] = piece * int(random.integers(1, 50))
    return data


def _insert(data: bytearray, random: Random) -> bytearray:
    at = int(random.integers(len(data)))
    data[at:at] = random.bytes(int(random.integers(1, 100)))
    return data


def _splice(data: bytearray, random: Random) -> bytearray:
    """The beginning of this file, the end of another."""
    others = list(hostile.good().values())
    other = others[random.integers(len(others))]
    return data[: int(random.integers(len(data)))] + other[int(random.integers(len(other))) :]


def _set_a_number(data: bytearray, random: Random) -> bytearray:
    """A field of 2 or 4 bytes, mostly of the header, in either byte order."""
    size, order = int(random.choice([2, 4])), str(random.choice(["<", ">"]))
    reach = min(len(data), 400 if random.random() < 0.8 else len(data)) - size
    if reach <= 0:
        return data
    at = int(random.integers(reach))
    value = int(random.choice(_NUMBERS)) - int(random.integers(2))
    data[at : at + size] = struct.pack(f"{order}{'H' if size == 2 else 'I'}", value % (1 << (8 * size)))
    return data


def _set_a_length(data: bytearray, random: Random) -> bytearray:
    """The number in front of a word of capitals (chunks of PNG and RIFF), or behind the marker of a JPEG."""
    places = [m.start() - 4 for m in re.finditer(rb"[A-Za-z]{4}", data) if m.start() >= 4]
    places += [m.start() + 2 for m in re.finditer(rb"\xff[\xc0-\xfe]", data) if m.start() + 6 <= len(data)]
    if not places:
        return data
    at = places[random.integers(len(places))]
    data[at : at + 4] = struct.pack(">I", int(random.choice(_NUMBERS)))
    return data


def _set_digits(data: bytearray, random: Random) -> bytearray:
    """A number in the text of a PPM's header."""
    numbers = list(re.finditer(rb"\d+", data[:40]))
    if data[:1] != b"P" or not numbers:
        return _set_a_number(data, random)
    found = numbers[random.integers(len(numbers))]
    data[found.start() : found.end()] = b"%d" % (int(random.choice(_NUMBERS)) - int(random.integers(2)))
    return data


def _change_the_packed(data: bytearray, random: Random) -> bytearray:
    """Bytes of a PNG's rows, which are packed and have a checksum of their own; the rows may end early."""
    start = data.find(b"IDAT")
    if start < 4:
        return _change_bytes(data, random)
    (length,) = struct.unpack_from(">I", data, start - 4)
    try:
        rows = bytearray(zlib.decompress(data[start + 4 : start + 4 + length]))
    except zlib.error:  # rows in several chunks, or damaged before
        return _change_bytes(data, random)
    rows = random.choice([_change_bytes, _cut, _repeat])(rows, random)  # type: ignore[arg-type]
    return data[: start - 4] + hostile.chunk(b"IDAT", zlib.compress(rows)) + data[start + 8 + length :]


_CHANGES: Final[tuple[Callable[[bytearray, Random], bytearray], ...]] = (
    _flip_bits,
    _change_bytes,
    _change_the_head,
    _change_the_head,
    _cut,
    _remove,
    _repeat,
    _insert,
    _splice,
    _set_a_number,
    _set_a_number,
    _set_a_length,
    _set_digits,
    _change_the_packed,
)


def _mend_checksums(data: bytearray) -> bytearray:
    """Right checksums for the chunks of a PNG, as far as they hang together."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


def main() -> None:
    """Decode mutants; a line of JSON each: before it "trying", then its time and what became of it."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    for number in range(first, first + count):
        name, data = mutant(number)
        print(json.dumps({"trying": number}), flush=True)
        start = time.perf_counter()
        try:
            frame = decode(data, name, options_of(number))
            problem = problem_of(frame, number)
            answer = {"read": True, "problem": problem}
        except ImageError as error:
            answer = {"read": False, "reason": error.reason, "problem": "" if error.reason else "no reason"}
        except BaseException as error:  # what may not be
            answer = {"read": False, "problem": f"{type(error).__name__}: {error}"}
        print(json.dumps({"name": name, "seconds": time.perf_counter() - start, **answer}), flush=True)


def problem_of(frame: Frame, number: int) -> str:
    """What is wrong with a frame, "" for nothing."""
    pixels, options = frame.pixels, options_of(number)
    if pixels.dtype != options.pixels or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        return f"{pixels.dtype} {pixels.shape}"
    if pixels.shape[0] * pixels.shape[1] > options.max_pixels:
        return f"{pixels.shape} is more than max_pixels"
    if sorted(pixels.shape[:2]) != sorted((frame.header.height, frame.header.width)):
        return f"{pixels.shape}, the header says {frame.header.height} x {frame.header.width}"
    return "" if np.isfinite(pixels).all() else "pixels that are not finite"


if __name__ == "__main__":
    main()
