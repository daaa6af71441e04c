"""A process that opens a bundle and answers a few times: `python -m cvtune_edge.bench_child SETTING`.

Memory at its most and the time to the first answer can only be measured in a process that has done nothing else.
`cvtune_edge.bench` is the other side; SETTING and the answer are JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cvtune_edge.errors import CvtuneError

Child = dict[str, float | int | None]

_RUNS: Final = 3  # the arena has its size after the first; the others cost little
_SECONDS: Final = 300.0


def ask(setting: Mapping[str, Any]) -> Child:
    """Start such a process and wait for what it measured.

    Args:
        setting: the arguments of :func:`measure`.

    Raises:
        CvtuneError: it failed.
    """
    places = [str(Path(__file__).resolve().parents[1]), *(place for place in sys.path if place)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-P", "-m", "cvtune_edge.bench_child", json.dumps(setting)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=_SECONDS
        )
        if done.returncode == 0:
            return dict(json.loads(done.stdout))
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except (OSError, TypeError, ValueError, subprocess.TimeoutExpired) as error:
        why = str(error)
    raise CvtuneError(
        f"the process that measures memory failed: {why}", hint="close other programs, or ask for smaller batches"
    )


def measure(
    bundle: str, precision: str, *, threads: int, batch: int, size: tuple[int, int], provider: str, spin: bool
) -> Child:
    """Open a bundle and answer, in a process that has done nothing else.

    Args:
        bundle: its folder.
        precision: of the model in it.
        threads: of the network.
        batch: frames at once.
        size: (width, height) of the frames.
        provider: who computes.
        spin: whether threads wait actively.

    Returns:
        Seconds for the libraries, for opening and for the golden frames, where it answers one frame at a time; the
        number of these; and the most memory in MB.
    """
    began = time.perf_counter()
    from cvtune_edge.bench_timed import Setting, Timed, drawn
    from cvtune_edge.machine import peak_mb

    loaded = time.perf_counter()
    model = Timed(bundle, Setting(precision, threads, batch), provider=provider, spin=spin)
    ready = time.perf_counter()
    golden = model.verify().frames if batch == 1 else 0
    verified = time.perf_counter()
    answer = model.asker([drawn(model.manifest, (size[0], size[1]))])
    for _ in range(_RUNS):
        answer()
    return {
        "libraries": loaded - began,
        "opened": ready - loaded,
        "golden": verified - ready,
        "frames": golden,
        "peak_mb": peak_mb(),
    }


def main() -> None:
    """Measure what the command line names, and say it on stdout."""
    setting = json.loads(sys.argv[1])
    print(json.dumps(measure(setting.pop("bundle"), setting.pop("precision"), **setting)))


if __name__ == "__main__":
    main()
