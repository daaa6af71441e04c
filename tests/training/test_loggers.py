"""Loggers by name: what they write, and what they must not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvtune.errors import ConfigError
from cvtune.training import loggers


def test_both_write_into_the_run_and_nothing_at_home(parts: Path, quick_config: Path, tmp_path: Path) -> None:
    """mlflow 3 leaves a telemetry file in HOME and calls its makers, unless told not to before it is imported."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("MLFLOW")}
    environment = {**kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_DATA_HOME": str(home)}
    asked = ["--logger", "tensorboard", "--logger", "mlflow", "--quiet"]
    command = [sys.executable, "-m", "cvtune", "fit", str(parts), "--config", str(quick_config), *asked]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))
    assert list((tmp_path / "run" / "mlruns").rglob("metrics/val_loss"))
    assert [path.name for path in home.rglob("*") if path.is_file()] == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match="logger mlflow: its package is not installed") as error:
        loggers.check_loggers(["mlflow"])
    assert error.value.hint == "pip install 'cvtune[mlflow]'"
