"""Write a set of MedMNIST+ as a labelled folder: `python datasets/medmnist_plus.py --name pneumoniamnist --download`.

    datasets/pneumoniamnist-224/{train,val,test}/1-pneumonia/00017.png
    datasets/chestmnist-224/images/train/00017.png, and labels.csv: several findings an image, so a table instead

The arrays come from the downloader of the package `medmnist` (not named like it: a script `medmnist.py` would hide it).
Pixels are written as PNG, so none of them changes. They are read one image at a time: PathMNIST alone has 16 GB.
"""

from __future__ import annotations

import csv
import importlib
import io
import math
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).resolve().parent))  # where this script is imported by its path
from recipe import HERE, Card, Recipe, RecipeError, fetched, parser, run, slug, write_text

PACKAGE = "medmnist"
TABLE = "labels.csv"
SIDES = ("train", "val", "test")
SIZES = (28, 64, 128, 224)
HINT = "remove the file and add --download, or name another folder with --source"
NAMES = (
    *("bloodmnist", "breastmnist", "chestmnist", "dermamnist", "octmnist", "organamnist", "organcmnist"),
    *("organsmnist", "pathmnist", "pneumoniamnist", "retinamnist", "tissuemnist"),
)


@dataclass(frozen=True)
class Set:
    """One set at one size, as the package describes it.

    Attributes:
        name: `pneumoniamnist`.
        size: of the images, in pixels.
        info: the package's own record of it: labels, task, counts, licence.
    """

    name: str
    size: int
    info: Mapping[str, Any]

    @property
    def file(self) -> str:
        """What the downloader calls it."""
        return f"{self.name}.npz" if self.size == 28 else f"{self.name}_{self.size}.npz"

    @property
    def multi(self) -> bool:
        """Whether an image may show several findings."""
        return str(self.info["task"]).startswith("multi-label")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, class 0 first; with their number where an image has one."""
        names = [str(self.info["label"][str(number)]) for number in range(len(self.info["label"]))]
        if self.multi:
            return tuple(slug(name) for name in names)
        return tuple(slug(name) if name == str(i) else f"{i}-{slug(name)}" for i, name in enumerate(names))

    def download(self, root: Path) -> None:
        """Let the package download the arrays into `root`."""
        kind = getattr(importlib.import_module(PACKAGE), self.info["python_class"], None)
        if kind is None:  # it swallows what went wrong when it was imported
            raise RecipeError(f"the package {PACKAGE} does not load\nhint: python -m pip install --upgrade {PACKAGE}")
        samples = self.info["n_samples"]
        smallest = min(SIDES, key=lambda side: int(samples[side]))  # it reads the side it is asked for into memory
        kind(split=smallest, download=True, root=str(root), size=self.size)


def describe(name: str, size: int) -> Set:
    """A set by its name.

    Raises:
        RecipeError: the package is not installed.
    """
    try:
        info = importlib.import_module(f"{PACKAGE}.info").INFO[name]
    except ImportError as error:
        raise RecipeError(f"the package {PACKAGE} is not installed\nhint: python -m pip install {PACKAGE}") from error
    return Set(name, size, info)


def build(out: Path, name: str, *, size: int = 224, source: Path | None = None, download: bool = False) -> bool:
    """Write the folder; False when it is there already, with this set and size.

    Args:
        out: the folder.
        name: one of :data:`NAMES`.
        size: one of :data:`SIZES`.
        source: the package's `root`, with the .npz file; where downloads are kept.
        download: whether the network may be asked.

    Raises:
        RecipeError: the package is missing, there is no file or a damaged one, the download failed, or `out` holds
            something else.
    """

    def write(folder: Path) -> Counter[str]:
        chosen = describe(name, size)
        with fetched(name, chosen.download, out=out, source=source, download=download) as root:
            counts = _write(chosen, root / chosen.file, folder)
        _card(chosen).write(folder, counts)
        return counts

    return Recipe("medmnist_plus", {"name": name, "size": size}).build(out, write)


def _write(chosen: Set, file: Path, folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    table: list[tuple[str, str, str]] = []
    try:
        for side in SIDES:
            for number, (pixels, row) in enumerate(_read(chosen, file, side)):
                name = f"{number:05d}.png"
                place = f"images/{side}" if chosen.multi else f"{side}/{chosen.labels[int(row[0])]}"
                (folder / place).mkdir(parents=True, exist_ok=True)
                _write_png(folder / place / name, pixels)
                counts[place] += 1
                table.append((f"{place}/{name}", ";".join(_findings(chosen, row)), side))
    except (OSError, KeyError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise RecipeError(f"{file}: cannot be read ({error})\nhint: {HINT}") from error
    if chosen.multi:
        _write_table(folder / TABLE, table)
    return counts


def _read(chosen: Set, file: Path, side: str) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """(uint8 [H, W] or [H, W, 3], int64 [1] or [findings]) of each image of a side."""
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:  # numpy leaves a bad file open
        labels = arrays[f"{side}_labels"].astype(np.int64)
    width = len(chosen.labels) if chosen.multi else 1
    expected = chosen.info["n_samples"][side]
    if labels.shape != (expected, width):
        raise ValueError(f"labels of {side} have the shape {labels.shape}, expected {(expected, width)}")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(chosen.labels):
        raise ValueError(f"labels of {side} are not from 0 to {len(chosen.labels) - 1}")
    yield from zip(_rows(file, f"{side}_images.npy", (expected, chosen.size, chosen.size)), labels, strict=True)


def _rows(file: Path, member: str, expected: tuple[int, ...]) -> Iterator[npt.NDArray[np.uint8]]:
    """The rows of one array of an .npz file, one after the other; `numpy.load` would unpack all of it at once."""
    with zipfile.ZipFile(file) as archive, archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(stream)
        if shape[:3] != expected or shape[3:] not in ((), (3,)) or by_columns or dtype != np.uint8:
            raise ValueError(f"{member} is {dtype} {shape}, expected uint8 {expected}, grey or colour")
        for _ in range(shape[0]):
            data = stream.read(math.prod(shape[1:]))
            if len(data) < math.prod(shape[1:]):
                raise ValueError(f"{member} ends too early")
            yield np.frombuffer(data, np.uint8).reshape(shape[1:])


def _findings(chosen: Set, row: npt.NDArray[np.int64]) -> list[str]:
    if not chosen.multi:
        return [chosen.labels[int(row[0])]]
    return [name for name, present in zip(chosen.labels, row, strict=True) if present]


def _write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    ordered = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", ordered)
    assert done
    path.write_bytes(data.tobytes())


def _write_table(path: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "labels", "side"))
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _card(chosen: Set) -> Card:
    names = ", ".join(f"`{name}`" for name in chosen.labels)
    several = f"any number of {len(chosen.labels)} findings, in `{TABLE}`: `cvtune fit` takes that file"
    return Card(
        title=f"{chosen.info['python_class']}, {chosen.size} x {chosen.size} pixels",
        about=" ".join(str(chosen.info.get("description", "")).split()) or "Biomedical images.",
        task=f"{several if chosen.multi else f'one of {len(chosen.labels)} classes'}: {names}.",
        sides="those of MedMNIST. Whether images of one patient are on two sides depends on the set it was made from.",
        source=f"`{chosen.file}` by the downloader of the package `{PACKAGE}`, written as PNG by "
        "`datasets/medmnist_plus.py`, pixel for pixel.",
        licence=f"{chosen.info['license']}. Not for clinical use. Asks to cite the source of the images too: the "
        "package's `info.py` names it.",
        cite="Yang et al., MedMNIST v2, a large-scale lightweight benchmark for 2D and 3D biomedical image "
        "classification, Scientific Data 10, 41 (2023), doi 10.1038/s41597-022-01721-8; MedMNIST+, "
        "doi 10.5281/zenodo.10519652.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the folder is there in the end, 2 when it cannot be built."""
    arguments = parser("Write a set of MedMNIST+ as a labelled folder.")
    arguments.add_argument("--name", required=True, choices=NAMES)
    arguments.add_argument("--size", type=int, default=224, choices=SIZES, help="width and height in pixels")
    args = arguments.parse_args(argv)
    out = args.out or HERE / f"{args.name}-{args.size}"
    return run(lambda: build(out, args.name, size=args.size, source=args.source, download=args.download), out)


if __name__ == "__main__":
    sys.exit(main())
