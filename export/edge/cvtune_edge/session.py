"""The only door to onnxruntime: CPU, quiet, and without its telemetry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

# onnxruntime from 1.29 writes telemetry files on Linux unless this is set before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _state

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

_ERRORS_ONLY = 3
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def open_session(model: bytes | str | Path, *, threads: int | None = None, spin: bool = False) -> ort.InferenceSession:
    """Open a model for the CPU.

    Args:
        model: the bytes of an ONNX file, or its path.
        threads: threads inside one operator; onnxruntime's choice when None, within what a container grants.
        spin: let idle threads wait actively: a few percent faster alone, but it takes cores from the decoders.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = granted_threads() if threads is None else threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    # A memory plan is kept for each shape of frame seen: memory would grow over images of many sizes.
    options.enable_mem_pattern = False
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


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
