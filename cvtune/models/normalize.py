"""From stored pixels to what the network was pretrained on; the same module is trained with and exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Subtract the mean and divide by the standard deviation of the weights' own training.

    Args:
        mean: of R, G, B in 0..1.
        std: of R, G, B in 0..1.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        spread = torch.tensor(std, dtype=torch.float64)
        centre = torch.tensor(mean, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * spread)).float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-centre / spread).float().view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [N, 3, S, S] -> float32 [N, 3, S, S]."""
        return pixels.float() * self.scale + self.shift
