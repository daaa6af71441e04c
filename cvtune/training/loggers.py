"""Lightning loggers by name, for the command line; each needs its extra."""

from __future__ import annotations

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
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

    if name == "tensorboard":
        return TensorBoardLogger(folder, name="tensorboard", version="")
    return MLFlowLogger(experiment_name=folder.name, tracking_uri=(folder.resolve() / "mlruns").as_uri())
