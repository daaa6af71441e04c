"""Frozen layers in onnxruntime answer as they do in torch, or torch runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cvtune_edge import read_image, session
from torch import Tensor

from cvtune.config import ModelConfig
from cvtune.models import engine as module
from cvtune.models.backbone import Backbone, create_empty, load_backbone
from cvtune.models.engine import engine
from cvtune.models.folding import folded
from cvtune.models.weights import find_weights


def quick(backbone: Backbone, cut: int) -> Backbone:
    return folded(backbone, cut)[0]


def images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tapped", [False, True])
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext"])
def test_any_number_of_images_at_any_cut(name: str, tapped: bool) -> None:
    backbone = create_empty(name, size=64).eval()
    backbone.set_taps(backbone.default_taps() if tapped else ())
    count = len(backbone.groups)
    for cut in (count // 2, count):
        layers = quick(backbone, cut)
        run = engine(layers, cut)
        assert run is not None
        for some in (1, 8, 11):
            x = images(some, 64)
            with torch.inference_mode():
                wanted = layers.prefix(x, cut)
            for found, right in zip(run(x), wanted, strict=True):
                assert found.shape == right.shape
                assert found.dtype == torch.float32
                torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3)


def test_real_weights_on_real_images(real_data: Path) -> None:
    backbone = load_backbone(find_weights("tf_efficientnet_lite0", ModelConfig()))
    backbone.set_taps(backbone.default_taps())
    files = sorted((real_data / "neu_steel").rglob("*.jpg"))[::150]
    frames = [torch.from_numpy(read_image(file).pixels).permute(2, 0, 1).float() / 128 - 1 for file in files]
    x = torch.nn.functional.interpolate(torch.stack(frames), (224, 224), mode="bilinear")
    layers = quick(backbone, 6)
    run = engine(layers, 6)
    assert run is not None
    with torch.inference_mode():
        wanted = layers.prefix(x.contiguous(memory_format=torch.channels_last), 6)
    for found, right in zip(run(x), wanted, strict=True):
        assert float((found - right).abs().max() / right.abs().max()) < 1e-5


def test_an_image_has_the_same_bits_in_any_place() -> None:
    backbone = create_empty("test_efficientnet", size=64).eval()
    run = engine(quick(backbone, 3), 3)
    assert run is not None
    x = images(20, 64)
    assert torch.equal(run(x)[0], run(x.flip(0))[0].flip(0))
    assert torch.equal(run(x)[0][:5], run(x[:5])[0])
    assert torch.equal(run(x)[0], run(x.contiguous(memory_format=torch.channels_last))[0])


def test_layers_that_do_not_go_into_a_graph_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise torch.onnx.errors.UnsupportedOperatorError("aten::mine", 17, None)

    monkeypatch.setattr(torch.onnx, "export", refuse)
    assert engine(quick(create_empty("test_resnet", size=64), 2), 2) is None


def test_layers_that_answer_otherwise_there_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = session.open_session

    class Wrong:
        def __init__(self, *args: Any, **options: Any) -> None:
            self._session = opened(*args, **options)

        def run(self, *args: Any) -> list[Any]:
            return [1.01 * part for part in self._session.run(*args)]

    monkeypatch.setattr(module, "open_session", Wrong)
    assert engine(quick(create_empty("test_resnet", size=64), 2), 2) is None
