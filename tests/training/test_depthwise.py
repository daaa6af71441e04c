"""The quicker gradient of depthwise convolutions is torch's."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from cvtune.training import depthwise as module
from cvtune.training.depthwise import depthwise, is_large
from cvtune.training.hardware import mixed


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [(14, 5, 1, 2), (17, 5, 2, 0), (9, 7, 2, 3), (6, 5, (1, 2), (2, 1))]
)
def test_values_and_gradients_are_those_of_torch(
    size: int, kernel: int, stride: int, padding: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PLANES", 20)  # parts of two images, and a last one
    dice = torch.Generator().manual_seed(0)
    random = [torch.randn(*shape, generator=dice) for shape in ((5, 8, size, size), (8, 1, kernel, kernel), (8,))]
    answers = []
    for way in (depthwise, partial(torch.conv2d, groups=8)):
        x, weight, bias = (part.clone().requires_grad_(True) for part in random)
        out = way(x.contiguous(memory_format=layout), weight, bias, stride, padding)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()  # type: ignore[no-untyped-call]
        answers.append((out, x.grad, weight.grad, bias.grad))
    for found, right in zip(*answers, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_only_large_depthwise_kernels_go_this_way() -> None:
    assert is_large(torch.zeros(8, 1, 5, 5), 8)
    assert not is_large(torch.zeros(8, 1, 3, 3), 8)
    assert not is_large(torch.zeros(8, 2, 5, 5), 4)
    assert not is_large(torch.zeros(16, 1, 5, 5), 8)


def test_a_layer_of_a_network_that_learns_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    gradient = module._weight_gradient

    def counted(*args: object) -> object:
        asked.append(1)
        return gradient(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_weight_gradient", counted)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 5, padding=2, groups=8), torch.nn.Conv2d(8, 8, 3, groups=8)
    )
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    layers(x).square().sum().backward()
    wanted = [parameter.grad.clone() for parameter in layers.parameters()]  # type: ignore[union-attr]
    assert asked == []
    layers.zero_grad()
    with mixed(True):
        out = layers(x)
    out.float().square().sum().backward()
    assert asked == [1]
    for parameter, right in zip(layers.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        assert float((parameter.grad - right).norm() / right.norm()) < 0.02  # bfloat16 in the dense convolution
