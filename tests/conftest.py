"""What every test may count on: real images, a home of its own, no network, one thread."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPO = Path(__file__).resolve().parent.parent

# Before anything imports torch, matplotlib or a hub client, which read these at import: no test touches the
# developer's home, and results do not depend on the number of cores. Font lists take seconds, so those are kept.
_HOME = tempfile.TemporaryDirectory(prefix="cvtune-home-", ignore_cleanup_errors=True)
for _name in ("HOME", "USERPROFILE", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
    os.environ[_name] = _HOME.name
os.environ["CVTUNE_CACHE"] = str(Path(_HOME.name) / "cache")
os.environ["MPLCONFIGDIR"] = str(REPO / ".pytest_cache" / "matplotlib")
os.environ["MPLBACKEND"] = "agg"
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs and weights: CVTUNE_TEST_DATA, default `../shared/data`."""
    folder = Path(os.environ.get("CVTUNE_TEST_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is not there; set CVTUNE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: 96 synthetic parts of 64 px, classes dent, ok, scratch and stain with 24 each."""
    folder: Path = tmp_path_factory.mktemp("synthetic") / "parts"
    load_script("datasets/synthetic.py").generate(folder, per_class=24, size=64, seed=0)
    return folder


@pytest.fixture(scope="session")
def quick_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file for fits whose figures do not matter: a tiny network, random weights, 64 px, a few steps."""
    file: Path = tmp_path_factory.mktemp("quick") / "quick.toml"
    file.write_text(_QUICK, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def quick_run(parts: Path, quick_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: a finished run on `parts` by `quick_config`."""
    import cvtune

    return cvtune.fit(parts, out=tmp_path_factory.mktemp("quick") / "run", config=quick_config).path


_QUICK = """
[image]
size = 64
[model]
backbone = "test_efficientnet"
from_scratch = true
[train]
workers = 0
cut = 0.67
final_fit = "train"
[train.tail]
steps = 4
[train.all]
steps = 2
rounds = 1
"""


@pytest.fixture
def make_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Path]:
    """`make_root({"sys/fs/cgroup/cpu.max": "max 100000"})`: a file system, on a machine of 16 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text + "\n", encoding="utf-8")
        return tmp_path

    return make


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each batch that frozen networks are shown from now on."""
    from cvtune.models import engine, features

    ran: list[int] = []
    made = engine.engine

    def counting(quick: Any, cut: int) -> Any:
        run = made(quick, cut)
        assert run is not None

        def counted(x: Any) -> Any:
            ran.append(len(x))
            return run(x)

        return counted

    monkeypatch.setattr(features, "engine", counting)
    return ran


@pytest.fixture(autouse=True)
def own_memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits are remembered between runs on a folder, but not between tests."""
    monkeypatch.setenv("CVTUNE_DATA", str(tmp_path_factory.mktemp("memory")))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Refuse every connection of this process; yields the addresses asked for and fails the test if there are any."""
    asked: list[str] = []

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family == getattr(socket, "AF_UNIX", None):
            return _CONNECT(self, address)
        asked.append(str(address))
        raise OSError(f"network refused in tests: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    yield asked
    assert not asked, f"a test tried to reach {asked}"


_CONNECT = socket.socket.connect


def load_script(path: str) -> ModuleType:
    """Import a script of the repository by its path; `datasets/` is no package."""
    name = "script_" + Path(path).stem
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, REPO / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def script() -> Any:
    """`script("datasets/elpv.py")` imports a script of the repository."""
    return load_script
