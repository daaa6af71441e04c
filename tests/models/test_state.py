from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from cvtune.errors import WeightsError
from cvtune.models.state import by_order, fit_state, read_metadata, read_state


def net(name: str = "test_resnet", classes: int = 0) -> nn.Module:
    built: nn.Module = timm.create_model(name, num_classes=classes)
    return built


def test_safetensors_and_torch_files_read_alike(tmp_path: Path) -> None:
    state = net().state_dict()
    save_file(state, tmp_path / "a.safetensors", metadata={"license": "mit"})
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")
    for file in ("a.safetensors", "a.pth"):
        read = read_state(tmp_path / file)
        assert {k: v.tolist() for k, v in read.items()} == {k: v.tolist() for k, v in state.items()}
    assert read_metadata(tmp_path / "a.safetensors") == {"license": "mit"}
    assert read_metadata(tmp_path / "a.pth") == {}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run",))


def test_a_torch_file_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="restricted loader refuses it"):
        read_state(tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("file", ["broken.safetensors", "broken.pth", "empty.safetensors", "empty.pt", "absent.pth"])
def test_damaged_files_are_named(tmp_path: Path, file: str) -> None:
    if not file.startswith("absent"):
        (tmp_path / file).write_bytes(b"" if file.startswith("empty") else b"not weights at all")
    with pytest.raises(WeightsError, match=file):
        read_state(tmp_path / file)


@pytest.mark.parametrize("value", [[1, 2], {}, {"a": 1}, torch.zeros(3)])
def test_files_without_named_tensors_are_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="holds no table of named tensors"):
        read_state(tmp_path / "odd.pth")


def test_classifiers_of_any_size_are_dropped_and_the_rest_is_loaded() -> None:
    source, target = net(classes=7), net()
    fit_state(target, source.state_dict(), name="test_resnet", source="file a")
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


def test_both_classifiers_of_a_distilled_network_are_dropped() -> None:
    name = "deit_tiny_distilled_patch16_224"
    fit_state(net(name), net(name, classes=3).state_dict(), name=name, source="file a")


def test_the_pretrained_head_layers_of_mobilenet_are_kept() -> None:
    source, target = net("mobilenetv3_small_050", 5), net("mobilenetv3_small_050")
    fit_state(target, source.state_dict(), name="mobilenetv3_small_050", source="file a")
    assert torch.equal(target.state_dict()["conv_head.weight"], source.state_dict()["conv_head.weight"])


def test_every_kind_of_mismatch_is_said_at_once() -> None:
    state = net().state_dict()
    state["extra"] = state.pop("conv1.0.weight")
    state["bn1.weight"] = torch.zeros(99)
    with pytest.raises(WeightsError) as caught:
        fit_state(net(), state, name="test_resnet", source="file a")
    message = caught.value.message
    assert "file a: these are not the weights of test_resnet" in message
    assert "1 missing (conv1.0.weight)" in message
    assert "1 left over (extra)" in message
    assert "1 of another shape (bn1.weight: 99, not " in message


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_weights_of_another_family_are_refused_in_words(name: str) -> None:
    with pytest.raises(WeightsError, match="these are not the weights of"):
        fit_state(net(name), net().state_dict(), name=name, source="file a")


def test_order_and_shapes_decide_where_names_differ() -> None:
    state = net("test_efficientnet", 1000).state_dict()
    renamed = {f"x{i}": value for i, value in enumerate(state.values())}
    assert list(by_order("test_efficientnet", renamed, source="package p")) == list(state)
    swapped = dict(list(renamed.items())[1:])
    with pytest.raises(WeightsError, match=r"package p: \d+ entries do not line up with the \d+ of test_efficientnet"):
        by_order("test_efficientnet", swapped, source="package p")
