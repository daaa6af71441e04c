"""What the README says is true: its Python runs, its commands and make targets exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text(encoding="utf-8")
_FENCED = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
EXAMPLES = [body for language, body in _FENCED if language == "python"]
# Lines of code: in a fenced block, or indented by four blanks; a leading prompt is taken off.
_CODE = [line for language, body in _FENCED if language != "python" for line in body.splitlines()]
_CODE += [line[4:] for line in README.splitlines() if line.startswith("    ")]
LINES = [re.sub(r"^\$ ", "", line).split("  #")[0].strip() for line in _CODE]


def commands(program: str) -> list[str]:
    return [line for line in LINES if re.match(rf"{re.escape(program)}( |$)", line)]


def test_there_is_something_to_check() -> None:
    assert len(EXAMPLES) >= 2, "the README shows the Python API, and an own head and callback plugged in"
    assert commands("cvtune")
    assert commands("make")


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"example{i + 1}" for i in range(len(EXAMPLES))])
def test_python_examples_run(example: str, parts: Path, tmp_path: Path) -> None:
    """Each runs on its own in a folder that holds parts/{dent,ok,scratch,stain} and new/ with three more."""
    shutil.copytree(parts, tmp_path / "parts")
    (tmp_path / "new").mkdir()
    for i, label in enumerate(("ok", "dent", "stain")):
        shutil.copy(next((parts / label).iterdir()), tmp_path / "new" / f"{i}.png")
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def help_text(program: str, verb: str) -> str:
    code = f"import sys; sys.argv[0] = {program!r}; from {program.replace('-', '_')}.cli import main; sys.exit(main())"
    environment = os.environ | {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", code, *verb.split(), "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False, cwd=REPO
    )
    assert done.returncode == 0, f"{program} {verb}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("program", ["cvtune", "cvtune-edge"])
def test_commands_and_their_options_exist(program: str) -> None:
    unknown = []
    for line in commands(program):
        verb = next((word for word in line.split()[1:] if not word.startswith("-")), "")
        text = help_text(program, verb)
        options = re.findall(r"(?<![\w-])--?[a-z][\w-]*", line)
        unknown += [f"{line}: {o}" for o in options if not re.search(rf"(?<![\w-]){re.escape(o)}(?![\w-])", text)]
    assert not unknown, "\n".join(unknown)


def test_make_targets_exist() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, flags=re.MULTILINE))
    wanted = {word for line in commands("make") for word in line.split()[1:] if re.fullmatch(r"[a-z][\w-]*", word)}
    wanted |= set(re.findall(r"`make ([a-z][\w-]*)`", README))
    assert wanted <= targets


def test_no_dead_links() -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", README)
    assert [link for link in links if not (REPO / link).exists()] == []
