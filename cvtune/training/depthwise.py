"""Depthwise convolutions with large kernels, and a quicker way to the gradient of their weights.

oneDNN computes that gradient slowly where pictures lie channels last: a 5x5 convolution over 672 channels of 14x14
takes 1.4 ms forward and 20 ms for it (32 images, two x86 cores with AVX-512). It is a convolution itself, of each
channel of each image with its own output gradient, and takes 6 ms as that: a step of EfficientNet-Lite0 from blocks.4
on 0.297 s instead of 0.349.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

_PLANES: Final = 1024  # at a time: they stay in the processor's cache
_LARGE: Final = 5  # pixels, from which on it is worth it: of 3x3 oneDNN's own way is the quicker one


def is_large(weight: Tensor, groups: int) -> bool:
    """Whether a convolution with this weight [C, 1, k, k] is depthwise, with a large kernel."""
    return weight.ndim == 4 and weight.shape[0] == groups and weight.shape[1] == 1 and min(weight.shape[2:]) >= _LARGE


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
    """`torch.conv2d` with groups = C and no dilation, float32.

    Args:
        x: [N, C, H, W].
        weight: [C, 1, k, k].
        bias: [C], or None.
        stride: one number, or one for each side.
        padding: likewise; zeros.
    """
    out: Tensor = _Depthwise.apply(x, weight, _pair(stride), _pair(padding))
    return out if bias is None else out + bias[:, None, None]


def _pair(value: Any) -> list[int]:
    numbers = [int(number) for number in value] if isinstance(value, list | tuple) else [int(value)]
    return numbers if len(numbers) == 2 else numbers * 2


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(x, weight, None, stride, padding, 1, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (out,) = ctx.saved_tensors, grads
        to_x, to_weight = None, None
        if ctx.needs_input_grad[0]:
            to_x = torch.ops.aten.convolution_backward(
                out, x, weight, None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], len(weight), [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(x, out, weight, ctx.stride, ctx.padding)
        return to_x, to_weight, None, None


def _weight_gradient(x: Tensor, out: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    """Each channel of each image is a channel of one picture, its output gradient the kernel, the stride a dilation."""
    channels, _, high, wide = weight.shape
    gradient = torch.zeros_like(weight)
    for some, grads in zip(*(torch.split(part, max(1, _PLANES // channels)) for part in (x, out)), strict=True):
        planes = len(some) * channels
        picture = some.contiguous().view(1, planes, *x.shape[2:])
        kernels = grads.contiguous().view(planes, 1, *out.shape[2:])
        found = torch.conv2d(picture, kernels, None, 1, padding, stride, planes)[0, :, :high, :wide]
        gradient += found.reshape(len(some), *weight.shape).sum(0)
    return gradient
