"""The head on top of the embedding, and the classifier made of both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cvtune.errors import ModelError
from cvtune.models.backbone import Backbone

HeadFactory = Callable[[int, int], nn.Module]  # (width D, classes K) -> module from [N, D] to logits [N, K]


class LinearHead(nn.Module):
    """One linear layer: embeddings [N, D] to logits [N, K].

    Args:
        width: D.
        classes: K.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of embeddings [N, D]."""
        logits: Tensor = self.linear(x)
        return logits

    @torch.no_grad()
    def set(self, weight: Tensor, bias: Tensor) -> None:
        """Take over a probe's coefficients: weight [K, D], bias [K]."""
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)


class Classifier(nn.Module):
    """Backbone and head: images to logits."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images, float [N, 3, S, S], to logits [N, K]."""
        return self.parts(x)[0]

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings [N, D] of normalised images."""
        embedding: Tensor = self.backbone(x)
        return embedding

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, K] and embeddings [N, D] from one pass."""
        embedding = self.embed(x)
        return self.head(embedding), embedding

    def tail(self, z: Tensor, pooled: Tensor, cut: int) -> Tensor:
        """Logits [N, K] from the activations and pooled features that `backbone.prefix(x, cut)` gave."""
        logits: Tensor = self.head(self.backbone.tail(z, pooled, cut))
        return logits


def build_head(factory: HeadFactory, width: int, classes: int, *, seed: int = 0) -> nn.Module:
    """Call a factory and try its head on two embeddings; torch's global generator is left alone.

    Raises:
        ModelError: the head does not give one logit a class.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        head = factory(width, classes)
        was = head.training
        head.eval()
        out = head(torch.zeros(2, width))
    if not isinstance(out, Tensor) or out.shape != (2, classes):
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(
            f"the head gives {shape} for embeddings of shape {(2, width)}, expected {(2, classes)}",
            hint="a head factory takes (width, classes) and gives a module from [N, width] to [N, classes]",
        )
    return head.train(was)
