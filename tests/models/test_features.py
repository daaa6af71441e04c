from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from cvtune_edge import read_image
from torch import Tensor

from cvtune.config import ModelConfig
from cvtune.models.backbone import create_empty, load_backbone, set_trainable
from cvtune.models.features import features
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
