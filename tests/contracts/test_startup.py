"""The first second belongs to the user: what must not be imported, and how long it may take.

Times are of the processor, the interpreter's own start included, so that a busy machine does not fail the test.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_PROBE = """
import json, sys, time
{body}
print(json.dumps([time.process_time(), sorted(m for m in sys.modules if "." not in m)]), file=sys.stderr)
"""
_HELP = """
sys.argv = ["cvtune", "--help"]
from cvtune.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
"""


def best_of_three(body: str) -> tuple[float, set[str]]:
    seconds: list[float] = []
    modules: set[str] = set()
    for _ in range(3):
        command = [sys.executable, "-c", _PROBE.format(body=body)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        spent, names = json.loads(done.stderr.splitlines()[-1])
        seconds.append(spent)
        modules.update(names)
    return min(seconds), modules


HEAVY = {"torch", "torchvision", "timm", "lightning", "sklearn", "matplotlib", "onnx", "onnxruntime", "albumentations"}


@pytest.mark.parametrize("body", ["import cvtune", "import cvtune.errors, cvtune.config", _HELP])
def test_cvtune_starts_without_torch(body: str) -> None:
    seconds, modules = best_of_three(body)
    assert not modules & HEAVY
    assert seconds < 0.5


def test_the_edge_starts_with_the_standard_library_alone() -> None:
    bare, _ = best_of_three("")
    seconds, modules = best_of_three("import cvtune_edge")
    assert not modules & (HEAVY | {"numpy", "cv2"})
    assert seconds - bare < 0.1


def test_public_names_are_few_and_all_there() -> None:
    names = "import cvtune; print(*cvtune.__all__); [getattr(cvtune, name) for name in cvtune.__all__]"
    done = subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    public = set(done.stdout.split())
    assert {"fit", "load_run", "load_bundle", "Config", "CvtuneError"} <= public
    assert len(public) <= 12
