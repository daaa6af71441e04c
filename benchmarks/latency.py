"""What the line runtime has to show: how long a frame takes, an idle process, the start, and a fresh environment.

    python -m benchmarks.latency --data runs/parts-1/bundle [--only whole int8 steady idle start fresh]

- whole: a raw frame of 640 x 480 to the decision, distance included, against the bare network fed with ready pixels.
- int8: the same for the int8 model against its own bare network, where the bundle has one.
- steady: p99 against p50, one frame after the other.
- idle: share of a core that an open bundle takes, before its first answer and behind its hundredth.
- start: seconds for `from cvtune_edge import Bundle` in a new process.
- fresh: the wheel alone in a new environment: its size (by `pip install --no-compile`; pip compiles modules that are
  never imported too, and both sizes are written down), what it leaves in an empty home, and its golden frames.

The first three use one core and one thread. What is compared is timed in turns, and the medians of the turns are
compared pair by pair. Nothing else may run meanwhile; what did is written down. `fresh` asks the package index of pip.
Results are kept in benchmarks/results/latency.json, with date and machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import onnx
from cvtune_edge import machine as this
from cvtune_edge.bench_timed import SIZE, Ask, Setting, Timed, drawn, timed
from cvtune_edge.latency import Times
from cvtune_edge.manifest import load_manifest
from cvtune_edge.session import open_session

from benchmarks.figures import RESULTS, ROOT, machine
from cvtune.bundle.lighter.parts import PIXELS, network_of

RESULT: Final = RESULTS / "latency.json"
ROUNDS: Final = 100
IN_A_ROUND: Final = 5
IN_A_ROW: Final = 1000
IDLE_SECONDS: Final = 10.0
STARTS: Final = 10
# an answer, then nothing: seconds of the processor in so many of the clock
IDLE: Final = """
import json, sys, time
import numpy as np
from cvtune_edge import Bundle
def idle():
    began = time.process_time()
    time.sleep(float(sys.argv[2]))
    return (time.process_time() - began) / float(sys.argv[2])
bundle = Bundle(sys.argv[1], spin=sys.argv[3] == "spin")
found = {"fresh": idle()}
frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
for _ in range(100):
    bundle.predict(frame)
print(json.dumps({**found, "after_100": idle()}))
"""
START: Final = "import time; t = time.perf_counter(); from cvtune_edge import Bundle; print(time.perf_counter() - t)"
FRESH: Final = """
import json, sys, time
from pathlib import Path
from cvtune_edge import Bundle
with Bundle(sys.argv[1], verify=False) as bundle:
    verified = bundle.verify()
    said = [answer.said for answer in bundle.decisions(map(Path, sys.argv[2:]))]
time.sleep(1)  # onnxruntime writes its telemetry from a thread of its own
heavy = sorted({"torch", "onnx", "cvtune", "scipy", "PIL"} & set(sys.modules))
print(json.dumps({"frames": verified.frames, "equal": verified.equal, "worst": verified.worst, "said": said,
                  "heavy": heavy}))
"""


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def bare_network(bundle: Path, precision: str) -> bytes:
    """The network of a bundle's graph: from the pixels that it is fed with to probabilities and embedding."""
    manifest = load_manifest(bundle)
    model = onnx.load(bundle / manifest.models[precision])
    return bytes(network_of(model, manifest.size, deep=manifest.reading["pixels"] != "uint8").SerializeToString())


def against_bare(bundle: Path, precision: str, *, rounds: int = ROUNDS) -> dict[str, Any]:
    """A frame to the decision, against the bare network with pixels of noise, in turns on one core."""
    with one_core():
        line = Timed(bundle, Setting(precision, 1, 1), provider="cpu", spin=False)
        whole = line.asker([drawn(line.manifest, SIZE)])
        size = line.manifest.size
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), np.uint8)
        session = open_session(bare_network(bundle, precision), threads=1)
        return paired(whole, lambda: session.run(None, {PIXELS: pixels}), rounds)


def paired(whole: Ask, bare: Ask, rounds: int) -> dict[str, Any]:
    """Medians of both, and the middle and the spread of the ratios of the turns' medians."""
    rows: dict[str, list[float]] = {"whole": [], "bare": []}
    ratios = []
    for _ in range(rounds):
        turn = {}
        for name, ask in (("whole", whole), ("bare", bare)):
            ask()
            times = [timed(ask) for _ in range(IN_A_ROUND)]
            rows[name] += times
            turn[name] = median(times)
        ratios.append(turn["whole"] / turn["bare"])
    low, high = np.percentile(ratios, [10, 90])
    return {
        "rounds": rounds,
        "whole_ms": Times.of(rows["whole"]).p50,
        "bare_ms": Times.of(rows["bare"]).p50,
        "ratio": round(median(ratios), 3),
        "ratio_10_to_90": [round(float(low), 3), round(float(high), 3)],
    }


def whole(bundle: Path, scratch: Path) -> dict[str, Any]:
    """The float32 model."""
    return against_bare(bundle, "float32")


def int8(bundle: Path, scratch: Path) -> dict[str, Any]:
    """The int8 model, where there is one."""
    if "int8" not in load_manifest(bundle).models:
        return {"left_out": "this bundle has no int8 model"}
    return against_bare(bundle, "int8")


def steady(bundle: Path, scratch: Path) -> dict[str, Any]:
    """One frame after the other, on one core."""
    with one_core():
        line = Timed(bundle, Setting("float32", 1, 1), provider="cpu", spin=False)
        answer = line.asker([drawn(line.manifest, SIZE)])
        for _ in range(10):
            answer()
        times = Times.of([timed(answer) for _ in range(IN_A_ROW)])
    found = {"n": times.n, "p50_ms": times.p50, "p95_ms": times.p95, "p99_ms": times.p99}
    return {**found, "p99_to_p50": round(times.p99 / times.p50, 3)}


