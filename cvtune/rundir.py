"""The run directory: the only module that knows the names of the files in it.

Writes are atomic and durable: a temporary file in the same folder, flushed to disk, then renamed over the old one, then
the folder flushed, so a reader (or a power cut) sees the old file or the new one and nothing between, and what was
written before is never missing when something later is there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cvtune.errors import RunError

SIDES: Final = ("train", "val", "calib", "test")
COMPLETE: Final = "complete"  # what DONE says of a run that ended by itself
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what file systems answer that cannot flush a folder
_NAME: Final = r"[a-z0-9]+(?:-[a-z0-9]+)*"  # of a stage or a unit of work


class Terminated(SystemExit):
    """SIGTERM: the process ends with exit code 143; what is on the disk stays, `--resume` goes on from there."""

    def __init__(self) -> None:
        super().__init__(143)


class DiskFullError(RunError, OSError):
    """A file did not fit on its disk; the one that was there before is unchanged.

    An OSError too: what can do without its file, such as a cache, catches it with those.
    """

    def __init__(self, path: Path, wanted: int, error: OSError) -> None:
        super().__init__(
            f"{path}: the disk is full, {wanted:,} bytes were to be written ({error.strerror})",
            hint="make room there and repeat the command; a run that was interrupted goes on with "
            "`cvtune fit --resume RUN`",
        )
        self.errno, self.strerror = error.errno, error.strerror


class RunDir:
    """Paths of one run, by the names that DESIGN gives them.

    Args:
        root: the run directory; it need not exist yet.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.config = self.root / "config.toml"
        self.environment = self.root / "environment.json"
        self.index = self.root / "index.csv"
        self.audit = self.root / "audit.json"
        self.split = self.root / "split.csv"
        self.folds = self.root / "folds.json"
        self.plan = self.root / "plan.json"
        self.corrections = self.root / "corrections.csv"
        self.stages = self.root / "stages.json"
        self.curves = self.root / "metrics.csv"
        self.weights = self.root / "weights.safetensors"
        self.model = self.root / "model.json"
        self.checkpoints = self.root / "checkpoints"
        self.metrics = self.root / "metrics.json"
        self.calibration = self.root / "calibration.json"
        self.point = self.root / "operating_point.json"
        self.novelty = self.root / "novelty.safetensors"
        self.distances = self.root / "novelty.csv"
        self.studies = self.root / "studies.json"
        self.latency = self.root / "latency.json"
        self.report = self.root / "report.html"
        self.summary = self.root / "summary.txt"
        self.bundle = self.root / "bundle"
        self.done = self.root / "DONE"
        self.lock = self.root / ".lock"
        self.scratch = self.root / ".scratch"

    def predictions(self, side: str) -> Path:
        """The predictions of one side, `predictions-test.csv`."""
        return self.root / f"predictions-{side}.csv"

    def unit(self, number: int, name: str) -> Path:
        """The ledger's entry for a finished unit of work, `checkpoints/unit-02-tail.json`.

        Raises:
            ValueError: the name cannot stand in a file name.
        """
        return self.checkpoints / f"unit-{number:02d}-{_checked(name)}.json"

    def units(self) -> list[tuple[int, str]]:
        """Numbers and names of the entries that are there, ascending, whole or not."""
        found = [re.fullmatch(rf"unit-(\d{{2,}})-({_NAME})\.json", name) for name in self._names()]
        return sorted((int(match[1]), match[2]) for match in found if match)

    def unit_files(self, first: int) -> list[Path]:
        """All files of the ledger's entries from a number on, those that a kill left half-written too."""
        names = [re.fullmatch(rf"\.?unit-(\d{{2,}})-{_NAME}\.(json|safetensors)(\.part)?", n) for n in self._names()]
        return [self.checkpoints / match[0] for match in names if match and int(match[1]) >= first]

    def checkpoint(self, stage: str, step: int, *, best: bool = False) -> Path:
        """Tensors of a stage at an optimizer step, `checkpoints/tail-000120.safetensors`.

        Args:
            stage: its name.
            step: the optimizer step.
            best: the weights of the best epoch, as they were known then.

        Raises:
            ValueError: the stage's name cannot stand in a file name.
        """
        return self.checkpoints / f"{_checked(stage)}-{step:06d}{'.best' if best else ''}.safetensors"

    def checkpoint_steps(self, stage: str) -> list[int]:
        """Steps of a stage that have a checkpoint, ascending, whole or not."""
        found = [re.fullmatch(rf"{stage}-(\d{{6,}})\.json", name) for name in self._names()]
        return sorted(int(match[1]) for match in found if match)

    def checkpoint_files(self, stage: str | None = None) -> list[Path]:
        """All files of the checkpoints of a stage, those that a kill left half-written too.

        Args:
            stage: its name; without one, those of all stages and of the ledger.

        Returns:
            JSON first, so that deleting them in this order never leaves one that names a file which is gone.
        """
        names = rf"{stage}-\d{{6,}}(\.best)?" if stage else rf"{_NAME}-\d{{6,}}(\.best)?|unit-\d{{2,}}-{_NAME}"
        ours = re.compile(rf"\.?({names})\.(json|safetensors)(\.part)?")
        found = [self.checkpoints / name for name in self._names() if ours.fullmatch(name)]
        return sorted(found, key=lambda path: (path.suffix != ".json", path.name))

    def _names(self) -> list[str]:
        return [path.name for path in self.checkpoints.iterdir()] if self.checkpoints.is_dir() else []

    @classmethod
    def open(cls, root: Path | str) -> RunDir:
        """An existing run.

        Raises:
            RunError: the folder is missing or holds no run.
        """
        run = cls(root)
        if not run.config.is_file():
            raise RunError(
                f"{root} is not a run: it has no config.toml",
                hint="name a folder that `cvtune fit` wrote, for example runs/parts-1",
            )
        return run

    def check_new(self) -> None:
        """Make sure that nothing is written over.

        Raises:
            RunError: another process writes a run here, or the folder holds something.
        """
        if self.lock.is_file():
            with self.lock.open("ab") as handle:
                self._take(handle.fileno())
        if self.root.exists() and not self._is_empty():
            raise RunError(
                f"{self.root} is not empty; a run never writes over anything",
                hint="choose another folder with --out, or delete this one yourself",
            )

    def check_resumable(self) -> None:
        """Make sure that there is a run that was interrupted.

        Raises:
            RunError: there is nothing, no run, one that never began in earnest, or one that is complete.
        """
        if not self.root.is_dir():
            raise RunError(
                f"{self.root}: there is no run to resume", hint=f"`cvtune fit FOLDER --out {self.root}` begins one"
            )
        if not self.config.is_file():
            raise RunError(
                f"{self.root} has no config.toml: no run, or one that never got so far, and nothing to resume",
                hint=f"begin it anew: `cvtune fit FOLDER --out {self.root}`",
            )
        if self.done.is_file() and read_text(self.done).strip() == COMPLETE:
            raise RunError(
                f"{self.root} is complete: there is nothing to resume, its bundle is {self.bundle}",
                hint=f"`cvtune show {self.root}` prints its summary",
            )

    @contextmanager
    def locked(self, *, resume: bool = False) -> Iterator[None]:
        """Hold the run for this process; the lock is the operating system's and goes when the process dies.

        A run that began here and ends before its first model leaves no folder behind, unless SIGTERM ended it: then
        the folder stays for `--resume` if its settings are written already.

        Args:
            resume: the run was interrupted and goes on; it is no longer done.

        Raises:
            RunError: another process holds it, or there is nothing to resume.
        """
        if resume:
            self.check_resumable()
        self.root.mkdir(parents=True, exist_ok=True)
        with self.lock.open("ab") as handle:
            self._take(handle.fileno())
            if resume:
                self.check_resumable()  # the process that held it may have completed it
                self.done.unlink(missing_ok=True)
            began = self._is_empty()
            keep = False
            try:
                yield
            except Terminated:
                keep = self.config.is_file()
                raise
            finally:
                if began and not keep and not (self.bundle / "manifest.json").is_file():
                    shutil.rmtree(self.root, ignore_errors=True)  # Windows keeps the lock file, which is open

    def _take(self, fd: int) -> None:
        if not try_lock(fd):
            raise RunError(
                f"{self.root} is in use by another cvtune process",
                hint="wait until it ends, or choose another folder with --out",
            )

    def _is_empty(self) -> bool:
        """Whether there is nothing but what a process leaves that was killed before it wrote anything."""
        return self.root.is_dir() and not set(self.root.iterdir()) - {self.lock, self.scratch}


