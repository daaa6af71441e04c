"""The only door to onnxruntime.quantization: a network's activations and weights in eight bits."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quantize_dynamic,
    quantize_static,
    save_tensors_data,
)

from cvtune.bundle.lighter.parts import PIXELS, constants_of, in_chunks

Method = Literal["minmax", "percentile", "entropy"]

_METHODS: Final[Mapping[Method, tuple[CalibrationMethod, Mapping[str, Any]]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.999}),
    "entropy": (CalibrationMethod.Entropy, {}),
}
METHODS: Final[tuple[Method, ...]] = tuple(_METHODS)
# what onnxruntime computes in integers on a CPU; all else stays in float
OPERATORS: Final = (
    *("Conv", "Clip", "Relu", "LeakyRelu", "Sigmoid", "Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool"),
    "Concat",
)
_AT_ONCE: Final = 8  # images whose activations are in memory together: all those of one at 300 px are about 100 MB


@dataclass(frozen=True)
class Ranges:
    """What the activations of a network were on some images.

    Attributes:
        method: how the ends were chosen: the extremes, a percentile, or the least loss of information.
        told: as `save_tensors_data` wrote them.
    """

    method: Method
    told: str


def ranges_of(network: onnx.ModelProto, method: Method, pixels: Sequence[NDArray[Any]]) -> Ranges:
    """The ranges of all activations.

    Args:
        network: folded.
        method: how the ends are chosen.
        pixels: [1, 3, S, S] each, of training images.
    """
    kind, options = _METHODS[method]
    with _quiet() as scratch:
        onnx.save(network, scratch / "network.onnx")
        calibrator = create_calibrator(
            scratch / "network.onnx",
            list(OPERATORS),
            augmented_model_path=str(scratch / "augmented.onnx"),
            calibrate_method=kind,
            extra_options=dict(options),
        )
        for some in in_chunks(pixels, _AT_ONCE):
            calibrator.collect_data(_Reader(some))
        save_tensors_data(calibrator.compute_data(), scratch / "ranges.json")
        return Ranges(method, (scratch / "ranges.json").read_text(encoding="utf-8"))


def quantized(network: onnx.ModelProto, ranges: Ranges, *, only: Sequence[str], reduced: bool) -> onnx.ModelProto:
    """Weights by output channel and activations in eight bits, as pairs of QuantizeLinear and DequantizeLinear.

    Args:
        network: folded.
        ranges: of its activations.
        only: names of the nodes that may be computed in integers.
        reduced: weights of seven bits: processors without VNNI add two products in sixteen bits, which overflow; not
            those of depthwise convolutions, which are added in 32 bits everywhere.
    """
    with _quiet() as scratch:
        (scratch / "ranges.json").write_text(ranges.told, encoding="utf-8")
        whole = {"axis": 0, "quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": False}
        quantize_static(
            network,
            scratch / "int8.onnx",
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_quantize=list(only),
            per_channel=True,
            reduce_range=reduced,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[ranges.method][0],
            calibration_cache_path=scratch / "ranges.json",
            extra_options={"TensorQuantOverrides": {name: [whole] for name in _depthwise(network.graph)}},
        )
        return onnx.load(scratch / "int8.onnx")


def dynamically_quantized(network: onnx.ModelProto, *, only: Sequence[str], reduced: bool) -> onnx.ModelProto:
    """The products with constant matrices in integers, activations scaled anew for each image: for transformers.

    Args:
        network: folded.
        only: names of the products that may be computed in integers.
        reduced: weights of seven bits.
    """
    with _quiet() as scratch:
        onnx.save(network, scratch / "network.onnx")
        quantize_dynamic(
            scratch / "network.onnx",
            scratch / "int8.onnx",
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=list(only),
            per_channel=True,
            reduce_range=reduced,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(scratch / "int8.onnx")


def _depthwise(graph: onnx.GraphProto) -> list[str]:
    """Names of the weights [C, 1, h, w] of convolutions that see one channel each."""
    constants = constants_of(graph)
    weights = [constants[node.input[1]] for node in graph.node if node.op_type == "Conv" and node.input[1] in constants]
    return [tensor.name for tensor in weights if len(tensor.dims) == 4 and tensor.dims[1] == 1]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pixels: Sequence[NDArray[Any]]) -> None:
        self._waiting = iter(pixels)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        found = next(self._waiting, None)
        return None if found is None else {PIXELS: found}


@contextlib.contextmanager
def _quiet() -> Iterator[Path]:
    """A folder for its files; it prints to stdout and warns that it was not called as from its own tutorial."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="cvtune-") as scratch,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            yield Path(scratch)
    finally:
        logging.disable(before)
