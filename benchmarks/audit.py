"""The audit's speed and memory: `cvtune check` on drawn parts of 640x480, all of it and its steps, in a new process.

    python -m benchmarks.audit --images 10000

- Files: listing, headers, hashes, decoding and resizing of every file, into an empty pixel cache.
- Ratio: the whole of `cvtune check` without that, over the bare forward pass of the same network on the same pixels.
- Memory: the most that a process holds besides mapped files, for a fifth of the images and for all of them.

Nothing else may run meanwhile. The result is kept as benchmarks/results/audit.json, with date and machine; the pictures
(2 GB) in runs/benchmark-audit, for the next time.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.figures import RESULTS, ROOT, machine, own_homes, recipe

SIZE = (640, 480)
WORK = ROOT / "runs" / "benchmark-audit"
FILE = RESULTS / "audit.json"
STEPS = ("index", "read", "network", "examine", "divide", "audited")  # of cvtune.pipeline.check
FULL = 10_000
SHARE = 5  # the smaller run has one image in five

FILES_BOUND = 60.0  # seconds for 10,000 images on two cores
RATIO_BOUND = 1.3
# Flat: what grows with the images is tables (embeddings alone 5 kB an image), never the pictures (150 kB at 224 px).
GROWTH_BOUND = 40.0  # kB an image


def measure(images: int, work: Path, *, share: int = SHARE) -> dict[str, Any]:
    """Draw the parts unless they are there, audit some of them and all of them, each in a new process.

    Args:
        images: how many.
        work: folder of the pictures, which stay, and of the caches, which do not.
        share: the first run has one image in so many.
    """
    parts = draw(images, work)
    few, all_of_them = (audited(parts, count, work) for count in (images // share, images))
    seconds = all_of_them["seconds"]
    files = seconds["index"] + seconds["read"]
    return {
        "command": f"python -m benchmarks.audit --images {images}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "images": all_of_them["images"],
        "size": list(SIZE),
        "files_seconds": round(files, 2),
        "check_seconds": round(seconds["all"], 2),
        "forward_seconds": round(seconds["forward"], 2),
        "ratio": round((seconds["all"] - files) / seconds["forward"], 3),
        "steps": {name: round(value, 2) for name, value in seconds.items()},
        "findings": all_of_them["findings"],
        "memory_mb": {str(run["images"]): run["memory_mb"] for run in (few, all_of_them)},
        "growth_kb_an_image": growth(few, all_of_them),
    }


def growth(few: dict[str, Any], many: dict[str, Any]) -> float | None:
    """Kilobytes of memory that one image more costs; None where the system does not tell."""
    if few["memory_mb"] is None or many["memory_mb"] is None:
        return None
    grown: float = (many["memory_mb"] - few["memory_mb"]) * 1024 / (many["images"] - few["images"])
    return round(grown, 1)


def missed(result: dict[str, Any]) -> list[str]:
    """The bounds that a result does not keep; the seconds for as many images as it has."""
    bound = FILES_BOUND * result["images"] / FULL
    found = []
    if not result["files_seconds"] <= bound:
        found.append(f"files took {result['files_seconds']:.1f} s, at most {bound:.1f} s")
    if not result["ratio"] <= RATIO_BOUND:
        found.append(f"the audit took {result['ratio']:.2f} times the forward pass, at most {RATIO_BOUND}")
    grown = result["growth_kb_an_image"]
    if grown is not None and not grown <= GROWTH_BOUND:
        found.append(f"memory grew by {grown:.1f} kB an image, at most {GROWTH_BOUND:.0f} kB")
    return found


def draw(images: int, work: Path) -> Path:
    """A folder of that many parts; one of an earlier time is used again."""
    synthetic = recipe("synthetic")
    per_class = images // len(synthetic.ALL_CLASSES)
    parts, mark = work / f"parts-{images}", work / f"parts-{images}.json"
    wanted = {"size": list(SIZE), "per_class": per_class, "classes": list(synthetic.ALL_CLASSES)}
    if not (mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == wanted):
        print(f"drawing {images} parts", file=sys.stderr)
        synthetic.generate(
            parts, per_class=per_class, size=SIZE, classes=synthetic.ALL_CLASSES, workers=os.cpu_count() or 1
        )
        mark.write_text(json.dumps(wanted) + "\n", encoding="utf-8")  # last: it says that all of them are there
    return parts


def audited(parts: Path, images: int, work: Path) -> dict[str, Any]:
    """Audit some of the parts in a process of its own, with an empty cache, and watch its memory."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=work) as scratch:
        table = write_table(parts, images)
        out = Path(scratch) / "result.json"
        command = [sys.executable, "-m", "benchmarks.audit", "--child", str(table), "--out", str(out)]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | own_homes(Path(scratch)))
        peak = watch(process)
        if process.wait() != 0:
            raise SystemExit(f"{images} images: exit code {process.returncode}")
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return {**result, "memory_mb": peak}


