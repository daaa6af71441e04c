"""The peers' own environment: fastai and vyntri must not decide which versions cvtune is tested with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.figures import ROOT
from cvtune.errors import ConfigError
from cvtune.rundir import write_text

REQUIREMENTS = ROOT / "benchmarks" / "peers" / "requirements.txt"
PLACE = ROOT / "runs" / "peers-env"
STAMP = "peers.sha256"
SETUP = "python -m benchmarks compare --setup"


def python_of(place: Path, requirements: Path = REQUIREMENTS) -> Path:
    """The interpreter of a finished environment.

    Raises:
        ConfigError: it is not there, not finished, or made from other requirements.
    """
    stamp, own = place / STAMP, "" if place == PLACE else f" --peers-env {place}"
    if not stamp.is_file():
        raise ConfigError(f"{place}: the peers' environment is not there", hint=f"make it with: {SETUP}{own}")
    if stamp.read_text(encoding="utf-8").strip() != _digest(requirements):
        raise ConfigError(f"{place}: made from other versions of the peers", hint=f"bring it up with: {SETUP}{own}")
    return _python(place)


def set_up(place: Path, requirements: Path = REQUIREMENTS) -> None:
    """Make the environment, or bring it up; the only thing here that asks a package index.

    Raises:
        ConfigError: pip failed; its own words are above.
    """
    (place / STAMP).unlink(missing_ok=True)
    if not _python(place).is_file():
        venv.create(place, with_pip=True)
    command = [str(_python(place)), "-m", "pip", "install", "--requirement", str(requirements)]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise ConfigError(f"{place}: pip could not install the peers", hint=f"look at its message, then again: {SETUP}")
    write_text(place / STAMP, _digest(requirements) + "\n")  # last: it says that all of them are there


def _python(place: Path) -> Path:
    return place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _digest(requirements: Path) -> str:
    return hashlib.sha256(requirements.read_bytes()).hexdigest()
