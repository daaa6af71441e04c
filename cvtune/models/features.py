"""Embeddings of many images, for the probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvtune.data.pixels import PixelCache
from cvtune.models.backbone import Backbone
from cvtune.models.normalize import Normalize, to_tensor

BATCH = 32


def batches(
    pixels: PixelCache,
    normalize: Normalize,
    rows: NDArray[np.int64],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Tensor]:
    """float32 [B, 3, S, S] of the given rows, normalised, channels last.

    Args:
        pixels: the cache of all images.
        normalize: from raw values to the network's input.
        rows: [n] positions in the index.
        progress: called with (done, total) after each batch was used.
    """
    for start in range(0, len(rows), BATCH):
        raw = to_tensor(pixels.batch(rows[start : start + BATCH]))
        # channels_last: convolutions on x86 and on tensor cores run faster in this layout
        yield normalize(raw).contiguous(memory_format=torch.channels_last)
        if progress is not None:
            progress(min(start + BATCH, len(rows)), len(rows))


def embed(
    backbone: Backbone,
    pixels: PixelCache,
    normalize: Normalize,
    rows: NDArray[np.int64],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Embeddings of the given rows of the cache, float32 [n, D]; see :func:`features`."""
    return features(backbone, batches(pixels, normalize, rows, progress=progress))


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
                out = backbone(batch.to(device, memory_format=torch.channels_last))
                rows.append(out.float().cpu().numpy())
                done += len(batch)
                if progress is not None:
                    progress(done)
    finally:
        backbone.train(was)
    return np.concatenate(rows)
