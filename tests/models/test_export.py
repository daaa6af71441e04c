from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from cvtune_edge.session import open_session

from cvtune.models.backbone import create_empty
from cvtune.models.head import Classifier, LinearHead


class Parts(Classifier):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return self.parts(x)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_the_network_exports_with_a_batch_of_any_size(name: str, tmp_path: Path) -> None:
    backbone = create_empty(name, size=64)
    model = Parts(backbone, LinearHead(backbone.width, 3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            model,
            (torch.randn(2, 3, 64, 64),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx")
    for n in (1, 5):
        x = torch.randn(n, 3, 64, 64)
        with torch.no_grad():
            expected = model(x)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-3)
