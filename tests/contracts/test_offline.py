"""Closed doors: a fit in an empty home, outside CI, asks nobody and leaves nothing behind.

`CI` is unset because onnxruntime's telemetry is silent where it is set. Python's sockets are refused and logged; where
the system can give the program a network namespace of its own, native code has no network either.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SWITCHES = ("CI", "HF_HUB_OFFLINE", "ORT_DISABLE_TELEMETRY", "NO_ALBUMENTATIONS_UPDATE", "HF_HUB_DISABLE_TELEMETRY")
_MAIN = "import sys; from cvtune.cli import main; sys.exit(main())"


def bare_environment(home: Path) -> dict[str, str]:
    """The environment of somebody who has just installed cvtune: an empty home, no switches set."""
    kept = {k: v for k, v in os.environ.items() if k not in _SWITCHES and not k.startswith(("XDG_", "HF_", "MPL"))}
    doors = str(Path(__file__).parent / "closed_doors")
    own = {"HOME": str(home), "USERPROFILE": str(home), "CVTUNE_TEST_CONNECTIONS": str(home.parent / "connections")}
    kept.pop("TORCH_HOME", None)
    return kept | own | {"PYTHONPATH": os.pathsep.join(filter(None, [doors, kept.get("PYTHONPATH")]))}


def without_network() -> list[str]:
    """A prefix for the command that takes the network away, where the system lets us; else nothing."""
    command = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        return command
    return []


@pytest.fixture(scope="module")
def offline_run(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with home/, run/ and, if somebody asked, connections."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "home").mkdir()
    arguments = ["fit", str(parts), "--out", str(folder / "run"), "--budget", "20", "--seed", "0"]
    done = subprocess.run(
        [*without_network(), sys.executable, "-c", _MAIN, *arguments],
        cwd=folder,
        env=bare_environment(folder / "home"),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_guard_works(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    code = "import urllib.request as r\ntry: r.urlopen('http://192.0.2.1/', timeout=1)\nexcept OSError as e: print(e)"
    environment = bare_environment(tmp_path / "home")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "network refused" in done.stdout
    assert "192.0.2.1" in (tmp_path / "connections").read_text(encoding="utf-8")


def test_a_fit_asks_nobody(offline_run: Path) -> None:
    log = offline_run / "connections"
    assert not log.exists(), log.read_text(encoding="utf-8")
    assert (offline_run / "run" / "bundle" / "manifest.json").is_file()
    assert (offline_run / "run" / "report.html").is_file()


def test_a_fit_leaves_the_sides_the_decoded_images_and_a_font_list_in_the_home(offline_run: Path) -> None:
    home = offline_run / "home"
    left = [p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()]
    others = [p for p in left if "matplotlib" not in p]
    ours = [p for p in others if re.search(r"cvtune/(splits/\w+/|.*pixels/)", p)]
    assert others == ours
    assert any(p.endswith("split.csv") for p in ours)


def test_a_fit_writes_only_its_run(offline_run: Path, parts: Path) -> None:
    assert sorted(p.name for p in offline_run.iterdir()) == ["home", "run"]
    assert sorted(p.suffix for p in parts.rglob("*") if p.is_file()) == [".png"] * 96
