from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cvtune.rundir import Terminated
from cvtune.training.stop import StopRequest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def loop(stop: StopRequest, *numbers: int, seen: list[bool]) -> None:
    """A loop that saves, and after each signal looks at the flag."""
    with stop.saving():
        for number in numbers:
            send(number)
            seen.append(stop.terminate)


def fail(stop: StopRequest, *numbers: int) -> None:
    with stop.saving():
        for number in numbers:
            send(number)
        raise ValueError("inside")


# In this process


def test_the_first_ctrl_c_is_a_flag_once_there_is_a_model() -> None:
    with StopRequest() as stop:
        stop.arm()
        assert (bool(stop), stop.exit_code) == (False, 0)
        send(signal.SIGINT)
        assert (bool(stop), stop.exit_code, stop.terminate) == (True, 130, False)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_before_the_first_model_ctrl_c_ends_at_once() -> None:
    with StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt), stop.saving():
            send(signal.SIGINT)
        assert stop.exit_code == 130


@pytest.mark.parametrize("armed", [False, True])
def test_sigterm_ends_at_once(armed: bool) -> None:
    with StopRequest() as stop:
        if armed:
            stop.arm()
        with pytest.raises(SystemExit) as caught:
            send(signal.SIGTERM)
        assert type(caught.value) is Terminated
        assert (caught.value.code, stop.exit_code, stop.terminate) == (143, 143, True)


def test_in_a_loop_that_saves_sigterm_is_a_flag_and_raised_on_the_way_out() -> None:
    seen: list[bool] = []
    with StopRequest() as stop:
        with pytest.raises(Terminated):
            loop(stop, signal.SIGTERM, seen=seen)
        assert seen == [True]


def test_a_second_sigterm_ends_at_once() -> None:
    seen: list[bool] = []
    with StopRequest() as stop, pytest.raises(Terminated):
        loop(stop, signal.SIGTERM, signal.SIGTERM, seen=seen)
    assert seen == [True]


def test_after_ctrl_c_sigterm_still_saves() -> None:
    seen: list[bool] = []
    with StopRequest() as stop:
        stop.arm()
        with pytest.raises(Terminated):
            loop(stop, signal.SIGINT, signal.SIGTERM, seen=seen)
        assert (seen, stop.exit_code) == ([False, True], 143)


def test_after_sigterm_ctrl_c_ends_at_once() -> None:
    seen: list[bool] = []
    with StopRequest() as stop:
        stop.arm()
        with pytest.raises(KeyboardInterrupt):
            loop(stop, signal.SIGTERM, signal.SIGINT, seen=seen)
    assert seen == [True]


def test_after_the_loop_it_ends_at_once_again() -> None:
    with StopRequest() as stop:
        with stop.saving(), stop.saving():
            pass
        with pytest.raises(Terminated):
            send(signal.SIGTERM)
        with pytest.raises(Terminated), stop.saving():
            pytest.fail("no loop begins after SIGTERM")


def test_an_error_in_a_loop_is_not_hidden() -> None:
    with StopRequest() as stop, pytest.raises(ValueError, match="inside"):
        fail(stop, signal.SIGTERM)


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="inside"), StopRequest() as stop:
        fail(stop)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_handlers_that_were_put_before_ours_are_replaced_again() -> None:
    with StopRequest() as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.install()
        with pytest.raises(Terminated):
            send(signal.SIGTERM)


def test_a_handler_that_python_does_not_know_is_no_obstacle() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with stop:
        stop._old[signal.SIGTERM] = None  # what signal.signal gives for a handler set in C
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, handler)


