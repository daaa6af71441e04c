"""Embeddings of many images, for the probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvtune.models.backbone import Backbone


def features(
    backbone: Backbone, batches: Iterable[Tensor], *, progress: Callable[[int], None] | None = None
) -> NDArray[np.float32]:
    """One pass of the backbone in eval mode; the mode it was in comes back afterwards.

    Args:
        backbone: on any device.
        batches: normalised images, float [B, 3, S, S].
        progress: called with the number of images done after each batch.

    Returns:
        Embeddings, float32 [N, D], in the order of the images.
    """
    device = next(backbone.parameters()).device
    rows = [np.empty((0, backbone.width), np.float32)]
    done, was = 0, backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                # channels_last: convolutions on x86 and on tensor cores run faster in this layout
                out = backbone(batch.to(device, memory_format=torch.channels_last))
                rows.append(out.float().cpu().numpy())
                done += len(batch)
                if progress is not None:
                    progress(done)
    finally:
        backbone.train(was)
    return np.concatenate(rows)
