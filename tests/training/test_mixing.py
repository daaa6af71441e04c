from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import CutMix, MixUp

from cvtune.training.mixing import Draw, Mixing, mix, mix_labels, when

LABELS = torch.tensor([0, 1, 2, 0, 1])


@pytest.fixture(scope="module")
def images(real_data: Path) -> Tensor:
    """Float [5, 3, 96, 80] in 0..1: steel of five classes."""
    files = [sorted(folder.iterdir())[0] for folder in sorted((real_data / "neu_steel").iterdir()) if folder.is_dir()]
    frames = [cv2.resize(np.asarray(cv2.imread(str(file))), (80, 96)) for file in files[:5]]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(
    ("images", "setting", "strength"),
    [(19_999, "auto", 0.0), (20_000, "auto", 0.2), (50, 0.4, 0.4), (10**6, "off", 0.0), (10**6, 0.0, 0.0)],
)
def test_mixing_is_off_below_20000_images(images: int, setting: Any, strength: float) -> None:
    assert when(images, setting) == strength


def test_off_gives_the_batch_back_as_it_is(images: Tensor) -> None:
    mixing = Mixing(0.0, classes=3, seed=0)
    assert all(a is b for a, b in zip(mixing.pixels(images, LABELS, step=1), (images, LABELS), strict=True))
    pooled = torch.zeros(5, 0)
    given = mixing.activations(images, pooled, LABELS, step=1)
    assert all(a is b for a, b in zip(given, (images, pooled, LABELS), strict=True))


def test_mixing_is_torchvisions(images: Tensor) -> None:
    for kind, reckon in ((MixUp(alpha=0.4, num_classes=3), "lam"), (CutMix(num_classes=3), "lam_adjusted")):
        params = kind.make_params([images])
        box = params.get("box")
        draw = Draw(params[reckon], 1, (box[1], box[3], box[0], box[2]) if box else None)
        kind.make_params = lambda inputs, params=params: params
        wanted, soft = kind(images, LABELS)
        assert torch.allclose(mix(images, draw), wanted, atol=1e-6)
        assert torch.allclose(mix_labels(LABELS, draw, 3), soft, atol=1e-6)


def test_a_step_mixes_the_same_whatever_came_before_it(images: Tensor) -> None:
    before, copy = torch.get_rng_state(), images.clone()
    once = [Mixing(0.4, classes=3, seed=5).pixels(images, LABELS, step=step) for step in range(8)]
    torch.rand(7)
    mixing = Mixing(0.4, classes=3, seed=5)
    again = [mixing.pixels(images, LABELS, step=step) for step in reversed(range(8))][::-1]
    assert all(torch.equal(a, b) for x, y in zip(once, again, strict=True) for a, b in zip(x, y, strict=True))
    torch.set_rng_state(before)
    Mixing(0.4, classes=3, seed=5).pixels(images, LABELS, step=0)
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    assert torch.equal(images, copy)
    other = Mixing(0.4, classes=3, seed=6).pixels(images, LABELS, step=0)
    assert not torch.equal(other[0], once[0][0])


def test_labels_say_how_much_of_whom_is_in_the_picture(images: Tensor) -> None:
    mixing = Mixing(0.8, classes=3, seed=0)
    kinds = set()
    for step in range(60):
        draw = mixing.draw(step, batch=5, size=(96, 80))
        kinds.add(draw.box is None)
        assert 0 <= draw.share <= 1
        assert 1 <= draw.shift <= 4
        x, soft = mixing.pixels(images, LABELS, step=step)
        assert torch.allclose(soft.sum(1), torch.ones(5))
        one_hot = F.one_hot(LABELS, 3).float()
        assert torch.allclose(soft, draw.share * one_hot + (1 - draw.share) * one_hot.roll(draw.shift, 0), atol=1e-6)
        if draw.box is not None:
            top, bottom, left, right = draw.box
            assert 0 <= top <= bottom <= 96
            assert 0 <= left <= right <= 80
            if top and left and bottom < 96 and right < 80:  # of the picture's own shape
                assert (bottom - top) / 96 == pytest.approx((right - left) / 80, abs=2 / 80)
            foreign = torch.zeros(96, 80, dtype=torch.bool)
            foreign[top:bottom, left:right] = True
            assert torch.equal(x[..., ~foreign], images[..., ~foreign])
            assert torch.equal(x[..., foreign], images.roll(draw.shift, 0)[..., foreign])
            assert draw.share == pytest.approx(1 - float(foreign.float().mean()))
    assert kinds == {True, False}


def test_shares_follow_the_beta_distribution() -> None:
    mixing = Mixing(0.2, classes=3, seed=0, cutmix=False)
    shares = np.array([mixing.draw(step, batch=5, size=(9, 9)).share for step in range(2000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)  # of Beta(a, a)
    boxed = [
        draw for step in range(2000) if (draw := Mixing(1, classes=3, seed=1).draw(step, batch=5, size=(99, 99))).box
    ]
    assert len(boxed) == pytest.approx(1000, abs=100)
    # A box of area u reaches s - s * s / 4 along each side in the mean, s = sqrt(u); the mean of its square over u:
    assert np.mean([1 - draw.share for draw in boxed]) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.03)


@pytest.mark.parametrize("shape", [(5, 8, 7, 7), (5, 49, 16)])
def test_activations_mix_with_their_pooled_depths(shape: tuple[int, ...]) -> None:
    z, pooled = torch.randn(shape), torch.randn(5, 12)
    mixing = Mixing(0.4, classes=3, seed=2)
    draw = mixing.draw(11, batch=5)
    assert draw.box is None
    mixed, deep, soft = mixing.activations(z, pooled, LABELS, step=11)
    for was, now in ((z, mixed), (pooled, deep), (F.one_hot(LABELS, 3).float(), soft)):
        wanted = draw.share * was + (1 - draw.share) * was.roll(draw.shift, 0)
        assert torch.allclose(now, wanted, atol=1e-6)
    assert mixing.activations(z, torch.zeros(5, 0), LABELS, step=11)[1].shape == (5, 0)


def test_several_labels_mix_too_and_a_batch_of_one_stays(images: Tensor) -> None:
    have = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]])
    draw = Draw(0.7, 2)
    assert torch.allclose(mix_labels(have, draw, 3), 0.7 * have + 0.3 * have.roll(2, 0))
    alone = Mixing(0.4, classes=3, seed=0, cutmix=False)
    assert alone.draw(3, batch=1).shift == 0
    x, soft = alone.pixels(images[:1], LABELS[:1], step=3)
    assert torch.allclose(x, images[:1])
    assert torch.allclose(soft, F.one_hot(LABELS[:1], 3).float())


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="expected a number from 0 on"):
        Mixing(strength, classes=3, seed=0)
