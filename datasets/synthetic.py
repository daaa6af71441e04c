"""Draw machined parts with planted defects: `python datasets/synthetic.py FOLDER --count 100 --size 256 --seed 0`.

    FOLDER/{dent,ok,scratch,stain}/p000012-1.png
    FOLDER/boxes.csv                                 with --boxes: where each defect is, in pixels

A turned disc with a bore under side light, a little off its place each time; a scratch is a fine bright line, a dent a
round hollow with a lit edge, a stain a soft dark patch. With `--classes ... missing-hole` every disc has a ring of
holes, and parts of that class lack one of them. The defect is the only thing that differs between the classes.
Each picture depends on (seed, class, part, view) and on whether parts have holes: more parts or another order change
none of the others. For tests and for scale; a figure reached on drawn parts says nothing about real ones.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (H, W), grey
Picture = npt.NDArray[np.float32]  # (H, W), grey, 0 to 1
Disc = tuple[float, float, float]  # x, y and radius in pixels
Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # x, y, width, height in pixels
Painter = Callable[[Picture, Disc, np.random.Generator], None]

CLASSES = ("dent", "ok", "scratch", "stain")
MISSING = "missing-hole"
ALL_CLASSES = (*CLASSES, MISSING)  # in this order: the place is part of the seed
FORMATS = ("png", "jpg")
BOXES = "boxes.csv"
BOXES_HEADER = ("path", "label", "x", "y", "width", "height")
DARK = 0.12  # of what is behind the part

_HOLES = 6
_HOLES_SEED = 2**32 - 1  # in the place of the view
_VISIBLE = 0.02  # five of 255 grey levels, above the sensor's noise: what a box goes around
_QUALITY = 95  # of JPEG


@dataclass(frozen=True)
class Style:
    """How parts are drawn.

    Attributes:
        size: width and height in pixels, one number for both; each at least 16.
        seed: another seed draws other parts.
        holes: a ring of holes in every part; parts of the class `missing-hole` always have one.

    Raises:
        ValueError: a size below 16.
    """

    size: int | Size = 128
    seed: int = 0
    holes: bool = False

    def __post_init__(self) -> None:
        if min(self.shape) < 16:
            raise ValueError(f"size is at least 16; got {self.size}")

    @property
    def shape(self) -> Size:
        """Height and width, as arrays have them."""
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[1], self.size[0])


def generate(
    folder: Path,
    *,
    per_class: int = 50,
    size: int | Size = 128,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    views: int = 1,
    boxes: bool = False,
    kind: Literal["png", "jpg"] = "png",
    workers: int = 1,
) -> int:
    r"""Write `per_class` parts of each class, `views` pictures of each part; returns the number of files.

    Args:
        folder: created when missing; files of the same names are written over.
        per_class: parts of each class.
        size: width and height in pixels, or one number for both; at least 16.
        seed: another seed draws other parts.
        classes: some of :data:`ALL_CLASSES`; with `missing-hole` the parts of all classes have holes.
        views: pictures of the same part, as from several cameras; `--group-by "(p\d+)-"` keeps them together.
        boxes: write `boxes.csv`, a row a picture (path, label, x, y, width, height in pixels, empty where there is no
            defect), beside the rows of other pictures that are in it already. `cvtune fit FOLDER/boxes.csv` takes it.
        kind: PNG, or JPEG of quality 95.
        workers: threads; nearly all of the work leaves Python's lock.

    Raises:
        ValueError: an unknown class or format, or a size below 16.
    """
    unknown = sorted(set(classes) - set(ALL_CLASSES))
    if unknown or kind not in FORMATS:
        raise ValueError(f"classes are some of {', '.join(ALL_CLASSES)}, formats png and jpg; got {unknown}, {kind}")
    style = Style(size, seed, holes=MISSING in classes)

    def make(job: tuple[str, int, int]) -> tuple[str, ...]:
        label, part, view = job
        path = f"{label}/{_part_name(label, part)}-{view + 1}.{kind}"
        pixels, box = render(label, part, view, style=style)
        _write_image(folder / path, pixels)
        return (path, label, *(str(number) for number in box or ("",) * 4))

    for label in classes:
        (folder / label).mkdir(parents=True, exist_ok=True)
    jobs = [(label, part, view) for label in classes for part in range(per_class) for view in range(views)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        rows = list(pool.map(make, jobs))
    if boxes:
        _write_boxes(folder / BOXES, rows)
    return len(rows)


def draw(label: str, part: int, view: int = 0, *, size: int | Size = 128, seed: int = 0, holes: bool = False) -> Pixels:
    """One picture, grey, `uint8 [height, width]`; see :func:`render`."""
    return render(label, part, view, style=Style(size, seed, holes))[0]


def render(
    label: str, part: int, view: int = 0, *, style: Style = Style(), defect: bool = True
) -> tuple[Pixels, Box | None]:
    """One picture, `uint8 [height, width]`, and the box around its defect.

    The surface and the defect follow from the part; place, light and sensor noise from the view. The box holds what the
    defect changes by 2 % of the range or more, before light and noise.

    Args:
        label: one of :data:`ALL_CLASSES`.
        part: number of the part.
        view: number of the picture of it.
        style: how parts are drawn.
        defect: without it, the picture is what the same part would be if it were good.
    """
    seeds = (style.seed, ALL_CLASSES.index(label), part)
    part_rng, view_rng = np.random.default_rng(seeds), np.random.default_rng((*seeds, view + 1))
    disc = _place(style.shape, view_rng)
    good = _surface(style.shape, disc, part_rng)
    picture = good.copy()
    if defect:
        _PAINTERS[label](picture, disc, part_rng)
    if style.holes or label == MISSING:
        holes = _ring(disc, np.random.default_rng((*seeds, _HOLES_SEED)))
        _drill(good, holes)
        _drill(picture, holes[1:] if defect and label == MISSING else holes)
    box = _box(picture - good)
    picture *= _light(style.shape, view_rng)
    picture += view_rng.normal(0, 0.012, picture.shape).astype(np.float32)
    pixels: Pixels = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    return pixels, box


def _part_name(label: str, part: int) -> str:
    return f"p{ALL_CLASSES.index(label)}{part:05d}"


def _place(shape: Size, rng: np.random.Generator) -> Disc:
    x, y = np.array([shape[1], shape[0]]) * (0.5 + rng.uniform(-0.03, 0.03, 2))
    return float(x), float(y), min(shape) * 0.42


def _surface(shape: Size, disc: Disc, rng: np.random.Generator) -> Picture:
    x, y, radius = disc
    rows, columns = _grid(shape)
    distance = np.hypot(columns - x, rows - y)
    turning = 0.03 * np.sin(distance * rng.uniform(1.2, 1.6) + rng.uniform(0, 6.28))
    grain = cv2.GaussianBlur(rng.normal(0, 0.05, shape).astype(np.float32), (0, 0), 0.8)
    metal = 0.6 + turning + grain
    on_part = np.clip(radius - distance, 0, 1) * np.clip(distance - 0.25 * radius, 0, 1)
    surface: Picture = (DARK + (metal - DARK) * on_part).astype(np.float32)
    return surface


def _grid(shape: Size) -> tuple[Picture, Picture]:
    """Row and column of each pixel, as arrays that numpy broadcasts to [H, W]."""
    return np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)[None, :]


def _light(shape: Size, rng: np.random.Generator) -> Picture:
    slope = rng.uniform(-0.15, 0.15, 2)
    down, across = (np.linspace(-0.5, 0.5, length) for length in shape)
    light: Picture = rng.uniform(0.9, 1.1) * (1 + slope[0] * down[:, None] + slope[1] * across[None, :])
    return light.astype(np.float32)


def _spot(disc: Disc, rng: np.random.Generator) -> tuple[float, float]:
    x, y, radius = disc
    angle, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.45, 0.8)
    return x + reach * float(np.cos(angle)), y + reach * float(np.sin(angle))


def _blob(picture: Picture, centre: tuple[float, float], width: float) -> Picture:
    rows, columns = _grid((picture.shape[0], picture.shape[1]))
    squares = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2
    blob: Picture = np.exp(-squares / (2 * width * width)).astype(np.float32)
    return blob


def _paint_nothing(picture: Picture, disc: Disc, rng: np.random.Generator) -> None:
    del picture, disc, rng


def _paint_scratch(picture: Picture, disc: Disc, rng: np.random.Generator) -> None:
    x, y = _spot(disc, rng)
    angle, half = rng.uniform(0, np.pi), disc[2] * rng.uniform(0.15, 0.3)
    step = np.array([np.cos(angle), np.sin(angle)]) * half
    line = np.zeros_like(picture)
    ends = [(round(16 * float(x + sign * step[0])), round(16 * float(y + sign * step[1]))) for sign in (-1, 1)]
    cv2.line(line, ends[0], ends[1], 1.0, max(1, round(min(picture.shape) / 100)), cv2.LINE_8, 4)
    picture += rng.uniform(0.25, 0.4) * cv2.GaussianBlur(line, (0, 0), max(0.5, min(picture.shape) / 250))


def _paint_dent(picture: Picture, disc: Disc, rng: np.random.Generator) -> None:
    centre, width = _spot(disc, rng), disc[2] * rng.uniform(0.06, 0.1)
    lit = (centre[0] + 0.8 * width, centre[1] + 0.8 * width)
    picture += 0.3 * _blob(picture, lit, width) - 0.4 * _blob(picture, centre, width)


def _paint_stain(picture: Picture, disc: Disc, rng: np.random.Generator) -> None:
    centre, width = _spot(disc, rng), disc[2] * rng.uniform(0.08, 0.14)
    for _ in range(4):
        x, y = rng.normal(0, width, 2)
        picture -= 0.09 * _blob(picture, (centre[0] + x, centre[1] + y), width)


def _ring(disc: Disc, rng: np.random.Generator) -> list[Disc]:
    x, y, radius = disc
    angles = rng.uniform(0, 2 * np.pi) + np.arange(_HOLES) * 2 * np.pi / _HOLES
    reach = 0.62 * radius
    return [(x + reach * float(np.cos(a)), y + reach * float(np.sin(a)), 0.075 * radius) for a in angles]


def _drill(picture: Picture, holes: Iterable[Disc]) -> None:
    rows, columns = _grid((picture.shape[0], picture.shape[1]))
    for x, y, radius in holes:
        near = np.s_[_around(y, radius), _around(x, radius)]
        depth = np.clip(radius + 0.5 - np.hypot(columns[:, near[1]] - x, rows[near[0]] - y), 0, 1)
        picture[near] += (DARK - picture[near]) * depth.astype(np.float32)


def _around(centre: float, radius: float) -> slice:
    return slice(max(0, int(centre - radius - 1)), int(centre + radius + 3))


def _box(change: Picture) -> Box | None:
    visible = np.abs(change) >= _VISIBLE
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1


_PAINTERS: dict[str, Painter] = {
    "dent": _paint_dent,
    MISSING: _paint_nothing,  # its defect is what is not drilled
    "ok": _paint_nothing,
    "scratch": _paint_scratch,
    "stain": _paint_stain,
}


def _write_image(path: Path, pixels: Pixels) -> None:
    # imencode, not imwrite: on Windows imwrite cannot write to a path that is not ASCII.
    done, data = cv2.imencode(
        path.suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if path.suffix == ".jpg" else []
    )
    assert done
    path.write_bytes(data.tobytes())


def _write_boxes(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    kept: dict[str, Sequence[str]] = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as old:
            kept = {row[0]: row for row in list(csv.reader(old))[1:] if row}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(BOXES_HEADER)
    writer.writerows((kept | {row[0]: row for row in rows}).values())
    path.write_text(text.getvalue(), encoding="utf-8", newline="\n")


def parse_size(text: str) -> int | Size:
    """`128`, or `640x480`: width and height.

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if match is None:
        raise ValueError(f"'{text}' is no size; expected 256 or 640x480")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 when the arguments are wrong."""
    parser = argparse.ArgumentParser(description="Draw machined parts with planted defects.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=50, help="parts of each class")
    parser.add_argument("--size", type=parse_size, default=128, help="pixels, 256 or 640x480")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=1, help="pictures of each part")
    parser.add_argument("--classes", nargs="+", default=list(CLASSES), choices=ALL_CLASSES)
    parser.add_argument("--boxes", action="store_true", help="write boxes.csv: where each defect is")
    parser.add_argument("--format", default="png", choices=FORMATS)
    parser.add_argument("--workers", type=int, default=1, help="threads")
    args = parser.parse_args(argv)
    try:
        files = generate(
            args.folder,
            per_class=args.count,
            size=args.size,
            seed=args.seed,
            classes=args.classes,
            views=args.views,
            boxes=args.boxes,
            kind=args.format,
            workers=args.workers,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {files:,} images of {len(args.classes)} classes to {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
