"""What training minimises: cross-entropy, logit-adjusted or focal, for one label an image or several.

Rare classes get their say in one of two ways, never both: by weights in the loss, or by the logit adjustment. Soft
labels, as mixup and CutMix make them, go through all of them.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Floats = NDArray[np.float32]
Labels = NDArray[np.int64] | NDArray[np.bool_]  # [N] class indices, or [N, K] where an image may have several
LossKind = Literal["cross-entropy", "logit-adjusted", "focal"]
WeightMode = Literal["auto", "balanced", "none"]

_TEMPERATURES: Final = tuple(2 ** (step / 8) for step in range(-16, 25))  # 0.25 to 8
_HALF_AN_IMAGE: Final = 0.5  # stands for none, whose logarithm there is not


class Loss(nn.Module):
    """A mean loss of a batch, from logits [B, K] and labels to []; made by :func:`build_loss`.

    Labels are int64 [B], or float [B, K]: shares of the classes where an image has one label, the probability of each
    label where it may have several.

    Args:
        weights: float32 [K], of each class; where an image may have several labels, of having the label.
        shift: float32 [K], added to the logits in training.
        multi: whether an image may have several labels.
        smoothing: label smoothing of the training loss, 0..1.
        gamma: focusing of the training loss (Lin et al. 2017, arXiv:1708.02002); 0 is cross-entropy.
    """

    weights: Tensor
    shift: Tensor

    def __init__(self, weights: Tensor, shift: Tensor, *, multi: bool, smoothing: float, gamma: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.multi, self.smoothing, self.gamma = multi, smoothing, gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss to train with."""
        return self._loss(logits, labels, self.smoothing, self.gamma)

    def log_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss to compare models by: without smoothing and focusing, and after the best temperature.

        A model gets its temperature before it is used, so how sure it is by itself counts for nothing: on two splits of
        the solar cells the uncalibrated loss took an early epoch, where the last one was right 1.6 and 2.2 points more
        often.
        """
        losses = [self._loss(logits / temperature, labels, 0.0, 0.0) for temperature in _TEMPERATURES]
        return torch.stack(losses).min()

    def _loss(self, logits: Tensor, labels: Tensor, smoothing: float, gamma: float) -> Tensor:
        logits = logits.float() + self.shift
        return (self._binary if self.multi else self._single)(logits, labels, smoothing, gamma)

    def _single(self, logits: Tensor, labels: Tensor, smoothing: float, gamma: float) -> Tensor:
        if labels.ndim == 1 and not gamma:
            return F.cross_entropy(logits, labels, weight=self.weights, label_smoothing=smoothing)
        classes = logits.shape[1]
        shares = labels.float() if labels.ndim == 2 else F.one_hot(labels, classes).float()  # (B, K)
        log_p = F.log_softmax(logits, dim=1)
        each = -self.weights * (shares * (1 - smoothing) + smoothing / classes) * log_p
        if gamma:
            each = each * _power(1 - log_p.exp(), gamma)
        # As torch weighs class indices: a soft label that is all one class counts like its index.
        return each.sum() / (shares @ self.weights).sum()

    def _binary(self, logits: Tensor, labels: Tensor, smoothing: float, gamma: float) -> Tensor:
        soft = labels.float() * (1 - smoothing) + smoothing / 2
        if not gamma:
            return F.binary_cross_entropy_with_logits(logits, soft, pos_weight=self.weights)
        each = F.binary_cross_entropy_with_logits(logits, soft, pos_weight=self.weights, reduction="none")
        missed = torch.sigmoid(logits) * (1 - soft) + torch.sigmoid(-logits) * soft  # 1 - p_t
        return (each * _power(missed, gamma)).mean()


def build_loss(
    labels: Labels,
    classes: int,
    *,
    kind: LossKind = "cross-entropy",
    weights: WeightMode = "auto",
    smoothing: float = 0.1,
    tau: float = 1.0,
    gamma: float = 2.0,
) -> Loss:
    """The loss for a training side.

    Args:
        labels: [N] class indices of the training side, or bool [N, K].
        classes: K.
        kind: `logit-adjusted` (Menon et al. 2021, arXiv:2007.07314) trains with logits + tau * log prior, so that the
            plain logits answer as if the classes were equally frequent; class weights would correct a second time and
            are left out. `focal` (Lin et al. 2017) gives sure answers little to say.
        weights: of the classes, see :func:`class_weights`.
        smoothing: label smoothing, 0..1.
        tau: strength of the logit adjustment.
        gamma: strength of the focusing.

    Raises:
        ValueError: smoothing, tau or gamma out of range.
    """
    if not (0 <= smoothing < 1 and tau >= 0 and gamma >= 0):
        raise ValueError(
            f"smoothing {smoothing}, tau {tau}, gamma {gamma}; expected 0 <= smoothing < 1 and no negative tau or gamma"
        )
    adjusted = kind == "logit-adjusted"
    shift = tau * log_prior(labels, classes) if adjusted else np.zeros(classes, np.float32)
    return Loss(
        torch.from_numpy(class_weights(labels, classes, mode="none" if adjusted else weights)),
        torch.from_numpy(np.asarray(shift, np.float32)),
        multi=labels.ndim == 2,
        smoothing=smoothing,
        gamma=gamma if kind == "focal" else 0.0,
    )


def class_weights(labels: Labels, classes: int, *, mode: WeightMode = "auto") -> Floats:
    """Weight of each class in the loss, mean 1 over the images; where an image may have several labels, of having one.

    `balanced` is one over the count: every class has the same say, and a handful of pictures may rule the loss. `none`
    gives every image the same say, and rare defects are ignored. `auto` stands between, one over the square root.
    Where an image may have several labels the count is set against that of the images without the label.

    Args:
        labels: [N] class indices of the training side, or bool [N, K].
        classes: K; one without images weighs what the rarest one does.
        mode: see above.

    Returns:
        float32 [K].
    """
    power = {"none": 0.0, "auto": 0.5, "balanced": 1.0}[mode]
    if labels.ndim == 2:
        have = np.maximum(labels.sum(axis=0), 1)
        return np.asarray(((len(labels) - have + 1) / have) ** power, np.float32)
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = 1 / np.maximum(counts, counts[counts > 0].min()) ** power
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)


def log_prior(labels: Labels, classes: int) -> Floats:
    """Logarithm of each class's share of the images; where an image may have several labels, the log odds of each.

    Args:
        labels: [N] class indices of the training side, or bool [N, K].
        classes: K; one that no image has, or all have, counts as off by half an image.

    Returns:
        float32 [K], finite.
    """
    if labels.ndim == 2:
        have = np.clip(labels.sum(axis=0).astype(np.float64), _HALF_AN_IMAGE, len(labels) - _HALF_AN_IMAGE)
        return np.asarray(np.log(have / (len(labels) - have)), np.float32)
    counts = np.maximum(np.bincount(labels, minlength=classes), _HALF_AN_IMAGE)
    return np.asarray(np.log(counts / len(labels)), np.float32)


def _power(base: Tensor, gamma: float) -> Tensor:
    """A power whose gradient is finite at 0, also for gamma below 1."""
    return base.clamp_min(torch.finfo(base.dtype).tiny) ** gamma
