"""The figures of the README: `cvtune fit` from the command line on four real folders, scored on their test sides.

    python -m benchmarks.figures --data ../shared/data [--only elpv ...] [--readme README.md]

Each folder takes about ten minutes on two cores. Results are kept as one JSON a folder under benchmarks/results, with
date and machine; --readme rewrites the table between the two markers from whatever results are there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cvtune.errors import ConfigError
from cvtune.rundir import write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Case:
    """One folder: where it is, how it is fitted, and what has to come out of it."""

    name: str
    title: str
    flags: tuple[str, ...]
    metric: str
    bound: float

    def folder(self, data: Path) -> Path:
        return ROOT / "datasets" / "elpv" if self.name == "elpv" else data / self.name


CASES = (
    Case("elpv", "ELPV solar cells, functional / defective", ("--preset", "defects"), "accuracy", 0.86),
    Case("neu_steel", "NEU steel strip, 6 kinds of defect", ("--preset", "defects"), "accuracy", 0.98),
    Case(
        "gtsrb",
        "German traffic signs, 43 classes, 3 tracks each",
        ("--preset", "traffic-signs", "--group-by", r"([^/]+/\d+)_\d+\.ppm$"),
        "accuracy",
        0.65,
    ),
    Case(
        "chest_xray_pneumonia",
        "Chest X-rays of children, normal / pneumonia",
        ("--preset", "xray", "--group-by", r"(person\d+)_|((?:NORMAL2-)?IM-\d+)"),
        "auroc",
        0.95,
    ),
)


def run(case: Case, data: Path, *, more: Sequence[str] = (), runs: Path | None = None) -> dict[str, Any]:
    """Fit one folder in a new process; returns what is kept of it. The run stays in `runs`, where that is given."""
    with tempfile.TemporaryDirectory() as scratch:
        out = (runs or Path(scratch)) / case.name
        command = [sys.executable, "-m", "cvtune", "fit", str(case.folder(data)), *case.flags, *more, "--out", str(out)]
        started = time.monotonic()
        process = subprocess.Popen(command, env=os.environ | own_homes(Path(scratch)))
        first = _wait_for_model(process, out / "metrics.json", started)
        if process.wait() != 0:
            raise SystemExit(f"{case.name}: exit code {process.returncode}")
        seconds = time.monotonic() - started
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        return {
            "name": case.name,
            "command": " ".join(["cvtune fit", case.name, *case.flags, *more]),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "seconds": round(seconds, 1),
            "seconds_to_first_model": round(first, 1),
            "stages": json.loads((out / "stages.json").read_text(encoding="utf-8")),
            "parity": json.loads((out / "bundle" / "manifest.json").read_text(encoding="utf-8"))["parity"],
            "model": metrics["model"],
            "val": metrics.get("val"),  # a final fit has none
            "folds": metrics.get("folds"),
            "test": metrics["test"],
            "test_without_leaks": metrics.get("test_without_leaks"),
            "calibration": _calibration(metrics["reliability"]["test"]),
        }


def _calibration(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of the test side, without its bins."""
    sides = {when: {key: of for key, of in found[when].items() if key != "bins"} for when in ("before", "after")}
    return {**sides, "change": found["change"]}


def own_homes(scratch: Path) -> dict[str, str]:
    """Variables for a process that is to find neither sides nor caches of earlier runs."""
    return {"CVTUNE_DATA": str(scratch / "data"), "CVTUNE_CACHE": str(scratch / "cache")}


def recipe(name: str) -> Any:
    """A module of datasets/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "datasets" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def machine() -> dict[str, Any]:
    """Processor and cores, without the name of the host."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system()}


def table(results: Sequence[dict[str, Any]]) -> str:
    """The README's table; every rate with its counts and its 95 % interval."""
    lines = [
        "| folder | test images right | balanced accuracy | AUROC | first model | all | processor |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    titles = {case.name: case.title for case in CASES}
    for one in results:
        test = one["test"]
        cells = (
            titles[one["name"]],
            f"{test['right']} of {test['n']}, {test['accuracy']:.3f} {_interval(test['accuracy_interval'])}",
            f"{test['balanced_accuracy']:.3f} {_interval(test['balanced_accuracy_interval'])}",
            f"{test['auroc']:.3f}",
            f"{one['seconds_to_first_model']:.0f} s",
            f"{one['seconds'] / 60:.1f} min",
            one["machine"]["processor"].replace("(R)", "").removesuffix(" Processor"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def calibrations(results: Sequence[dict[str, Any]]) -> str:
    """What calibration did on the test sides, of those results that say so."""
    lines = [
        "| test side | log-loss, before -> after | change | calibration error | by chance alone |",
        "| --- " * 5 + "|",
    ]
    titles = {case.name: case.title.split(",")[0] for case in CASES}
    for one in results:
        if "calibration" in one:
            before, after, change = (one["calibration"][key] for key in ("before", "after", "change"))
            cells = (
                titles[one["name"]],
                f"{before['log_loss']:.3f} -> {after['log_loss']:.3f}",
                f"{change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]",
                f"{before['ece']:.3f} -> {after['ece']:.3f}",
                f"{after['ece_of_chance']:.3f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(limits: Sequence[float]) -> str:
    return f"[{limits[0]:.3f}, {limits[1]:.3f}]"


def stored() -> list[dict[str, Any]]:
    """Results on disk, in the order of the cases."""
    files = [RESULTS / f"{case.name}.json" for case in CASES]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def tables(results: Sequence[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """What stands in the README between which markers."""
    return {
        ("<!-- figures -->", "<!-- /figures -->"): table(results),
        ("<!-- calibration -->", "<!-- /calibration -->"): calibrations(results),
    }


def write_readme(readme: Path) -> None:
    """Put the tables of the stored results between their markers."""
    for markers, text in tables(stored()).items():
        write_between(readme, markers, text)


def write_between(readme: Path, markers: tuple[str, str], text: str) -> None:
    """Put a text between two markers, in place of what is there.

    Raises:
        ConfigError: the file has no such markers, or more than one pair.
    """
    begin, end = markers
    old = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ConfigError(
            f"{readme}: expected the lines {begin} and {end} once each", hint="write them where the table belongs"
        )
    before, rest = old.split(begin)
    write_text(readme, f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def _wait_for_model(process: subprocess.Popen[bytes], file: Path, started: float) -> float:
    while process.poll() is None and not file.is_file():
        time.sleep(0.2)
    return time.monotonic() - started


def main() -> None:
    """Run the asked cases and keep their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", choices=[case.name for case in CASES])
    parser.add_argument("--readme", type=Path)
    parser.add_argument("--runs", type=Path, help="keep the runs here")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for case in CASES:
        if args.only is None or case.name in args.only:
            kept = json.dumps(run(case, args.data, runs=args.runs), indent=2, ensure_ascii=False)
            (RESULTS / f"{case.name}.json").write_text(kept + "\n", encoding="utf-8")
    if args.readme:
        write_readme(args.readme)


if __name__ == "__main__":
    main()
