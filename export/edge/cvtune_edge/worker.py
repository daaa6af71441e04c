"""The process that decodes files from unknown hands, one after the other: `python -m cvtune_edge.worker`.

Both directions of the pipe carry messages of one form: the length of the head (4 bytes, little-endian), the head as
JSON, then as many raw bytes as the head announces. First come the settings, answered by "ready", then files.
`cvtune_edge.child` is the other side.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cvtune_edge.decode import ReadOptions, decode, probe
from cvtune_edge.errors import ImageError

if sys.platform != "win32":
    import resource

NO_MEMORY: Final = 70  # exit code without memory for the file itself
HINT: Final = "files you trust are read without these limits: leave out --untrusted"

_LENGTH: Final = struct.Struct("<I")
_MOST_HEAD: Final = 1 << 20  # a head is some hundred bytes; whatever claims more does not come from the other side
_GRACE: Final = 5.0
_COPIES: Final = 4  # of a frame with alpha that decoding holds at most at once: a codec's, OpenCV's, ours, turned


def main() -> None:
    """Answer questions until the pipe ends, as it does with the parent's death."""
    questions, answers = _private_pipes()
    settings = receive_head(questions)
    if settings is None:
        return
    options = ReadOptions(**tupled(settings["options"]))
    cv2.setNumThreads(1)  # the parent decides how many children work at once
    sys.dont_write_bytecode = True
    _ignore_signals()
    _limit(settings["megabytes"])
    send(answers, {"reason": "ready", "hint": ""}, b"")
    while (head := receive_head(questions)) is not None:
        data = _receive_file(questions, head["bytes"])
        _alarm(settings["seconds"] + _GRACE)
        answer, pixels = _work(data, head["name"], options, settings["megabytes"])
        send(answers, answer, b"" if pixels is None else pixels.data.cast("B"))
        _alarm(0)
        del data, pixels  # the next file has the memory for itself


def _private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Both pipes under numbers that no C library prints to."""
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    return pipes


def _ignore_signals() -> None:
    """A service manager stops the whole family with SIGTERM; the parent may still want its last files."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _limit(megabytes: int) -> None:
    """No core file, no file written at all, and so much address space beyond what is taken now."""
    if sys.platform == "win32":
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (OSError, ValueError):  # macOS has no /proc, and its limit is not kept
        return


def _alarm(seconds: float) -> None:
    """End this process after so many seconds, 0 for never: for a file that hangs while the parent is killed."""
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _receive_file(pipe: IO[bytes], size: int) -> bytes:
    try:
        return pipe.read(size)  # buffered: read to the end, straight into the bytes
    except MemoryError:
        os._exit(NO_MEMORY)


def _work(data: bytes, name: str, options: ReadOptions, megabytes: int) -> tuple[dict[str, Any], NDArray[Any] | None]:
    """The head of the answer, and the pixels."""
    try:
        frame = decode(data, name, options)
        pixels = np.ascontiguousarray(frame.pixels)
    except MemoryError:
        return {"reason": too_much(megabytes), "hint": HINT}, None
    except ImageError as error:
        return _refusal(error, data, options, megabytes), None
    except Exception as error:  # a fault of ours, and the next file is read all the same
        no_memory = isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
        reason = too_much(megabytes) if no_memory else f"the decoder crashed ({type(error).__name__})"
        return {"reason": reason, "hint": HINT}, None
    head = {"shape": pixels.shape, "dtype": pixels.dtype.name, "notes": frame.notes, "header": asdict(frame.header)}
    return head, pixels


def too_much(megabytes: int) -> str:
    """The reason that both sides give."""
    return f"needed more than {megabytes} MB"


def _refusal(error: ImageError, data: bytes, options: ReadOptions, megabytes: int) -> dict[str, Any]:
    """The head of an answer without pixels. Codecs tell of missing memory as of damage: near the limit, name both."""
    refusal = {"reason": error.reason, "hint": error.hint}
    try:
        header = probe(data, error.path, options)
    except ImageError:
        return refusal  # refused by its header, for which there is memory
    channel = header.height * header.width * max(header.bits // 8, np.dtype(options.pixels).itemsize)
    if isinstance(error.__context__, MemoryError) or not _has_room(3 * channel):
        return {"reason": too_much(megabytes), "hint": HINT}
    if not _has_room(_COPIES * 4 * channel):
        return {"reason": f"{too_much(megabytes)}, or is {error.reason}", "hint": HINT}
    return refusal


def _has_room(size: int) -> bool:
    try:
        np.empty(size, np.uint8)  # reserved, not touched
    except MemoryError:
        return False
    return True


# ---- messages


def tupled(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass as they were: JSON knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()}


def send(pipe: IO[bytes], head: Mapping[str, Any], data: bytes | memoryview) -> None:
    """Write a message."""
    text = json.dumps(head).encode("ascii")  # escapes all else, also names that are no Unicode
    for part in (memoryview(_LENGTH.pack(len(text)) + text), memoryview(data)):
        sent = 0
        while sent < len(part):
            sent += pipe.write(part[sent:])  # a pipe may take less than it is given


def receive_head(pipe: IO[bytes]) -> dict[str, Any] | None:
    """The next head, None where there is none any more.

    Raises:
        ValueError: too long, or no JSON object.
        EOFError: it ends within.
    """
    size = bytearray(_LENGTH.size)
    try:
        fill(pipe, memoryview(size))
    except EOFError:
        return None
    (length,) = _LENGTH.unpack(size)
    if length > _MOST_HEAD:
        raise ValueError(f"a head of {length} bytes")
    text = bytearray(length)
    fill(pipe, memoryview(text))
    head = json.loads(text)
    if not isinstance(head, dict):
        raise ValueError("a head that is no object")
    return head


def fill(pipe: IO[bytes], view: memoryview) -> None:
    """Read until `view` is full, straight into it."""
    done = 0
    while done < len(view):
        count = pipe.readinto(view[done:])  # type: ignore[attr-defined]  # every binary file has it
        if not count:
            raise EOFError
        done += count


if __name__ == "__main__":
    main()
