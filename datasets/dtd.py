"""Write the describable textures as a labelled folder: `python datasets/dtd.py --download`.

    datasets/dtd/{train,val,test}/banded/banded_0002.jpg      47 classes of 120 photographs, 40 on each side

The files come from torchvision's downloader and are copied byte for byte; `--partition` takes another of the ten
published divisions.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

sys.path.append(str(Path(__file__).resolve().parent))  # where this script is imported by its path
from recipe import HINT, Card, Recipe, RecipeError, copy_all, fetched, parser, run

TITLE = "DTD"
DATA = Path("dtd/dtd")  # below the folder that torchvision is given
SIDES = ("train", "val", "test")


def build(out: Path, *, partition: int = 1, source: Path | None = None, download: bool = False) -> bool:
    """Write the folder; False when it is there already, with this partition.

    Args:
        out: the folder.
        partition: which of the ten published divisions, 1 to 10.
        source: what torchvision was given as `root`; where downloads are kept.
        download: whether the network may be asked.

    Raises:
        RecipeError: there are no files, some are missing, the download failed, or `out` holds something else.
    """

    def write(folder: Path) -> Counter[str]:
        with fetched(TITLE, fetch, out=out, source=source, download=download) as root:
            files = [item for side in SIDES for item in _side(root / DATA, side, partition)]
            counts = copy_all(files, folder, hint=HINT)
        _card(partition).write(folder, counts)
        return counts

    return Recipe("dtd", {"partition": partition}).build(out, write)


def fetch(root: Path) -> None:
    """Let torchvision download the archive into `root`, about 630 MB."""
    from torchvision.datasets import DTD

    DTD(root, download=True)


def _side(data: Path, side: str, partition: int) -> Iterator[tuple[Path, str]]:
    """(file, place in the folder), as the list of the side names them."""
    table = data / "labels" / f"{side}{partition}.txt"
    try:
        lines = table.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{table}: cannot be read ({error})\nhint: {HINT}") from error
    for line in lines:
        place = PurePosixPath(line)
        if len(place.parts) != 2 or not {"/", ".."}.isdisjoint(place.parts):
            raise RecipeError(f"{table}: '{line}', expected class/file\nhint: {HINT}")
        yield data / "images" / place, f"{side}/{place}"


def _card(partition: int) -> Card:
    return Card(
        title="DTD, describable textures",
        about="Photographs of textures gathered from the web, 300 to 640 pixels wide, JPEG.",
        task="the word that people chose for the texture, 47 classes of 120 images.",
        sides=f"published division {partition} of 10, 40 images of each class on each side. Figures in the literature "
        "are means over all ten: `--partition`.",
        source="`torchvision.datasets.DTD` (release 1.0.1), copied byte for byte by `datasets/dtd.py`.",
        licence="made available to the computer vision community for research; the photographs are their owners'. Not "
        "for other use, and not to be passed on.",
        cite="Cimpoi, Maji, Kokkinos, Mohamed, Vedaldi, Describing textures in the wild, CVPR 2014, "
        "doi 10.1109/CVPR.2014.461.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the folder is there in the end, 2 when it cannot be built."""
    arguments = parser("Write the describable textures as a labelled folder.", "dtd")
    arguments.add_argument("--partition", type=int, default=1, choices=range(1, 11), metavar="1..10")
    args = arguments.parse_args(argv)
    return run(lambda: build(args.out, partition=args.partition, source=args.source, download=args.download), args.out)


if __name__ == "__main__":
    sys.exit(main())
