"""Write 2,624 photographs of solar cells as a labelled folder: `python datasets/elpv.py`.

    datasets/elpv/train/{defective,functional}/cell0001-mono.png     1,969 images
    datasets/elpv/test/{defective,functional}/cell0007-poly.png        655 images

The photographs and the probabilities come from the installed package `elpv-dataset` (CC BY-NC-SA 4.0) and are copied
byte for byte; nothing is downloaded. A cell is defective where the published probability is above 0.5. The sides are
75/25, stratified by class and by type of cell. Run again, it finds the folder whole and leaves it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "elpv-dataset"
CARD = "README.md"
MARK = ".recipe.json"
TEST_SHARE = 4  # one image in four, rounded down in each stratum


class RecipeError(Exception):
    """The folder cannot be built; the message says why and what mends it."""


@dataclass(frozen=True)
class Cell:
    """One photograph: its file in the package, its defect probability and `mono` or `poly`."""

    file: Path
    probability: float
    kind: str

    @property
    def label(self) -> str:
        """The class of the cell."""
        return "defective" if self.probability > 0.5 else "functional"

    @property
    def name(self) -> str:
        """The file name to write, with the type of the cell in it: `--group-by` and slices can use it."""
        return f"{self.file.stem}-{self.kind}.png"


def source_folder() -> Path:
    """The data of the installed package.

    Raises:
        RecipeError: the package is not installed.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(f"the package {PACKAGE} is not installed\nhint: python -m pip install {PACKAGE}")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_cells(source: Path) -> list[Cell]:
    """The rows of `labels.csv`: path, probability and type, divided by blanks.

    Raises:
        RecipeError: the table or an image it names is missing.
    """
    table = source / "labels.csv"
    if not table.is_file():
        raise RecipeError(f"{table} is missing\nhint: python -m pip install --force-reinstall {PACKAGE}")
    rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    cells = [Cell(source / path, float(probability), kind) for path, probability, kind in rows]
    missing = [cell.file.name for cell in cells if not cell.file.is_file()]
    if missing:
        raise RecipeError(
            f"{source}: {len(missing)} of {len(cells)} images are missing, the first is {missing[0]}\n"
            f"hint: python -m pip install --force-reinstall {PACKAGE}"
        )
    return cells


def choose_test(cells: Iterable[Cell], seed: int) -> frozenset[str]:
    """Names of the test images: in each (class, type) the quarter whose hash with the seed comes first.

    A hash instead of a random generator: the same sides with every version of Python and numpy.
    """
    strata: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        strata[cell.label, cell.kind].append(cell.name)
    chosen: list[str] = []
    for names in strata.values():
        names.sort(key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
        chosen += names[: len(names) // TEST_SHARE]
    return frozenset(chosen)


def build(out: Path, *, seed: int = 0, source: Path | None = None) -> bool:
    """Write the folder; False when it is there already, whole and with this seed; otherwise it is written anew.

    It is built beside its place and renamed in the end, so an interrupted run leaves nothing half done.

    Raises:
        RecipeError: the package is missing or damaged, or `out` holds something else.
    """
    if _is_built(out, seed):
        return False
    cells = read_cells(source or source_folder())
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        made = Path(temporary) / "made"
        _write(cells, made, seed)
        if out.exists():
            out.rename(Path(temporary) / "old")
        made.rename(out)
    return True


def _is_built(out: Path, seed: int) -> bool:
    if (out / MARK).is_file():
        mark = json.loads((out / MARK).read_text(encoding="utf-8"))
        return bool(mark["split_seed"] == seed and mark["images"] == sum(1 for _ in out.glob("*/*/*.png")))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} holds something that this recipe did not write\nhint: choose another --out")
    return False


def _write(cells: Sequence[Cell], folder: Path, seed: int) -> None:
    test = choose_test(cells, seed)
    counts: dict[str, int] = defaultdict(int)
    for cell in cells:
        place = f"{'test' if cell.name in test else 'train'}/{cell.label}"
        (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cell.file, folder / place / cell.name)
        counts[place] += 1
    (folder / CARD).write_text(_card(counts, seed), encoding="utf-8", newline="\n")
    mark = {"split_seed": seed, "images": len(cells), "counts": dict(sorted(counts.items()))}
    (folder / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8", newline="\n")


def _card(counts: dict[str, int], seed: int) -> str:
    rows = "\n".join(f"| `{place}` | {count:,} |" for place, count in sorted(counts.items()))
    return f"""# ELPV solar cells

Electroluminescence photographs of solar cells, 300 x 300 pixels, 8-bit grey, cut from 44 modules.

| folder | images |
| --- | --- |
{rows}

- **Task**: `defective` where the published defect probability is above 0.5 (two thirds or one), else `functional`.
- **Sides**: 75/25, stratified by class and type of cell (`mono`, `poly`, the end of the file name),
  `--split-seed {seed}`. The package does not say which module a cell is from: cells of one module may sit on both
  sides, so the figures may be better than on modules never seen.
- **Source**: the package `{PACKAGE}`, copied byte for byte by `datasets/elpv.py`.
- **Licence**: CC BY-NC-SA 4.0. Not for commercial use; not part of cvtune and not to be passed on with it.
- **Published**: 0.884 accuracy for a fine-tuned CNN, 0.824 for an SVM, on a 75/25 split by the authors
  (Deitsch et al. 2019).
- **Cite**: Buerhop-Lutz et al., EU PVSEC 2018, doi 10.4229/35thEUPVSEC20182018-5CV.3.15;
  Deitsch et al., Solar Energy 185 (2019), doi 10.1016/j.solener.2019.02.067;
  Deitsch et al., Machine Vision and Applications 32 (2021), doi 10.1007/s00138-021-01191-9.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the folder is there in the end, 2 when it cannot be built."""
    parser = argparse.ArgumentParser(description="Write the ELPV photographs of solar cells as a labelled folder.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "elpv", help="folder to write")
    parser.add_argument("--split-seed", type=int, default=0, help="another seed draws another test side")
    args = parser.parse_args(argv)
    try:
        built = build(args.out, seed=args.split_seed)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = json.loads((args.out / MARK).read_text(encoding="utf-8"))["counts"]
    listing = ", ".join(f"{place} {count:,}" for place, count in counts.items())
    print(f"{'wrote' if built else 'found'} {args.out}: {listing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
