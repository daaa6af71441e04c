"""The wheels as a user gets them, not the editable install: everything inside, nothing else, presets readable."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

_NOT_SOURCE = shutil.ignore_patterns(
    *(".*", "__pycache__", "build", "dist", "wheelhouse", "runs", "tests", "benchmarks", "datasets", "*.egg-info")
)


@pytest.fixture(scope="module")
def wheels(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, built from a copy: setuptools leaves folders in the source that would go into the next wheel."""
    base = tmp_path_factory.mktemp("wheels")
    shutil.copytree(repo, base / "source", ignore=_NOT_SOURCE)
    built = {}
    for name, folder in (("cvtune", "."), ("cvtune_edge", "export/edge")):
        out = base / name
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), folder]
        done = subprocess.run(command, cwd=base / "source", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (built[name],) = out.glob("*.whl")
    return built


@pytest.mark.parametrize("name, folder", [("cvtune", "."), ("cvtune_edge", "export/edge")])
def test_the_whole_package_is_inside(wheels: dict[str, Path], repo: Path, name: str, folder: str) -> None:
    with zipfile.ZipFile(wheels[name]) as wheel:
        inside = {n for n in wheel.namelist() if ".dist-info/" not in n}
    package = repo / folder / name
    wanted = {
        p.relative_to(repo / folder).as_posix()
        for p in package.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    if name == "cvtune":
        wanted |= {f"cvtune/configs/{p.name}" for p in (repo / "configs").glob("*.toml")}
    assert inside == wanted
    assert f"{name}/py.typed" in inside


@pytest.mark.parametrize("name", ["cvtune", "cvtune_edge"])
def test_record_names_every_file_with_its_hash(wheels: dict[str, Path], name: str) -> None:
    with zipfile.ZipFile(wheels[name]) as wheel:
        (record,) = (n for n in wheel.namelist() if n.endswith(".dist-info/RECORD"))
        rows = {row[0]: row[1] for row in csv.reader(io.StringIO(wheel.read(record).decode()))}
        assert set(rows) == set(wheel.namelist())
        for file, listed in rows.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(file)).digest()).rstrip(b"=").decode()
            assert file == record or listed == f"sha256={digest}"


@pytest.mark.parametrize("name", ["cvtune", "cvtune_edge"])
def test_metadata(wheels: dict[str, Path], name: str) -> None:
    with zipfile.ZipFile(wheels[name]) as wheel:
        (file,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(wheel.read(file).decode("utf-8"))
        (points,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
        assert f"{name.replace('_', '-')} = {name}.cli:" in wheel.read(points).decode()
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Requires-Python"] == ">=3.11"
    requires = [line for line in fields.get_all("Requires-Dist") or [] if "extra ==" not in line]
    gui = [line for line in requires if line.startswith("opencv-python") and "headless" not in line]
    assert not gui
    assert not [line for line in requires if name == "cvtune_edge" and line.startswith("torch")]


def test_presets_are_read_from_the_wheel(wheels: dict[str, Path], repo: Path, tmp_path: Path) -> None:
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import json, cvtune, cvtune.config as c\n"
        "print(json.dumps([cvtune.__file__, c.preset_names(), c.load_config('defects').preset]))"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file, names, preset = json.loads(done.stdout)
    assert Path(file).is_relative_to(tmp_path)
    assert names == sorted(p.stem for p in (repo / "configs").glob("*.toml"))
    assert {"default", "defects", "xray", "traffic-signs"} <= set(names)
    assert preset == "defects"
