"""Execution providers by name: who computes, the processor or what onnxruntime has another library for.

onnxruntime takes a provider that it cannot load for a wish: it prints a line and computes on the CPU
(github.com/microsoft/onnxruntime/issues/23372). Here it is asked for by name and refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from cvtune_edge.errors import CvtuneError

CPU: Final = "CPUExecutionProvider"

# what the user writes: onnxruntime's own name of it, and what brings it
_KNOWN: Final[Mapping[str, tuple[str, str]]] = {
    "cpu": (CPU, "the package onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "the package onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "the package onnxruntime-gpu, and TensorRT beside it"),
    "openvino": ("OpenVINOExecutionProvider", "the package onnxruntime-openvino"),
    "coreml": ("CoreMLExecutionProvider", "the package onnxruntime on macOS"),
    "xnnpack": ("XnnpackExecutionProvider", "an onnxruntime that was built with XNNPACK"),
    "directml": ("DmlExecutionProvider", "the package onnxruntime-directml on Windows"),
}
_SHORT: Final = {full: short for short, (full, _) in _KNOWN.items()}
_ONE_FOLDER: Final = "uninstall onnxruntime first, they share one folder"


def short_name(full: str) -> str:
    """What the user calls a provider: "cuda" for CUDAExecutionProvider."""
    return _SHORT.get(full, full.removesuffix("ExecutionProvider").lower())


def names(available: Iterable[str]) -> str:
    """Providers in one line, as the user writes them; those that run no model of ours are left out."""
    return ", ".join(sorted(short_name(full) for full in available if full != "AzureExecutionProvider"))


def chosen(asked: str | Sequence[str], available: Sequence[str], version: str) -> tuple[str, ...]:
    """Names as the user writes them to onnxruntime's own, in the order given, the CPU behind them.

    Args:
        asked: "cuda", "tensorrt,cuda", or a list; upper and lower case are the same, and so is onnxruntime's own name.
        available: what this onnxruntime has.
        version: of it, for the error.

    Raises:
        CvtuneError: a name that there is not, or one that this onnxruntime does not have.
    """
    parts = asked.split(",") if isinstance(asked, str) else asked
    wanted = [_full(part.strip(), available) for part in parts]
    for full in wanted:
        if full not in available:
            short = short_name(full)
            raise CvtuneError(
                f"this onnxruntime ({version}) has no provider {short}, it has {names(available)}",
                hint=f"install {_KNOWN[short][1]} ({_ONE_FOLDER}), or use --provider cpu",
            )
    if not wanted:
        raise CvtuneError("no provider is named", hint=f"one of {', '.join(_KNOWN)}")
    return tuple(dict.fromkeys([*wanted, CPU]))


def _full(name: str, available: Iterable[str]) -> str:
    known = {short: full for short, (full, _) in _KNOWN.items()}
    known |= {full.lower(): full for full in (*known.values(), *available)}
    if name.lower() in known:
        return known[name.lower()]
    near = get_close_matches(name.lower(), _KNOWN, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise CvtuneError(f"there is no provider '{name}'", hint=f"{meant}known are {', '.join(_KNOWN)}")


def not_running(full: str, why: str) -> CvtuneError:
    """The error for a provider that this onnxruntime has and that does not run the model here."""
    return CvtuneError(
        f"provider {short_name(full)}: this onnxruntime has it, and it does not run here: {why}",
        hint="install what it needs beside onnxruntime (drivers, libraries), or use --provider cpu",
    )


def check_loaded(wanted: Sequence[str], loaded: Sequence[str], nodes: Mapping[str, int], why: str) -> None:
    """Refuse a session in which another provider than the one asked for computes.

    Args:
        wanted: from :func:`chosen`.
        loaded: what the session has.
        nodes: how many nodes of the graph each provider took.
        why: the reason why one is missing, as far as it is known.

    Raises:
        CvtuneError: one is missing, or the first took no node.
    """
    for full in wanted:
        if full not in loaded:
            raise not_running(full, why)
    if wanted[0] != CPU and not nodes.get(wanted[0], 0):
        raise not_running(wanted[0], f"it takes none of the {sum(nodes.values())} nodes of this model")