def _checked(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"{name!r}: expected lower-case letters and digits, joined by single hyphens")
    return name


def images_root(folder: Path) -> Path:
    """Where the images' paths begin: the folder that a run was fitted on; of a table the one that it lies in."""
    return folder.parent if folder.is_file() else folder


def bundle_of(path: Path) -> Path:
    """The bundle inside a run; any other path as it is."""
    inside = RunDir(path).bundle
    old = inside.with_name(f".{inside.name}.old")
    if old.is_dir() and not inside.exists():  # killed between the two renames of an export
        old.rename(inside)
    return inside if (inside / "manifest.json").is_file() else path


def try_lock(fd: int) -> bool:
    """Take the system's lock on an open file without waiting; False where another process holds it."""
    try:
        if os.name == "nt":  # pragma: no cover
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one.

    Raises:
        DiskFullError: there is no room for it.
        OSError: it cannot be written for another reason.
    """
    write_parts(path, (data,))


def write_parts(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """The same for data that lies in several places, so that it need not be in memory twice.

    Args:
        path: of the file; folders that are missing are made.
        parts: one behind the other, as bytes.

    Raises:
        DiskFullError: there is no room for it.
        OSError: it cannot be written for another reason.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        _make_folder(path.parent)
        with part.open("wb") as handle:
            for data in parts:
                handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise DiskFullError(path, sum(len(data) for data in parts), error) from error
        raise


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk: until then a power cut can undo a rename. Windows has no such call."""
    if os.name == "nt":  # pragma: no cover
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync_folder(place.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with the same line ends on every system, atomically."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))  # file names that are no UTF-8 (Linux) stay as they are


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, keys in the order given, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON, keys in the order given, as :func:`write_json` writes it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_text(path: Path) -> str:
    """Read a text file of the run.

    Raises:
        RunError: the file is missing or no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})", hint="the run is incomplete: fit it again") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of the run.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error})", hint="the run is incomplete: fit it again") from error
