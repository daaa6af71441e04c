from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from cvtune_edge.decode import ReadOptions
from cvtune_edge.session import open_session
from PIL import Image as Pillow

from cvtune.data.preprocess import PixelKind, Preprocessing, frame_graph, load_mask, small_things_note
from cvtune.errors import ConfigError

Pixels = npt.NDArray[Any]
Interpolation = Literal["linear", "cubic"]
DEEP: tuple[PixelKind, ...] = ("uint16", "float32")
FILTERS = {"linear": Pillow.Resampling.BILINEAR, "cubic": Pillow.Resampling.BICUBIC}


def run(pre: Preprocessing, frames: Pixels) -> Pixels:
    session = open_session(frame_graph(pre).SerializeToString(), threads=1)
    return np.asarray(session.run(None, {"image": frames})[0])


def noise(*shape: int, kind: str = "uint8") -> Pixels:
    """Over the full range; float of 0 to 65535 and some digits behind the point."""
    random = np.random.default_rng(0)
    if kind == "float32":
        return random.uniform(0, 65535, shape).astype(np.float32)
    return random.integers(0, np.iinfo(kind).max + 1, shape, dtype=kind)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("shape", [(1, 1), (25, 221), (224, 224), (31, 17)])
def test_stretch_is_pillows_antialiased_resize(
    interpolation: Interpolation, batch: int, shape: tuple[int, int]
) -> None:
    frames = noise(batch, *shape, 3)
    pixels = run(Preprocessing(64, interpolation=interpolation), frames)
    assert pixels.shape == (batch, 3, 64, 64)
    assert pixels.dtype == np.uint8
    for frame, got in zip(frames, pixels, strict=True):
        expected = np.asarray(Pillow.fromarray(frame).resize((64, 64), FILTERS[interpolation]))
        assert np.abs(got.transpose(1, 2, 0).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_large_frame(interpolation: Interpolation) -> None:
    frame = np.broadcast_to(np.linspace(0, 255, 4000).astype(np.uint8)[None, None, :, None], (1, 3000, 4000, 3))
    pixels = run(Preprocessing(224, interpolation=interpolation), np.ascontiguousarray(frame))
    assert np.abs(pixels[0, 0, 100].astype(int) - np.linspace(0, 255, 224)).max() <= 2


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("shape", [(1, 1), (25, 221), (224, 224), (31, 17)])
def test_deep_frames_are_resized_as_pillow_resizes_floats(interpolation: Interpolation, shape: tuple[int, int]) -> None:
    for kind in DEEP:
        frames = noise(2, *shape, 3, kind=kind)
        pixels = run(Preprocessing(64, interpolation=interpolation, pixels=kind), frames)
        assert (pixels.shape, pixels.dtype.name) == ((2, 3, 64, 64), "float32")
        channels = frames.astype(np.float32).transpose(0, 3, 1, 2).reshape(6, *shape)
        resized = [Pillow.fromarray(one).resize((64, 64), FILTERS[interpolation]) for one in channels]
        expected = np.stack([np.asarray(one) for one in resized]).reshape(pixels.shape)
        if kind == "uint16":
            assert np.array_equal(pixels, pixels.astype(np.uint16))
            assert np.abs(pixels - np.rint(np.clip(expected, 0, 65535))).max() <= 1
        else:  # of 65535: 0.5 is 0.002 of a level of 8 bits
            assert np.abs(pixels - expected).max() <= 0.5


@pytest.mark.parametrize("kind", DEEP)
def test_a_deep_frame_of_the_networks_size_keeps_every_value(kind: PixelKind) -> None:
    frames = noise(1, 64, 64, 3, kind=kind)
    pixels = run(Preprocessing(64, pixels=kind), frames)
    np.testing.assert_array_equal(pixels.transpose(0, 2, 3, 1), frames)


def test_cubic_does_not_leave_the_range_of_16_bits() -> None:
    edge = np.zeros((1, 20, 20, 3), np.uint16)
    edge[:, :, 10:] = 65535
    assert float(run(Preprocessing(64, pixels="float32"), edge.astype(np.float32)).max()) > 66000  # it would
    pixels = run(Preprocessing(64, pixels="uint16"), edge)
    assert (float(pixels.min()), float(pixels.max())) == (0, 65535)


@pytest.mark.parametrize("kind", ["uint8", *DEEP])
@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (7, 9), (300, 200)])
def test_each_row_of_a_batch_is_what_it_is_alone(resize: Any, shape: tuple[int, int], kind: PixelKind) -> None:
    pre = Preprocessing(32, resize=resize, pixels=kind)
    frames = noise(3, *shape, 3, kind=kind)
    together = run(pre, frames)
    assert together.shape == (3, 3, 32, 32)
    for frame, pixels in zip(frames, together, strict=True):
        np.testing.assert_array_equal(run(pre, frame[None])[0], pixels)


