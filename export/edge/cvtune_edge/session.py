"""The only door to onnxruntime: quiet, without its telemetry, on the provider that was asked for or not at all.

Nothing here imports the package openvino, which asks Google Analytics: onnxruntime-openvino has libraries of its own.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

# onnxruntime from 1.29 writes telemetry files on Linux unless this is set before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from cvtune_edge.errors import first_line
from cvtune_edge.providers import CPU, check_loaded, chosen, names, not_running

ort.set_default_logger_severity(4)  # what it says is raised as an error too; beside it are colours for a terminal

SESSION_ERRORS: Final[tuple[type[Exception], ...]] = (
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
)
# of a model from other hands: what is wrong with it may come to light anywhere between the bytes and the binding
LOAD_ERRORS: Final[tuple[type[Exception], ...]] = (
    *SESSION_ERRORS,
    *(IndexError, MemoryError, OverflowError, RuntimeError, TypeError, ValueError),
)
# of a session on another provider: its own exceptions, and those of its registration
_NOT_RUNNING: Final[tuple[type[Exception], ...]] = (RuntimeError, ValueError, *SESSION_ERRORS)

_ERRORS_ONLY, _FATAL_ONLY = 3, 4
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def open_session(
    model: bytes | str | Path,
    *,
    threads: int | None = None,
    spin: bool = False,
    provider: str | Sequence[str] = "cpu",
    profile: Path | None = None,
) -> ort.InferenceSession:
    """Open a model.

    Args:
        model: the bytes of an ONNX file, or its path.
        threads: threads inside one operator; onnxruntime's choice when None, within what a container grants.
        spin: let threads wait actively within one answer: on two cores 11 % faster for a frame at a time, 10 % slower
            for a stream of files, whose decoders want the cores too.
        provider: who computes, as :func:`cvtune_edge.providers.chosen` takes it; the CPU takes what that one cannot.
        profile: the beginning of a file name; `end_profiling()` of the session writes the times of the nodes there.

    Raises:
        CvtuneError: this onnxruntime does not have the provider, cannot load it, or it takes nothing of the model.
    """
    options = _options(granted_threads() if threads is None else threads, spin=spin)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    source = model if isinstance(model, bytes) else str(model)
    wanted = chosen(provider, ort.get_available_providers(), ort.__version__)
    if wanted[0] == CPU:
        return ort.InferenceSession(source, options, providers=[CPU])
    return _open_elsewhere(source, options, wanted)


def _options(threads: int, *, spin: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY  # errors are raised as well, in one line
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    # Left to itself onnxruntime takes bytes with its own mark for its own format, whatever else they are.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Without it threads go on spinning behind each answer, 60 ms of a core for nothing: measured, as fast with it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # A memory plan is kept for each shape of frame seen: memory would grow over images of many sizes. The arena stays:
    # without it a batch of 32 takes 1.5 times as long, and shrinking it after each answer takes more memory, not less.
    options.enable_mem_pattern = False
    return options


def _open_elsewhere(source: bytes | str, options: ort.SessionOptions, wanted: tuple[str, ...]) -> ort.InferenceSession:
    """A session on another provider than the CPU alone.

    Raises:
        CvtuneError: it does not run there.
    """
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:  # enable_fallback: onnxruntime would print a line to stdout, and take the CPU
        session = ort.InferenceSession(source, options, providers=list(wanted), enable_fallback=0)
    except _NOT_RUNNING as error:
        raise not_running(wanted[0], _unloadable(wanted[0]) or first_line(error)) from error
    missing = [full for full in wanted if full not in session.get_providers()]
    why = (_unloadable(missing[0]) or "no device for it, or another driver than it needs") if missing else ""
    check_loaded(wanted, session.get_providers(), nodes_by_provider(session), why)
    return session


def nodes_by_provider(session: ort.InferenceSession) -> Mapping[str, int]:
    """How many nodes of the graph each provider of onnxruntime took; empty for a session on the CPU alone."""
    if session.get_providers() == [CPU]:
        return {}
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():  # a node, or several that one compiled as one
        counts[part.ep_name] += len(part.get_nodes())
    return counts


def runtime_facts() -> tuple[str, str]:
    """Version of this onnxruntime, and the providers it has."""
    return str(ort.__version__), names(ort.get_available_providers())


def _unloadable(full: str) -> str:
    """Why a provider's library cannot be loaded: onnxruntime says it on stderr alone, so the system is asked again."""
    name = f"onnxruntime_providers_{full.removesuffix('ExecutionProvider').lower()}"
    file = {"win32": f"{name}.dll", "darwin": f"lib{name}.dylib"}.get(sys.platform, f"lib{name}.so")
    library = Path(ort.__file__).parent / "capi" / file
    try:
        if library.is_file():  # some providers have none of their own
            ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return ""


def save_folded(model: bytes, path: Path) -> None:
    """Write a model with everything computed that does not hang on its input, in the standard's own operators.

    Args:
        model: the bytes of an ONNX file.
        path: of the new one.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model, options, providers=[CPU])


def granted_threads() -> int:
    """Threads where the system grants fewer than there are processors (containers), 0 where it grants all."""
    processors = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else processors
    granted = min(affinity, _quota() or affinity)
    return granted if granted < processors else 0


def _quota() -> int | None:
    """Whole processors of the control group, at least 1 (cgroup v2, cpu.max: quota and period in microseconds)."""
    try:
        quota, period = _CGROUP_QUOTA.read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return None
