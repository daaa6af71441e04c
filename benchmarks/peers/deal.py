"""Deals a folder's images to train, val and test by cvtune's own splitter, and writes the backbone's weights to a file.

A process of its own: its caches and the remembered sides are empty, and the comparison itself imports no torch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cvtune import steps
from cvtune.config import load_config
from cvtune.console import Console
from cvtune.data.index import DatasetIndex, write_rows
from cvtune.data.split import split_index
from cvtune.errors import CvtuneError
from cvtune.rundir import write_bytes

COLUMNS = ("path", "label", "group", "side")

Dealt = tuple[str, str, str, str]


def deal(folder: Path, *, preset: str, group_by: str | None, seed: int, images: int | None) -> list[Dealt]:
    """Path, class, group and side of each image; copies and groups on one side, sides that the folder gives kept.

    The share that cvtune calibrates with is left on train: it takes that for itself, and a peer trains on all of it.

    Args:
        folder: `class/**/image`, or train/, val/, test/ above the classes.
        preset: as for a fit.
        group_by: likewise.
        seed: of the split.
        images: about so many, the first of each class and side, for trying; all when unset.

    Raises:
        DataError: the folder cannot be used.
    """
    config = load_config(preset, None, {"seed": seed, "data.group_by": group_by})
    console = Console(quiet=True)
    index = steps.index(folder, config, console)
    if images is not None:
        index = thin(index, images)
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        weights = steps.find_weights(config)
        data = steps.read(index, config, weights, Path(scratch), console)
        seen = steps.examine(data, steps.network(config, weights, data, console), config, console)
        split = split_index(data.index, config.data, seed=seed, same=seen.same, near=seen.near)
    index = data.index
    sides = ("train" if side == "calib" else side for side in split.sides)
    rows = zip(index.images, index.label_names, sides, strict=True)
    return [(image.path, label, image.group, side) for image, label, side in rows]


def thin(index: DatasetIndex, images: int) -> DatasetIndex:
    """About so many images, evenly of each class and given side."""
    places = {(image.label, image.side) for image in index.images}
    most = max(2, images // len(places))
    seen: Counter[object] = Counter()
    kept = []
    for image in index.images:
        place = (image.label, image.side)
        seen[place] += 1
        if seen[place] <= most:
            kept.append(image)
    return replace(index, images=tuple(kept))


def write_weights(file: Path) -> None:
    """The default backbone's ImageNet weights under timm's names, its classifier included."""
    from safetensors.torch import save

    from cvtune.models.state import by_order, read_state

    config = load_config()
    info = steps.find_weights(config)
    assert info.file is not None
    state = by_order(info.backbone, read_state(info.file), source=info.source)
    write_bytes(file, save({name: value.contiguous() for name, value in state.items()}))


def write_split(file: Path, rows: Iterable[Dealt]) -> None:
    """Write them down as a table."""
    write_rows(file, COLUMNS, rows)


def main() -> int:
    """Deal one folder; 2 and a message where it cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--group-by")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--out", type=Path, required=True, help="the table")
    parser.add_argument("--weights", type=Path, required=True, help="written unless it is there")
    args = parser.parse_args()
    try:
        if not args.weights.is_file():
            write_weights(args.weights)
        rows = deal(args.folder, preset=args.preset, group_by=args.group_by, seed=args.seed, images=args.images)
    except CvtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write_split(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
