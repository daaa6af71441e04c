from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from cvtune_edge.session import open_session
from PIL import Image as Pillow

from cvtune.data.preprocess import Preprocessing, frame_graph, load_mask, small_things_note
from cvtune.errors import ConfigError

Pixels = npt.NDArray[np.uint8]
Interpolation = Literal["linear", "cubic"]
FILTERS = {"linear": Pillow.Resampling.BILINEAR, "cubic": Pillow.Resampling.BICUBIC}


def run(pre: Preprocessing, frames: Pixels) -> Pixels:
    session = open_session(frame_graph(pre).SerializeToString(), threads=1)
    return np.asarray(session.run(None, {"image": frames})[0])


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


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


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (7, 9), (300, 200)])
def test_each_row_of_a_batch_is_what_it_is_alone(resize: Any, shape: tuple[int, int]) -> None:
    pre = Preprocessing(32, resize=resize)
    frames = noise(3, *shape, 3)
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


def test_crop_keeps_the_central_square() -> None:
    frame = np.zeros((1, 40, 100, 3), np.uint8)
    frame[:, :, 30:70] = 200
    assert (run(Preprocessing(20, resize="crop"), frame) == 200).all()


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
    assert both.window == (10, 20, 20, 10)
    np.testing.assert_array_equal(run(both, frames), run(Preprocessing(16), blanked[:, 20:30, 10:30]))


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
        graph = frame_graph(Preprocessing(8, resize=resize, mask=mask)).graph
        names = {name for node in graph.node for name in (node.name, *node.input, *node.output) if name}
        names |= {constant.name for constant in graph.initializer}
        assert {name for name in names if not name.startswith("frame_")} == {"image", "pixels"}


def test_graph_is_fixed_opset_and_bytes() -> None:
    model = frame_graph(Preprocessing(224))
    assert (model.opset_import[0].version, model.ir_version) == (20, 10)
    assert model.SerializeToString() == frame_graph(Preprocessing(224)).SerializeToString()
    onnx.checker.check_model(model, full_check=True)


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
