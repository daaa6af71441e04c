"""Where a heat map lies over a frame: measured by what onnxruntime's own resize does with a marked one."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import pytest
from cvtune_edge.manifest import Manifest
from cvtune_edge.session import open_session
from numpy.typing import NDArray

from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.report.heat import View, warmed
from cvtune.report.thumbnails import Shrunk
from tests.report.conftest import manifest

SIZE = 56
CELLS = 7
RESIZES: tuple[Literal["stretch", "pad", "crop"], ...] = ("stretch", "pad", "crop")


def seen_by_the_network(frame: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """uint8 [CELLS, CELLS]: the frame as the bundle's graph resizes it, its brightness cell by cell."""
    resize = next(mode for mode in RESIZES if mode == view.resize)
    pre = Preprocessing(SIZE, resize, view.roi, interpolation="linear", mean=(0.0, 0.0, 0.0))  # which pads with black
    pixels = open_session(frame_graph(pre).SerializeToString()).run(None, {"image": frame[None]})[0][0, 0]
    return np.asarray(pixels.reshape(CELLS, SIZE // CELLS, CELLS, SIZE // CELLS).mean((1, 3)), np.uint8)


@pytest.mark.parametrize(
    "view, height, width, spot",
    [
        (View(), 90, 128, (60, 30)),
        (View("pad"), 64, 128, (22, 100)),
        (View("pad"), 128, 40, (20, 20)),
        (View("crop"), 80, 128, (40, 80)),
        (View("stretch", (40, 20, 80, 60)), 100, 128, (60, 90)),
        (View("pad", (40, 20, 80, 40)), 100, 128, (40, 60)),
        (View("crop", (10, 10, 100, 60)), 100, 128, (50, 50)),
    ],
)
def test_the_map_is_warm_where_the_network_saw_the_spot(
    view: View, height: int, width: int, spot: tuple[int, int]
) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    cv2.circle(frame, spot[::-1], 7, (255, 255, 255), -1)
    found = seen_by_the_network(frame, view).astype(float)
    heat = (255 * found / found.max()).astype(np.uint8)
    picture = warmed(Shrunk(np.full_like(frame, 90), (height, width)), heat, view)
    red = picture[..., 0].astype(float) - picture[..., 2]
    row, column = (float((red * places).sum() / red.sum()) for places in np.indices(red.shape))
    assert np.hypot(row - spot[0], column - spot[1]) < 4, "a quarter of a cell"
    assert red.max() > 60


def test_a_thumbnail_of_a_larger_frame_has_its_map_in_the_same_place() -> None:
    heat = np.zeros((7, 7), np.uint8)
    heat[1, 5] = 255
    large, small = (
        warmed(Shrunk(np.full((side, side, 3), 90, np.uint8), (640, 640)), heat, View("stretch", (320, 0, 320, 640)))
        for side in (128, 64)
    )
    shrunk = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small).mean() < 1.5
    assert large[:, :60, 0].max() == large[:, :60, 2].max() < 90, "not shown to the network: dark, without colour"


def test_no_heat_leaves_a_grey_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    grey = warmed(Shrunk(picture, (40, 60)), np.zeros((7, 7), np.uint8), View())
    assert (grey == grey[..., :1]).all()
    assert np.abs(grey[..., 0].astype(int) - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)).max() <= 1


def test_a_mask_narrows_the_view_in_a_way_that_the_manifest_does_not_tell() -> None:
    tree = manifest(("a", "b"))
    assert View.of(Manifest.from_json(tree)) == View("stretch", None)
    assert View.of(Manifest.from_json({**tree, "resize": "crop", "roi": [1, 2, 30, 40]})) == View(
        "crop", (1, 2, 30, 40)
    )
    assert View.of(Manifest.from_json({**tree, "frame_size": [60, 80]})) is None


@pytest.mark.parametrize(
    "view, whole", [(View(), True), (View("pad"), True), (View("crop"), False), (View("pad", (0, 0, 9, 9)), False)]
)
def test_whether_all_of_the_frame_is_seen(view: View, whole: bool) -> None:
    assert view.whole is whole
