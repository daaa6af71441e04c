from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cvtune_edge import CvtuneError, ImageError, child
from cvtune_edge.child import ChildDecoder, Decoder, DecoderPool
from cvtune_edge.decode import ReadOptions, decode
from numpy.typing import NDArray
from PIL import Image

posix = pytest.mark.skipif(os.name == "nt", reason="signals of this kind are POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def colours(seed: int = 0, height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def black_png(side: int) -> bytes:
    return bytes(cv2.imencode(".png", np.zeros((side, side), np.uint8))[1])


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


GREY_16 = np.arange(65536, dtype=np.uint16).reshape(256, 256)
GOOD = {
    "png": encoded(colours()),
    "jpeg turned": encoded(colours(), "JPEG", exif=turned(6)),
    "webp": encoded(colours(), "WebP"),
    "pages": encoded(colours(), "TIFF", save_all=True, append_images=[Image.fromarray(colours(1))]),
    "16 bit": bytes(cv2.imencode(".png", GREY_16)[1]),
    "one pixel": encoded(colours(0, 1, 1), "BMP"),
}
BAD = {
    "empty": b"",
    "text": b"hello",
    "truncated": GOOD["png"][:-30],
    "no end": GOOD["jpeg turned"][:-2],
    "bomb": b"P6 20000 20000 255\n",
    "damaged": b"II*\0" + bytes(40),
}


@pytest.fixture
def decoder() -> Iterator[ChildDecoder]:
    with ChildDecoder() as decoder:
        yield decoder


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether there is such a process and it is no zombie (which a container without an init keeps for ever)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.is_file() and stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z")


def pid_of(decoder: ChildDecoder) -> int:
    assert decoder.pid is not None
    return decoder.pid


# ---- what it answers


@pytest.mark.parametrize("pixels", ["uint8", "uint16", "float32"])
def test_frames_are_those_of_decode(pixels: str) -> None:
    options = ReadOptions(pixels=pixels)
    with ChildDecoder(options) as decoder:
        for name, data in GOOD.items():
            found, expected = decoder.decode(data, name), decode(data, name, options)
            assert found.pixels.dtype == expected.pixels.dtype == np.dtype(pixels)
            np.testing.assert_array_equal(found.pixels, expected.pixels)
            assert (found.notes, found.header) == (expected.notes, expected.header)
            assert found.pixels.flags.writeable


def test_refusals_are_those_of_decode(decoder: ChildDecoder) -> None:
    for name, data in BAD.items():
        with pytest.raises(ImageError) as expected:
            decode(data, name)
        with pytest.raises(ImageError) as found:
            decoder.decode(data, name)
        for field in ("path", "reason", "hint", "message"):
            assert getattr(found.value, field) == getattr(expected.value, field)
    assert decoder.decode(GOOD["png"], "x").pixels.shape == (40, 60, 3)


def test_options_reach_the_child() -> None:
    with ChildDecoder(ReadOptions(max_pixels=100)) as decoder, pytest.raises(ImageError, match="at most 100 in all"):
        decoder.decode(GOOD["png"], "x")
    alpha = encoded(np.dstack([colours(), np.zeros((40, 60), np.uint8)]))
    with ChildDecoder(ReadOptions(background=(1, 2, 3))) as decoder:
        assert decoder.decode(alpha, "x").pixels[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["a\nb.png", "Prüfling 検査.png", "caf\udce9.png", '"quoted", {}.png', "x" * 5000])
def test_names_come_back_as_they_are(decoder: ChildDecoder, name: str) -> None:
    with pytest.raises(ImageError) as caught:
        decoder.decode(b"hello", name)
    assert caught.value.path == name


def test_one_child_serves_many_files(decoder: ChildDecoder) -> None:
    assert decoder.pid is None  # none before the first file
    decoder.decode(GOOD["png"], "x")
    first = pid_of(decoder)
    for seed in range(20):
        np.testing.assert_array_equal(decoder.decode(encoded(colours(seed)), "x").pixels, colours(seed))
    assert decoder.pid == first


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"seconds": -1.0}, {"megabytes": 0}])
def test_limits_must_be_positive(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected positive numbers"):
        ChildDecoder(**limits)


# ---- what a file can do at worst


def interrupted(decoder: ChildDecoder, *names: str) -> str:
    """The reason given for a file during which these signals reach the child."""
    decoder.decode(GOOD["png"], "before")
    pid = pid_of(decoder)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(decoder.decode, GOOD["png"], "a/b.png")
        time.sleep(0.3)  # the question lies in the pipe
        for name in names:
            os.kill(pid, signal.Signals[name])
        with pytest.raises(ImageError) as caught:
            answer.result(timeout=20)
    assert caught.value.path == "a/b.png"
    assert caught.value.hint == "files you trust are read without these limits: leave out --untrusted"
    with pytest.raises(ChildProcessError):  # nothing is left to wait for: no zombie
        os.waitpid(pid, os.WNOHANG)
    np.testing.assert_array_equal(decoder.decode(GOOD["png"], "after").pixels, colours())
    assert decoder.pid != pid
    return caught.value.reason


@posix
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_refuses_the_file_and_the_next_is_read(decoder: ChildDecoder, name: str) -> None:
    assert interrupted(decoder, name, "SIGCONT") == f"the decoder crashed ({name})"


@posix
def test_a_file_that_takes_too_long_is_refused_in_time() -> None:
    with ChildDecoder(seconds=0.5) as decoder:
        decoder.decode(GOOD["png"], "imports are not on the clock")
        start = time.monotonic()
        assert interrupted(decoder) == "took longer than 0.5 s"
        assert time.monotonic() - start < 5


@posix
def test_the_time_counts_for_each_file_alone() -> None:
    with ChildDecoder(seconds=0.4) as decoder:
        decoder.decode(GOOD["png"], "x")
        first = pid_of(decoder)
        for _ in range(6):
            time.sleep(0.15)
            decoder.decode(GOOD["png"], "x")
        time.sleep(0.6)
        decoder.decode(GOOD["png"], "x")
        assert decoder.pid == first


@linux
def test_memory_beyond_the_limit_refuses_the_file() -> None:
    with ChildDecoder(megabytes=32) as decoder:
        assert decoder.decode(black_png(1000), "3 MB of pixels").pixels.shape == (1000, 1000, 3)
        with pytest.raises(ImageError) as caught:
            decoder.decode(black_png(4000), "48 MB of pixels")
        assert caught.value.reason == "needed more than 32 MB"
        assert caught.value.hint
        with pytest.raises(ImageError, match="needed more than 32 MB"):
            decoder.decode(GOOD["png"] + bytes(33 << 20), "a large file")
        assert decoder.decode(black_png(1000), "after").pixels.shape == (1000, 1000, 3)
        assert peak(pid_of(decoder)) < 100 << 20
    with ChildDecoder() as decoder:
        assert decoder.decode(black_png(4000), "x").pixels.shape == (4000, 4000, 3)


@linux
@pytest.mark.parametrize("channels", [(), (3,), (4,)], ids=["grey", "colour", "alpha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_no_good_file_is_called_damaged_for_want_of_memory(suffix: str, dtype: Any, channels: tuple[int, ...]) -> None:
    """Codecs do not tell the one from the other."""
    outcomes = []
    with ChildDecoder(megabytes=32) as decoder:
        for side in (300, 1200, 1800, 2300, 2600, 4000):
            data = bytes(cv2.imencode(suffix, np.zeros((side, side, *channels), dtype))[1])
            try:
                outcomes.append(decoder.decode(data, "x").pixels.shape == (side, side, 3))
            except ImageError as error:
                assert error.reason.startswith("needed more than 32 MB")  # noqa: PT017  any of them may be refused
                outcomes.append(False)
        with pytest.raises(ImageError) as caught:
            decoder.decode(GOOD["png"][:-30], "x")
    assert caught.value.reason.startswith("truncated")
    assert outcomes[0]
    assert not outcomes[-1]
    assert sorted(outcomes, reverse=True) == outcomes  # small ones are read, large ones are not


def peak(pid: int) -> int:
    """Most memory that a process ever had, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


@linux
def test_memory_does_not_grow_with_the_files(decoder: ChildDecoder) -> None:
    data = encoded(colours(0, 480, 640), compress_level=0)
    for _ in range(20):
        decoder.decode(data, "x")
    before = peak(pid_of(decoder))
    for _ in range(200):
        decoder.decode(data, "x")
    assert peak(pid_of(decoder)) - before < 4 << 20


@linux
def test_the_child_writes_no_files_and_no_core(decoder: ChildDecoder) -> None:
    decoder.decode(GOOD["png"], "x")
    text = Path(f"/proc/{decoder.pid}/limits").read_text(encoding="ascii")
    limits = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
    assert limits["Max core file size"] == limits["Max file size"] == ["0", "0"]
    assert limits["Max address space"][0] == limits["Max address space"][1] != "unlimited"


def test_bad_files_leave_no_lines_behind(decoder: ChildDecoder, capfd: pytest.CaptureFixture[str]) -> None:
    for name, data in BAD.items():
        with pytest.raises(ImageError):
            decoder.decode(data, name)
    assert capfd.readouterr() == ("", "")


LIES = {
    "no answer": "",
    "a long head": "out(b'\\xff\\xff\\xff\\xff')",
    "no json": "out(pack('<I', 3) + b'abc')",
    "a list": "say([1])",
    "no reason": "say({})",
    "too many pixels": "say({'shape': [100000, 100000, 3], 'dtype': 'uint8', 'notes': [], 'header': HEADER})",
    "no pixels": "say({'shape': [0, 5, 3], 'dtype': 'uint8', 'notes': [], 'header': HEADER})",
    "other pixels": "say({'shape': [1, 1, 3], 'dtype': 'object', 'notes': [], 'header': HEADER})",
    "four channels": "say({'shape': [1, 1, 4], 'dtype': 'uint8', 'notes': [], 'header': HEADER})",
    "fewer bytes": "say({'shape': [9, 9, 3], 'dtype': 'uint8', 'notes': [], 'header': HEADER}); out(b'12')",
    "another header": "say({'shape': [1, 1, 3], 'dtype': 'uint8', 'notes': [], 'header': {'a': 1}}); out(b'123')",
}
LIAR = """
import json, sys
from struct import pack, unpack
HEADER = {"kind": "PNG", "width": 1, "height": 1}
def out(data): sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
def say(tree): text = json.dumps(tree).encode(); out(pack("<I", len(text)) + text)
def hear(): return json.loads(sys.stdin.buffer.read(unpack("<I", sys.stdin.buffer.read(4))[0]))
hear()
say({"reason": "ready", "hint": ""})
sys.stdin.buffer.read(hear()["bytes"])
"""


def spawned(code: str) -> subprocess.Popen[bytes]:
    pipe, silent = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=silent, bufsize=0)


@pytest.mark.parametrize("lie", LIES)
def test_a_child_taken_over_cannot_harm_its_parent(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = child._spawn

    with ChildDecoder() as decoder:
        monkeypatch.setattr(child, "_spawn", lambda: spawned(LIAR + LIES[lie]))
        with pytest.raises(ImageError, match=r"^x: the decoder crashed \((its answer is damaged|exit code 0x0)\)"):
            decoder.decode(GOOD["png"], "x")
        monkeypatch.setattr(child, "_spawn", honest)
        np.testing.assert_array_equal(decoder.decode(GOOD["png"], "x").pixels, colours())


# ---- its life


def test_closing_ends_the_child_and_a_file_starts_another() -> None:
    decoder = ChildDecoder()
    decoder.close()  # nothing to close
    decoder.decode(GOOD["png"], "x")
    first = pid_of(decoder)
    decoder.close()
    decoder.close()
    assert decoder.pid is None
    assert os.name == "nt" or not is_running(first)
    decoder.decode(GOOD["png"], "x")
    assert decoder.pid not in (None, first)
    decoder.close()


@posix
def test_a_forgotten_decoder_leaves_no_child() -> None:
    decoder = ChildDecoder()
    decoder.decode(GOOD["png"], "x")
    pid = pid_of(decoder)
    del decoder
    gc.collect()
    assert not is_running(pid)
    assert not [thread for thread in threading.enumerate() if thread.name == "cvtune-watch"]


@posix
def test_a_child_that_died_between_two_files_costs_none_of_them(decoder: ChildDecoder) -> None:
    decoder.decode(GOOD["png"], "x")
    pid = pid_of(decoder)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_running(pid))
    np.testing.assert_array_equal(decoder.decode(GOOD["png"], "x").pixels, colours())


@posix
def test_ctrl_c_at_the_terminal_and_a_service_stop_do_not_reach_the_child(decoder: ChildDecoder) -> None:
    decoder.decode(GOOD["png"], "x")
    pid = pid_of(decoder)
    assert os.getpgid(pid) != os.getpgid(0)  # a terminal sends SIGINT to the group in front
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    decoder.decode(GOOD["png"], "x")
    assert decoder.pid == pid


def test_an_interrupted_question_leaves_no_answer_behind(
    decoder: ChildDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(self: object) -> None:
        raise KeyboardInterrupt

    decoder.decode(GOOD["png"], "x")
    with monkeypatch.context() as patched:
        patched.setattr(child._Child, "_answer", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            decoder.decode(encoded(colours(5)), "five")
    np.testing.assert_array_equal(decoder.decode(encoded(colours(6)), "six").pixels, colours(6))


_PARENT = """
import sys
from cvtune_edge.child import DecoderPool
pool = DecoderPool()
data = sys.stdin.buffer.read()
pool.decode(data, "x")
print(pool._all[1].pid, flush=True)
__import__("time").sleep(60)
"""


@posix
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_child_ends_with_its_parent(name: str) -> None:
    number = signal.Signals[name]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdin=pipe, stdout=pipe, stderr=pipe) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(GOOD["png"])
        parent.stdin.close()
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.send_signal(number)
        assert parent.wait(timeout=20) in (-number, 1)
        wait_for(lambda: not is_running(pid))


@pytest.mark.parametrize("program", ["no such program", "", None])
def test_without_an_interpreter_it_says_so(program: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with ChildDecoder() as decoder, pytest.raises(CvtuneError, match="decodes images does not start") as caught:
        decoder.decode(GOOD["png"], "x")
    assert not isinstance(caught.value, ImageError)  # all files would fail: this is no matter of one
    assert caught.value.hint == "sys.executable must be the Python interpreter"


def test_a_child_that_does_not_come_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_spawn", lambda: spawned("import no_such_module"))
    with ChildDecoder() as decoder, pytest.raises(CvtuneError, match=r"does not start: .*exit code 0x1") as caught:
        decoder.decode(GOOD["png"], "x")
    assert caught.value.hint == "`python -m cvtune_edge.worker` shows why"


def test_modules_are_found_as_the_parent_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file named like a module, where the user works, is not imported."""
    for name in ("json", "cv2", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with ChildDecoder() as decoder:
        np.testing.assert_array_equal(decoder.decode(GOOD["png"], "x").pixels, colours())


# ---- several threads


def test_a_pool_serves_many_threads() -> None:
    files = [encoded(colours(seed)) for seed in range(40)]
    with DecoderPool(workers=3) as pool, ThreadPoolExecutor(8) as threads:
        decoder: Decoder = pool
        frames = list(threads.map(lambda data: decoder.decode(data, "x"), files))
        pids = [one.pid for one in pool._all if one.pid is not None]
        assert 1 <= len(set(pids)) <= 3
    for seed, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.pixels, colours(seed))
    assert os.name == "nt" or not [pid for pid in pids if is_running(pid)]


def test_a_pool_starts_no_more_children_than_are_needed() -> None:
    with DecoderPool(workers=4) as pool:
        for _ in range(3):
            pool.decode(GOOD["png"], "x")
        assert len([one for one in pool._all if one.pid is not None]) == 1


def test_a_bad_file_gives_its_child_back_to_the_pool() -> None:
    with DecoderPool(workers=1) as pool:
        for _ in range(3):
            with pytest.raises(ImageError, match="x: empty file"):
                pool.decode(b"", "x")
        assert pool.decode(GOOD["png"], "x").pixels.shape == (40, 60, 3)


def test_a_pool_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="0 workers, expected at least 1"):
        DecoderPool(workers=0)
