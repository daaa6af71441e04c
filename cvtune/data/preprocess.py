"""From the camera's frame to the network's pixels: one ONNX graph that fills the training cache and runs on the line.

8-bit frames stay in uint8, because onnxruntime's uint8 resize is what both sides compute; a float resize flips
decisions (DESIGN, "One preprocessing"). Deep frames, 16 bits or float, are resized as float32 on both sides alike, and
keep their own values: which of them mean black and white, the window, is applied behind the resize by
`models.normalize`, so that a cache can be filled before the window is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from cvtune_edge.decode import ReadOptions, read_image
from onnx import helper

from cvtune.data.nodes import Nodes
from cvtune.errors import ConfigError, ImageError

OPSET: Final = 20
IR_VERSION: Final = 10  # the newest that every onnxruntime >= 1.18 loads

Box = tuple[int, int, int, int]
Window = tuple[float, float]
PixelKind = Literal["uint8", "uint16", "float32"]


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """What happens to a frame before the network sees it.

    Args:
        size: side S of the network's square input, pixels.
        resize: `stretch` the whole frame to the square, `pad` it keeping its shape, or `crop` its central square.
        roi: x, y, width, height in pixels of the frame; None looks at all of it.
        mask: uint8 or bool [H, W] of the frame's size, zero where nothing is to be looked at.
        interpolation: `linear` or `cubic`, both antialiased.
        mean: of the weights, per channel, for values in 0..1; the network's graph applies it.
        std: likewise.
        pixels: what the frames are read as, and what comes out of :func:`frame_graph` before it is stored.
        window: of deep pixels, the values that the network sees as black and as white; None while it is not known yet,
            which is enough to fill the cache.
        background: R, G, B in 0..255 that transparent pixels are laid over.

    Raises:
        ConfigError: a size, roi, mask or window that makes no sense; all problems at once.
    """

    size: int
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    roi: Box | None = None
    mask: npt.NDArray[Any] | None = None
    interpolation: Literal["linear", "cubic"] = "cubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixels: PixelKind = "uint8"
    window: Window | None = None
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        problems = [*self._choice_problems(), *self._value_problems(), *self._place_problems()]
        if problems:
            raise ConfigError("\n".join(problems), hint="see [image] in configs/default.toml")

    def _choice_problems(self) -> list[str]:
        checks = {
            f"size {self.size}: expected at least 1 pixel": self.size >= 1,
            f"resize '{self.resize}': expected stretch, pad or crop": self.resize in ("stretch", "pad", "crop"),
            f"interpolation '{self.interpolation}': expected linear or cubic": self.interpolation in _MODES,
            f"std {self.std}: expected three numbers above 0": len(self.std) == 3 and min(self.std) > 0,
            f"mean {self.mean}: expected three numbers": len(self.mean) == 3,
        }
        return [problem for problem, fine in checks.items() if not fine]

    def _value_problems(self) -> list[str]:
        problems = []
        if self.pixels not in get_args(PixelKind):
            problems.append(f"pixels '{self.pixels}': expected uint8, uint16 or float32")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            problems.append(f"background {self.background}: expected three numbers from 0 to 255")
        if self.window is None:
            return problems
        if self.pixels == "uint8":
            problems.append(f"window {self.window}: 8-bit images have none; --pixels uint16 reads them deep")
        if not is_window(self.window):
            problems.append(f"window {self.window}: expected two numbers, the first below the second")
        return problems

    def _place_problems(self) -> list[str]:
        problems: list[str] = []
        if self.roi is not None and (len(self.roi) != 4 or min(self.roi[:2]) < 0 or min(self.roi[2:]) < 1):
            return [f"roi {self.roi}: expected x,y,width,height with x, y at least 0 and width, height at least 1"]
        if self.mask is None:
            return problems
        if self.mask.ndim != 2:
            return [f"mask of shape {self.mask.shape}: expected [H, W]"]
        height, width = self.mask.shape
        if self.roi is not None and not _fits(self.roi, height, width):
            problems.append(f"roi {_text(self.roi)} reaches beyond the mask, which is {width} x {height} pixels")
        elif self.region is None:
            problems.append("the mask is black everywhere inside the region: nothing is left to look at")
        return problems

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(H, W) that every frame must have, where a mask asks for it."""
        return None if self.mask is None else (self.mask.shape[0], self.mask.shape[1])

    @property
    def least_frame(self) -> tuple[int, int]:
        """(H, W) of the smallest frame that can be used."""
        x, y, width, height = self.roi or (0, 0, 1, 1)
        return self.frame_size or (y + height, x + width)

    @property
    def reading(self) -> ReadOptions:
        """How files are decoded to become frames for the graph."""
        return ReadOptions(pixels=self.pixels, background=self.background)

    @property
    def deep(self) -> bool:
        """Whether pixels have more than 8 bits, and so a window."""
        return self.pixels != "uint8"

    @property
    def region(self) -> Box | None:
        """x, y, width, height of what is cut out: the roi, narrowed to the mask's bounding box; None is everything."""
        if self.mask is None:
            return self.roi
        x0, y0, width, height = self.roi or (0, 0, self.mask.shape[1], self.mask.shape[0])
        ys, xs = np.nonzero(self.mask[y0 : y0 + height, x0 : x0 + width])
        if not len(ys):
            return None
        top, left = int(ys.min()), int(xs.min())
        return x0 + left, y0 + top, int(xs.max()) - left + 1, int(ys.max()) - top + 1

    def misfit(self, height: int, width: int) -> str | None:
        """Why a frame of this size cannot be used, or None; without it onnxruntime would clip the region silently."""
        if self.frame_size is not None and self.frame_size != (height, width):
            return f"{width} x {height} pixels, the mask is {self.frame_size[1]} x {self.frame_size[0]}"
        if self.roi is not None and not _fits(self.roi, height, width):
            return f"{width} x {height} pixels, too small for the roi {_text(self.roi)}"
        return None


