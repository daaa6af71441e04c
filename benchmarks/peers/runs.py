"""One run of a tool in a process of its own, with caches that hold nothing, and when each of its models was there.

The clock starts just before the process does, so imports count for every tool. cvtune's time includes what it does with
each model (export, parity gate, figures on its test side, report); scoring a peer's test images is taken out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.figures import ROOT
from benchmarks.peers.load import Meter
from benchmarks.peers.rows import BUDGETS, END, Snapshot
from benchmarks.peers.sides import Prepared, Source
from cvtune.errors import RunError
from cvtune.rundir import RunDir, read_json, write_text

POLL = 0.05  # seconds between two looks at a run
HOLD = "HOLD"  # a file in the folder of work; while it is there, peers stand still, and their clock with them
EPOCHS: Mapping[tuple[str, str], int] = {
    ("fastai", "1+5"): 5,
    ("fastai", "1+20"): 20,
    ("vyntri", "fit"): 1,
    ("plain", "8 epochs"): 8,
}
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "cvtune": (*BUDGETS, END),
    **{tool: tuple(variant for name, variant in EPOCHS if name == tool) for tool, _ in EPOCHS},
}
TOOLS = tuple(VARIANTS)
LEFT_OUT = {("chest_xray_pneumonia", "fastai", "1+20")}  # an hour and a half; issue 4 asks for 1 + 5 only


@dataclass(frozen=True)
class Setting:
    """What all runs share.

    Attributes:
        work: folder for what a run needs while it runs.
        threads: of every tool.
        weights: the backbone's, under timm's names.
        python: the peers' interpreter; None where only cvtune runs.
        epochs: in place of every peer's own number, for trying.
    """

    work: Path
    threads: int
    weights: Path
    python: Path | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Measured:
    """What came out of a run.

    Attributes:
        seconds: until the tool's own end.
        snapshots: ascending in time.
        command: as one would type it.
        versions: of the packages that matter.
        more: stages of cvtune; how long a peer was held.
    """

    seconds: float
    snapshots: tuple[Snapshot, ...]
    command: str
    versions: Mapping[str, str]
    more: Mapping[str, Any] = field(default_factory=dict)


LIBRARIES: Mapping[str, str] = {
    "cvtune": "import cvtune.pipeline",
    "fastai": "import fastai.vision.all, timm",
    "vyntri": "import vyntri, timm",
    "plain": "import torchvision, timm",
}


def warm(prepared: Prepared) -> None:
    """Read every image once, so that no tool is the one that waits for the disk."""
    for file in prepared.images.rglob("*.*"):
        file.read_bytes()


@cache
def warm_up(tool: str, python: Path | None) -> None:
    """Likewise its libraries: gigabytes that the first of several runs would wait for."""
    command = [sys.executable if tool == "cvtune" else str(python), "-c", LIBRARIES[tool]]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)


def run_tool(
    tool: str, variant: str, seed: int, source: Source, prepared: Prepared, setting: Setting, meter: Meter
) -> Measured:
    """Run one tool once.

    Args:
        tool: its name.
        variant: one of its `VARIANTS`.
        seed: of the tool.
        source: the folder.
        prepared: its files.
        setting: what all runs share.
        meter: of what other programs do, which does not count while a peer is held.

    Raises:
        RunError: it failed; the end of what it said is in the message.
    """
    setting.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=setting.work, ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        if tool == "cvtune":
            return run_cvtune(variant, seed, source, prepared, setting, scratch)
        return run_peer(tool, variant, seed, prepared, setting, scratch, meter)


def run_cvtune(
    variant: str, seed: int, source: Source, prepared: Prepared, setting: Setting, scratch: Path
) -> Measured:
    """`cvtune fit` as from the command line; a model is there when its bundle, weights and figures are written."""
    run = RunDir(scratch / "run")
    flags = ["--preset", source.preset, "--seed", str(seed)]
    flags += ["--group-by", f"{prepared.groups}:group"] if prepared.grouped else []
    flags += [] if variant == END else ["--budget", variant]
    command = [sys.executable, "-m", "cvtune", "fit", str(prepared.images), *flags, "--out", str(run.root)]
    began = time.monotonic()
    with started(command, environment(setting, scratch), scratch / "log") as process:
        snapshots = tuple(watch(process, run.metrics, began))
        seconds = time.monotonic() - began
    _check_end(process, "cvtune", scratch / "log")
    told = " ".join(flags).replace(str(prepared.root), source.name)
    return Measured(
        round(seconds, 2),
        snapshots,
        f"cvtune fit {source.name} {told}",
        {name: version(name) for name in ("cvtune", "torch", "torchvision", "timm", "lightning", "onnxruntime")},
        {"stages": read_json(run.stages), "end": _end_of(read_json(run.metrics))},
    )


def _end_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What cvtune ends with besides right and wrong, so that hours of fits need not be run again to ask for it."""
    names = ("auroc", "log_loss", "sensitivity", "specificity")
    honest = {
        side: {when: {name: value for name, value in one.items() if name != "bins"} for when, one in both.items()}
        for side, both in metrics["reliability"].items()
    }
    return {"test": {name: metrics["test"].get(name) for name in names}, "reliability": honest}


