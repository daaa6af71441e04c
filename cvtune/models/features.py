"""Embeddings of many images, for the audit and the probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvtune.config import AugmentConfig
from cvtune.data.pixels import PixelCache
from cvtune.models.backbone import Backbone
from cvtune.models.engine import engine
from cvtune.models.folding import folded
from cvtune.models.normalize import Normalize, to_tensor

BATCH: Final = 32
Mirror = Literal["left-right", "upside-down"]


def mirror_of(augment: AugmentConfig) -> Mirror | None:
    """How images may be mirrored without changing their class; None where they may not."""
    if augment.hflip:
        return "left-right"
    return "upside-down" if augment.vflip else None


def batches(
    pixels: PixelCache,
    normalize: Normalize,
    rows: NDArray[np.int64],
    *,
    mirror: Mirror | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Tensor]:
    """float32 [B, 3, S, S] of the given rows, normalised, channels last.

    Args:
        pixels: the cache of all images.
        normalize: from raw values to the network's input.
        rows: [n] positions in the index.
        mirror: how the images are mirrored.
        progress: called with (done, total) after each batch was used.
    """
    for start in range(0, len(rows), BATCH):
        raw = to_tensor(pixels.batch(rows[start : start + BATCH]))
        if mirror is not None:
            raw = raw.flip(3 if mirror == "left-right" else 2)
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
    mirror: Mirror | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Embeddings of the given rows of the cache, float32 [n, D]; see :func:`full_batches`."""
    full = full_batches(batches(pixels, normalize, rows, mirror=mirror, progress=progress))
    return features(backbone, full)[: len(rows)]


def full_batches(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same batches, [BATCH, 3, S, S] each: black images stand behind the last ones.

    With the size of a batch the kernels change that a processor chooses, and the last bits with them
    (EfficientNet-Lite0 in batches of 7 and of 32: by 6e-6). In batches of one size an image's embedding is the same bit
    for bit in any place and beside any others (measured on x86 with AVX-512 for ResNet-18, ViT-tiny, ConvNeXt-atto,
    MobileNetV3 and EfficientNet-Lite0), so that it can be kept and used among other images.
    """
    for batch in batches:
        missing = batch.new_zeros(BATCH - len(batch), *batch.shape[1:])
        yield torch.cat([batch, missing]) if len(missing) else batch


def features(
    backbone: Backbone, batches: Iterable[Tensor], *, progress: Callable[[int], None] | None = None
) -> NDArray[np.float32]:
    """One pass of the backbone in eval mode; itself it stays as it is.

    Args:
        backbone: on any device.
        batches: normalised images, float [B, 3, S, S].
        progress: called with the number of images done after each batch.

    Returns:
        Embeddings, float32 [N, D], in the order of the images.
    """
    rows = [np.empty((0, backbone.width), np.float32)]
    for out in passes(backbone, batches):
        rows.append(out)
        if progress is not None:
            progress(sum(map(len, rows)))
    return np.concatenate(rows)


def passes(backbone: Backbone, batches: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
    """Embeddings [B, D] of one batch after the other, by onnxruntime or a folded copy; see :func:`features`."""
    batches = iter(batches)
    if (first := next(batches, None)) is None:
        return  # where all of them are kept already nothing has to be made ready
    device = next(backbone.parameters()).device
    cut = len(backbone.groups)
    quick, *_ = folded(backbone, cut)
    run = engine(quick, cut)
    for batch in chain([first], batches):
        if run is not None and batch.shape[2:] == (quick.size, quick.size):
            yield torch.cat(run(batch), dim=1).numpy()
            continue
        with torch.inference_mode():
            out = quick(batch.to(device, memory_format=torch.channels_last))
        yield out.float().cpu().numpy()
