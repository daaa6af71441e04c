from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from cvtune_edge.decision import OperatingPoint
from cvtune_edge.session import open_session
from torch import Tensor

from cvtune.bundle.graph import Deployed, build_model
from cvtune.data.preprocess import Preprocessing
from cvtune.evaluation.calibration import Calibration
from cvtune.models.backbone import Backbone, create_empty, set_trainable
from cvtune.models.head import Classifier, LinearHead
from cvtune.models.normalize import Normalize

# name, default taps, their widths
NETS = [
    ("resnet18", (3, 5, 7), [128, 256, 512]),
    ("vit_tiny_patch16_224", (5, 8, 11), [192] * 3),
    ("convnext_atto", (5, 8, 11), [160, 160, 320]),
    ("tf_efficientnet_lite0", (3, 5, 7), [40, 112, 320]),
    ("mobilenetv3_small_100", (3, 4, 6), [40, 48, 576]),
]


def images(backbone: Backbone, n: int = 2) -> Tensor:
    return torch.randn(n, 3, backbone.size, backbone.size, generator=torch.Generator().manual_seed(0))


def tapped(name: str, size: int = 64) -> Backbone:
    backbone = create_empty(name, size=size)
    backbone.set_taps(backbone.default_taps())
    return backbone


@pytest.mark.parametrize(("name", "taps", "widths"), NETS)
def test_cuts_hold_with_and_without_taps(name: str, taps: tuple[int, ...], widths: list[int]) -> None:
    backbone = create_empty(name)
    x = images(backbone)
    with torch.no_grad():
        own = backbone(x)
        assert torch.equal(own, backbone.net(x))
        backbone.set_taps(backbone.default_taps())
        assert (backbone.taps, list(backbone.tap_widths.values())) == (taps, widths)
        whole = backbone(x)
        assert whole.shape == (2, backbone.width)
        assert backbone.width == backbone.net_width + sum(widths)
        assert torch.equal(whole[:, : backbone.net_width], own)
        for cut in range(len(backbone.groups) + 1):
            z, pooled = backbone.prefix(x, cut)
            assert pooled.shape == (2, sum(w for tap, w in zip(taps, widths, strict=True) if tap < cut))
            assert torch.equal(backbone.tail(z, pooled, cut), whole)
        backbone.set_taps(())
        assert torch.equal(backbone(x), own)
        assert backbone.prefix(x, 3)[1].shape == (2, 0)


def test_a_tap_is_the_mean_over_the_picture() -> None:
    for name, axes in (("test_resnet", (2, 3)), ("test_vit", (1,))):
        backbone = create_empty(name, size=64)
        x = images(backbone)
        with torch.no_grad():
            z, _ = backbone.prefix(x, 3)
            backbone.set_taps([2])
            assert torch.equal(backbone(x)[:, backbone.net_width :], z.mean(dim=axes))


@pytest.mark.parametrize(("name", "taps", "widths"), NETS)
def test_a_trace_is_the_prefix_with_what_is_pooled(name: str, taps: tuple[int, ...], widths: list[int]) -> None:
    backbone = tapped(name).eval()
    x, cut = images(backbone), len(backbone.groups) - 1
    with torch.no_grad():
        z, pooled, maps = backbone.trace(x, cut)
        wanted, means = backbone.prefix(x, cut)
        outputs = {tap: backbone.prefix(x, tap + 1)[0] for tap in maps}
    assert torch.equal(z, wanted)
    assert torch.equal(pooled, means)
    assert list(maps) == [tap for tap in taps if tap < cut]
    assert all(torch.equal(maps[tap], outputs[tap]) for tap in maps)


def test_taps_stand_in_the_order_of_the_layers() -> None:
    backbone = create_empty("test_resnet", size=64)
    backbone.set_taps([3, 0, 3])
    assert backbone.taps == (0, 3)
    x = images(backbone)
    with torch.no_grad():
        first = backbone.prefix(x, 1)[0].mean(dim=(2, 3))
        start = backbone.net_width
        assert torch.equal(backbone(x)[:, start : start + backbone.tap_widths[0]], first)


