"""The Lightning module of one stage: which layers learn, how fast, and what is measured after each epoch."""

from __future__ import annotations

import math
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvtune.config import StageConfig, TrainConfig
from cvtune.models.backbone import set_trainable
from cvtune.models.head import Classifier
from cvtune.models.normalize import Normalize

Batch = tuple[Tensor, Tensor]  # pixels [B, 3, S, S] as cached; labels int64 [B], or float [B, K] for several an image


class FineTuner(L.LightningModule):
    """Trains the layer groups from `first_group` on, and the head; everything before stays frozen and in eval mode.

    Args:
        classifier: backbone and head.
        normalize: from stored pixels to the network's input.
        first_group: index of the first layer group that learns; 0 trains everything.
        stage: steps and rates of this stage.
        train: settings shared by the stages.
        class_weights: float32 [K], weight of each class in the loss (`cvtune.training.probe.class_weights`).
        total_steps: optimizer steps of the whole stage, for the schedule.
    """

    def __init__(
        self,
        classifier: Classifier,
        normalize: Normalize,
        *,
        first_group: int,
        stage: StageConfig,
        train: TrainConfig,
        class_weights: Tensor,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.normalize = normalize
        self.stage = stage
        self.settings = train
        self.total_steps = max(1, total_steps)
        self.first_group = first_group
        self.register_buffer("class_weights", class_weights, persistent=False)
        set_trainable(classifier.backbone, first_group)
        self._half = fast_bfloat16()
        self._train_loss = _Mean()
        self._val: list[Batch] = []

    def forward(self, pixels: Tensor) -> Tensor:
        """Cached pixels [B, 3, S, S] -> logits [B, K]."""
        x = self.normalize(pixels).contiguous(memory_format=torch.channels_last)
        backbone = self.classifier.backbone
        if self.first_group == 0:
            return cast(Tensor, self.classifier.head(backbone(x)))
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=self._half):
            z = backbone.prefix(x, self.first_group)  # (B, C, h, w), or tokens (B, T, C)
        z = z.float()
        return cast(Tensor, self.classifier.head(backbone.tail(z, self.first_group)))

    def loss(self, logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Weighted cross-entropy, [B, K] and [B] -> []; binary cross-entropy a label for labels [B, K]."""
        weights = cast(Tensor, self.class_weights)
        if labels.ndim == 2:
            soft = labels * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weights)
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One batch's loss with label smoothing."""
        pixels, labels = batch
        loss = self.loss(self(pixels), labels, smoothing=self.settings.label_smoothing)
        self._train_loss.add(float(loss.detach()), len(labels))
        return loss

    def on_train_epoch_start(self) -> None:
        """Forget the loss of the epoch before."""
        self._train_loss = _Mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits: the figures are of the whole side, not means over batches."""
        pixels, labels = batch
        self._val.append((self(pixels).detach(), labels))

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the balanced accuracy of the whole validation side."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._val, strict=True))
        self._val.clear()
        loss, score = self.loss(logits, labels), balanced_accuracy(logits, labels)
        self.log_dict({"val_loss": loss, "val_balanced_accuracy": score, "train_loss": self._train_loss.value})

    def configure_optimizers(self) -> Any:
        """AdamW with one rate per layer group, linear warm-up, then a cosine down to zero."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=self.stage.learning_rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group per trainable layer group and kind (decayed or not), last layers fastest.

        Biases and the scales of norms are not decayed (He et al. 2019, "Bag of Tricks", section 3.1).
        """
        backbone, rate = self.classifier.backbone, self.stage.learning_rate
        last = len(backbone.groups) - 1
        rows = [(rate * self.stage.head_factor, list(self.classifier.head.parameters()))]
        learning = range(last, self.first_group - 1, -1)
        rows += [(rate * self.stage.layer_decay ** (last - i), backbone.group_parameters(i)) for i in learning]
        return [
            {"params": params, "lr": lr, "weight_decay": self.settings.weight_decay if decayed else 0.0}
            for lr, parameters in rows
            for decayed in (True, False)
            if (params := [p for p in parameters if (p.ndim > 1) is decayed])
        ]

    def _schedule(self, step: int) -> float:
        warm = max(1, round(self.settings.warmup * self.total_steps))
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, self.total_steps - warm)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AMX).

    The frozen prefix then runs about twice as fast; layers that learn and every answer that is compared or exported
    stay in float32.
    """
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def balanced_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean recall over the classes that occur, [N, K] and [N] -> [].

    For labels [N, K] the mean over having and not having each label, at probability 0.5.
    """
    if labels.ndim == 2:
        hit, have = ((logits > 0) == (labels > 0)).float(), labels > 0
        kinds = [hit[:, k][mask] for k in range(labels.shape[1]) for mask in (have[:, k], ~have[:, k])]
        return torch.stack([kind.mean() for kind in kinds if len(kind)]).mean()
    right = (logits.argmax(1) == labels).float()
    return torch.stack([right[labels == label].mean() for label in torch.unique(labels)]).mean()


class _Mean:
    """A mean that grows, weighted by the batch sizes."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, value: float, count: int) -> None:
        self._sum, self._count = self._sum + value * count, self._count + count

    @property
    def value(self) -> float:
        return self._sum / max(1, self._count)


def clone_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