def write_table(parts: Path, images: int) -> Path:
    """A table of the first images of each class, as many as asked for, beside the class folders."""
    files = [sorted(folder.iterdir()) for folder in sorted(parts.iterdir()) if folder.is_dir()]
    chosen = [file for folder in files for file in folder[: images // len(files)]]
    table = parts / f"first-{images}.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label"))
        writer.writerows((file.relative_to(parts).as_posix(), file.parent.name) for file in chosen)
    return table


def watch(process: subprocess.Popen[bytes]) -> float | None:
    """The most MB that a process holds besides mapped files, until it ends; None where there is no /proc."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, unmapped(process.pid))
        time.sleep(0.05)
    return round(peak / 1024, 1) or None


def unmapped(pid: int) -> int:
    """A process's memory besides mapped files in kB; 0 where the system does not tell, or the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        return int(dict(line.split(":", 1) for line in lines)["RssAnon"].split()[0])
    except (OSError, KeyError):
        return 0


def child(table: Path) -> dict[str, Any]:
    """`cvtune check` on a table, its steps timed, then the bare forward pass on the pixels that it has left."""
    from cvtune import pipeline, steps
    from cvtune.config import Config
    from cvtune.console import Console

    config, seconds = Config(), dict.fromkeys(STEPS, 0.0)
    with timed_steps(steps, seconds):
        started = time.perf_counter()
        found = pipeline.check(table, config, console=Console())
        seconds["all"] = time.perf_counter() - started
    seconds["forward"] = forward(found.data, config)
    return {"images": len(found.data.index), "findings": len(found.findings), "seconds": seconds}


@contextmanager
def timed_steps(steps: Any, seconds: dict[str, float]) -> Iterator[None]:
    """Add up the time spent in the steps of the pipeline."""
    kept = {name: getattr(steps, name) for name in seconds}
    for name, step in kept.items():
        setattr(steps, name, _timed(step, name, seconds))
    try:
        yield
    finally:
        for name, step in kept.items():
            setattr(steps, name, step)


def _timed(step: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    @wraps(step)
    def timed(*args: Any, **more: Any) -> Any:
        started = time.perf_counter()
        try:
            return step(*args, **more)
        finally:
            seconds[name] += time.perf_counter() - started

    return timed


def forward(data: Any, config: Any) -> float:
    """Seconds that the network alone takes, without reading its pixels: what an audit cannot do without."""
    import numpy as np
    import torch

    from cvtune import steps
    from cvtune.console import Console
    from cvtune.models.features import batches
    from cvtune.models.normalize import Normalize

    backbone = steps.network(config, steps.find_weights(config), data, Console(quiet=True)).eval()
    normalize, rows = Normalize(data.frame.mean, data.frame.std), np.arange(len(data.index))
    total = 0.0
    with torch.inference_mode():
        for batch in batches(data.pixels, normalize, rows):
            started = time.perf_counter()
            backbone(batch)
            total += time.perf_counter() - started
    return total


def main() -> int:
    """Measure, keep the result, and say what it missed; 1 when it missed something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=FULL)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the pictures and the caches")
    parser.add_argument("--out", type=Path, default=FILE, help="where the result is kept")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is None:
        args.work.mkdir(parents=True, exist_ok=True)
        result = measure(args.images, args.work)
    else:
        result = child(args.child)
    args.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.child is not None:
        return 0
    print(json.dumps(result, indent=2, ensure_ascii=False))
    failures = missed(result)
    print("\n".join(failures) or "all bounds kept")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
