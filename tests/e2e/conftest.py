from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cvtune import cli

STEEL = ("crazing", "inclusion", "scratches")


@pytest.fixture(scope="module")
def steel(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 photographs of steel, three classes of 40; nobody may write there."""
    folder: Path = tmp_path_factory.mktemp("steel") / "steel"
    for label in STEEL:
        (folder / label).mkdir(parents=True)
        for number in range(1, 41):
            shutil.copy2(real_data / "neu_steel" / label / f"{label}_{number}.jpg", folder / label)
    return folder


@pytest.fixture
def cvtune(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """`cvtune("fit", folder)` runs the command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return end.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def cvtune_command(cvtune: Callable[..., tuple[object, str, str]]) -> Callable[..., tuple[object, str, str]]:
    """The same for modules that import the library under its own name."""
    return cvtune


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def tree(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def snapshot(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Times of change, permissions and contents of everything below a folder."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[path.relative_to(folder).as_posix()] = (status.st_mtime_ns, status.st_mode, digest)
    return found