def is_window(window: tuple[float, ...]) -> bool:
    """Whether these are a black and a white value that float32, the network's numbers, can tell apart."""
    with np.errstate(over="ignore"):  # becomes infinite
        values = np.array(window, np.float32)
    return values.shape == (2,) and bool(np.isfinite(values).all()) and bool(values[0] < values[1])


def load_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Read a mask image: 1 where it is white (128 and above, mean of the channels), 0 where it is black or transparent.

    Returns:
        uint8 [H, W] of zeros and ones.

    Raises:
        ConfigError: the file is missing, no image, or black everywhere.
    """
    try:
        # on black: white painted on nothing shows that alone
        pixels: npt.NDArray[np.uint8] = read_image(path, ReadOptions(background=(0, 0, 0))).pixels
    except (ImageError, OSError) as error:
        reason = error.message if isinstance(error, ImageError) else f"{path}: {error.strerror or error}"
        raise ConfigError(f"mask {reason}", hint="expected an image of the frame's size, white where to look") from None
    mask: npt.NDArray[np.uint8] = (pixels.mean(axis=2) >= 128).astype(np.uint8)
    if not mask.any():
        raise ConfigError(
            f"mask {path}: black everywhere, nothing is left to look at", hint="paint white what is to be looked at"
        )
    return mask


def small_things_note(median_width: float, size: int) -> str | None:
    """What becomes of a small defect, in words, when frames are at least twice as wide as the network's input.

    Args:
        median_width: of the frames, or of the roi, in pixels.
        size: side of the network's input in pixels.
    """
    if median_width < 2 * size:
        return None
    pixels = f"{size / 100:.1f}".removesuffix(".0")
    return (
        f"the images are {median_width:.0f} px wide: a defect of 1 % of the width is {pixels} px at {size} "
        f"(--size or --roi to see more of it)"
    )


def frame_graph(pre: Preprocessing) -> onnx.ModelProto:
    """The graph `image` [N, H, W, 3] RGB -> `pixels` [N, 3, S, S].

    | `pre.pixels` | image | pixels |
    | --- | --- | --- |
    | uint8 | uint8 | uint8 |
    | uint16 | uint16 | float32 holding whole numbers 0..65535: a cache keeps them as uint16, exactly |
    | float32 | float32 | float32 |

    All names but those two start with `frame_`, so that it can be joined with a network's graph. It does not depend on
    `pre.window`.

    What a mask hides is 0, and `pad` fills with the weights' mean grey: after normalisation that is about zero, what
    convolutions pad with themselves. A deep frame has no black and no grey before its window is known, so both are the
    lowest value that is looked at in that very frame: a constant would stretch the window that is measured later.
    """
    build = Nodes("frame")
    name = _cut(build, pre, "image")
    name = build("Transpose", [name], perm=[0, 3, 1, 2])  # [N, 3, H, W]: the layout that resizes uint8 antialiased
    name = {"stretch": _stretch, "pad": _pad, "crop": _crop}[pre.resize](build, pre, name)
    build.node("Identity", [name], "pixels")
    taken, given = _TYPES[pre.pixels]
    image = helper.make_tensor_value_info("image", taken, ["N", "H", "W", 3])
    pixels = helper.make_tensor_value_info("pixels", given, ["N", 3, pre.size, pre.size])
    graph = helper.make_graph(build.nodes, "frame", [image], [pixels], build.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "cvtune"
    onnx.checker.check_model(model)
    return model


_TYPES: Final[Mapping[str, tuple[int, int]]] = {
    "uint8": (onnx.TensorProto.UINT8, onnx.TensorProto.UINT8),
    "uint16": (onnx.TensorProto.UINT16, onnx.TensorProto.FLOAT),
    "float32": (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT),
}

_MODES: Final[Mapping[str, dict[str, Any]]] = {
    "linear": {"mode": "linear"},
    "cubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
}


def _cut(build: Nodes, pre: Preprocessing, name: str) -> str:
    """The region, as float32 where the frame is deep."""
    if pre.region is not None:
        x, y, width, height = pre.region
        name = build("Slice", [name, build.ints(y, x), build.ints(y + height, x + width), build.ints(1, 2)])
    if pre.pixels == "uint16":  # onnxruntime 1.31 cuts and turns uint16, but has no Where, Resize or Pad for it
        name = build("Cast", [name], to=onnx.TensorProto.FLOAT)
    if pre.region is None or pre.mask is None:
        return name
    inside = build.constant((pre.mask[y : y + height, x : x + width] != 0)[None, :, :, None])  # [1, H, W, 1]
    if not pre.deep:
        return build("Where", [inside, name, build.constant(np.zeros(1, np.uint8))])
    hidden = build("Where", [inside, name, build.constant(np.full(1, _HIGHEST))])
    return build("Where", [inside, name, _lowest(build, hidden)])


_HIGHEST: Final = np.finfo(np.float32).max


def _lowest(build: Nodes, name: str) -> str:
    """Of each image, [N, 1, 1, 1]; a minimum is the same in whatever order threads take it, which no mean is."""
    return build("ReduceMin", [name, build.ints(1, 2, 3)], keepdims=1)


def _resize(build: Nodes, pre: Preprocessing, name: str, height_width: str) -> str:
    # Four sizes instead of axes=[2, 3]: with axes, linear uint8 fails behind onnxruntime's transpose optimizer ("sizes
    # (0) does not match the number of axes").
    sizes = build("Concat", [build.shape(name, 0, 2), height_width], axis=0)
    # exclude_outside: without it the border is replicated, and pixels there differ from Pillow's by up to 18 levels;
    # with it no pixel differs by more than 1, and pretrained weights saw Pillow's.
    options = {"coordinate_transformation_mode": "half_pixel", "antialias": 1, "exclude_outside": 1}
    name = build("Resize", [name, "", "", sizes], **options, **_MODES[pre.interpolation])
    if pre.pixels != "uint16":
        return name
    bounds = [build.constant(np.array(value, np.float32)) for value in (0, 65535)]
    return build("Clip", [build("Round", [name]), *bounds])  # cubic overshoots at edges


def _stretch(build: Nodes, pre: Preprocessing, name: str) -> str:
    return _resize(build, pre, name, build.ints(pre.size, pre.size))


def _pad(build: Nodes, pre: Preprocessing, name: str) -> str:
    shape = build.shape(name, 2, 4)
    longest = build("ReduceMax", [shape], keepdims=1)
    doubled = build("Add", [build("Mul", [shape, build.ints(2 * pre.size)]), longest])
    scaled = build("Div", [doubled, build("Mul", [longest, build.ints(2)])])  # integers: size * side / longest, rounded
    scaled = build("Max", [scaled, build.ints(1)])
    name = _resize(build, pre, name, scaled)
    missing = build("Sub", [build.ints(pre.size, pre.size), scaled])
    before = build("Div", [missing, build.ints(2)])
    none = build.ints(0, 0)
    pads = build("Concat", [none, before, none, build("Sub", [missing, before])], axis=0)
    if not pre.deep:
        grey = np.array(round(255 * sum(pre.mean) / 3), np.uint8)
        return build("Pad", [name, pads, build.constant(grey)], mode="constant")
    padded = build("Pad", [name, pads, build.constant(np.array(-_HIGHEST))], mode="constant")
    return build("Max", [padded, _lowest(build, name)])


def _crop(build: Nodes, pre: Preprocessing, name: str) -> str:
    shape = build.shape(name, 2, 4)
    shortest = build("ReduceMin", [shape], keepdims=1)
    start = build("Div", [build("Sub", [shape, shortest]), build.ints(2)])
    square = build("Slice", [name, start, build("Add", [start, shortest]), build.ints(2, 3)])
    return _stretch(build, pre, square)  # cut before the resize: a long thin frame never grows to a huge one


def _fits(roi: Box, height: int, width: int) -> bool:
    return roi[0] + roi[2] <= width and roi[1] + roi[3] <= height


def _text(roi: Box) -> str:
    return ",".join(str(value) for value in roi)