def test_pad_keeps_the_shape_and_fills_with_the_mean_grey() -> None:
    frame = np.full((1, 50, 100, 3), 255, np.uint8)
    pixels = run(Preprocessing(64, resize="pad", mean=(0.485, 0.456, 0.406)), frame)[0]
    assert (pixels[:, :16] == 114).all()
    assert (pixels[:, 16:48] == 255).all()
    assert (pixels[:, 48:] == 114).all()


@pytest.mark.parametrize("kind", DEEP)
def test_deep_pad_fills_with_the_lowest_value_of_each_frame(kind: PixelKind) -> None:
    frames = 20_000 + noise(2, 50, 100, 3, kind=kind) / 64
    frames[1] += 1000
    frames = frames.astype(kind)
    pixels = run(Preprocessing(64, resize="pad", pixels=kind), frames)
    for image in pixels:
        seen = image[:, 16:48]
        assert float(seen.min()) > 19_000  # no window would be stretched by what is around
        assert (image[:, :16] == seen.min()).all()
        assert (image[:, 48:] == seen.min()).all()
    assert pixels[0].min() != pixels[1].min()


def test_crop_keeps_the_central_square() -> None:
    for kind in ("uint8", *DEEP):
        frame = np.zeros((1, 40, 100, 3), kind)
        frame[:, :, 30:70] = 200
        assert np.abs(run(Preprocessing(20, resize="crop", pixels=kind), frame) - 200.0).max() < 1e-3


def test_roi_and_mask_cut_to_what_matters() -> None:
    frames = noise(2, 60, 80, 3)
    roi = run(Preprocessing(16, roi=(10, 20, 32, 16)), frames)
    np.testing.assert_array_equal(roi, run(Preprocessing(16), frames[:, 20:36, 10:42]))
    mask = np.zeros((60, 80), np.uint8)
    mask[20:36, 10:42] = 1
    mask[25, 15] = 0
    blanked = frames.copy()
    blanked[:, 25, 15] = 0
    expected = run(Preprocessing(16), blanked[:, 20:36, 10:42])
    np.testing.assert_array_equal(run(Preprocessing(16, mask=mask), frames), expected)
    both = Preprocessing(16, mask=mask, roi=(0, 0, 30, 30))
    assert both.region == (10, 20, 20, 10)
    np.testing.assert_array_equal(run(both, frames), run(Preprocessing(16), blanked[:, 20:30, 10:30]))


@pytest.mark.parametrize("kind", DEEP)
def test_roi_and_mask_of_deep_frames(kind: PixelKind) -> None:
    frames = noise(2, 60, 80, 3, kind=kind) // 2 + 9000
    roi = run(Preprocessing(16, roi=(10, 20, 32, 16), pixels=kind), frames)
    np.testing.assert_array_equal(roi, run(Preprocessing(16, pixels=kind), frames[:, 20:36, 10:42]))
    mask = np.zeros((60, 80), np.uint8)
    mask[20:36, 10:42] = 1
    mask[25:28, 15] = 0
    frames[:, 0, 0] = 0  # not looked at: must not count as the lowest value
    frames[:, 25:28, 15] = 1  # nor this
    seen = np.array([frame[mask == 1].min() for frame in frames])
    blanked = frames.copy()
    blanked[:, 25:28, 15] = seen[:, None, None]
    expected = run(Preprocessing(16, pixels=kind), blanked[:, 20:36, 10:42])
    np.testing.assert_array_equal(run(Preprocessing(16, mask=mask, pixels=kind), frames), expected)


def test_misfits() -> None:
    assert Preprocessing(16).misfit(1, 1) is None
    assert Preprocessing(16, roi=(0, 0, 8, 8)).misfit(8, 8) is None
    assert Preprocessing(16, roi=(1, 0, 8, 8)).misfit(8, 8) == "8 x 8 pixels, too small for the roi 1,0,8,8"
    mask = Preprocessing(16, mask=np.ones((4, 6), np.uint8))
    assert mask.misfit(4, 6) is None
    assert mask.misfit(5, 6) == "6 x 5 pixels, the mask is 6 x 4"