def test_outside_the_main_thread_nothing_is_handled() -> None:
    seen: list[object] = []

    def inside() -> None:
        with StopRequest() as stop, stop.saving():
            stop.arm()
            seen.extend([stop.exit_code, stop.terminate, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [0, False, signal.getsignal(signal.SIGTERM)]


# Real processes

_HEAD = """
import sys, time
from pathlib import Path
from cvtune.rundir import RunDir, Terminated, write_text
from cvtune.training import stop as module
from cvtune.training.stop import StopRequest
run = RunDir(sys.argv[1])
def say(word):
    print(word, flush=True)
def wait():
    until = time.monotonic() + 30
    while time.monotonic() < until:
        time.sleep(0.01)
"""
_LOOP = """
with run.locked(), StopRequest() as stop:
    write_text(run.config, "seed = 0")
    stop.arm()
    with stop.saving():
        say("ready")
        for step in range(10**6):
            time.sleep(0.01)
            if stop.terminate:
                write_text(run.checkpoints / "tail.txt", str(step))
                raise Terminated
            if stop:
                break
    write_text(run.bundle / "manifest.json", "{}")
    say("evaluated, exported and reported")
sys.exit(stop.exit_code)
"""
_READING = """
with run.locked(), StopRequest() as stop:
    try:
        say("ready")
        wait()
    finally:
        say("tidied up")
"""
_EXPORT = """
with run.locked(), StopRequest() as stop:
    write_text(run.config, "seed = 0")
    stop.arm()
    say("ready")
    wait()
"""
# A destructor swallows what is raised in it; Python prints "Exception ignored in".
_SWALLOWED = """
module.GRACE = 1.0
class Thing:
    def __del__(self):
        say("ready")
        wait()
with run.locked(), StopRequest() as stop:
    write_text(run.config, "seed = 0")
    thing = Thing()
    del thing
    wait()
"""
_STUCK = """
module.GRACE = 3.0
with run.locked(), StopRequest() as stop:
    write_text(run.config, "seed = 0")
    with stop.saving():
        say("ready")
        wait()
"""
_LATE = """
module.GRACE = 1.0
with StopRequest() as stop:
    try:
        say("ready")
        wait()
    except Terminated:
        pass
time.sleep(1.5)
say("what comes after it is not ours to end")
"""


def ended_by(
    script: str, run: Path, *numbers: signal.Signals, head: str = _HEAD, limit: float = 10
) -> tuple[int, str, str]:
    """Exit code, output and errors of a process that is sent signals as soon as it says "ready"."""
    command = [sys.executable, "-c", head + script, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        started = time.monotonic()
        for number in numbers:
            time.sleep(0.1)
            process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - started < limit
    return process.returncode, out, err


def test_a_loop_saves_and_the_process_exits_143(tmp_path: Path) -> None:
    assert ended_by(_LOOP, tmp_path / "run", signal.SIGTERM) == (143, "", "")
    assert int((tmp_path / "run" / "checkpoints" / "tail.txt").read_text(encoding="utf-8")) < 1000
    assert (tmp_path / "run" / "config.toml").is_file(), "a run that can be resumed stays"


def test_ctrl_c_ends_the_loop_and_what_comes_after_it_is_done(tmp_path: Path) -> None:
    code, out, err = ended_by(_LOOP, tmp_path / "run", signal.SIGINT)
    assert (code, out, err) == (130, "evaluated, exported and reported\n", "")


def test_while_nothing_is_written_yet_sigterm_leaves_no_folder(tmp_path: Path) -> None:
    assert ended_by(_READING, tmp_path / "run", signal.SIGTERM) == (143, "tidied up\n", "")
    assert not (tmp_path / "run").exists()


def test_where_no_loop_saves_sigterm_ends_at_once(tmp_path: Path) -> None:
    assert ended_by(_EXPORT, tmp_path / "run", signal.SIGTERM, limit=6) == (143, "", "")
    assert (tmp_path / "run" / "config.toml").is_file()


def test_an_exception_that_is_swallowed_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    code, _, err = ended_by(_SWALLOWED, tmp_path / "run", signal.SIGTERM, limit=8)
    assert code == 143
    assert "Exception ignored in" in err


def test_a_step_that_never_ends_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    assert ended_by(_STUCK, tmp_path / "run", signal.SIGTERM, limit=8) == (143, "", "")
    assert ended_by(_STUCK, tmp_path / "again", signal.SIGTERM, signal.SIGTERM, limit=2.9) == (143, "", "")


def test_who_catches_it_is_left_alone(tmp_path: Path) -> None:
    assert ended_by(_LATE, tmp_path, signal.SIGTERM) == (0, "what comes after it is not ours to end\n", "")


_FIT = """
import warnings
warnings.simplefilter("ignore")
import logging
logging.disable(logging.CRITICAL)
import lightning as L
import torch

class Tiny(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def training_step(self, batch, index):
        return self.layer(batch).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Watch(L.Callback):
    def on_train_start(self, trainer, module):
        stop.install()
        say("ready")
    def on_train_batch_end(self, trainer, *args):
        time.sleep(0.001)
        if stop.terminate:
            write_text(run.checkpoints / "tail.txt", str(trainer.global_step))
            raise Terminated

with run.locked(), StopRequest() as stop:
    write_text(run.config, "seed = 0")
    trainer = L.Trainer(max_steps=10**6, accelerator="cpu", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()])
    with stop.saving():
        trainer.fit(Tiny(), torch.utils.data.DataLoader(torch.ones(64, 2), batch_size=1))
"""


def test_inside_lightning_too(tmp_path: Path) -> None:
    """Its own handler would raise between two steps, before anything is saved."""
    assert ended_by(_FIT, tmp_path / "run", signal.SIGTERM) == (143, "", "")
    assert (tmp_path / "run" / "checkpoints" / "tail.txt").is_file()
