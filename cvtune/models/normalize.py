"""From stored pixels to what the network was pretrained on; the same module is trained with and exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Normalize(nn.Module):
    """Subtract the mean and divide by the standard deviation of the weights' own training.

    Args:
        mean: of R, G, B in 0..1.
        std: of R, G, B in 0..1.
        window: of deep pixels, the values that become black and white; those outside are clipped. None for 0..255.
    """

    scale: Tensor
    shift: Tensor
    low: Tensor
    gain: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        window: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        spread = torch.tensor(std, dtype=torch.float64)
        centre = torch.tensor(mean, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * spread)).float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-centre / spread).float().view(1, 3, 1, 1), persistent=False)
        self.windowed = window is not None
        if window is not None:
            low, high = window
            self.register_buffer("low", torch.tensor(low, dtype=torch.float32), persistent=False)
            self.register_buffer("gain", torch.tensor(255 / (high - low), dtype=torch.float32), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [N, 3, S, S], or float32 of raw values where there is a window -> float32 [N, 3, S, S]."""
        x = pixels.float()
        if self.windowed:
            x = ((x - self.low) * self.gain).clamp(0, 255)
        return x * self.scale + self.shift


def to_tensor(pixels: NDArray[Any]) -> Tensor:
    """Stored pixels for torch: uint8 and float32 as they are, uint16, with which torch computes little, as float32.

    The memory is shared where that can be; an array that may not be written to is copied.
    """
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(np.float32)  # exact: float32 holds every whole number up to 2**24
    return torch.from_numpy(np.require(pixels, requirements=["C_CONTIGUOUS", "WRITEABLE"]))
