from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cvtune_edge import read_image
from numpy.typing import NDArray
from torch import Tensor

from cvtune.config import AugmentConfig, ModelConfig
from cvtune.models.backbone import create_empty, load_backbone, set_trainable
from cvtune.models.features import embed, features, mirror_of
from cvtune.models.normalize import Normalize
from cvtune.models.weights import find_weights


def test_rows_follow_the_images_and_the_mode_comes_back() -> None:
    backbone = create_empty("test_efficientnet")
    set_trainable(backbone, 2)
    backbone.train()
    x, state = torch.randn(5, 3, 64, 64), {k: v.clone() for k, v in backbone.state_dict().items()}
    done: list[int] = []
    rows = features(backbone, [x[:2], x[2:4], x[4:]], progress=done.append)
    assert (rows.shape, str(rows.dtype), done) == ((5, 256), "float32", [2, 4, 5])
    modes = [next(iter(backbone.group_modules(i))).training for i in range(3)]
    assert (backbone.training, modes) == (True, [False, False, True])
    assert all(torch.equal(v, state[k]) for k, v in backbone.state_dict().items())
    with torch.no_grad():
        np.testing.assert_allclose(rows, backbone.eval()(x).numpy(), rtol=1e-4, atol=1e-4)


def test_no_images_give_an_empty_table() -> None:
    assert features(create_empty("test_resnet"), []).shape == (0, 96)


class Pixels:
    """Stands for a cache: the images at these positions."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[rows]


def photographs(real_data: Path, count: int) -> Any:
    files = sorted((real_data / "neu_steel").rglob("*.jpg"))[:: 1800 // count][:count]
    return Pixels(np.stack([read_image(file).pixels[:64, :64].transpose(2, 0, 1) for file in files]))


NORMALIZE = Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext"])
def test_an_embedding_does_not_depend_on_the_other_images(real_data: Path, name: str) -> None:
    pixels, backbone = photographs(real_data, 40), create_empty(name, size=64)
    backbone.set_taps(backbone.default_taps())
    together = embed(backbone, pixels, NORMALIZE, np.arange(40))
    assert together.shape == (40, backbone.width)
    for rows in ([39], [3, 17, 5], list(range(39, -1, -1))):
        assert np.array_equal(embed(backbone, pixels, NORMALIZE, np.array(rows)), together[rows])
    assert embed(backbone, pixels, NORMALIZE, np.empty(0, np.int64)).shape == (0, backbone.width)


def test_mirrored_images_are_embedded_mirrored(real_data: Path) -> None:
    pixels, backbone, rows = photographs(real_data, 3), create_empty("test_resnet", size=64), np.arange(3)
    plain = embed(backbone, pixels, NORMALIZE, rows)
    for mirror, axis in (("left-right", 3), ("upside-down", 2)):
        by_hand: Any = Pixels(np.flip(pixels.images, axis).copy())
        mirrored = embed(backbone, pixels, NORMALIZE, rows, mirror=mirror)  # type: ignore[arg-type]
        assert np.array_equal(mirrored, embed(backbone, by_hand, NORMALIZE, rows))
        assert not np.array_equal(mirrored, plain)


def test_images_are_mirrored_as_the_augmentation_may() -> None:
    found = [mirror_of(AugmentConfig(hflip=h, vflip=v)) for h, v in ((False, False), (True, True), (False, True))]
    assert found == [None, "left-right", "upside-down"]


def test_real_weights_tell_steel_defects_apart(real_data: Path) -> None:
    """The nearest other image is of the same class for nearly all: wrong weights or a wrong order give chance."""
    info = find_weights("tf_efficientnet_lite0", ModelConfig())
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (info.mean, info.std))

    def batch(folder: Path) -> Tensor:
        files = sorted(folder.glob("*.jpg"))[:8]
        pixels = [torch.from_numpy(read_image(file).pixels.copy()).permute(2, 0, 1) / 255 for file in files]
        return torch.stack([(one - mean) / std for one in pixels])

    folders = sorted(p for p in (real_data / "neu_steel").iterdir() if p.is_dir())
    rows = features(load_backbone(info), map(batch, folders))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = (rows @ rows.T - 2 * np.eye(len(rows))).argmax(axis=1)
    assert (near // 8 == np.arange(len(rows)) // 8).mean() > 0.85
