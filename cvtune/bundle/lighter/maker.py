"""A network in eight bits: which ranges, how many bits, and what stays in float, chosen by what its features lose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from cvtune.bundle.lighter.parts import EMBEDDING, constants_of, embeddings, folded, upstream
from cvtune.bundle.lighter.quantizer import (
    METHODS,
    OPERATORS,
    Method,
    Ranges,
    dynamically_quantized,
    quantized,
    ranges_of,
)
from cvtune.bundle.lighter.refit import noise
from cvtune.bundle.lighter.rounding import Grid, rounded

Wide = NDArray[np.float64]
Tell = Callable[[str, int, int], None]

_ROUNDING: Final = 32  # images whose inputs the rounding looks at
_COSTLY: Final = 0.1  # of what the features lose: a part that adds so much stays in float in any case
_SENSITIVE: Final = 5  # parts
_EARLY: Final = 2  # parts; what is lost first goes through all others
_WHOLE, _REDUCED = 127, 64  # largest weights of eight and seven bits, as the quantizer has them


@dataclass(frozen=True)
class Recipe:
    """How a network goes into eight bits.

    Attributes:
        method: how the ranges of activations are chosen; None where each image has its own (transformers).
        reduced: weights of seven bits.
        floats: parts that stay in float besides preprocessing and head.
    """

    method: Method | None
    reduced: bool
    floats: tuple[str, ...] = ()

    def __str__(self) -> str:
        ranges = "ranges of each image" if self.method is None else f"ranges by {self.method}"
        kept = f", in float: {', '.join(self.floats)}" if self.floats else ""
        return f"{ranges}, weights of {7 if self.reduced else 8} bits{kept}"


class Maker:
    """Makes a network in eight bits.

    Args:
        network: in float, `pixels` -> `probabilities`, `embedding`.
        pixels: [1, 3, S, S] each, of training images.
        tell: called with what is tried, how many of them were, and of how many.
    """

    def __init__(
        self, network: onnx.ModelProto, pixels: Sequence[NDArray[Any]], *, tell: Tell = lambda what, done, of: None
    ) -> None:
        self._network, self._pixels, self._tell = folded(network), pixels, tell
        self._units = _units(self._network.graph)
        self._ranges: dict[Method, Ranges] = {}
        self._whole: dict[bool, dict[str, NDArray[np.int8]]] = {}
        self._lost: dict[Recipe, float] = {}

    @cached_property
    def dynamic(self) -> bool:
        """Whether most weights are in products of matrices, as in transformers, whose outliers no one range holds."""
        weights = {"Conv": 0, "MatMul": 0}
        constants = constants_of(self._network.graph)
        for node in self._network.graph.node:
            if node.op_type in weights and node.input[1] in constants:
                weights[node.op_type] += int(np.prod(constants[node.input[1]].dims))
        return weights["MatMul"] > weights["Conv"]

    @property
    def _methods(self) -> Sequence[Method | None]:
        return (None,) if self.dynamic else METHODS

    @cached_property
    def wanted(self) -> NDArray[np.float32]:
        """Embeddings in float."""
        return embeddings(self._network, self._pixels)

    def best(self) -> Recipe:
        """The recipe whose features are nearest to those in float, as this processor computes them."""
        return min((Recipe(method, reduced) for method in self._methods for reduced in (False, True)), key=self._noise)

    def recipes(self) -> Iterator[Recipe]:
        """The best with some parts in float, then with more and more of them.

        One part after the other is taken, that without which the features lose least; as long as this is much, nothing
        is asked about the recipe before. Only those that alone mattered most and the first of the network are tried.
        """
        recipe, units = self.best(), list(dict.fromkeys(self._units.values()))
        alone = sorted(units, key=lambda unit: self._noise(replace(recipe, floats=(unit,))))[:_SENSITIVE]
        while len(recipe.floats) < len(units) - 1:
            rest = [unit for unit in units if unit not in recipe.floats]
            tried = [unit for unit in rest if unit in (*rest[:_EARLY], *alone)]
            gentler = min((replace(recipe, floats=(*recipe.floats, unit)) for unit in tried), key=self._noise)
            if self._noise(gentler) > (1 - _COSTLY) * self._noise(recipe):
                yield recipe
            recipe = gentler
        yield recipe

    def make(self, recipe: Recipe) -> onnx.ModelProto:
        """The network by a recipe."""
        only = [node for node, unit in self._units.items() if unit not in recipe.floats]
        if recipe.method is None:
            return dynamically_quantized(self._network, only=only, reduced=recipe.reduced)
        made = quantized(self._network, self._ranges_by(recipe.method), only=only, reduced=recipe.reduced)
        self._round(made, reduced=recipe.reduced)
        return made

    def _noise(self, recipe: Recipe) -> float:
        if recipe not in self._lost:
            ways, parts = 2 * len(self._methods), len(set(self._units.values()))
            tried = len(self._lost)
            if tried < ways:
                self._tell("ranges", tried, ways)
            else:
                self._tell("parts", tried - ways, max(parts, tried - ways + 1))
            self._lost[recipe] = noise(embeddings(self.make(recipe), self._pixels), self.wanted)
        return self._lost[recipe]

    def _ranges_by(self, method: Method) -> Ranges:
        if method not in self._ranges:
            self._ranges[method] = ranges_of(self._network, method, self._pixels)
        return self._ranges[method]

    def _round(self, made: onnx.ModelProto, *, reduced: bool) -> None:
        """Give the convolutions their weights."""
        constants, producers = constants_of(made.graph), {one.output[0]: one for one in made.graph.node}
        found = {
            node.name: producers[node.input[1]]
            for node in made.graph.node
            if node.op_type == "Conv" and node.input[1] in producers
        }
        if reduced not in self._whole:  # scales hang on the weights alone: those of one part in float are the same
            grids = {name: _grid(constants[node.input[0]], constants[node.input[1]]) for name, node in found.items()}
            self._whole[reduced] = rounded(self._network, grids, self._pixels[:_ROUNDING])
        for name, node in found.items():
            if name in self._whole[reduced]:
                tensor = constants[node.input[0]]
                tensor.CopyFrom(numpy_helper.from_array(self._whole[reduced][name], tensor.name))


def _grid(whole: onnx.TensorProto, scales: onnx.TensorProto) -> Grid:
    """That of weights which were rounded to the nearest."""
    largest = int(np.abs(numpy_helper.to_array(whole).astype(np.int64)).max())
    return Grid(numpy_helper.to_array(scales).astype(np.float64), _REDUCED if largest <= _REDUCED else _WHOLE)


def _units(graph: onnx.GraphProto) -> dict[str, str]:
    """The nodes that may be computed in integers, and the part of the network that each belongs to.

    Those are feature maps behind the first convolution, and products with constant matrices; neither what prepares the
    pixels nor what comes from the embedding on.
    """
    backbone, constants = upstream(graph, EMBEDDING), constants_of(graph)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    found: dict[str, str] = {}
    by_output: dict[str, str] = {}
    for node in graph.node:
        weighted = node.op_type in ("Conv", "MatMul") and node.input[1] in constants
        unit = (
            _unit(node, graph, constants)
            if weighted
            else next((by_output[name] for name in node.input if name in by_output), None)
        )
        if unit is None or node.name not in backbone:
            continue
        by_output.update(dict.fromkeys(node.output, unit))
        maps = node.op_type in OPERATORS and ranks.get(node.output[0]) == 4
        if maps or (weighted and node.op_type == "MatMul"):
            found[node.name] = unit
    return found


def _unit(node: onnx.NodeProto, graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> str:
    """`blocks.3.1` of `classifier.backbone.net.blocks.3.1.conv_pw.weight`, or of the bias that has such a name."""
    readers = (one for one in graph.node if one.op_type == "Add" and node.output[0] in one.input)
    biases = (name for one in readers for name in one.input if name in constants)
    named = (name for name in (node.input[1], *biases) if "." in name)
    parts = next(named, node.name).removeprefix("classifier.backbone.net.").split(".")
    return ".".join(parts[:-2]) or parts[0]
