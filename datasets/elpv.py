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
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))  # where this script is imported by its path
from recipe import HERE, Card, Recipe, RecipeError, copy_all, run

PACKAGE = "elpv-dataset"
REINSTALL = f"python -m pip install --force-reinstall {PACKAGE}"
TEST_SHARE = 4  # one image in four, rounded down in each stratum


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
        RecipeError: the table is missing.
    """
    table = source / "labels.csv"
    if not table.is_file():
        raise RecipeError(f"{table} is missing\nhint: {REINSTALL}")
    rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [Cell(source / path, float(probability), kind) for path, probability, kind in rows]


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

    Raises:
        RecipeError: the package is missing or damaged, or `out` holds something else.
    """

    def write(folder: Path) -> Counter[str]:
        cells = read_cells(source or source_folder())
        test = choose_test(cells, seed)
        sides = ("test" if cell.name in test else "train" for cell in cells)
        files = [(cell.file, f"{side}/{cell.label}/{cell.name}") for cell, side in zip(cells, sides, strict=True)]
        counts = copy_all(files, folder, hint=REINSTALL)
        _card(seed).write(folder, counts)
        return counts

    return Recipe("elpv", {"split_seed": seed}).build(out, write)


def _card(seed: int) -> Card:
    return Card(
        title="ELPV solar cells",
        about="Electroluminescence photographs of solar cells, 300 x 300 pixels, 8-bit grey, cut from 44 modules.",
        task="`defective` where the published defect probability is above 0.5 (two thirds or one), else `functional`.",
        sides="75/25, stratified by class and type of cell (`mono`, `poly`, the end of the file name), "
        f"`--split-seed {seed}`. The package does not say which module a cell is from: cells of one module may sit on "
        "both sides, so the figures may be better than on modules never seen.",
        source=f"the package `{PACKAGE}`, copied byte for byte by `datasets/elpv.py`.",
        licence="CC BY-NC-SA 4.0. Not for commercial use; not part of cvtune and not to be passed on with it.",
        published="0.884 accuracy for a fine-tuned CNN, 0.824 for an SVM, on a 75/25 split by the authors (Deitsch et "
        "al. 2019).",
        cite="Buerhop-Lutz et al., EU PVSEC 2018, doi 10.4229/35thEUPVSEC20182018-5CV.3.15; "
        "Deitsch et al., Solar Energy 185 (2019), doi 10.1016/j.solener.2019.02.067; "
        "Deitsch et al., Machine Vision and Applications 32 (2021), doi 10.1007/s00138-021-01191-9.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the folder is there in the end, 2 when it cannot be built."""
    parser = argparse.ArgumentParser(description="Write the ELPV photographs of solar cells as a labelled folder.")
    parser.add_argument("--out", type=Path, default=HERE / "elpv", help="folder to write")
    parser.add_argument("--split-seed", type=int, default=0, help="another seed draws another test side")
    args = parser.parse_args(argv)
    return run(lambda: build(args.out, seed=args.split_seed), args.out)


if __name__ == "__main__":
    sys.exit(main())
