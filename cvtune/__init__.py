"""cvtune: a folder of labelled images in, a tested ONNX inspection model out.

    import cvtune
    run = cvtune.fit("parts/")
    print(run.metrics["test"]["accuracy"])

The names below are loaded on first use, so that importing cvtune imports no torch (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvtune_edge import Bundle

    from cvtune.api import Run, check, fit, load_bundle, load_run
    from cvtune.config import Config, load_config
    from cvtune.errors import CvtuneError
    from cvtune.training.datamodule import PixelDataModule
    from cvtune.training.module import FineTuner

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "Config",
    "CvtuneError",
    "FineTuner",
    "PixelDataModule",
    "Run",
    "__version__",
    "check",
    "fit",
    "load_bundle",
    "load_config",
    "load_run",
]

_HOMES = {
    "Bundle": "cvtune_edge",
    "Config": "cvtune.config",
    "CvtuneError": "cvtune.errors",
    "FineTuner": "cvtune.training.module",
    "PixelDataModule": "cvtune.training.datamodule",
    "Run": "cvtune.api",
    "check": "cvtune.api",
    "fit": "cvtune.api",
    "load_bundle": "cvtune.api",
    "load_config": "cvtune.config",
    "load_run": "cvtune.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cvtune' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
