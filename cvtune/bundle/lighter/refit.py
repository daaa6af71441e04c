"""What rounding has moved is moved back: each feature to its old mean and spread, and the head to its old answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from cvtune.bundle.lighter.parts import EMBEDDING, Floats, constants_of, settings_of

Wide = NDArray[np.float64]

_STRENGTHS: Final = (0.03, 0.1, 0.3, 1.0, 3.0)  # of the ridge, in units of the features' mean variance
_LEAST: Final = 1e-12
_ASIDE: Final = 4  # of so many images one is kept aside to choose the strength


@dataclass(frozen=True, eq=False)
class Affine:
    """What each feature is multiplied by, and what is added then; both float32 [D]."""

    factor: Floats
    shift: Floats

    @classmethod
    def between(cls, found: Floats, wanted: Floats) -> Affine:
        """The one that makes `found` [n, D] most like `wanted` [n, D], feature by feature (least squares)."""
        x, y = found.astype(np.float64), wanted.astype(np.float64)
        dx, dy = x - x.mean(0), y - y.mean(0)
        spread = (dx**2).sum(0)
        factor = np.where(spread > _LEAST, (dx * dy).sum(0) / np.maximum(spread, _LEAST), 1.0)
        return cls(factor.astype(np.float32), (y.mean(0) - factor * x.mean(0)).astype(np.float32))

    def __call__(self, found: Floats) -> Floats:
        """[n, D] moved."""
        return found * self.factor + self.shift


def noise(found: Floats, wanted: Floats) -> float:
    """What is left between `found` and `wanted` [n, D] after :class:`Affine`, as a share of the features' spread."""
    left = Affine.between(found, wanted)(found).astype(np.float64) - wanted
    spread = wanted.astype(np.float64).std(0)
    used = spread > _LEAST**0.5
    return float(np.sqrt(((left[:, used] / spread[used]) ** 2).mean())) if used.any() else 0.0


def refitted(network: onnx.ModelProto, found: Floats, wanted: Floats) -> onnx.ModelProto:
    """The network with its features moved back, and a linear head fitted to its own old answers.

    Args:
        network: quantised.
        found: its embeddings [n, D] of training images.
        wanted: those of the network in float.
    """
    made = onnx.ModelProto()
    made.CopyFrom(network)
    affine = Affine.between(found, wanted)
    head = _head(made.graph)
    if head is not None:
        w, b = head.values
        head.set(*_ridge(affine(found).astype(np.float64), wanted.astype(np.float64), w, b))
    _insert(made.graph, affine)
    return made


@dataclass(frozen=True, eq=False)
class _Head:
    """A head of one layer, in the graph.

    Attributes:
        weight: [K, D], or [D, K] where the layer is a product and a sum.
        bias: [K].
        turned: whether it is [D, K].
    """

    weight: onnx.TensorProto
    bias: onnx.TensorProto
    turned: bool

    @property
    def values(self) -> tuple[Wide, Wide]:
        """[K, D] and [K]."""
        w, b = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in (self.weight, self.bias))
        return (w.T if self.turned else w), b

    def set(self, w: Wide, b: Wide) -> None:
        """[K, D] and [K]."""
        for tensor, value in ((self.weight, w.T if self.turned else w), (self.bias, b)):
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), tensor.name))


def _head(graph: onnx.GraphProto) -> _Head | None:
    """The head, where it is one layer; one of the user's own stays as it is."""
    constants = constants_of(graph)
    for node in graph.node:
        if not node.input or node.input[0] != EMBEDDING or not set(node.input[1:]) <= set(constants):
            continue
        if node.op_type == "Gemm" and settings_of(node).get("transB") == 1 and len(node.input) == 3:
            return _Head(constants[node.input[1]], constants[node.input[2]], turned=False)
        sums = [one for one in graph.node if one.op_type == "Add" and node.output[0] in one.input]
        biases = [constants[name] for one in sums for name in one.input if name in constants]
        if node.op_type == "MatMul" and len(biases) == 1:  # onnxruntime's quantizer makes these two of it
            return _Head(constants[node.input[1]], biases[0], turned=True)
    return None


def _ridge(x: Wide, y: Wide, w: Wide, b: Wide) -> tuple[Wide, Wide]:
    """The head (w [K, D], b [K]) whose answers to `x` [n, D] are nearest to the old head's answers to `y`.

    It is held to the old weights; how strongly is chosen on images kept aside, and the old head is one of the choices.
    """
    aside = np.arange(len(x)) % _ASIDE == 0
    goal = y @ w.T + b
    heads = [_fit(x[~aside], goal[~aside], w, strength) for strength in _STRENGTHS]
    losses = [float(((x[aside] @ one.T + c - goal[aside]) ** 2).mean()) for one, c in (*heads, (w, b))]
    best = int(np.argmin(losses))
    return (w, b) if best == len(heads) else _fit(x, goal, w, _STRENGTHS[best])


def _fit(x: Wide, goal: Wide, w: Wide, strength: float) -> tuple[Wide, Wide]:
    middle, spread = x.mean(0), np.maximum(x.std(0), _LEAST**0.5)
    z = (x - middle) / spread  # (n, D)
    rest = goal - goal.mean(0) - z @ (w * spread).T
    kernel = z @ z.T
    kernel[np.diag_indices(len(z))] += strength * np.trace(kernel) / len(z)
    moved = w + (z.T @ np.linalg.solve(kernel, rest)).T / spread
    return moved, goal.mean(0) - moved @ middle


def _insert(graph: onnx.GraphProto, affine: Affine) -> None:
    """Behind the embedding, for all that read it."""
    at, node = next((i, node) for i, node in enumerate(graph.node) if EMBEDDING in node.output)
    raw, scaled = f"{EMBEDDING}_raw", f"{EMBEDDING}_scaled"
    node.output[:] = [raw if name == EMBEDDING else name for name in node.output]
    for name, value in ((f"{EMBEDDING}_factor", affine.factor), (f"{EMBEDDING}_shift", affine.shift)):
        graph.initializer.append(numpy_helper.from_array(value, name))
    new = [
        onnx.helper.make_node("Mul", [raw, f"{EMBEDDING}_factor"], [scaled], name="refit_factor"),
        onnx.helper.make_node("Add", [scaled, f"{EMBEDDING}_shift"], [EMBEDDING], name="refit_shift"),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes[: at + 1], *new, *nodes[at + 1 :]])
