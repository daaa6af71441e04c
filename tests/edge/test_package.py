from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import cvtune_edge
import pytest


def python(code: str, **env: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("ORT_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **env}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_name_is_there() -> None:
    for name in cvtune_edge.__all__:
        assert getattr(cvtune_edge, name) is not None
        assert name in dir(cvtune_edge)
    with pytest.raises(AttributeError, match="module 'cvtune_edge' has no attribute 'Nothing'"):
        cvtune_edge.Nothing  # noqa: B018 - the access is the test


def test_the_version_is_that_of_the_distribution(repo: Path) -> None:
    project = tomllib.loads((repo / "export" / "edge" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == cvtune_edge.__version__


@pytest.mark.parametrize(
    ("statement", "limit", "absent"),
    [
        ("import cvtune_edge", 0.1, {"numpy", "onnxruntime", "cv2", "torch"}),
        ("from cvtune_edge import CvtuneError", 0.1, {"numpy", "onnxruntime", "cv2", "torch"}),
        ("import cvtune_edge.cli", 0.3, {"onnxruntime", "cv2", "torch"}),
        ("from cvtune_edge import Bundle", 0.5, {"torch", "onnx"}),
    ],
)
def test_imports_are_quick_and_lean(statement: str, limit: float, absent: set[str]) -> None:
    code = (
        f"import sys, time; start = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start, *sys.modules)"
    )
    runs = []
    for _ in range(5):
        seconds, *modules = python(code).split()
        runs.append(float(seconds))
        assert not absent & set(modules)
        if runs[-1] < limit:
            return
        time.sleep(0.5)  # another process may have had the core
    pytest.fail(f"{statement} took {min(runs):.3f} s at best, expected less than {limit} s")


def test_nothing_is_written_to_an_empty_home(bundle_folder: Path, real_data: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    where = dict.fromkeys(("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_DATA_HOME", "APPDATA", "TMPDIR"), str(home))
    picture = next((real_data / "gtsrb" / "test").glob("*/*.ppm"))
    code = (
        "import cvtune_edge, time\n"
        f"print(cvtune_edge.Bundle({str(bundle_folder)!r}).predict({str(picture)!r}).label)\n"
        "time.sleep(0.5)"
    )
    assert python(code, **where)
    assert [path.relative_to(home) for path in home.rglob("*")] == []


def test_onnxruntime_enters_only_through_session(repo: Path) -> None:
    package = repo / "export" / "edge" / "cvtune_edge"
    importers = {path.name for path in package.glob("*.py") if "onnxruntime" in _imported(path)}
    assert importers == {"session.py"}
    assert not {name for path in package.glob("*.py") for name in _imported(path)} & {"torch", "cvtune", "PIL", "onnx"}


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names
