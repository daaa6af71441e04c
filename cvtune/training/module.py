"""The Lightning module of one stage: which layers learn, how fast, and what is measured after each epoch."""

from __future__ import annotations

import math
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvtune.config import StageConfig, TrainConfig
from cvtune.models.backbone import set_trainable
from cvtune.models.head import Classifier
from cvtune.models.normalize import Normalize
from cvtune.training.hardware import mixed
from cvtune.training.losses import Loss
from cvtune.training.mixing import Mixing

Batch = tuple[Any, Tensor]  # pixels [B, 3, S, S] or activations; labels int64 [B], or float [B, K]

BAD_STEPS: Final = 3  # in a row whose gradients are not finite before the stage is rolled back
STRIDE: Final = 32  # pixels; sides are multiples of what most networks shrink an image by
_RISING: Final = 0.6  # of the steps; the others are at full size, at which the model is used (Touvron et al. 2019)


class FineTuner(L.LightningModule):
    """Trains the layer groups from `first_group` on, and the head; everything before stays frozen and in eval mode.

    Nothing in it depends on what happened before but its weights, the optimizer and `step`: rates, order and random
    numbers follow from the seed and the step, so that a stage can be gone on from at any of them.

    Args:
        classifier: backbone and head.
        normalize: from stored pixels to the network's input.
        first_group: index of the first layer group that learns; 0 trains everything.
        stage: steps and rates of this stage.
        train: settings shared by the stages.
        loss: what is minimised (`cvtune.training.losses.build_loss`).
        total_steps: optimizer steps of the whole stage, for the schedule.
        seed: of dropout and drop-path.
        frozen_half: bfloat16 for the frozen groups.
        half: bfloat16 for forward and backward pass, on the processor (`hardware.mixed`); the loss, the head and the
            optimizer are in float32, and so are the answers by which a stage is kept or dropped.
        small: side in pixels of the images of the first steps, see :func:`side_at`; 0 for the full one all along.
        mixing: mixup and CutMix of training batches; None mixes nothing.

    Attributes:
        step: batches seen so far.
        factor: what the rates are multiplied with; halved when the stage is rolled back.
        bad: steps in a row that were skipped because a gradient was not finite.
        in_half: whether the training step is in bfloat16.
    """

    def __init__(
        self,
        classifier: Classifier,
        normalize: Normalize,
        *,
        first_group: int,
        stage: StageConfig,
        train: TrainConfig,
        loss: Loss,
        total_steps: int,
        seed: int = 0,
        frozen_half: bool = False,
        half: bool = False,
        small: int = 0,
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.normalize = normalize
        self.stage = stage
        self.settings = train
        self.loss = loss
        self.total_steps = max(1, total_steps)
        self.first_group = first_group
        self.frozen_half, self.in_half, self.small = frozen_half, half, small
        self.mixing = mixing
        self.step, self.factor, self.bad = 0, 1.0, 0
        self._seed = seed
        set_trainable(
            classifier.backbone,
            first_group,
            frozen_norms=train.batch_norm == "frozen",
            frozen_depthwise=stage.depthwise == "frozen",
        )
        self._train_loss = _Mean()
        self._val: list[tuple[Tensor, Tensor]] = []

    def forward(self, inputs: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Stored pixels [B, 3, S, S], or activations before `first_group` with what was pooled of them -> [B, K]."""
        return self._answer(*self._started(inputs))

    def _answer(self, z: Tensor, pooled: Tensor) -> Tensor:
        with mixed(self.in_half):
            embedding = self.classifier.backbone.tail(z, pooled, self.first_group)
        logits: Tensor = self.classifier.head(embedding.float())
        return logits

    def _started(self, inputs: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z, pooled = self.activations(inputs) if isinstance(inputs, Tensor) else inputs
        return z.float(), pooled.float()

    def activations(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What the frozen groups make of stored pixels: (B, C, h, w) or tokens (B, T, C), and pooled [B, P]."""
        x = self.normalize(pixels).contiguous(memory_format=torch.channels_last)
        if self.first_group == 0:
            return self.classifier.backbone.prefix(x, 0)
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.frozen_half):
            return self.classifier.backbone.prefix(x, self.first_group)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the rates and the random numbers of this step."""
        rate = self.factor * self.schedule(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        torch.manual_seed(int(np.random.SeedSequence((self._seed, self.step)).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One batch's loss; the step counts from here on, since callbacks are asked before the module is."""
        inputs, labels = batch
        z, pooled = self._started(inputs)
        if self.small and self.first_group == 0:
            z = _resized(z, side_at(self.step, self.total_steps, small=self.small, full=z.shape[-1]))
        if self.mixing is not None and self.first_group == 0:
            z, labels = self.mixing.pixels(z, labels, step=self.step)
        elif self.mixing is not None:
            z, pooled, labels = self.mixing.activations(z, pooled, labels, step=self.step)
        loss: Tensor = self.loss(self._answer(z, pooled), labels)
        self._train_loss.add(loss.detach(), len(labels))
        self.step += 1
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip; a step with a gradient that is not finite is skipped: parameters without gradient do not move."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if bool(torch.isfinite(nn.utils.get_total_norm(gradients))):
            self.bad = 0
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            self.bad += 1
            optimizer.zero_grad(set_to_none=True)

    def on_train_epoch_start(self) -> None:
        """Forget the loss of the epoch before."""
        self._train_loss = _Mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits: the figures are of the whole side, not means over batches."""
        inputs, labels = batch
        self._val.append((self(inputs).detach(), labels))

    def on_validation_epoch_end(self) -> None:
        """Log the figures."""
        self.log_dict(self.figures())

    def figures(self) -> dict[str, Tensor | float]:
        """Loss and balanced accuracy of the validation images shown since the last call; the training loss."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._val, strict=True))
        self._val.clear()
        loss, score = self.loss.log_loss(logits, labels), balanced_accuracy(logits, labels)
        return {"val_loss": loss, "val_balanced_accuracy": score, "train_loss": self._train_loss.value}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with one rate per layer group; the schedule is `schedule`, set at each step."""
        groups = [{**group, "initial_lr": group["lr"]} for group in self.parameter_groups()]
        # Where Lightning scales the loss for float16 it has to unscale before gradients are clipped: not fused there.
        scaled = self._trainer is not None and self.trainer.precision == "16-mixed"
        self._optimizer = torch.optim.AdamW(groups, lr=self.stage.learning_rate, fused=not scaled)
        return self._optimizer

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
            if (params := [p for p in parameters if p.requires_grad and (p.ndim > 1) is decayed])
        ]

    def schedule(self, step: int) -> float:
        """What the rates are multiplied with at a step: linear warm-up, then a cosine down to zero."""
        warm = max(1, round(self.settings.warmup * self.total_steps))
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, self.total_steps - warm)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def side_at(step: int, steps: int, *, small: int, full: int) -> int:
    """Pixels of a step's images: rising from `small` in multiples of 32, `full` in the last two fifths of the steps.

    Small images cost little and teach most of what there is to learn (progressive resizing, Tan and Le 2021,
    arXiv:2104.00298, section 4.2).
    """
    done = step / (_RISING * steps)
    return full if done >= 1 else small + int((full - small) * done) // STRIDE * STRIDE


def mean_area(steps: int, *, small: int, full: int) -> float:
    """Pixels of the images of all steps, as a share of those at full size."""
    return sum(side_at(step, steps, small=small, full=full) ** 2 for step in range(steps)) / (steps * full**2)


def _resized(images: Tensor, side: int) -> Tensor:
    """Float [B, 3, S, S] -> [B, 3, side, side]."""
    if images.shape[-1] == side:
        return images
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return small.contiguous(memory_format=torch.channels_last)


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
    """A mean that grows, weighted by the batch sizes; on the device, so that no step waits for it."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._count = 0

    def add(self, value: Tensor, count: int) -> None:
        self._sum, self._count = self._sum + value * count, self._count + count

    @property
    def value(self) -> float:
        return float(self._sum) / max(1, self._count)
