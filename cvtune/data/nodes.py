"""Pieces of an ONNX graph that is written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


class Nodes:
    """Nodes and constants in order, with counted names.

    Args:
        prefix: that all names but those of :meth:`node` begin with.
    """

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def node(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> None:
        """A node whose outputs have names of their own."""
        name = f"{self._prefix}_{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))

    def __call__(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node; returns the name of its output."""
        output = f"{self._prefix}_{len(self.nodes)}"
        self.node(kind, inputs, output, **attributes)
        return output

    def ints(self, *values: int) -> str:
        """A list of whole numbers."""
        return self.constant(np.array(values, np.int64))

    def constant(self, value: npt.NDArray[Any]) -> str:
        """A constant; returns its name."""
        name = f"{self._prefix}_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def shape(self, name: str, start: int, end: int) -> str:
        """Some sizes of a tensor."""
        return self("Shape", [name], start=start, end=end)
