"""Heat maps over thumbnails: which part of a frame the network saw, and its map as a warm colour there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import cv2
import numpy as np
from cvtune_edge.manifest import Manifest
from numpy.typing import NDArray

from cvtune.report.thumbnails import Shrunk

Floats = NDArray[np.float32]

_WARM: Final = (255.0, 84.0, 20.0)  # RGB; orange to all who see colours, and lighter than what is dark
_DENSE: Final = 0.72  # of the colour where the map is hottest: the picture still shows below
_UNSEEN: Final = 0.45  # brightness of what the network was not shown
_LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Box:
    """Edges in pixels of a frame; they may lie outside it."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class View:
    """How frames become the square that the network sees.

    Attributes:
        resize: "stretch", "pad" or "crop".
        roi: x, y, width, height in pixels of the frame that are cut out, None for all of it.
    """

    resize: str = "stretch"
    roi: tuple[int, int, int, int] | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> Self | None:
        """That of a bundle; None where a mask narrows it and an earlier schema does not say how far."""
        if manifest.frame_size is not None and manifest.region is None:
            return None
        return cls(manifest.resize, manifest.region or manifest.roi)

    @property
    def whole(self) -> bool:
        """Whether the network sees all of the frame."""
        return self.roi is None and self.resize != "crop"

    def region(self, size: tuple[int, int]) -> Box:
        """What is looked at of a frame of (H, W)."""
        x, y, width, height = self.roi or (0, 0, size[1], size[0])
        return Box(x, y, x + width, y + height)

    def square(self, size: tuple[int, int]) -> Box:
        """What becomes the network's square; of padded frames it reaches beyond them."""
        region = self.region(size)
        width, height = region.right - region.left, region.bottom - region.top
        if self.resize == "stretch":
            return region
        side = max(width, height) if self.resize == "pad" else min(width, height)
        left, top = region.left + (width - side) / 2, region.top + (height - side) / 2
        return Box(left, top, left + side, top + side)


def warmed(picture: Shrunk, heat: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """A grey copy of a thumbnail with its map over it in a warm colour; what the network did not see is dark.

    Args:
        picture: the thumbnail, [h, w, 3].
        heat: uint8 [a, b] of the network's square, 255 where most speaks for the class.
        view: how the frame became that square.

    Returns:
        uint8 [h, w, 3].
    """
    warmth, seen = _spread(picture, heat, view)
    grey = (picture.pixels @ np.array(_LUMA, np.float32))[..., None] * np.where(seen, 1, _UNSEEN)[..., None]
    share = _DENSE * warmth[..., None]
    return np.asarray(grey * (1 - share) + np.array(_WARM, np.float32) * share + 0.5, np.float32).astype(np.uint8)


def _spread(picture: Shrunk, heat: NDArray[np.uint8], view: View) -> tuple[Floats, NDArray[np.bool_]]:
    """The map at each pixel of the thumbnail, 0 to 1, interpolated between its cells; and which pixels were seen."""
    height, width = picture.pixels.shape[:2]
    region, square = view.region(picture.size), view.square(picture.size)
    x = (np.arange(width) + 0.5) * picture.size[1] / width  # in pixels of the frame
    y = (np.arange(height) + 0.5) * picture.size[0] / height
    columns = (x - square.left) / (square.right - square.left) * heat.shape[1] - 0.5  # in cells of the map
    rows = (y - square.top) / (square.bottom - square.top) * heat.shape[0] - 0.5
    across, down = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    share = heat.astype(np.float32) / 255
    warmth = cv2.remap(share, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside_x = (x > max(region.left, square.left)) & (x < min(region.right, square.right))
    inside_y = (y > max(region.top, square.top)) & (y < min(region.bottom, square.bottom))
    seen = inside_y[:, None] & inside_x[None, :]
    return np.where(seen, warmth, 0).astype(np.float32), seen