def test_all_names_but_two_have_the_prefix() -> None:
    mask = np.ones((9, 9), np.uint8)
    for resize in ("stretch", "pad", "crop"):
        for kind in ("uint8", *DEEP):
            graph = frame_graph(Preprocessing(8, resize=resize, mask=mask, pixels=kind)).graph
            names = {name for node in graph.node for name in (node.name, *node.input, *node.output) if name}
            names |= {constant.name for constant in graph.initializer}
            assert {name for name in names if not name.startswith("frame_")} == {"image", "pixels"}


def test_graph_is_fixed_opset_and_bytes() -> None:
    model = frame_graph(Preprocessing(224))
    assert (model.opset_import[0].version, model.ir_version) == (20, 10)
    assert model.SerializeToString() == frame_graph(Preprocessing(224)).SerializeToString()
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("kind", DEEP)
def test_the_window_is_none_of_the_frames_business(kind: PixelKind) -> None:
    """A cache that was filled before the window was known serves any."""
    pre = Preprocessing(32, resize="pad", mask=np.ones((9, 9), np.uint8), pixels=kind)
    model = frame_graph(pre)
    assert model.SerializeToString() == frame_graph(replace(pre, window=(3, 4095))).SerializeToString()
    onnx.checker.check_model(model, full_check=True)


def test_how_files_are_read_is_part_of_it() -> None:
    pre = Preprocessing(16, pixels="uint16", background=(0, 10, 255))
    assert pre.reading == ReadOptions(pixels="uint16", background=(0, 10, 255))
    assert pre.deep
    assert Preprocessing(16).reading == ReadOptions()
    assert not Preprocessing(16).deep


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pixels": "uint32"}, "pixels 'uint32': expected uint8, uint16 or float32"),
        ({"background": (0, 0, 256)}, r"background \(0, 0, 256\): expected three numbers from 0 to 255"),
        ({"background": (0, 0)}, r"background \(0, 0\): expected three numbers from 0 to 255"),
        ({"window": (0, 255)}, r"window \(0, 255\): 8-bit images have none; --pixels uint16 reads them deep"),
        ({"pixels": "uint16", "window": (5, 5)}, r"window \(5, 5\): expected two numbers, the first below the second"),
        ({"pixels": "float32", "window": (0, 1e39)}, "expected two numbers"),
        ({"pixels": "float32", "window": (0, float("nan"))}, "expected two numbers"),
        ({"pixels": "float32", "window": (16777216, 16777217)}, "expected two numbers"),  # one number in float32
    ],
)
def test_values_that_make_no_sense(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Preprocessing(16, **changes)


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Preprocessing(0, resize="zoom", interpolation="cubes", roi=(0, 0, 0, 5))  # type: ignore[arg-type]
    assert "size 0" in caught.value.message
    assert "resize 'zoom'" in caught.value.message
    assert "interpolation 'cubes'" in caught.value.message
    assert "roi (0, 0, 0, 5)" in caught.value.message


@pytest.mark.parametrize(
    ("roi", "mask", "sentence"),
    [
        ((0, 0, 9, 9), np.ones((8, 8)), "roi 0,0,9,9 reaches beyond the mask, which is 8 x 8"),
        ((0, 0, 4, 4), np.eye(8)[::-1] * (np.arange(8) > 5), "black everywhere inside the region"),
        (None, np.ones((8, 8, 3)), r"expected \[H, W\]"),
    ],
)
def test_masks_that_make_no_sense(roi: Any, mask: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Preprocessing(8, roi=roi, mask=mask)


def test_load_mask(tmp_path: Path, png: Callable[..., None]) -> None:
    white = np.zeros((5, 7), np.uint8)
    white[1:3, 2] = 255
    white[4, 6] = 127
    (tmp_path / "mask.png").write_bytes(cv2.imencode(".png", white)[1].tobytes())
    mask = load_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, (white > 127).astype(np.uint8))
    painted = np.dstack([np.full((5, 7, 3), 255, np.uint8), white])  # white on a transparent ground
    (tmp_path / "painted.png").write_bytes(cv2.imencode(".png", painted)[1].tobytes())
    np.testing.assert_array_equal(load_mask(tmp_path / "painted.png"), mask)
    (tmp_path / "black.png").write_bytes(cv2.imencode(".png", white * 0)[1].tobytes())
    with pytest.raises(ConfigError, match="black everywhere"):
        load_mask(tmp_path / "black.png")
    with pytest.raises(ConfigError, match=r"mask .*missing\.png"):
        load_mask(tmp_path / "missing.png")


def test_small_things() -> None:
    assert small_things_note(447, 224) is None
    note = small_things_note(4000, 300)
    assert note is not None
    assert note.startswith("the images are 4000 px wide: a defect of 1 % of the width is 3 px at 300")
    assert "2.2 px at 224" in str(small_things_note(448, 224))