def idle(bundle: Path, scratch: Path) -> dict[str, Any]:
    """Of one core, with threads that spin within an answer and with such that do not."""
    rows: dict[str, float] = {}
    for spin in ("quiet", "spin"):
        command = [sys.executable, "-c", IDLE, str(bundle), str(IDLE_SECONDS), spin]
        shares = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        rows |= {f"{spin}_{when}_percent": round(100 * share, 2) for when, share in shares.items()}
    return {"seconds": IDLE_SECONDS, **rows}


def start(bundle: Path, scratch: Path) -> dict[str, Any]:
    """The libraries' first import takes the longest: the middle one of several processes, and the slowest."""
    command = [sys.executable, "-c", START]
    seconds = [float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(STARTS)]
    return {"processes": STARTS, "seconds": round(median(seconds), 3), "slowest": round(max(seconds), 3)}


def fresh(bundle: Path, scratch: Path, pictures: Sequence[Path] = ()) -> dict[str, Any]:
    """The wheel in a new environment with what it needs and nothing else, installed from a folder without an index."""
    wheels, place, home = scratch / "wheels", scratch / "environment", scratch / "home"
    home.mkdir()
    _run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(_edge_copy(scratch)))
    (wheel,) = wheels.glob("*.whl")
    _run("-m", "pip", "download", "--quiet", "--dest", str(wheels), str(wheel))
    venv.create(place, with_pip=True)
    python = next(path for path in (place / "bin" / "python", place / "Scripts" / "python.exe") if path.is_file())
    before = _megabytes(place)
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels)]
    subprocess.run([*install, "--no-compile", str(wheel)], check=True)
    answer = subprocess.run(
        [str(python), "-c", FRESH, str(bundle.resolve()), *map(str, pictures)],
        cwd=home,
        env=bare_environment(home),
        check=True,
        stdout=subprocess.PIPE,
    )
    grown = _megabytes(place) - before  # with the bytecode of what was imported
    subprocess.run([str(python), "-m", "compileall", "-qq", str(place)], check=False)  # as pip does without being told
    compiled = _megabytes(place) - before
    seconds = float(subprocess.run([str(python), "-c", START], check=True, stdout=subprocess.PIPE).stdout)
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format", "json"], check=True, stdout=subprocess.PIPE)
    return {
        "installed_mb": round(grown, 1),
        "installed_and_compiled_mb": round(compiled, 1),
        "packages": {one["name"]: one["version"] for one in json.loads(listed.stdout) if one["name"] != "pip"},
        "import_seconds": round(seconds, 3),
        "left_in_home": sorted(path.relative_to(home).as_posix() for path in home.rglob("*")),
        **json.loads(answer.stdout),
    }


def bare_environment(home: Path) -> dict[str, str]:
    """Variables of somebody with an empty home: CI unset, since onnxruntime's telemetry is silent where it is set."""
    gone = re.compile(r"CI$|ORT_|XDG_|PYTHON|VIRTUAL_ENV$")
    kept = {name: value for name, value in os.environ.items() if not gone.match(name)}
    homes = ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TMPDIR", "TEMP", "TMP")
    return {**kept, **dict.fromkeys(homes, str(home))}


def _edge_copy(scratch: Path) -> Path:
    """The sources of cvtune-edge elsewhere: setuptools leaves folders in them."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
    return Path(shutil.copytree(ROOT / "export" / "edge", scratch / "edge", ignore=ignored))


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def _megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def missed(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The bounds that results do not keep."""
    said = []

    def check(name: str, key: str, bound: float) -> None:
        one = results.get(name, {})
        if one.get(key, 0) > bound:
            said.append(f"{name}: {key} {one[key]:g}, at most {bound:g}")

    check("whole", "ratio", 1.35)
    check("int8", "ratio", 1.6)
    check("steady", "p99_to_p50", 1.5)
    for spin in ("quiet", "spin"):
        for when in ("fresh", "after_100"):
            check("idle", f"{spin}_{when}_percent", 2)
    check("start", "seconds", 0.5)
    check("fresh", "installed_mb", 300)
    if one := results.get("fresh"):
        if one["equal"] != one["frames"]:
            said.append(f"fresh: {one['equal']} of {one['frames']} golden frames decided as in the lab")
        said += [f"fresh: {name} was imported" for name in one["heavy"]]
        said += [f"fresh: {name} was left in the empty home" for name in one["left_in_home"]]
    return said


QUESTIONS: Final[dict[str, Callable[[Path, Path], dict[str, Any]]]] = {
    "whole": whole,
    "int8": int8,
    "steady": steady,
    "idle": idle,
    "start": start,
    "fresh": fresh,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, keep the results beside earlier ones, and say what they missed; 1 when they missed something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="a bundle of EfficientNet-Lite0")
    parser.add_argument("--only", nargs="*", choices=list(QUESTIONS), default=list(QUESTIONS))
    args = parser.parse_args(argv)
    manifest = load_manifest(args.data)
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    for name in args.only:
        others = this.Others()
        with tempfile.TemporaryDirectory(prefix="latency-") as scratch:
            found = QUESTIONS[name](args.data, Path(scratch))
        kept[name] = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": {**machine(), "flags": list(this.facts("cpu", spin=False).flags)},
            "backbone": manifest.backbone,
            **found,
            "notes": list(others.notes()),
        }
        print(f"{name}: {json.dumps(kept[name], indent=2, ensure_ascii=False)}")
    RESULTS.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    failures = missed(kept)
    print("\n".join(failures) or "all bounds kept")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
