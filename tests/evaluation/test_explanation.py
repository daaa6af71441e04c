"""Maps point at planted defects, and at something else when the head is randomised."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from cvtune.config import ModelConfig
from cvtune.evaluation.explanation import follows_the_head, heat_maps, hottest, most_alike
from cvtune.evaluation.studies import RANDOMISED
from cvtune.models.backbone import Backbone, create_empty, load_backbone
from cvtune.models.head import Classifier, LinearHead
from cvtune.models.weights import find_weights
from tests.conftest import load_script

CLASSES = ("dent", "ok", "scratch", "stain")
SIZE = 224


def pictures(folder: Path) -> tuple[Tensor, Any, list[tuple[int, ...]]]:
    """Normalised images, labels, and the box of each defect (empty of good parts)."""
    load_script("datasets/synthetic.py").generate(folder, per_class=60, size=SIZE, seed=3, boxes=True)
    images, labels, boxes = [], [], []
    with (folder / "boxes.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            grey = cv2.imread(str(folder / row["path"]), cv2.IMREAD_GRAYSCALE)
            assert grey is not None
            images.append(np.repeat(grey[None], 3, axis=0))
            labels.append(CLASSES.index(row["label"]))
            box = [row[name] for name in ("x", "y", "width", "height")]
            boxes.append(tuple(map(int, box)) if all(box) else ())
    x = torch.from_numpy(np.stack(images)).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last), np.array(labels), boxes


@torch.no_grad()
def probed(backbone: Backbone, images: Tensor, labels: Any) -> tuple[Classifier, Any]:
    """A linear head on the frozen backbone, and the embeddings."""
    table = torch.cat([backbone(part) for part in torch.split(images, 32)]).numpy()
    mean, scale = table.mean(axis=0), table.std(axis=0) + 1e-6
    fitted = LogisticRegression(C=0.01, max_iter=200).fit((table - mean) / scale, labels)
    weight = fitted.coef_ / scale
    head = LinearHead(backbone.width, len(CLASSES))
    head.set(torch.from_numpy(weight).float(), torch.from_numpy(fitted.intercept_ - weight @ mean).float())
    return Classifier(backbone, head).eval(), table


@pytest.mark.parametrize("tapped", [False, True], ids=["the network's own features", "several depths"])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_the_hottest_place_is_the_defect(
    name: str, tapped: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    images, labels, boxes = pictures(tmp_path)
    config = ModelConfig()
    if name == "vit_tiny_patch16_224":  # a token's length passes no LayerNorm: gradient times token showed noise
        weights = request.getfixturevalue("real_data") / "weights" / f"{name}.safetensors"
        config = ModelConfig(backbone=name, weights=str(weights))
    backbone = load_backbone(find_weights(name, config), size=SIZE)
    backbone.set_taps(backbone.default_taps() if tapped else ())
    test = np.arange(len(labels)) % 3 == 0
    classifier, _ = probed(backbone, images[~torch.from_numpy(test)], labels[~test])
    rows = np.flatnonzero(test)
    with torch.inference_mode():
        said = classifier(images[rows]).argmax(1).numpy()
    rows = rows[(said == labels[rows]) & (labels[rows] != 1)]
    assert len(rows) >= 40
    maps = heat_maps(classifier, images[rows], torch.from_numpy(labels[rows]))
    assert maps.min() == 0
    assert maps.amax(dim=(1, 2)).tolist() == [1] * len(rows)
    cell = SIZE / 7  # of the last maps
    hits = 0
    for row, (y, x) in zip(rows, hottest(maps).tolist(), strict=True):
        left, top, width, height = boxes[row]
        hits += left - cell <= x * SIZE <= left + width + cell and top - cell <= y * SIZE <= top + height + cell
    assert hits / len(rows) >= 0.8, f"{hits} of {len(rows)}"
    assert follows_the_head(classifier, images[rows[:16]], torch.from_numpy(labels[rows[:16]])) < RANDOMISED


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_every_family_has_maps_and_stays_as_it_was(name: str) -> None:
    backbone = create_empty(name, size=96 if name == "test_vit" else None)
    backbone.set_taps(backbone.default_taps())
    classifier = Classifier(backbone, LinearHead(backbone.width, 3)).eval()
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    images = torch.randn(5, 3, backbone.size, backbone.size, generator=torch.Generator().manual_seed(0))
    maps = heat_maps(classifier, images, torch.tensor([0, 1, 2, 0, 1]))
    assert maps.shape[0] == 5
    assert maps.shape[1] == maps.shape[2] > 1
    assert bool(((maps >= 0) & (maps <= 1)).all())
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_shares_of_a_tap_are_exact() -> None:
    """Behind a tap there is a mean over the places and a linear head: each place adds weight times activation."""
    backbone = create_empty("test_resnet")
    backbone.set_taps([1])
    head = LinearHead(backbone.width, 2)
    with torch.no_grad():
        head.linear.weight[:, : backbone.net_width] = 0
    classifier = Classifier(backbone, head).eval()
    images = torch.randn(2, 3, backbone.size, backbone.size, generator=torch.Generator().manual_seed(1))
    maps = heat_maps(classifier, images, torch.tensor([0, 0]))
    with torch.no_grad():
        z, _ = backbone.prefix(images, 2)
        weight = (head.linear.weight[0] - head.linear.weight[1])[backbone.net_width :]
        shares = (weight[:, None, None] * z).sum(1).clamp(min=0)
    wanted = shares / shares.amax(dim=(1, 2), keepdim=True)
    assert torch.allclose(maps, wanted, atol=1e-4)


def test_the_most_alike_are_scikit_learns() -> None:
    dice = np.random.default_rng(0)
    train, new = dice.normal(size=(50, 8)).astype(np.float32), dice.normal(size=(4, 8)).astype(np.float32)
    rows, alike = most_alike(train, new)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, new)]
    wanted = unit[1] @ unit[0].T
    assert rows.tolist() == np.argsort(-wanted, axis=1)[:, :3].tolist()
    assert alike == pytest.approx(-np.sort(-wanted, axis=1)[:, :3], abs=1e-5)
    assert most_alike(train[:2], new)[0].shape == (4, 2)
