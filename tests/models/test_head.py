from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cvtune.errors import ModelError
from cvtune.models.backbone import create_empty
from cvtune.models.head import Classifier, LinearHead, build_head


def test_parts_embedding_and_tail_agree() -> None:
    backbone = create_empty("test_efficientnet")
    model = Classifier(backbone, LinearHead(backbone.width, 3)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits, embedding = model.parts(x)
        assert torch.equal(logits, model(x))
        assert torch.equal(embedding, model.embed(x))
        assert torch.equal(model.tail(*backbone.prefix(x, 4), 4), logits)
    assert (logits.shape, embedding.shape) == ((2, 3), (2, 256))


def test_a_probes_coefficients_are_taken_over() -> None:
    head = LinearHead(4, 2)
    weight, bias = torch.arange(8.0).reshape(2, 4), torch.tensor([1.0, -1.0])
    head.set(weight, bias)
    assert torch.equal(head(torch.ones(1, 4)), torch.tensor([[7.0, 21.0]]))
    assert head.linear.weight.requires_grad


def test_a_factory_is_called_by_seed() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (build_head(LinearHead, 8, 3, seed=seed).state_dict()["linear.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_own_head_with_batch_norm_keeps_its_mode_and_statistics() -> None:
    head = build_head(lambda d, k: nn.Sequential(nn.BatchNorm1d(d), nn.Dropout(0.5), nn.Linear(d, k)), 8, 3)
    assert head.training
    assert head.state_dict()["0.num_batches_tracked"] == 0


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("head", "got"), [(nn.Linear(8, 5), r"\(2, 5\)"), (nn.Flatten(0), r"\(16,\)"), (Tuple(), "tuple")]
)
def test_a_head_of_another_shape_is_refused(head: nn.Module, got: str) -> None:
    with pytest.raises(ModelError, match=rf"the head gives {got} for embeddings of shape \(2, 8\), expected \(2, 3\)"):
        build_head(lambda width, classes: head, 8, 3)
