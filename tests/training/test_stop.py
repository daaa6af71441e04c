from __future__ import annotations

import os
import signal
import threading

import pytest

from cvtune.training.stop import StopRequest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_a_flag_once_there_is_a_model(number: int, code: int) -> None:
    with StopRequest() as stop:
        stop.arm()
        assert (bool(stop), stop.exit_code) == (False, 0)
        send(number)
        assert (bool(stop), stop.exit_code) == (True, code)
        with pytest.raises(KeyboardInterrupt):
            send(number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_before_the_first_model_a_signal_ends_at_once(number: int, code: int) -> None:
    with StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt):
            send(number)
        assert stop.exit_code == code


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="inside"), StopRequest():
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_handler_that_python_does_not_know_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with stop:
        stop._old[signal.SIGTERM] = None  # what signal.signal gives for a handler set in C
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, handler)


def test_outside_the_main_thread_it_is_only_a_flag() -> None:
    seen: list[int] = []

    def inside() -> None:
        with StopRequest() as stop:
            stop.arm()
            seen.append(stop.exit_code)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [0]
