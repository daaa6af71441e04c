"""What the export has to show: the file answers as torch does, and eight bits lose next to nothing.

    python -m benchmarks.exported --data ../shared/data [--sets elpv] [--backbones resnet18] [--budget 60s]

Every set is fitted with every backbone (a short fit: the files are compared, not the training), and for each is written
down what the parity gate found on val, calib and test. Of ELPV and NEU steel an int8 model is made, with its figures on
the test side and its time: of a whole frame, and of the network alone on one core, in turns with float32.

Fits stay in runs/exported and are not repeated; results are kept in benchmarks/results/exported.json, with the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from cvtune_edge import machine as this
from cvtune_edge.manifest import load_manifest
from cvtune_edge.session import open_session

from benchmarks.figures import RESULTS, ROOT, machine
from benchmarks.latency import bare_network, one_core, paired
from benchmarks.peers.sides import Source, sources
from cvtune import load_run
from cvtune.bundle.lighter.parts import PIXELS
from cvtune.errors import CvtuneError, GateError
from cvtune.rundir import RunDir, write_json

RESULT: Final = RESULTS / "exported.json"
BACKBONES: Final = ("tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224")
IN_INT8: Final = ("elpv", "neu_steel")
ROUNDS: Final = 40


def fitted(source: Source, backbone: str, args: argparse.Namespace) -> Path:
    """The run of a set and backbone; fitted where it is not there yet.

    Raises:
        CvtuneError: the fit failed.
    """
    out: Path = args.runs / f"{source.name}-{backbone}"
    if RunDir(out).done.is_file():
        return out
    weights = args.data / "weights" / f"{backbone}.safetensors"
    flags = ["--preset", source.preset, "--budget", args.budget, "--backbone", backbone, "--out", str(out)]
    flags += ["--weights", str(weights)] if weights.is_file() else []
    flags += ["--group-by", source.group_by] if source.group_by else []
    ended = subprocess.run([sys.executable, "-m", "cvtune", "fit", str(source.folder), *flags], cwd=ROOT, check=False)
    if ended.returncode:
        raise CvtuneError(f"{source.name} with {backbone}: the fit ended with exit code {ended.returncode}")
    return out


def row(source: Source, run: Path) -> dict[str, Any]:
    """What the gates found about one run."""
    bundle = RunDir(run).bundle
    found: dict[str, Any] = {"parity": dict(load_manifest(bundle).parity)}
    if source.name in IN_INT8:
        found["int8"] = in_int8(run, bundle)
    return found


def in_int8(run: Path, bundle: Path) -> dict[str, Any]:
    """How the model in eight bits compares, or why there is none."""
    if "int8" not in load_manifest(bundle).models:
        try:
            load_run(run).lighten("int8", progress=_say)
        except GateError as error:
            return {"refused": error.message}
    manifest = load_manifest(bundle)
    told: Mapping[str, Any] = manifest.variants[manifest.models["int8"]]
    sizes = {name: (bundle / file).stat().st_size for name, file in manifest.models.items()}
    alone = network_alone(bundle)
    return {**{name: told[name] for name in ("made", "chosen", "test", "share")}, "bytes": sizes, "network": alone}


def network_alone(bundle: Path) -> dict[str, Any]:
    """The network in eight bits against the one in float, in turns on one core; the ratio is float32's time over it."""
    size = load_manifest(bundle).size
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), np.uint8)
    with one_core():
        slow, fast = (open_session(bare_network(bundle, name), threads=1) for name in ("float32", "int8"))
        return paired(lambda: slow.run(None, {PIXELS: pixels}), lambda: fast.run(None, {PIXELS: pixels}), ROUNDS)


def _say(what: str, done: int, of: int) -> None:
    if done % 50 == 0:
        print(f"  {what} {done} of {of}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for; 2 and a message for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exported", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--budget", default="60s", help="of each fit")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "exported")
    args = parser.parse_args(argv)
    kept: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    facts = {"machine": {**machine(), "flags": list(this.facts("cpu", spin=False).flags)}, "budget": args.budget}
    try:
        for source in sources(args.data):
            for backbone in args.backbones if not args.sets or source.name in args.sets else ():
                print(f"{source.name}, {backbone}", file=sys.stderr)
                found = row(source, fitted(source, backbone, args))
                day = datetime.now(UTC).date().isoformat()
                kept[f"{source.name}, {backbone}"] = {**found, **facts, "date": day}
                write_json(RESULT, kept)
    except CvtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
