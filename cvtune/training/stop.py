"""Ctrl-C keeps the best so far; SIGTERM saves where it stands and goes. A second signal ends at once.

The two are not the same: who presses Ctrl-C wants a model now and waits for it, who sends SIGTERM (a scheduler, a
container, a shutdown) kills ten seconds later, and `--resume` goes on from what is on the disk. Everything there is
written atomically, so SIGTERM may end the process anywhere but in a loop that has hours of work in memory: such a loop
says so (`saving`) and looks at the flag after each step.

Python runs a handler between two bytecodes of the main thread: a call into C is waited for. A step of torch takes
moments; a fit of scikit-learn or LAPACK that takes a minute in one call delays the end by that minute.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final

from cvtune.rundir import Terminated

# Windows: SIGBREAK is Ctrl-Break; a process that is ended by another one there is not asked.
_ENDING: Final = frozenset({signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGTERM)})
EXIT_CODES: Final = {signal.SIGINT: 130, **dict.fromkeys(_ENDING, 143)}
GRACE: Final = 8.0  # seconds from SIGTERM to the end: ten is what container engines and schedulers give


class StopRequest:
    """Context manager that turns the first Ctrl-C, and SIGTERM inside `saving`, into a flag.

    Ctrl-C: before `arm` it raises KeyboardInterrupt at once, since there is no model worth keeping; afterwards the
    first one sets `signum` and the stages end by themselves with their best weights so far.

    SIGTERM: raises Terminated at once; inside `saving` it sets `terminate`, and the loop has `GRACE` seconds to save
    and leave. After them the process ends wherever it is, with exit code 143.

    A second signal always raises at once. Outside the main thread nothing is handled.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._armed = self._saving = self._entered = False
        self._old: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """0, or 130 after Ctrl-C, 143 after SIGTERM."""
        return 0 if self.signum is None else EXIT_CODES.get(signal.Signals(self.signum), 130)

    @property
    def terminate(self) -> bool:
        """Whether a loop inside `saving` has to save now and leave, without evaluating or exporting anything."""
        return self.signum in _ENDING

    def __bool__(self) -> bool:
        return self.signum is not None

    def arm(self) -> None:
        """From now on there is something to keep."""
        self._armed = True

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around a loop that looks at `terminate` after each step and, when it is set, saves and leaves.

        Raises:
            Terminated: on the way out, when SIGTERM came meanwhile.
        """
        if self.terminate:  # raised before and swallowed on its way, by a destructor for example
            raise Terminated
        before, self._saving = self._saving, True
        try:
            yield
        finally:
            self._saving = before
        if self.terminate:
            raise Terminated

    def install(self) -> None:
        """Set the handlers; again inside Lightning's fit, which puts its own before them."""
        if self._entered and threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                self._old.setdefault(number, signal.signal(number, self._handle))

    def __enter__(self) -> StopRequest:
        self._entered = True
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        before, self.signum = self.signum, signum
        if signum not in _ENDING:
            if before is not None or not self._armed:
                raise KeyboardInterrupt(signum)
            return
        again = before in _ENDING
        if not again:
            # Not threading.Thread: this may have interrupted the main thread while it holds the lock that starts one.
            with contextlib.suppress(RuntimeError):
                _thread.start_new_thread(self._end_late, ())
        if again or not self._saving:
            raise Terminated

    def _end_late(self) -> None:
        """The promise of ten seconds holds where an exception is swallowed or a thread is waited for, too."""
        time.sleep(GRACE)
        if self._entered:
            os._exit(143)
