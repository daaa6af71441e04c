"""Frozen layers in onnxruntime: on a processor it runs many networks in a half to a third of torch's time.

The line's runtime is a dependency anyway. EfficientNet-Lite0 takes 4.3 ms an image of 224 px on two cores there, where
torch takes 10.7 in float32 and 6.5 in bfloat16.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

import numpy as np
import torch
from cvtune_edge.session import SESSION_ERRORS, open_session
from torch import Tensor, nn

from cvtune.models.backbone import Backbone
from cvtune.models.folding import alike, trial_image

Prefix = Callable[[Tensor], tuple[Tensor, Tensor]]
Frozen = Literal["float32", "bfloat16", "onnxruntime"]  # how frozen layers run: torch in one of two formats, or this

_OPSET: Final = 17
# Images of a run. Of one fixed shape: the paddings that timm computes from it are then constants that go into the
# convolutions (7.5 ms otherwise), and few, whose activations stay in the processor's cache.
_CHUNK: Final = 8


class _Layers(nn.Module):
    def __init__(self, backbone: Backbone, cut: int) -> None:
        super().__init__()
        self.backbone, self.cut = backbone, cut

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z, pooled = self.backbone.prefix(x, self.cut)
        return (z, pooled) if pooled.shape[1] else (z,)


def engine(quick: Backbone, cut: int) -> Prefix | None:
    """The layer groups before a cut as a session of onnxruntime.

    Args:
        quick: with folded BatchNorms, in eval mode; not changed.
        cut: groups that are run, as for :meth:`Backbone.prefix`.

    Returns:
        Normalised images, float32 [N, 3, S, S] -> activations and pooled taps as `prefix` gives them, float32. None
        where the layers live on a GPU, do not go into a graph, or answer otherwise there.
    """
    if next(quick.parameters()).device.type != "cpu":
        return None
    side = trial_image(quick)
    images = torch.cat([side, side.flip(3), side.flip(1) / 2])
    try:
        session = open_session(_exported(copy.deepcopy(quick), cut), threads=torch.get_num_threads())
    except (*SESSION_ERRORS, *_EXPORT_ERRORS):
        return None

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        full = torch.cat([x, x.new_zeros(-len(x) % _CHUNK, *x.shape[1:])]).contiguous()
        parts = [session.run(None, {"x": some.numpy()}) for some in torch.split(full, _CHUNK)]
        z, *pooled = (torch.from_numpy(np.concatenate(part)[: len(x)]) for part in zip(*parts, strict=True))
        return z, pooled[0] if pooled else torch.empty(len(x), 0)

    found = run(images)
    with torch.inference_mode():
        wanted = quick.prefix(images.contiguous(memory_format=torch.channels_last), cut)
    return run if all(map(alike, found, wanted)) else None


# What the exporter raises where a layer has no counterpart; torch names no common base of them.
_EXPORT_ERRORS: Final[tuple[type[Exception], ...]] = (
    torch.onnx.errors.OnnxExporterError,
    AttributeError,
    ImportError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _exported(quick: Backbone, cut: int) -> bytes:
    """By the exporter that traces: half a second, where the one for the bundle takes eight."""
    names = ["x", "z", "pooled"] if any(tap < cut for tap in quick.taps) else ["x", "z"]
    graph = io.BytesIO()
    with quiet_export(), torch.no_grad():
        torch.onnx.export(
            _Layers(quick, cut).eval(),
            (torch.zeros(_CHUNK, 3, quick.size, quick.size),),
            graph,  # type: ignore[arg-type]  # a stream is as good as a path to this exporter
            dynamo=False,
            input_names=names[:1],
            output_names=names[1:],
            opset_version=_OPSET,
        )
    return graph.getvalue()


@contextmanager
def quiet_export() -> Iterator[None]:
    """No word of torch's exporters: of their own deprecations, and of doubts that comparing the answers settles."""
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)
