"""Where a network looks: heat maps of any backbone, and the training images that are most like an image."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from cvtune.models.backbone import Backbone
from cvtune.models.head import Classifier

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_BATCH: Final = 16


def heat_maps(classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
    """What speaks for a class, place by place: gradient times activation of the last maps (HiResCAM).

    Draelos and Carin 2020, arXiv:2011.08891: the sum over channels of activation times gradient, place by place, is
    what a linear head behind a mean over the places adds up; weights that are averaged over the places first
    (Grad-CAM) may point elsewhere. Of a transformer the maps are the patch tokens before its last block, since behind
    it the class token alone has a gradient; their activation is what they have beyond the mean token. Taps of earlier
    depths add their own maps, which are exact.

    Args:
        classifier: in eval mode; weights and gradients are left as they are.
        images: float [N, 3, S, S], normalised.
        targets: int64 [N], the class that is asked for.

    Returns:
        float32 [N, h, w], 0 to 1 in each image; 0 everywhere where nothing speaks for the class.

    Raises:
        ValueError: the backbone runs in one piece, and has no maps.
    """
    batches = zip(torch.split(images, _BATCH), torch.split(targets, _BATCH), strict=True)
    parts = [_heat(classifier, x, y) for x, y in batches]
    return torch.cat(parts)


def _heat(classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
    backbone = classifier.backbone
    cut = last_maps(backbone)
    with torch.no_grad():
        z, pooled, maps = backbone.trace(images, cut)
    z, pooled = z.detach().requires_grad_(), pooled.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier.tail(z, pooled, cut)
        dz, dpooled = torch.autograd.grad(margin(logits, targets).sum(), (z, pooled), allow_unused=True)
    return heat_of(backbone, z.detach(), dz, maps, dpooled)


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """How far a class's logit is above the mean of the others, [N]; by comparison, which goes into any graph.

    Args:
        logits: [N, K].
        targets: int64 [N], the class that is asked for.
    """
    k = logits.shape[1]
    own = (targets[:, None] == torch.arange(k, device=logits.device)).to(logits.dtype)
    return (logits * (own - (1 - own) / max(1, k - 1))).sum(1)


def heat_of(
    backbone: Backbone, z: Tensor, gradient: Tensor, maps: Mapping[int, Tensor], gradients: Tensor | None
) -> Tensor:
    """Place by place what speaks for a class, float32 [N, h, w], 0 to 1 in each image.

    Args:
        backbone: whose maps they are.
        z: the last maps, [N, C, h, w] or [N, T, C].
        gradient: of them, likewise.
        maps: of the taps before them, as :meth:`Backbone.trace` gives them.
        gradients: of what the taps pooled, [N, P]; None without taps.
    """
    heat = _places(backbone, gradient * _deviation(backbone, z))
    if gradients is not None:
        for tapped in _tapped(backbone, maps, gradients):
            heat = _added(heat, tapped)
    heat = heat.clamp(min=0)
    return heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)


def last_maps(backbone: Backbone) -> int:
    """The cut before which the last maps lie that every output depends on."""
    last = len(backbone.groups) - 1
    if last < 1:
        raise ValueError(f"{backbone.name} runs in one piece: there are no maps to show")
    return last - 1 if hasattr(backbone.net, "num_prefix_tokens") and last > 1 else last


def _deviation(backbone: Backbone, z: Tensor) -> Tensor:
    """Maps as they are; tokens as what they have beyond the picture's mean token.

    A transformer's block begins with a LayerNorm, which the length of a token does not pass: gradient times token is 0
    but for roundings, and what counts is how a token differs.
    """
    return z if z.ndim == 4 else z - z[:, _before_patches(backbone) :].mean(1, keepdim=True)


def _before_patches(backbone: Backbone) -> int:
    """Tokens that stand for no place: the class token, registers."""
    return int(getattr(backbone.net, "num_prefix_tokens", 0))


def _places(backbone: Backbone, shares: Tensor) -> Tensor:
    """Shares of maps [N, C, h, w] or tokens [N, T, C], summed over the channels: [N, h, w]."""
    if shares.ndim == 4:
        return shares.sum(1).float()
    tokens = shares[:, _before_patches(backbone) :].sum(2)
    side = round(tokens.shape[1] ** 0.5)
    return tokens.reshape(tokens.shape[0], side, -1).float()


def _tapped(backbone: Backbone, maps: Mapping[int, Tensor], gradients: Tensor) -> list[Tensor]:
    """The maps of the taps before the cut; a tap is a mean over the places, so that each place has its share."""
    found, at = [], 0
    for tap, z in maps.items():
        own = gradients[:, at : at + backbone.tap_widths[tap]]
        at += backbone.tap_widths[tap]
        shaped = own[:, :, None, None] if z.ndim == 4 else own[:, None, :]
        places = z.shape[2] * z.shape[3] if z.ndim == 4 else z.shape[1]
        found.append(_places(backbone, shaped * z) / places)
    return found


def _added(heat: Tensor, more: Tensor) -> Tensor:
    """Two maps on the finer grid; a place that is divided shares what it had."""
    fine = max(heat.shape[1:], more.shape[1:])
    return sum((_spread(one, fine) for one in (heat, more)), torch.zeros(()))


def _spread(heat: Tensor, size: tuple[int, ...]) -> Tensor:
    if heat.shape[1:] == size:
        return heat
    share = heat.shape[1] * heat.shape[2] / (size[0] * size[1])
    return share * F.interpolate(heat[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def hottest(heat: Tensor) -> Tensor:
    """The middle of the hottest place, float [N, 2] as shares of height and width."""
    n, h, w = heat.shape
    best = heat.reshape(n, -1).argmax(1)
    return torch.stack([(best // w + 0.5) / h, (best % w + 0.5) / w], dim=1)


def follows_the_head(classifier: Classifier, images: Tensor, targets: Tensor, *, seed: int = 0) -> float:
    """Rank correlation of the maps with those of a randomised head, the mean over the images.

    Adebayo et al. 2018, "Sanity checks for saliency maps": maps that stay what they were show the picture, not what
    was learnt. Above `studies.RANDOMISED` they are not to be trusted.

    Args:
        classifier: as for :func:`heat_maps`.
        images: likewise.
        targets: likewise.
        seed: of the random weights, which are drawn from those that the head has.
    """
    other, dice = copy.deepcopy(classifier), torch.Generator().manual_seed(seed)
    for parameter in other.head.parameters():
        flat = parameter.detach().flatten()
        parameter.data = flat[torch.randperm(len(flat), generator=dice)].reshape(parameter.shape)
    before, after = (heat_maps(one, images, targets).flatten(1).numpy() for one in (classifier, other))
    told = [spearmanr(a, b).statistic for a, b in zip(before, after, strict=True) if a.any() and b.any()]
    return float(np.nanmean(told)) if told else 0.0


def most_alike(train: Floats, embeddings: Floats, count: int = 3) -> tuple[Ints, Floats]:
    """The training images whose embeddings point most nearly the same way.

    Args:
        train: float32 [n, D].
        embeddings: float32 [N, D].
        count: of each, at most.

    Returns:
        Rows of `train`, int64 [N, count], nearest first, and cosine similarities, float32 [N, count].
    """
    index = NearestNeighbors(n_neighbors=min(count, len(train)), metric="cosine").fit(train)
    distances, rows = index.kneighbors(embeddings)
    return rows.astype(np.int64), (1 - distances).astype(np.float32)
