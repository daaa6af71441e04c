from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cvtune.errors import RunError
from cvtune.rundir import (
    DiskFullError,
    RunDir,
    Terminated,
    bundle_of,
    read_json,
    read_text,
    sync_folder,
    write_bytes,
    write_json,
    write_parts,
    write_text,
)

_HOLD = """
import sys
from cvtune.rundir import RunDir
with RunDir(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the run until the block ends."""
    command = [sys.executable, "-c", _HOLD, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
        if other.poll() is None:
            other.communicate("")


def begin(run: RunDir) -> None:
    """What a fit writes before it trains."""
    write_text(run.config, "seed = 0\n")
    write_json(run.stages, [])


def export(run: RunDir) -> None:
    """What it writes up to its first model."""
    begin(run)
    write_json(run.bundle / "manifest.json", {})


def fail(run: RunDir, write: Callable[[RunDir], None], error: BaseException) -> None:
    """A fit that ends with an error after it has written something."""
    with run.locked():
        write(run)
        raise error


def test_writes_leave_nothing_but_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "Öse\n")
    write_json(tmp_path / "new" / "b.json", {"名": [1, 0.1], "a": None})
    assert (tmp_path / "new" / "a.txt").read_bytes() == "Öse\n".encode()
    assert read_json(tmp_path / "new" / "b.json") == {"名": [1, 0.1], "a": None}
    assert "名" in read_text(tmp_path / "new" / "b.json")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.txt", "b.json"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.json"
    write_bytes(file, b"old")

    def power_cut(*args: object) -> None:
        raise OSError("the power is gone")

    monkeypatch.setattr(os, broken, power_cut)
    with pytest.raises(OSError, match="the power is gone"):
        write_bytes(file, b"new and longer")
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_parts_are_one_file(tmp_path: Path) -> None:
    write_parts(tmp_path / "file", [b"ab", memoryview(b"cd"), b"", b"e"])
    assert (tmp_path / "file").read_bytes() == b"abcde"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_file_and_its_size(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.onnx"
    write_bytes(file, b"old")

    def full(*args: object) -> None:
        raise OSError(number, "there is no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError) as caught:
        write_parts(file, [bytes(1000), bytes(234)])
    assert str(caught.value) == (
        f"{file}: the disk is full, 1,234 bytes were to be written (there is no room)\n"
        "hint: make room there and repeat the command; a run that was interrupted goes on with "
        "`cvtune fit --resume RUN`"
    )
    assert (caught.value.exit_code, caught.value.errno) == (2, number)
    assert isinstance(caught.value, RunError)
    assert isinstance(caught.value, OSError), "what can do without the file catches it with the others"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"old")]


