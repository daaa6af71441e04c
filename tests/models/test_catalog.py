from __future__ import annotations

import pytest

from cvtune.errors import ModelError
from cvtune.models.catalog import lookup


def test_a_name_gives_the_default_weights_and_a_tag_its_own() -> None:
    assert lookup("resnet18").tag == "a1_in1k"
    assert lookup("resnet18.tv_in1k").tag == "tv_in1k"
    assert lookup("tf_efficientnet_lite0").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("resnet81", "unknown backbone 'resnet81'", "did you mean 'resnet18'"),
        ("resnet18.a1_in1", "unknown weights 'a1_in1' of backbone 'resnet18'; there are: resnet18.a1_in1k", "a1_in1k'"),
        ("test_byobnet.nothing", "unknown weights 'nothing'", "test_byobnet.r160_in1k"),
        ("qqqqqq", "unknown backbone 'qqqqqq'", "timm.list_models() lists every name"),
        ("hf-hub:timm/resnet18", "unknown backbone 'hf-hub:timm/resnet18'", ""),  # would ask the network
        ("", "unknown backbone ''", "timm.list_models()"),
    ],
)
def test_unknown_names_come_with_the_nearest_ones(name: str, message: str, hint: str) -> None:
    with pytest.raises(ModelError) as caught:
        lookup(name)
    assert message in caught.value.message
    assert hint in caught.value.hint
