"""Lightning loggers by name, for the command line; each needs its extra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cvtune.errors import ConfigError

_MODULES = {"tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",)}


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers whose packages are missing.

    Raises:
        ConfigError: the package of one is not installed.
    """
    for name in names:
        if not any(find_spec(module) for module in _MODULES[name]):
            raise ConfigError(f"logger {name}: its package is not installed", hint=f"pip install 'cvtune[{name}]'")


def build_loggers(names: Sequence[str], folder: Path) -> tuple[Any, ...]:
    """Loggers that write into the run directory.

    Args:
        names: "tensorboard" or "mlflow".
        folder: of the run.
    """
    return tuple(_build(name, folder) for name in names)


def _build(name: str, folder: Path) -> Any:
    # Before mlflow is imported: it sends usage data unless told not to, and refuses plain files unless told otherwise.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

    if name == "tensorboard":
        return TensorBoardLogger(folder, name="tensorboard", version="")
    server = os.environ.get("MLFLOW_TRACKING_URI")  # the user's own, if they name one
    return MLFlowLogger(folder.name, tracking_uri=server or (folder.resolve() / "mlruns").as_uri())
