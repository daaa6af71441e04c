"""Decoding in a child process: what a file from unknown hands can do at worst is to be refused.

A file that makes a codec crash, hang or swallow memory ends the child, is refused with the reason, and the next file
gets a new child. The child runs with the rights of its user: this guards against accidents of a decoder, it is no jail
for hostile code. On Linux time and memory are limited. Windows and macOS have no limit of address space that a process
can set for itself and count on: there the limit of time holds alone, beside the caps of `ReadOptions` on pixels and
bytes.
"""

from __future__ import annotations

import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.decode import Frame, ReadOptions
from cvtune_edge.errors import CvtuneError, ImageError
from cvtune_edge.headers import Header
from cvtune_edge.worker import HINT, NO_MEMORY, fill, receive_head, send, too_much, tupled

_PIPE: Final = 1 << 20  # Linux' default limit for users; 64 KiB cost 15 wake-ups for a frame of 640 x 480
_START_SECONDS: Final = 60.0  # 0.2 s on an idle machine; a cold disk and a virus scanner take their time
_ALONE: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX")


class Decoder(Protocol):
    """What turns the bytes of a file into a frame."""

    def decode(self, data: bytes, name: str) -> Frame:
        """Decode a file, or raise ImageError with the reason."""


class ChildDecoder:
    """Decodes in one child process, started with the first file and again after each accident.

    Usable from one thread at a time, and from the process that made it.

    Args:
        options: pixel type, background, caps on pixels and bytes.
        seconds: wall-clock time for a file; beyond it the child is killed.
        megabytes: memory (MiB) for a file, beyond what the child takes before its first; Linux only.

    Raises:
        ValueError: a limit that is not positive.
    """

    def __init__(self, options: ReadOptions | None = None, *, seconds: float = 5.0, megabytes: int = 512) -> None:
        if seconds <= 0 or megabytes <= 0:
            raise ValueError(f"limits of {seconds} s and {megabytes} MB, expected positive numbers")
        self.options = options or ReadOptions()
        self.seconds = seconds
        self.megabytes = megabytes
        self._child: _Child | None = None
        self._end: Callable[[], object] = lambda: None

    @property
    def pid(self) -> int | None:
        """Of the child, None where none runs."""
        return self._child.process.pid if self._child else None

    def decode(self, data: bytes, name: str) -> Frame:
        """Decode the bytes of an image file; the pixels are equal to those of `cvtune_edge.decode.decode`.

        Raises:
            ImageError: as for `decode`, and when the file took too long, needed too much memory or crashed the child.
            CvtuneError: no child can be started.
        """
        if len(data) > self.megabytes << 20:
            raise ImageError(name, too_much(self.megabytes), hint=HINT)
        child = self._running()
        try:
            answer = child.ask({"name": name, "bytes": len(data)}, data, self.seconds)
        except _Broken as broken:
            self.close()
            raise ImageError(name, broken.reason or too_much(self.megabytes), hint=HINT) from None
        except BaseException:  # Ctrl-C between question and answer: the next answer would be this file's
            self.close()
            raise
        if isinstance(answer, _Refusal):
            raise ImageError(name, answer.reason, hint=answer.hint)
        return answer

    def close(self) -> None:
        """End the child; another `decode` starts a new one."""
        self._end()
        self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _running(self) -> _Child:
        if self._child is None or self._child.process.poll() is not None:  # not the next file's fault
            self.close()
            self._child = _Child(self.options)
            self._end = weakref.finalize(self, self._child.end)  # also where nobody calls close()
            self._child.begin({"options": asdict(self.options), "seconds": self.seconds, "megabytes": self.megabytes})
        return self._child


