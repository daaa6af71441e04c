"""What the page takes from npm: exactly what is locked, from whatever registry, without running anybody's scripts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from cvtune_edge.errors import CvtuneError

from tests.conftest import REPO, load_script

WEB = REPO / "export/clients/web"


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a copy of the page's folder in the place of ours."""
    module = load_script("export/clients/web/build.py")
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(WEB / name, tmp_path)
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "VENDOR", tmp_path / "vendor")
    return module


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir()
    program = folder / "bin/npm"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")


def test_the_lock_names_no_registry_and_every_checksum() -> None:
    lock = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: one for name, one in lock["packages"].items() if name}
    assert "node_modules/onnxruntime-web" in packages
    for name, one in packages.items():
        assert "resolved" not in one, name
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]+=*", one["integrity"]), name
        assert one["license"] in ("MIT", "Apache-2.0", "BSD-3-Clause", "ISC"), name
    for option in ("ignore-scripts=true", "omit-lockfile-registry-resolved=true", "audit=false"):
        assert option in (WEB / ".npmrc").read_text(encoding="utf-8").splitlines()


def test_two_files_are_taken_and_stamped(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dist = build.PACKAGE + "/dist"
    fake_npm(tmp_path, f'[ "$1" = ci ] && mkdir -p {dist} && cd {dist} && for f in {" ".join(build.FILES)} more; '
             "do echo $f > $f; done", monkeypatch)  # fmt: skip
    assert not build.is_built()
    assert build.main() == 0
    assert build.is_built()
    assert sorted(path.name for path in (tmp_path / "vendor").iterdir()) == sorted([*build.FILES, "installed.json"])
    assert re.match(r"onnxruntime-web 1\.\d+\.\d+ is in vendor/, ", capsys.readouterr().out)
    assert not (tmp_path / "node_modules").exists()
    monkeypatch.setenv("PATH", "")
    assert build.main() == 0, "what is there is taken again"
    (tmp_path / "vendor" / build.FILES[0]).unlink()
    assert not build.is_built()


def test_another_lock_is_another_build(build: ModuleType, tmp_path: Path) -> None:
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    for name in build.FILES:
        (vendor / name).touch()
    stamp = {"version": "1.0.0", "integrity": "sha512-another"}
    (vendor / "installed.json").write_text(json.dumps(stamp), encoding="utf-8")
    assert not build.is_built()


def test_npm_that_fails_or_is_not_there(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_npm(tmp_path, "echo npm notice nothing >&2; echo npm error code ENOTFOUND >&2; exit 1", monkeypatch)
    with pytest.raises(
        CvtuneError, match="npm ci failed\nnpm error code ENOTFOUND\nhint: is a package registry in reach"
    ):
        build.build()
    assert not (tmp_path / "vendor").exists()
    monkeypatch.setenv("PATH", "")
    assert build.main() == 2
    assert capsys.readouterr().err.startswith("error: npm is not installed\nhint: ")
