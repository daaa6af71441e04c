from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cvtune.errors import RunError
from cvtune.rundir import RunDir, bundle_of, read_json, read_text, write_bytes, write_json, write_text

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


def test_the_data_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            order.append(name)
            real(*args)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    write_bytes(tmp_path / "file", b"data")
    assert order == ["fsync", "replace"]


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


@pytest.mark.parametrize("error", [RunError("broken"), KeyboardInterrupt(), SystemExit(1)])
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
