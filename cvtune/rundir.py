"""The run directory: the only module that knows the names of the files in it.

Writes are atomic: a temporary file in the same folder, flushed to disk, then renamed over the old one, so a reader
(or a power cut) sees the old file or the new one and nothing between.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cvtune.errors import RunError

SIDES: Final = ("train", "val", "calib", "test")


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
        self.report = self.root / "report.html"
        self.summary = self.root / "summary.txt"
        self.bundle = self.root / "bundle"
        self.done = self.root / "DONE"
        self.lock = self.root / ".lock"
        self.scratch = self.root / ".scratch"

    def predictions(self, side: str) -> Path:
        """The predictions of one side, `predictions-test.csv`."""
        return self.root / f"predictions-{side}.csv"

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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the lock is the operating system's and goes when the process dies.

        A run that began here and ends before its first model leaves no folder behind.

        Raises:
            RunError: another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self.lock.open("ab") as handle:
            self._take(handle.fileno())
            began = self._is_empty()
            try:
                yield
            finally:
                if began and not (self.bundle / "manifest.json").is_file():
                    shutil.rmtree(self.root, ignore_errors=True)  # Windows keeps the lock file, which is open

    def _take(self, fd: int) -> None:
        if not try_lock(fd):
            raise RunError(
                f"{self.root} is in use by another cvtune process",
                hint="wait until it ends, or choose another folder with --out",
            )

    def _is_empty(self) -> bool:
        return self.root.is_dir() and not set(self.root.iterdir()) - {self.lock}


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
    """Write `data` to `path` so that a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with the same line ends on every system, atomically."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))  # file names that are no UTF-8 (Linux) stay as they are


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, keys in the order given, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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