def run_peer(
    tool: str, variant: str, seed: int, prepared: Prepared, setting: Setting, scratch: Path, meter: Meter
) -> Measured:
    """One of the scripts beside this module, in the peers' environment."""
    assert setting.python is not None
    out, log, held = scratch / "result.json", scratch / "log", scratch / "held"
    epochs = setting.epochs or EPOCHS[tool, variant]
    flags = {"epochs": epochs, "seed": seed, "threads": setting.threads}
    places = {"folder": prepared.images, "weights": setting.weights, "out": out, "scratch": scratch, "held": held}
    command = [str(setting.python), "-m", f"benchmarks.peers.run_{tool}"]
    command += [text for name, value in {**places, **flags}.items() for text in (f"--{name}", str(value))]
    with started([*command, "--began", repr(time.time())], environment(setting, scratch), log) as process:
        attend(process, setting.work / HOLD, held, meter)
    _check_end(process, tool, log)
    result = read_json(out)
    told = " ".join(f"--{name} {value}" for name, value in flags.items())
    snapshots = tuple(Snapshot(**one) for one in result["snapshots"])
    more = {"held_seconds": round(float(held.read_text(encoding="utf-8")))} if held.is_file() else {}
    return Measured(result["seconds"], snapshots, f"run_{tool} {told}", result["versions"], more)


def attend(process: subprocess.Popen[bytes], hold: Path, held: Path, meter: Meter) -> None:
    """Wait until a peer ends; it takes hours, and stands still while somebody needs the machine.

    Args:
        process: the first of a group.
        hold: the file that stops it, and lets it go on when it is gone.
        held: gets the seconds that it has stood still so far, which its stopwatch takes off.
        meter: stands still as well.
    """
    total = 0.0
    while process.poll() is None:
        if hold.exists():
            began = time.time()  # the clock of the stopwatch
            os.killpg(process.pid, signal.SIGSTOP)
            with meter.held():
                while hold.exists():
                    time.sleep(POLL)
            total += time.time() - began
            write_text(held, repr(total))
            os.killpg(process.pid, signal.SIGCONT)
        time.sleep(POLL)


def watch(process: subprocess.Popen[bytes], metrics: Path, began: float) -> Iterator[Snapshot]:
    """A snapshot whenever a run has written the figures of another model, until it ends.

    Args:
        process: the run's.
        metrics: its metrics.json, replaced as a whole after each model that is kept.
        began: `time.monotonic()` when it was started.
    """
    known: object = None
    over = False
    while not over:
        over = process.poll() is not None  # before the look: nothing comes after it
        seconds, now = time.monotonic() - began, _identity(metrics)
        if now is not None and now != known:
            known, figures = now, read_json(metrics)
            test = figures["test"]
            yield Snapshot(round(seconds, 2), str(figures["model"]), int(test["right"]), int(test["n"]))
        if not over:
            time.sleep(POLL)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def environment(setting: Setting, scratch: Path) -> dict[str, str]:
    """The same threads for every tool, no network, and homes and caches that hold nothing."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(setting.threads))
    own = {"CVTUNE_CACHE": "cache", "CVTUNE_DATA": "data", "FASTAI_HOME": "fastai", "TORCH_HOME": "torch"}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "NO_ALBUMENTATIONS_UPDATE", "ORT_DISABLE_TELEMETRY"), "1")
    return {**os.environ, **threads, **offline, **{name: str(scratch / place) for name, place in own.items()}}


@contextmanager
def started(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, gone with all its children when the block is left, by Ctrl-C too."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            if os.name == "nt":  # pragma: no cover
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _check_end(process: subprocess.Popen[bytes], tool: str, log: Path) -> None:
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise RunError(f"{tool} ended with exit code {process.returncode}:\n" + "\n".join(said[-15:]))
