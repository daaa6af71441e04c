"""What training has to show beside the four folders of `benchmarks.figures`: one question a run, from the command line.

    python -m benchmarks.bounds --data ../shared/data [--only model0 elpv few backbones memory]

- model0: 1,000 solar cells of 300 px to model 0, exported and evaluated, with empty caches and once more with them.
- elpv: `--budget 5m` on the recipe's split seeds 0 to 4; test images right, and seconds.
- few: five images a class of steel, ten draws; the others are the test side.
- backbones: ResNet-18 and ViT-tiny on the solar cells, with their own weights: test images right, and of their probe.
- memory: a fit on 50,000 drawn parts; the most that the process holds besides mapped files, early and late in training.

Nothing else may run meanwhile. Each result is kept as benchmarks/results/bounds-NAME.json, with date and machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any, Final

from benchmarks.audit import unmapped
from benchmarks.figures import RESULTS, ROOT, machine, own_homes, recipe

SPLIT_SEEDS: Final = range(5)
DRAWS: Final = range(10)
SHOTS: Final = 5
MANY: Final = 50_000
PROBE_ONLY: Final = "[train.tail]\nsteps = 0\n[train.all]\nsteps = 0\n"


@dataclass
class Fitted:
    """A run of `cvtune fit` that has ended.

    Attributes:
        seconds: of the process.
        root: its run directory.
        first: seconds until its first model was exported and evaluated.
        memory: (seconds since the start, kB besides mapped files), where there is /proc.
    """

    seconds: float
    root: Path
    first: float = 0.0
    memory: list[tuple[float, int]] = field(default_factory=list)

    def read(self, name: str) -> Any:
        """A JSON file of the run."""
        return json.loads((self.root / name).read_text(encoding="utf-8"))

    @property
    def test(self) -> dict[str, Any]:
        """Counts and figures of the test side."""
        test = self.read("metrics.json")["test"]
        return {key: test[key] for key in ("right", "n", "accuracy", "accuracy_interval")}

    @property
    def row(self) -> dict[str, Any]:
        """The same with the time it took and the stage that the model is of."""
        return {"seconds": round(self.seconds, 1), **self.test, "model": self.read("metrics.json")["model"]}


def fit(folder: Path, scratch: Path, *flags: str, settings: str = "") -> Fitted:
    """Run `cvtune fit` in a process of its own, with the caches of `scratch`."""
    root, config = Path(tempfile.mkdtemp(prefix="run-", dir=scratch)), scratch / "settings.toml"
    config.write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "cvtune", "fit", str(folder), "--out", str(root / "run"), "--quiet", *flags]
    command += ["--config", str(config)] if settings else []
    started, memory, first = time.monotonic(), list[tuple[float, int]](), 0.0
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | own_homes(scratch))
    while process.poll() is None:
        time.sleep(0.1)
        if not first and (root / "run" / "metrics.json").is_file():
            first = time.monotonic() - started
        if kilobytes := unmapped(process.pid):
            memory.append((round(time.monotonic() - started, 1), kilobytes))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    seconds = time.monotonic() - started
    return Fitted(seconds, root / "run", first or seconds, memory)


def model0(data: Path, scratch: Path) -> dict[str, Any]:
    """Seconds to the first model, exported and evaluated, the second time with decoded images and features at hand.

    And to the end of a run without fine-tuning, with studies and report.
    """
    cells = _some(_elpv(scratch, 0), 1000, scratch / "cells")
    flags = ("--preset", "defects", "--final-fit", "train")
    cold, cached = (fit(cells, scratch, *flags, settings=PROBE_ONLY) for _ in range(2))
    seconds = {"cold_seconds": cold.first, "cached_seconds": cached.first}
    whole = {"cold_run_seconds": cold.seconds, "cached_run_seconds": cached.seconds}
    return {"images": 1000, **{name: round(value, 1) for name, value in (seconds | whole).items()}}


def elpv(data: Path, scratch: Path) -> dict[str, Any]:
    """Accuracy within five minutes."""
    rows = []
    for seed in SPLIT_SEEDS:
        with tempfile.TemporaryDirectory(dir=scratch) as own:
            run = fit(_elpv(scratch, seed), Path(own), "--preset", "defects", "--budget", "5m")
            rows.append({"split_seed": seed, **run.row})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"runs": rows, "mean_accuracy": round(mean(row["accuracy"] for row in rows), 4)}


def few(data: Path, scratch: Path) -> dict[str, Any]:
    """Accuracy on all images that were not drawn."""
    rows = []
    for draw in DRAWS:
        with tempfile.TemporaryDirectory(dir=scratch) as own:
            run = fit(_drawn(data / "neu_steel", Path(own) / "steel", draw), Path(own), "--preset", "defects")
            rows.append({"draw": draw, **run.row})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"runs": rows, "mean_accuracy": round(mean(row["accuracy"] for row in rows), 4)}


def backbones(data: Path, scratch: Path) -> dict[str, Any]:
    """The model that a fit ends with, beside its probe, on the same test images."""
    rows = []
    for name in ("resnet18", "vit_tiny_patch16_224"):
        weights = ("--backbone", name, "--weights", str(data / "weights" / f"{name}.safetensors"))
        flags = ("--preset", "defects", *weights)
        with tempfile.TemporaryDirectory(dir=scratch) as own:
            cells = _elpv(scratch, 0)
            probe = fit(cells, Path(own), *flags, "--final-fit", "train", settings=PROBE_ONLY)
            run = fit(cells, Path(own), *flags)
            gain = round(run.test["accuracy"] - probe.test["accuracy"], 4)
            rows.append(
                {"backbone": name, "seconds": round(run.seconds, 1), "probe": probe.test, "end": run.test, "gain": gain}
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"runs": rows}


def memory(data: Path, scratch: Path) -> dict[str, Any]:
    """Peak, and the largest figures of the first and of the last third of the time that training took."""
    synthetic, parts = recipe("synthetic"), scratch / "parts"
    count = MANY // len(synthetic.ALL_CLASSES)
    synthetic.generate(
        parts, per_class=count, size=(128, 96), classes=synthetic.ALL_CLASSES, workers=os.cpu_count() or 1
    )
    run = fit(parts, scratch, "--preset", "defects", "--size", "96", "--budget", "25m")
    spent = sum(stage["seconds"] for stage in run.read("stages.json"))
    last = run.memory[-1][0]
    training = [(at, kilobytes) for at, kilobytes in run.memory if at > last - spent]
    third = max(1, len(training) // 3)
    return {
        "images": count * len(synthetic.ALL_CLASSES),
        "seconds": round(run.seconds, 1),
        "peak_mb": round(max(kilobytes for _, kilobytes in run.memory) / 1024, 1),
        "first_third_mb": round(max(kilobytes for _, kilobytes in training[:third]) / 1024, 1),
        "last_third_mb": round(max(kilobytes for _, kilobytes in training[-third:]) / 1024, 1),
        "stages": [
            {key: stage[key] for key in ("name", "kept", "seconds", "steps")} for stage in run.read("stages.json")
        ],
    }


def _elpv(scratch: Path, seed: int) -> Path:
    """The recipe's folder with another test side."""
    folder = scratch / f"elpv-{seed}"
    if not folder.is_dir():
        command = [sys.executable, str(ROOT / "datasets" / "elpv.py"), "--split-seed", str(seed), "--out", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def _some(folder: Path, count: int, out: Path) -> Path:
    """A class folder of so many of its images, evenly taken."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.parent != folder)
    _copy(((file, file.parent.name) for file in files[:: len(files) // count][:count]), out)
    return out


def _drawn(folder: Path, out: Path, draw: int) -> Path:
    """train/ with some images of each class, test/ with the others."""
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(file for file in place.iterdir() if file.is_file())
        random.Random(f"{draw} {place.name}").shuffle(files)
        _copy(((file, place.name) for file in files[:SHOTS]), out / "train")
        _copy(((file, place.name) for file in files[SHOTS:]), out / "test")
    return out


def _copy(files: Iterable[tuple[Path, str]], out: Path) -> None:
    for file, label in files:
        (out / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, out / label / file.name)


def missed(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The bounds that results do not keep."""
    said = []

    def check(name: str, key: str, value: float, bound: float, *, most: bool) -> None:
        if value > bound if most else value < bound:
            said.append(f"{name}: {key} {value:g}, {'at most' if most else 'at least'} {bound:g}")

    if one := results.get("model0"):
        check("model0", "seconds cold", one["cold_seconds"], 40, most=True)
        check("model0", "seconds cached", one["cached_seconds"], 15, most=True)
    if one := results.get("elpv"):
        check("elpv", "mean accuracy", one["mean_accuracy"], 0.885, most=False)
        check("elpv", "seconds", max(row["seconds"] for row in one["runs"]), 300, most=True)
    if one := results.get("few"):
        check("few", "mean accuracy", one["mean_accuracy"], 0.92, most=False)
    for row in results.get("backbones", {}).get("runs", ()):
        check("backbones", f"gain of {row['backbone']}", row["gain"], 0.02, most=False)
    if one := results.get("memory"):
        check("memory", "peak in MB", one["peak_mb"], 2048, most=True)
        check("memory", "growth in MB", one["last_third_mb"] - one["first_third_mb"], 50, most=True)
    return said


QUESTIONS: Final[dict[str, Callable[[Path, Path], dict[str, Any]]]] = {
    "model0": model0,
    "elpv": elpv,
    "few": few,
    "backbones": backbones,
    "memory": memory,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, keep the results, and say what they missed; 1 when they missed something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", choices=list(QUESTIONS), default=list(QUESTIONS))
    args = parser.parse_args(argv)
    RESULTS.mkdir(exist_ok=True)
    results = {}
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="bounds-") as scratch:
            facts = {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
            results[name] = {**facts, **QUESTIONS[name](args.data, Path(scratch))}
        text = json.dumps(results[name], indent=2, ensure_ascii=False)
        (RESULTS / f"bounds-{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{name}: {text}")
    failures = missed(results)
    print("\n".join(failures) or "all bounds kept")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
