"""Write the Oxford flowers as a labelled folder: `python datasets/flowers102.py --download`.

    datasets/flowers102/{train,val,test}/001-pink-primrose/image_06734.jpg      102 classes, 8,189 images

The files come from torchvision's downloader and are copied byte for byte; names and numbers of the classes are the
authors'.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))  # where this script is imported by its path
from recipe import HINT, Card, Recipe, RecipeError, copy_all, fetched, parser, run, slug

TITLE = "Flowers-102"
DATA = Path("flowers-102")  # below the folder that torchvision is given
SIDES = {"train": "trnid", "val": "valid", "test": "tstid"}  # as setid.mat names them

CARD = Card(
    title="Flowers-102, flowers of Great Britain",
    about="Photographs of flowers gathered from the web and taken by the authors, 500 pixels on the shorter edge, "
    "JPEG.",
    task="the kind of flower, 102 classes of 40 to 258 images; the number is that of the authors.",
    sides="the authors' own: 10 images of each class to train and 10 to validate, the rest to test.",
    source="`torchvision.datasets.Flowers102`, copied byte for byte by `datasets/flowers102.py`.",
    licence="none comes with the files; the photographs are their owners'. For research, and not to be passed on.",
    published="72.8 % (mean over the classes) by an SVM on four kinds of features (Nilsback and Zisserman 2008).",
    cite="Nilsback, Zisserman, Automated flower classification over a large number of classes, ICVGIP 2008, "
    "doi 10.1109/ICVGIP.2008.47.",
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
            counts = copy_all(list(_images(root / DATA)), folder, hint=HINT)
        CARD.write(folder, counts)
        return counts

    return Recipe("flowers102", {}).build(out, write)


def fetch(root: Path) -> None:
    """Let torchvision download photographs, labels and sides into `root`, about 350 MB."""
    from torchvision.datasets import Flowers102

    Flowers102(root, download=True)


def class_names() -> tuple[str, ...]:
    """Folder names of the 102 classes, label 1 first."""
    from torchvision.datasets import Flowers102

    return tuple(f"{number:03d}-{slug(name)}" for number, name in enumerate(Flowers102.classes, 1))


def _images(data: Path) -> Iterator[tuple[Path, str]]:
    """(file, place in the folder); labels and sides are Matlab tables, images counted from 1."""
    from scipy.io import loadmat

    names = dict(enumerate(class_names(), 1))
    try:
        labels = loadmat(data / "imagelabels.mat")["labels"].ravel().tolist()
        numbers = loadmat(data / "setid.mat")
        chosen = [(side, number) for side, key in SIDES.items() for number in numbers[key].ravel().tolist()]
        named = dict(enumerate((names[label] for label in labels), 1))
        places = [(side, number, named[number]) for side, number in chosen]
    except Exception as error:  # scipy raises what it likes on a damaged table
        raise RecipeError(f"{data}: its two tables (*.mat) cannot be read ({error})\nhint: {HINT}") from error
    for side, number, label in places:
        file = f"image_{number:05d}.jpg"
        yield data / "jpg" / file, f"{side}/{label}/{file}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the folder is there in the end, 2 when it cannot be built."""
    args = parser("Write the Oxford flowers as a labelled folder.", "flowers102").parse_args(argv)
    return run(lambda: build(args.out, source=args.source, download=args.download), args.out)


if __name__ == "__main__":
    sys.exit(main())