@pytest.mark.parametrize(
    ("name", "groups", "taps"),
    [("test_byobnet", 1, ()), ("test_resnet", 5, (2, 3)), ("test_efficientnet", 7, (2, 4, 5))],
)
def test_few_groups_have_few_taps(name: str, groups: int, taps: tuple[int, ...]) -> None:
    backbone = create_empty(name)
    assert (len(backbone.groups), backbone.default_taps()) == (groups, taps)


@pytest.mark.parametrize("wrong", [-1, 4, 9])
def test_a_tap_outside_or_at_the_end_is_refused(wrong: int) -> None:
    backbone = create_empty("test_resnet")
    with pytest.raises(ValueError, match=f"no tap at group {wrong} of test_resnet"):
        backbone.set_taps([1, wrong])
    assert backbone.taps == ()
    with pytest.raises(ValueError, match="no tap at group 0 of test_byobnet"):
        create_empty("test_byobnet").set_taps([0])


def test_pooled_features_of_other_taps_are_refused() -> None:
    backbone = tapped("test_resnet")
    z, pooled = backbone.prefix(images(backbone), 4)
    with pytest.raises(ValueError, match=r"pooled features \(2, 0\), expected \(2, \d+\) before group 4"):
        backbone.tail(z, pooled[:, :0], 4)


def test_copies_and_reloaded_networks_keep_their_taps() -> None:
    backbone = tapped("test_efficientnet")
    x = images(backbone)
    clone = copy.deepcopy(backbone)
    clone.set_taps([1])
    again = create_empty("test_efficientnet", size=64, taps=backbone.taps)
    again.load_state_dict(backbone.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again(x), backbone(x))
        assert torch.equal(copy.deepcopy(backbone)(x), backbone(x))
        assert clone(x).shape == (2, clone.net_width + 16)
    assert (again.taps, clone.taps, backbone.taps) == ((2, 4, 5), (1,), (2, 4, 5))


def test_setting_taps_changes_no_mode_and_no_statistic() -> None:
    backbone = create_empty("test_efficientnet", size=64)
    set_trainable(backbone, 2)
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.set_taps([1, 3])
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    modes = [next(iter(backbone.group_modules(i))).training for i in range(3)]
    assert (backbone.training, modes) == (True, [False, False, True])


def test_a_resized_network_keeps_its_taps() -> None:
    backbone = tapped("test_vit")
    backbone.resize(96)
    assert backbone(images(backbone)).shape == (2, backbone.width)


def test_gradients_reach_the_layers_before_a_tap() -> None:
    backbone = tapped("test_resnet")
    backbone(images(backbone))[:, backbone.net_width :].sum().backward()
    stem, last = backbone.group_parameters(0)[0], backbone.group_parameters(4)[0]
    assert stem.grad is not None
    assert last.grad is None or not last.grad.any()


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_the_bundles_graph_carries_the_taps(name: str, tmp_path: Path) -> None:
    backbone = tapped(name)
    network = Classifier(backbone, LinearHead(backbone.width, 3)).eval()
    pre, normalize = Preprocessing(64), Normalize((0.5,) * 3, (0.5,) * 3)
    calibration = Calibration(1.0, 0.9, 0.9, 40)
    point = OperatingPoint((), (0.0,) * 3, (0.0,) * 3)
    model = build_model(pre, normalize, network, calibration=calibration, metadata={}, point=point)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    session = open_session(tmp_path / "model.onnx")
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    probabilities, embedding = session.run(["probabilities", "embedding"], {"image": frames})
    with torch.no_grad():
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
        expected, embedded = Deployed(normalize, network, calibration)(pixels)
    assert embedding.shape == (3, backbone.width)
    np.testing.assert_allclose(embedding, embedded.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-4)
