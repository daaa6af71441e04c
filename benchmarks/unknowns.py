"""Whether a model sends to REVIEW what nobody has shown to it: a class that was left out, and traffic signs.

    python -m benchmarks.unknowns --data ../shared/data [--probe]

Each class of the steel surfaces is left out in turn, the fit knows the other five: AUROC of the distance, images of the
class against the images of the test side. Then traffic signs are shown to the model of all six classes: the share of
them that goes to REVIEW, and that of the test side. With `--probe` nothing is fine-tuned, which takes minutes in place
of an hour. Kept as benchmarks/results/unknowns.json, with date and machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.bounds import PROBE_ONLY, fit
from benchmarks.figures import RESULTS, machine
from cvtune import Run, load_run
from cvtune.api import Decision
from cvtune.evaluation.novelty import auroc

CLASSES: Final = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
SIGNS: Final = 500


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--probe", action="store_true", help="fine-tune nothing")
    given = parser.parse_args()
    data, settings = given.data, PROBE_ONLY if given.probe else ""
    with tempfile.TemporaryDirectory(prefix="unknowns-") as scratch:
        rows = [left_out(data / "neu_steel", Path(scratch), name, settings) for name in CLASSES]
        found = {"probe": given.probe, "left_out": rows, "another_world": signs(data, Path(scratch), settings)}
    scores = [row["auroc"] for row in rows]
    found |= {"mean_auroc": round(mean(scores), 4), "worst_auroc": round(min(scores), 4)}
    found |= {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    RESULTS.joinpath("unknowns.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def left_out(folder: Path, scratch: Path, name: str, settings: str) -> dict[str, Any]:
    """A fit that does not know a class, asked about it."""
    run = load_run(fit(folder, scratch, "--preset", "defects", "--ignore", name, settings=settings).root)
    known, _ = asked(run, _test_files(run, folder))
    strange, looked = asked(run, sorted((folder / name).iterdir()))
    row = {"class": name, "auroc": round(auroc(known, strange), 4), "review": looked, "of": len(strange)}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def signs(data: Path, scratch: Path, settings: str) -> dict[str, Any]:
    """Photographs of traffic signs, shown to a model of steel."""
    run = load_run(fit(data / "neu_steel", scratch, "--preset", "defects", settings=settings).root)
    pictures = sorted(path for path in (data / "gtsrb").rglob("*") if path.suffix.lower() in (".png", ".jpg", ".ppm"))
    strange, looked = asked(run, pictures[:: max(1, len(pictures) // SIGNS)])
    known, sent = asked(run, _test_files(run, data / "neu_steel"))
    return {
        "auroc": round(auroc(known, strange), 4),
        "signs_review": looked,
        "signs": len(strange),
        "test_review": sent,
        "test": len(known),
    }


def asked(run: Run, files: Iterable[Path]) -> tuple[NDArray[np.float32], int]:
    """Distances [n] of pictures, and how many of them go to REVIEW."""
    answers = [answer for answer in run.decide(list(files)) if isinstance(answer, Decision)]
    distances = np.array([answer.novelty for answer in answers], np.float32)
    return distances, sum(answer.said == "REVIEW" for answer in answers)


def _test_files(run: Run, folder: Path) -> list[Path]:
    rows = run.directory.predictions("test").read_text(encoding="utf-8").splitlines()[1:]
    return [folder / row.split(",")[0] for row in rows]


if __name__ == "__main__":
    main()
