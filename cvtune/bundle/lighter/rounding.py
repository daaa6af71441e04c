"""Rounding weights so that each layer answers as before: the error of one weight is made up for by those after it.

GPTQ (Frantar et al., 2023, arXiv:2210.17323), with the layer's inputs on training images. Images of one product are so
alike that plain rounding moves the features by as much as they differ from image to image; this halves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from cvtune_edge.session import open_session
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import numpy_helper

from cvtune.bundle.lighter.parts import PIXELS, constants_of, settings_of

Wide = NDArray[np.float64]

_PLACES: Final = 64  # of a map and image that a layer's inputs are taken from
_DAMPING: Final = 0.1  # of the mean of the diagonal; 0.01 as in the paper fits the few places too closely
_MOST_COLUMNS: Final = 4608  # of a layer's matrix (3 x 3 x 512); wider ones are rounded to the nearest
_MEMORY: Final = 512 << 20  # bytes of the matrices that are held at once


@dataclass(frozen=True)
class Layer:
    """A convolution whose weights can be rounded.

    Attributes:
        name: of its node.
        source: the tensor that it reads.
        weights: [M, C, h, w], float.
        strides, pads, groups: of the convolution; pads as top, left, bottom, right.
    """

    name: str
    source: str
    weights: NDArray[np.float32]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int

    @property
    def columns(self) -> int:
        """Weights of one output channel."""
        return int(np.prod(self.weights.shape[1:]))

    @property
    def bytes(self) -> int:
        """Of its matrices."""
        return 8 * self.groups * self.columns**2

    def patches(self, image: NDArray[np.float32], dice: np.random.Generator) -> Wide:
        """Inputs [groups, places, columns] of some places of a map [C, H, W]."""
        top, left, bottom, right = self.pads
        padded = np.pad(image, ((0, 0), (top, bottom), (left, right)))
        views = sliding_window_view(padded, self.weights.shape[2:], axis=(1, 2))
        views = views[:, :: self.strides[0], :: self.strides[1]]  # (C, h, w, kh, kw)
        height, width = views.shape[1:3]
        at = dice.choice(height * width, min(height * width, _PLACES), replace=False)
        found = views[:, at // width, at % width].astype(np.float64)  # (C, places, kh, kw)
        found = found.reshape(self.groups, -1, *found.shape[1:])  # (groups, C / groups, places, kh, kw)
        return np.asarray(np.moveaxis(found, 2, 1).reshape(self.groups, len(at), self.columns))


@dataclass(frozen=True, eq=False)
class Grid:
    """What the weights of a layer are rounded to: whole numbers up to `limit`, times a scale for each channel [M]."""

    scales: Wide
    limit: int


def layers(network: onnx.ModelProto) -> tuple[Layer, ...]:
    """The convolutions of a folded network."""
    constants = constants_of(network.graph)
    return tuple(
        layer
        for node in network.graph.node
        if node.op_type == "Conv" and node.input[1] in constants
        for layer in _layer(node, constants)
    )


def _layer(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Iterator[Layer]:
    settings = settings_of(node)
    weights = numpy_helper.to_array(constants[node.input[1]])
    plain = settings.get("auto_pad", b"NOTSET") == b"NOTSET" and set(settings.get("dilations", [1])) == {1}
    if plain and weights.ndim == 4:
        strides, pads = settings.get("strides", (1, 1)), settings.get("pads", (0, 0, 0, 0))
        layer = Layer(node.name, node.input[0], weights, tuple(strides), tuple(pads), settings.get("group", 1))
        if layer.columns <= _MOST_COLUMNS:
            yield layer


def rounded(
    network: onnx.ModelProto, grids: Mapping[str, Grid], pixels: Sequence[NDArray[Any]]
) -> dict[str, NDArray[np.int8]]:
    """Whole numbers for the weights of each convolution.

    Args:
        network: folded, in float.
        grids: by the name of the convolution; the others are left out.
        pixels: [1, 3, S, S] each, of training images.
    """
    found: dict[str, NDArray[np.int8]] = {}
    for some in _batches([layer for layer in layers(network) if layer.name in grids]):
        for layer, products in _products(network, some, pixels):
            rows = layer.weights.reshape(layer.groups, -1, layer.columns).astype(np.float64)
            grid = grids[layer.name]
            steps = grid.scales.reshape(layer.groups, -1)
            whole = [_rounded(w, h, s, grid.limit) for w, h, s in zip(rows, products, steps, strict=True)]
            found[layer.name] = np.concatenate(whole).reshape(layer.weights.shape).astype(np.int8)
    return found


def _batches(some: Sequence[Layer]) -> Iterator[list[Layer]]:
    """As many at a time as memory allows."""
    batch: list[Layer] = []
    for layer in some:
        if batch and sum(one.bytes for one in (*batch, layer)) > _MEMORY:
            yield batch
            batch = []
        batch.append(layer)
    if batch:
        yield batch


def _products(
    network: onnx.ModelProto, some: Sequence[Layer], pixels: Sequence[NDArray[Any]]
) -> Iterator[tuple[Layer, Wide]]:
    """Of each layer the products of its inputs with each other, [groups, columns, columns]."""
    told = onnx.ModelProto()
    told.CopyFrom(network)
    wanted = list(dict.fromkeys(layer.source for layer in some))
    given = {output.name for output in told.graph.output}
    told.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted if name not in given
    )
    session, dice = open_session(told.SerializeToString()), np.random.default_rng(0)
    sums = [np.zeros((layer.groups, layer.columns, layer.columns)) for layer in some]
    for one in pixels:
        maps = dict(zip(wanted, session.run(wanted, {PIXELS: one}), strict=True))
        for layer, products in zip(some, sums, strict=True):
            x = layer.patches(maps[layer.source][0], dice)
            products += np.swapaxes(x, 1, 2) @ x
    return zip(some, sums, strict=True)


def _rounded(weights: Wide, products: Wide, scales: Wide, limit: int) -> Wide:
    """Of weights [M, n] with scales [M] and inputs' products [n, n]: whole numbers [M, n]."""
    n = len(products)
    diagonal = np.arange(n)
    products[diagonal, diagonal] += _DAMPING * products[diagonal, diagonal].mean() + np.finfo(np.float64).tiny ** 0.5
    inverse = np.linalg.cholesky(np.linalg.inv(products)).T  # upper
    rest, whole = weights.copy(), np.empty_like(weights)
    for i in range(n):
        whole[:, i] = np.clip(np.round(rest[:, i] / scales), -limit, limit)
        error = (rest[:, i] - whole[:, i] * scales) / inverse[i, i]
        rest[:, i + 1 :] -= error[:, None] * inverse[i, i + 1 :]
    return whole