_FILL = """
import sys
from pathlib import Path
from cvtune.rundir import write_bytes
from cvtune.errors import CvtuneError
folder = Path(sys.argv[1])
write_bytes(folder / "file", bytes(100_000))
try:
    write_bytes(folder / "file", bytes(400_000))
except CvtuneError as error:
    print(error.message, len((folder / "file").read_bytes()), [path.name for path in folder.iterdir()], sep="|")
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs a file system of its own")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=300k tmpfs "$2" && exec "$0" -c "$1" "$2"'
    command = ["unshare", "-rm", "sh", "-c", mount, sys.executable, _FILL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system of its own: {done.stderr}")
    assert done.stdout.strip() == (
        f"{tmp_path}/file: the disk is full, 400,000 bytes were to be written (No space left on device)|100000|['file']"
    ), done.stderr


def test_a_file_system_that_cannot_flush_a_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "fsync", lambda handle: refuse(errno.EINVAL))
    sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: refuse(errno.EIO))
    with pytest.raises(OSError, match="refused"):
        sync_folder(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs to know the files behind handles")
def test_the_data_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(target: int | Path, *args: object) -> None:
            what = Path(f"/proc/self/fd/{target}").resolve() if isinstance(target, int) else target
            order.append(f"{name} {what.relative_to(tmp_path)}")
            real(target, *args)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    write_bytes(tmp_path / "file", b"data")
    assert order == ["fsync .file.part", "replace .file.part", "fsync ."]
    order.clear()
    write_bytes(tmp_path / "new" / "deep" / "file", b"data")
    assert order == [
        *("fsync .", "fsync new"),  # the new folders' own names
        *("fsync new/deep/.file.part", "replace new/deep/.file.part", "fsync new/deep"),
    ]


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "metrics.json", {"accuracy": float("nan")})
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"metrics\.json: cannot be read .*\nhint: the run is incomplete: fit it again$"):
        read_json(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").write_text('{"test": ', encoding="utf-8")
    with pytest.raises(RunError, match=r"metrics\.json: damaged .*\nhint: the run is incomplete"):
        read_json(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="damaged"):
        read_json(tmp_path / "metrics.json")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        RunDir.open(tmp_path / "nothing")
    assert str(caught.value) == (
        f"{tmp_path / 'nothing'} is not a run: it has no config.toml\n"
        "hint: name a folder that `cvtune fit` wrote, for example runs/parts-1"
    )


def test_the_bundle_of_a_run_and_of_itself(tmp_path: Path) -> None:
    export(RunDir(tmp_path))
    assert bundle_of(tmp_path) == tmp_path / "bundle"
    assert bundle_of(tmp_path / "bundle") == tmp_path / "bundle"
    assert bundle_of(tmp_path / "elsewhere") == tmp_path / "elsewhere"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    sentence = (
        f"{run.root} is in use by another cvtune process\nhint: wait until it ends, or choose another folder with --out"
    )
    with held(run.root):
        with pytest.raises(RunError) as caught, run.locked():
            pass
        assert str(caught.value) == sentence
        (run.root / "config.toml").write_text("seed = 0\n", encoding="utf-8")  # the other one has begun
        with pytest.raises(RunError) as caught:
            run.check_new()
        assert str(caught.value) == sentence
        assert run.root.is_dir(), "the loser leaves the winner's files alone"


def test_the_lock_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with held(run.root) as other:
        other.kill()
        other.wait()
    run.check_new()  # the lock's file that is left is nobody's
    with run.locked():
        begin(run)


@pytest.mark.parametrize("error", [RunError("broken"), KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("write", [lambda run: None, begin])
def test_a_run_without_a_model_leaves_no_folder(
    write: Callable[[RunDir], None], error: BaseException, tmp_path: Path
) -> None:
    with pytest.raises(type(error)):
        fail(RunDir(tmp_path / "run"), write, error)
    assert not (tmp_path / "run").exists()


def test_a_run_with_a_model_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail(RunDir(tmp_path / "run"), export, KeyboardInterrupt())
    assert RunDir.open(tmp_path / "run").config.is_file()


def test_terminated_with_its_settings_written_a_run_stays_for_resume(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with pytest.raises(SystemExit) as caught:
        fail(run, begin, Terminated())
    assert caught.value.code == 143
    run.check_resumable()
    with run.locked(resume=True):
        pass
    with pytest.raises(KeyboardInterrupt):
        fail(run, begin, KeyboardInterrupt())
    assert run.config.is_file(), "this process did not begin it"


def test_terminated_before_that_it_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        fail(RunDir(tmp_path / "run"), lambda run: None, Terminated())
    assert not (tmp_path / "run").exists()


def test_what_a_kill_leaves_of_a_run_that_had_written_nothing_is_no_obstacle(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.lock.touch()
    (run.scratch / "pixels").mkdir(parents=True)
    run.check_new()
    (run.root / "notes.txt").touch()
    with pytest.raises(RunError, match="is not empty"):
        run.check_new()


def test_runs_that_cannot_be_resumed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")

    def refused() -> str:
        with pytest.raises(RunError) as caught:
            run.check_resumable()
        with pytest.raises(RunError) as locked, run.locked(resume=True):
            pass
        assert str(locked.value) == str(caught.value)
        return str(caught.value)

    begins = f"`cvtune fit FOLDER --out {run.root}`"
    assert refused() == f"{run.root}: there is no run to resume\nhint: {begins} begins one"
    assert not run.root.exists()
    run.root.mkdir()
    assert refused() == (
        f"{run.root} has no config.toml: no run, or one that never got so far, and nothing to resume\n"
        f"hint: begin it anew: {begins}"
    )
    export(run)
    write_text(run.done, "complete\n")
    assert refused() == (
        f"{run.root} is complete: there is nothing to resume, its bundle is {run.bundle}\n"
        f"hint: `cvtune show {run.root}` prints its summary"
    )


def test_a_resumed_run_is_not_done_any_more(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    export(run)
    write_text(run.done, "stopped on request\n")
    with run.locked(resume=True):
        assert not run.done.exists()


def test_a_run_that_another_process_holds_is_not_resumed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with held(run.root):
        write_text(run.config, "seed = 0\n")
        write_text(run.done, "stopped on request\n")
        with pytest.raises(RunError, match="is in use by another cvtune process"), run.locked(resume=True):
            pass
        assert run.done.is_file()


def test_a_run_that_was_completed_while_its_lock_was_waited_for_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    begin(run)
    monkeypatch.setattr(run, "_take", lambda handle: write_text(run.done, "complete\n"))
    with pytest.raises(RunError, match="is complete"), run.locked(resume=True):
        pass
    assert read_text(run.done) == "complete\n"


def test_the_names_of_checkpoints(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert (run.units(), run.checkpoint_steps("tail"), run.checkpoint_files()) == ([], [], [])
    ours = [
        run.checkpoint("tail", 7).with_suffix(".json"),
        run.checkpoint("tail", 1234567).with_suffix(".json"),
        run.checkpoint("tail", 7),
        run.checkpoint("tail", 5, best=True),
        run.checkpoint("tail", 9).with_name(".tail-000009.safetensors.part"),
    ]
    weights = run.unit(1, "tail-lr").with_suffix(".safetensors")
    others = [run.checkpoint("fold-1-tail", 7), run.unit(0, "probe"), weights]
    strange = [run.checkpoints / name for name in ("notes.txt", "tail-7.json", "tail.json", "tail-000007.json.bak")]
    run.checkpoints.mkdir()
    for path in (*ours, *others, *strange):
        path.touch()
    assert set(run.checkpoint_files("tail")) == set(ours)
    assert set(run.checkpoint_files()) == {*ours, *others}
    assert [path.suffix for path in run.checkpoint_files("tail")[:2]] == [".json", ".json"], "these go first"
    assert run.checkpoint_steps("tail") == [7, 1234567]
    assert run.units() == [(0, "probe")]
    assert run.unit_files(1) == [weights]
    for name in ("", "Tail", "a/b", "a--b", "-a", ".."):
        with pytest.raises(ValueError, match="expected lower-case letters and digits"):
            run.unit(0, name)
        with pytest.raises(ValueError, match="expected lower-case letters and digits"):
            run.checkpoint(name, 0)


def test_what_was_there_before_is_never_removed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    (run.root / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError) as caught:
        run.check_new()
    assert str(caught.value) == (
        f"{run.root} is not empty; a run never writes over anything\n"
        "hint: choose another folder with --out, or delete this one yourself"
    )
    with pytest.raises(RunError, match="broken"):
        fail(run, lambda run: None, RunError("broken"))
    assert (run.root / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_file_in_the_place_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="is not empty"):
        RunDir(tmp_path / "run").check_new()


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    RunDir(tmp_path).check_new()
    assert not list(tmp_path.iterdir()), "looking leaves no trace"


def test_every_file_of_a_run_is_inside_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    paths = {name: value for name, value in vars(run).items() if name != "root"}
    assert all(path.parent == tmp_path for path in paths.values())
    assert len(set(paths.values())) == len(paths)
    assert run.predictions("test") == tmp_path / "predictions-test.csv"
