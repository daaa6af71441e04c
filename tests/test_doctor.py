from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest

from cvtune import doctor


def test_names_and_lines() -> None:
    lines: list[str] = []
    code = doctor.doctor(lines.append)
    names = [check.name for check in doctor.checks()]
    assert [n for n in names if n != "packages"] == [
        *("python", "contract", "cv2", "cores", "bf16", "torch", "telemetry", "weights")
    ]
    assert len(lines) == len(names) + 1
    assert code == (2 if any(line.startswith("bad") for line in lines) else 0)


def test_this_installation_is_healthy() -> None:
    found = {check.name: check for check in doctor.checks()}
    for name in ("python", "cv2", "torch", "weights"):
        assert found[name].ok, found[name]


def test_a_line_has_its_hint_below() -> None:
    check = doctor.Check("cv2", False, "2 packages own it", "python -m pip uninstall one")
    assert str(check) == "bad  cv2        2 packages own it\n     hint: python -m pip uninstall one"


def test_two_builds_of_cv2_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"cv2": ["opencv-python", "opencv-python-headless", "opencv-python"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)
    check = doctor._cv2()
    assert check.ok is False
    assert check.found.startswith("2 packages own it: opencv-python ")
    assert check.advice.startswith("python -m pip uninstall -y opencv-python opencv-python-headless && ")


def broken(message: str) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        raise ImportError(message)

    return load


def test_missing_libgl_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", broken("libGL.so.1: cannot open shared object file"))
    check = doctor._cv2()
    assert check.ok is False
    assert "libGL.so.1" in check.found
    assert "opencv-python-headless in its place" in check.advice


def test_a_broken_torch_is_a_line_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", broken("undefined symbol: iJIT\nmore"))
    assert str(doctor._accelerator()).startswith("bad  torch      does not load: ImportError: undefined symbol: iJIT\n")


def test_versions_outside_their_bounds_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"lightning": "2.6.2", "numpy": "2.4.0"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    wrong, count = doctor._out_of_bounds(
        ["lightning>=2.6.6,<3", "numpy>=2", "timm>=1", 'mlflow; extra == "mlflow"', 'pywin32; sys_platform == "none"']
    )
    assert count == 3
    assert wrong == [("lightning<3,>=2.6.6", "2.6.2"), ("timm>=1", "nothing")]


def test_different_versions_of_the_two_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", {"cvtune": "0.2.0", "cvtune-edge": "0.1.0"}.get)
    check = doctor._same_version()
    assert check.ok is False
    assert check.advice == 'python -m pip install "cvtune-edge==0.2.0"'


def test_a_quota_below_the_cores_wants_threads_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvtune.cores.cores", lambda: 0.5)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert doctor._cores().advice == "set OMP_NUM_THREADS=1"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor._cores().ok


def test_openvino_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "openvino is installed" in doctor._telemetry().found
