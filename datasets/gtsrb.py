r"""Write the German traffic signs as a labelled folder: `python datasets/gtsrb.py --download`.

    datasets/gtsrb/train/14-stop/00003_00017.ppm      sign 3 of its class, its 17th photograph on the way past it
    datasets/gtsrb/test/14-stop/00243.ppm

The files come from torchvision's downloader and are copied byte for byte. Photographs of one sign are nearly the same
picture, so a validation side has to be divided by sign: `--group-by "([^/]+/\d+)_"`.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))  # where this script is imported by its path
from recipe import HINT, Card, Recipe, RecipeError, copy_all, fetched, parser, run

TITLE = "GTSRB"
TRAIN = Path("gtsrb/GTSRB/Training")  # below the folder that torchvision is given
TEST = Path("gtsrb/GTSRB/Final_Test/Images")
TRUTH = Path("gtsrb/GT-final_test.csv")

# Hyphens, so that a pattern like `(\d+)_` finds the number of the sign in the file name and never that of the class.
CLASSES = (
    *("00-speed-20", "01-speed-30", "02-speed-50", "03-speed-60", "04-speed-70", "05-speed-80", "06-end-speed-80"),
    *("07-speed-100", "08-speed-120", "09-no-passing", "10-no-passing-trucks", "11-right-of-way-next"),
    *("12-priority-road", "13-yield", "14-stop", "15-no-vehicles", "16-no-trucks", "17-no-entry"),
    *("18-general-caution", "19-curve-left", "20-curve-right", "21-double-curve", "22-bumpy-road"),
    *("23-slippery-road", "24-narrows-right", "25-road-work", "26-traffic-signals", "27-pedestrians"),
    *("28-children", "29-bicycles", "30-ice-snow", "31-wild-animals", "32-end-all-limits", "33-turn-right"),
    *("34-turn-left", "35-ahead-only", "36-straight-or-right", "37-straight-or-left", "38-keep-right"),
    *("39-keep-left", "40-roundabout", "41-end-no-passing", "42-end-no-passing-trucks"),
)

CARD = Card(
    title="GTSRB, German traffic signs",
    about="Photographs of 43 kinds of traffic sign from a moving car, cut out of the frame, 15 to 250 pixels wide, "
    "PPM; some very dark.",
    task="the kind of sign, 43 classes; the number is that of the benchmark.",
    sides="the benchmark's own. The start of a training file's name is the sign it shows, `00003_00017.ppm` is the "
    r"17th photograph of sign 3 of its class: divide by it with `--group-by '([^/]+/\d+)_'`, or the validation side "
    "holds the same signs as train and says nothing. The test files do not say which sign they show.",
    source="`torchvision.datasets.GTSRB`, copied byte for byte by `datasets/gtsrb.py`. Its training archive is that of "
    "the online competition of 2011, not the 39,209 images of the final benchmark.",
    licence="none comes with the files. Ask the authors before any use but research, and do not pass them on.",
    published="98.84 % of the test images named right by people on average, 99.46 % by a committee of CNNs, trained on "
    "the 39,209 images (Stallkamp et al. 2012).",
    cite="Stallkamp, Schlipsing, Salmen, Igel, Man vs. computer: benchmarking machine learning algorithms for traffic "
    "sign recognition, Neural Networks 32 (2012), doi 10.1016/j.neunet.2012.02.016.",
)


def build(out: Path, *, source: Path | None = None, download: bool = False) -> bool:
    """Write the folder; False when it is there already.

    Args:
        out: the folder.
        source: what torchvision was given as `root`; where downloads are kept.
        download: whether the network may be asked.

    Raises:
        RecipeError: there are no files, some are missing, the download failed, or `out` holds something else.
    """

    def write(folder: Path) -> Counter[str]:
        with fetched(TITLE, fetch, out=out, source=source, download=download) as root:
            counts = copy_all([*_training(root), *_test(root)], folder, hint=HINT)
        CARD.write(folder, counts)
        return counts

    return Recipe("gtsrb", {}).build(out, write)


def fetch(root: Path) -> None:
    """Let torchvision download both sides into `root`, about 280 MB."""
    from torchvision.datasets import GTSRB

    for split in ("train", "test"):
        GTSRB(root, split, download=True)


def _training(root: Path) -> Iterator[tuple[Path, str]]:
    """(file, place in the folder); each class has a folder named by its number."""
    names = {f"{number:05d}": name for number, name in enumerate(CLASSES)}
    folders = sorted(path for path in (root / TRAIN).glob("*") if path.is_dir())
    if [folder.name for folder in folders] != list(names):
        raise RecipeError(f"{root / TRAIN}: {len(folders)} class folders, expected 00000 to 00042\nhint: {HINT}")
    for folder in folders:
        table = folder / f"GT-{folder.name}.csv"  # where it is there, a lost photograph is noticed
        files = [name for name, _ in _table(table)] if table.is_file() else sorted(p.name for p in folder.glob("*.ppm"))
        for name in files:
            yield folder / name, f"train/{names[folder.name]}/{name}"


def _test(root: Path) -> Iterator[tuple[Path, str]]:
    """(file, place in the folder), as the table of the truth names them."""
    for name, label in _table(root / TRUTH):
        yield root / TEST / name, f"test/{label}/{name}"


def _table(path: Path) -> list[tuple[str, str]]:
    """(file name, class) of each row of a table of GTSRB."""
    try:
        with path.open(encoding="utf-8", newline="") as table:
            rows = [(row["Filename"], int(row["ClassId"])) for row in csv.DictReader(table, delimiter=";")]
        if not rows or any(number < 0 for _, number in rows):
            raise ValueError("no rows, or a negative class")
        return [(Path(name).name, CLASSES[number]) for name, number in rows]
    except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})\nhint: {HINT}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the folder is there in the end, 2 when it cannot be built."""
    args = parser("Write the German traffic signs as a labelled folder.", "gtsrb").parse_args(argv)
    return run(lambda: build(args.out, source=args.source, download=args.download), args.out)


if __name__ == "__main__":
    sys.exit(main())
