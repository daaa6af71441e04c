"""Ctrl-C and SIGTERM ask for an orderly end; a second one ends at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopRequest:
    """Context manager that turns the first Ctrl-C or SIGTERM into a flag once there is a model worth keeping.

    Until `arm` is called a signal raises KeyboardInterrupt at once; afterwards the first one sets `signum` and the
    stages end by themselves with their best weights so far. Outside the main thread it does nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._armed = False
        self._old: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """0, or 130 after Ctrl-C, 143 after SIGTERM."""
        return 0 if self.signum is None else EXIT_CODES.get(signal.Signals(self.signum), 130)

    def __bool__(self) -> bool:
        return self.signum is not None

    def arm(self) -> None:
        """From now on there is something to keep."""
        self._armed = True

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again = self.signum is not None
        self.signum = signum
        if again or not self._armed:
            raise KeyboardInterrupt(signum)
