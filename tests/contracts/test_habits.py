"""The project's own rules that a tool does not check: same commands everywhere, reasons, versions, clean files."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PYPROJECTS = [REPO / "pyproject.toml", REPO / "export/edge/pyproject.toml"]


def text(path: str) -> str:
    return (REPO / path).read_text(encoding="utf-8")


def test_pre_commit_runs_the_commands_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", text("Makefile"), flags=re.MULTILINE)
    assert recipe is not None
    wanted = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert re.findall(r"entry: (.*)", text(".pre-commit-config.yaml")) == wanted
    assert [line for line in text(".ci/run").splitlines() if line.startswith("make ")] == [
        *("make install", "make lint", "make test")
    ]


@pytest.mark.parametrize("pyproject", PYPROJECTS, ids=["cvtune", "cvtune-edge"])
def test_a_reason_stands_beside_every_bound(pyproject: Path) -> None:
    source = pyproject.read_text(encoding="utf-8")
    wanted = tomllib.loads(source)["project"]["dependencies"]
    bare = [entry for entry in wanted if not re.search(rf'"{re.escape(entry)}",?  # \w', source)]
    assert not bare


def test_one_version_everywhere() -> None:
    lab, line = (tomllib.loads(path.read_text(encoding="utf-8"))["project"] for path in PYPROJECTS)
    assert lab["version"] == line["version"]
    assert f"cvtune-edge=={line['version']}" in lab["dependencies"]
    for package in ("cvtune", "export/edge/cvtune_edge"):
        assert f'__version__ = "{lab["version"]}"' in text(f"{package}/__init__.py")


def test_the_licence_is_the_published_text() -> None:
    digest = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # apache.org/licenses/LICENSE-2.0.txt
    assert hashlib.sha256((REPO / "LICENSE").read_bytes().replace(b"\r\n", b"\n")).hexdigest() == digest


def test_changelog_has_a_place_for_the_next_change() -> None:
    assert "## [Unreleased]" in text("CHANGELOG.md")


def test_no_file_knows_a_registry_or_this_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPO, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    # Put together here, so that this file passes its own test.
    hosts = "|".join(["py" + r"pi\.(org|python)", "python" + r"hosted\.org", r"(?<![\w.])/" + r"(work|root|home/\w+)/"])
    found = []
    for name in filter(None, listed.stdout.decode("utf-8").split("\0")):
        data = (REPO / name).read_bytes() if (REPO / name).is_file() else b""
        lines = [] if b"\0" in data else data.decode("utf-8").splitlines()
        found += [f"{name}:{i}: {line.strip()}" for i, line in enumerate(lines, 1) if re.search(hosts, line)]
    assert not found, "\n".join(found)
