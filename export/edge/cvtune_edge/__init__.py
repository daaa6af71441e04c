"""cvtune-edge: run a cvtune bundle on the line PC, without torch.

    from cvtune_edge import Bundle
    print(Bundle("runs/parts-1/bundle").decide("part.png").said)

The names below are loaded on first use, so that `import cvtune_edge` costs nothing (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvtune_edge.decode import ReadOptions, read_image
    from cvtune_edge.errors import BundleError, CvtuneError, ImageError
    from cvtune_edge.results import Decision, Prediction, Unreadable
    from cvtune_edge.runtime import Bundle

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "CvtuneError",
    "Decision",
    "ImageError",
    "Prediction",
    "ReadOptions",
    "Unreadable",
    "__version__",
    "read_image",
]

_HOMES = {
    "Bundle": "runtime",
    "BundleError": "errors",
    "CvtuneError": "errors",
    "Decision": "results",
    "ImageError": "errors",
    "Prediction": "results",
    "ReadOptions": "decode",
    "Unreadable": "results",
    "read_image": "decode",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cvtune_edge' has no attribute '{name}'")
    value = getattr(import_module(f"cvtune_edge.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