class DecoderPool:
    """Child decoders for several threads.

    Args:
        options: pixel type, background, caps on pixels and bytes.
        workers: children at most; each is started when it is first needed.
        seconds: as for :class:`ChildDecoder`.
        megabytes: as for :class:`ChildDecoder`, each.

    Raises:
        ValueError: no worker, or a limit that is not positive.
    """

    def __init__(
        self, options: ReadOptions | None = None, *, workers: int = 2, seconds: float = 5.0, megabytes: int = 512
    ) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers, expected at least 1")
        self._all = [ChildDecoder(options, seconds=seconds, megabytes=megabytes) for _ in range(workers)]
        self._free: queue.LifoQueue[ChildDecoder] = queue.LifoQueue()  # last in, first out: idle ones never start
        for decoder in self._all:
            self._free.put(decoder)

    def decode(self, data: bytes, name: str) -> Frame:
        """Decode the bytes of an image file, waiting for a free child where all are busy.

        Raises:
            ImageError: as for :meth:`ChildDecoder.decode`.
            CvtuneError: no child can be started.
        """
        decoder = self._free.get()
        try:
            return decoder.decode(data, name)
        finally:
            self._free.put(decoder)

    def close(self) -> None:
        """End all children, each after the file that it is at."""
        taken = [self._free.get() for _ in self._all]
        for decoder in taken:
            decoder.close()
            self._free.put(decoder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


# ---- the parent's side


class _Broken(Exception):
    """The child is of no more use; `reason` is empty where it ran out of memory."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Refusal(NamedTuple):
    """Why a file is not read, in the words of the child."""

    reason: str
    hint: str


class _Child:
    """A running child and its pipes."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self.process = _spawn()
        self._watch = _Watch(self.process.kill)

    def begin(self, settings: Mapping[str, Any]) -> None:
        try:
            self.ask(settings, b"", _START_SECONDS)
        except _Broken as broken:
            self.end()
            raise CvtuneError(
                f"the process that decodes images does not start: {broken.reason}",
                hint="`python -m cvtune_edge.worker` shows why",
            ) from None

    def ask(self, head: Mapping[str, Any], data: bytes, seconds: float) -> Frame | _Refusal:
        """Send a message and give the answer; raises _Broken."""
        answer, problem = None, ""
        self._watch.start(seconds)
        try:
            send(_pipe(self.process.stdin), head, data)
            answer = self._answer()
        except (EOFError, OSError):  # OSError: the child was gone before it had read everything
            problem = self._ending()
        except (ValueError, KeyError, TypeError):
            problem = "the decoder crashed (its answer is damaged)"
        finally:
            late = self._watch.stop()
        if late or answer is None:
            raise _Broken(f"took longer than {seconds:g} s" if late else problem)
        return answer

    def _answer(self) -> Frame | _Refusal:
        pipe = _pipe(self.process.stdout)
        head = receive_head(pipe)
        if head is None:
            raise EOFError
        if "shape" not in head:
            return _Refusal(str(head["reason"]), str(head["hint"]))
        header = Header(**tupled(head["header"]))
        pixels: NDArray[Any] = np.empty(_checked_shape(head, self._options), head["dtype"])
        fill(pipe, pixels.data.cast("B"))
        return Frame(pixels, tuple(head["notes"]), header)

    def _ending(self) -> str:
        """Why the child ended, "" for memory."""
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "the decoder crashed (it closed its pipes)"
        if code == NO_MEMORY:
            return ""
        names = {-number: number.name for number in signal.Signals}  # Popen's codes for a death by signal
        return f"the decoder crashed ({names.get(code, f'exit code {code:#x}')})"

    def end(self) -> None:
        """Kill the child and wait for it, so that no zombie stays; it has nothing to save."""
        self._watch.close()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                _pipe(pipe).close()


class _Watch:
    """Calls `late` once when a task takes too long.

    A thread that sleeps until the deadline of the task that was there when it fell asleep: with tasks of one limit it
    wakes once in that time, not with each of them. (`select` would do without a thread, but not for Windows' pipes; a
    `threading.Timer` a file costs 0.1 ms.)
    """

    def __init__(self, late: Callable[[], None]) -> None:
        self._late = late
        self._change = threading.Condition()
        self._deadline: float | None = None
        self._wakes = math.inf
        self._expired = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="cvtune-watch")
        self._thread.start()

    def start(self, seconds: float) -> None:
        with self._change:
            self._deadline = time.monotonic() + seconds
            if self._deadline < self._wakes:
                self._change.notify()

    def stop(self) -> bool:
        """End the task; whether it was late."""
        with self._change:
            self._deadline = None
            return self._expired

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        with self._change:
            while not self._closed:
                left = math.inf if self._deadline is None else self._deadline - time.monotonic()
                if left <= 0:
                    self._expired = True
                    self._late()
                    return
                self._wakes = math.inf if self._deadline is None else self._deadline
                self._change.wait(None if left == math.inf else left)


def _spawn() -> subprocess.Popen[bytes]:
    """A child that finds the same modules as this process, hears no Ctrl-C and shows no window."""
    places = [str(Path(__file__).resolve().parents[1]), *(place for place in sys.path if place)]
    environment = {**os.environ, **dict.fromkeys(_ALONE, "1"), "PYTHONPATH": os.pathsep.join(places)}
    own: dict[str, Any] = {"process_group": 0}
    if sys.platform == "win32":
        own = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    command = [sys.executable, "-P", "-m", "cvtune_edge.worker"]
    silent = subprocess.DEVNULL
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=silent, bufsize=0, env=environment, **own)
    except (OSError, ValueError, TypeError) as error:  # TypeError: no interpreter known, inside another program
        raise CvtuneError(
            f"the process that decodes images does not start: {error}",
            hint="sys.executable must be the Python interpreter",
        ) from error
    _widen(process)
    return process


def _widen(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "linux":
        import fcntl

        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # the system's limit for this user is reached
                fcntl.fcntl(_pipe(pipe), fcntl.F_SETPIPE_SZ, _PIPE)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # for mypy: both were asked for
    return pipe


def _checked_shape(head: Mapping[str, Any], options: ReadOptions) -> tuple[int, int, int]:
    """The shape announced; nothing is believed that would let a broken child take this process's memory."""
    height, width, channels = (int(side) for side in head["shape"])
    if head["dtype"] != options.pixels or channels != 3:
        raise ValueError(f"{head['dtype']} pixels with {channels} channels")
    if min(height, width) < 1 or height * width > options.max_pixels:
        raise ValueError(f"{width} x {height} pixels")
    return height, width, channels
