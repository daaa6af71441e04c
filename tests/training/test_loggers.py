from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cvtune.errors import ConfigError
from cvtune.training import loggers
from cvtune.training.loggers import build_loggers, check_loggers


def test_no_names_no_loggers(tmp_path: Path) -> None:
    check_loggers(())
    assert build_loggers((), tmp_path) == ()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=f"logger {name}: its package is not installed") as caught:
        check_loggers((name,))
    assert caught.value.hint == f"pip install 'cvtune[{name}]'"


def test_they_write_into_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    fake: Any = ModuleType("lightning.pytorch.loggers")
    for name in ("TensorBoardLogger", "MLFlowLogger"):
        setattr(fake, name, lambda *args, _name=name, **options: made.append((_name, args, options)))
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", fake)
    monkeypatch.setattr(loggers, "find_spec", lambda module: object())
    run = tmp_path / "a run"
    build_loggers(("tensorboard", "mlflow"), run)
    assert made[0] == ("TensorBoardLogger", (run,), {"name": "tensorboard", "version": ""})
    uri = (run / "mlruns").as_uri()
    assert made[1] == ("MLFlowLogger", (), {"experiment_name": "a run", "tracking_uri": uri})
    assert "%20" in uri
