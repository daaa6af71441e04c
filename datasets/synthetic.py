"""Draw machined parts with planted defects: `python datasets/synthetic.py FOLDER --count 100 --size 256 --seed 0`.

    FOLDER/{dent,ok,scratch,stain}/p000012-1.png

A turned disc with a bore under side light, a little off its place each time; a scratch is a fine bright line, a dent a
round hollow with a lit edge, a stain a soft dark patch. The defect is the only thing that differs between the classes.
Each picture depends on (seed, class, part, view) alone: more parts or another order change none of the others. For
tests and for scale; a figure reached on drawn parts says nothing about real ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]  # (H, W), grey, 0 to 1
Painter = Callable[[Picture, tuple[float, float, float], np.random.Generator], None]

CLASSES = ("dent", "ok", "scratch", "stain")


def generate(
    folder: Path,
    *,
    per_class: int = 50,
    size: int = 128,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    views: int = 1,
) -> int:
    r"""Write `per_class` parts of each class, `views` pictures of each part; returns the number of files.

    Args:
        folder: created when missing; files of the same names are written over.
        per_class: parts of each class.
        size: width and height in pixels, at least 16.
        seed: another seed draws other parts.
        classes: some of :data:`CLASSES`.
        views: pictures of the same part, as from several cameras; `--group-by "(p\d+)-"` keeps them together.

    Raises:
        ValueError: an unknown class, or a size below 16.
    """
    unknown = sorted(set(classes) - set(CLASSES))
    if unknown or size < 16:
        raise ValueError(f"classes are some of {', '.join(CLASSES)} and size is at least 16; got {unknown}, {size}")
    for label in classes:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for part in range(per_class):
            for view in range(views):
                pixels = draw(label, part, view, size=size, seed=seed)
                _write_png(folder / label / f"{_part_name(label, part)}-{view + 1}.png", pixels)
    return per_class * views * len(classes)


def draw(label: str, part: int, view: int = 0, *, size: int = 128, seed: int = 0) -> npt.NDArray[np.uint8]:
    """One picture, grey, `uint8 [size, size]`.

    The surface and the defect follow from the part; place, light and sensor noise from the view.
    """
    which = CLASSES.index(label)
    part_rng = np.random.default_rng((seed, which, part))
    view_rng = np.random.default_rng((seed, which, part, view + 1))
    disc = _place(size, view_rng)
    picture = _surface(size, disc, part_rng)
    _PAINTERS[label](picture, disc, part_rng)
    picture *= _light(size, view_rng)
    picture += view_rng.normal(0, 0.012, picture.shape).astype(np.float32)
    pixels: npt.NDArray[np.uint8] = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    return pixels


def _part_name(label: str, part: int) -> str:
    return f"p{CLASSES.index(label)}{part:05d}"


def _place(size: int, rng: np.random.Generator) -> tuple[float, float, float]:
    x, y = size * (0.5 + rng.uniform(-0.03, 0.03, 2))
    return float(x), float(y), size * 0.42


def _surface(size: int, disc: tuple[float, float, float], rng: np.random.Generator) -> Picture:
    x, y, radius = disc
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    distance = np.hypot(columns - x, rows - y)
    turning = 0.03 * np.sin(distance * rng.uniform(1.2, 1.6) + rng.uniform(0, 6.28))
    grain = cv2.GaussianBlur(rng.normal(0, 0.05, (size, size)).astype(np.float32), (0, 0), 0.8)
    metal = 0.6 + turning + grain
    on_part = np.clip(radius - distance, 0, 1) * np.clip(distance - 0.25 * radius, 0, 1)
    surface: Picture = (0.12 + (metal - 0.12) * on_part).astype(np.float32)
    return surface


def _light(size: int, rng: np.random.Generator) -> Picture:
    slope = rng.uniform(-0.15, 0.15, 2)
    ramp = np.linspace(-0.5, 0.5, size)
    light: Picture = rng.uniform(0.9, 1.1) * (1 + slope[0] * ramp[:, None] + slope[1] * ramp[None, :])
    return light.astype(np.float32)


def _spot(disc: tuple[float, float, float], rng: np.random.Generator) -> tuple[float, float]:
    x, y, radius = disc
    angle, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.45, 0.8)
    return x + reach * float(np.cos(angle)), y + reach * float(np.sin(angle))


def _blob(picture: Picture, centre: tuple[float, float], width: float) -> Picture:
    rows, columns = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]].astype(np.float32)
    squares = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2
    blob: Picture = np.exp(-squares / (2 * width * width)).astype(np.float32)
    return blob


def _paint_nothing(picture: Picture, disc: tuple[float, float, float], rng: np.random.Generator) -> None:
    del picture, disc, rng


def _paint_scratch(picture: Picture, disc: tuple[float, float, float], rng: np.random.Generator) -> None:
    x, y = _spot(disc, rng)
    angle, half = rng.uniform(0, np.pi), disc[2] * rng.uniform(0.15, 0.3)
    step = np.array([np.cos(angle), np.sin(angle)]) * half
    line = np.zeros_like(picture)
    ends = [(round(16 * float(x + sign * step[0])), round(16 * float(y + sign * step[1]))) for sign in (-1, 1)]
    cv2.line(line, ends[0], ends[1], 1.0, max(1, round(picture.shape[0] / 100)), cv2.LINE_8, 4)
    picture += rng.uniform(0.25, 0.4) * cv2.GaussianBlur(line, (0, 0), max(0.5, picture.shape[0] / 250))


def _paint_dent(picture: Picture, disc: tuple[float, float, float], rng: np.random.Generator) -> None:
    centre, width = _spot(disc, rng), disc[2] * rng.uniform(0.06, 0.1)
    lit = (centre[0] + 0.8 * width, centre[1] + 0.8 * width)
    picture += 0.3 * _blob(picture, lit, width) - 0.4 * _blob(picture, centre, width)


def _paint_stain(picture: Picture, disc: tuple[float, float, float], rng: np.random.Generator) -> None:
    centre, width = _spot(disc, rng), disc[2] * rng.uniform(0.08, 0.14)
    for _ in range(4):
        x, y = rng.normal(0, width, 2)
        picture -= 0.09 * _blob(picture, (centre[0] + x, centre[1] + y), width)


_PAINTERS: dict[str, Painter] = {
    "dent": _paint_dent,
    "ok": _paint_nothing,
    "scratch": _paint_scratch,
    "stain": _paint_stain,
}


def _write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    # imencode, not imwrite: on Windows imwrite cannot write to a path that is not ASCII.
    done, data = cv2.imencode(".png", pixels)
    assert done
    path.write_bytes(data.tobytes())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 when the arguments are wrong."""
    parser = argparse.ArgumentParser(description="Draw machined parts with planted defects.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=50, help="parts of each class")
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=1, help="pictures of each part")
    parser.add_argument("--classes", nargs="+", default=list(CLASSES), choices=CLASSES)
    args = parser.parse_args(argv)
    files = generate(
        args.folder, per_class=args.count, size=args.size, seed=args.seed, classes=args.classes, views=args.views
    )
    print(f"wrote {files:,} images of {len(args.classes)} classes to {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
