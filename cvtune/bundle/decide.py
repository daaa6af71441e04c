"""The last part of the graph: from probabilities and embedding to the distance, the decision and whether it is OK.

The same as `cvtune_edge.decision.OperatingPoint.decide` and `evaluation.novelty.Novelty`, node by node; the parity gate
compares both on the user's own images. Where a number is none (NaN) every comparison is false, and the decision REVIEW.
"""

from __future__ import annotations

import numpy as np
import onnx
from cvtune_edge.decision import REVIEW, OperatingPoint
from onnx import TensorProto, helper

from cvtune.data.nodes import Nodes
from cvtune.evaluation.novelty import SHORTEST, Novelty

_PREFIX = "last"


def add_decision(model: onnx.ModelProto, point: OperatingPoint, novelty: Novelty | None) -> None:
    """Let a graph decide.

    Args:
        model: with the outputs `probabilities` [N, K] and `embedding` [N, D]; gets `novelty` float32 [N] where there is
            a distance, `decision` int64 [N] ([N, K] with several labels), and `ok` bool [N] where a class is good.
        point: the limits.
        novelty: the distance; needed where the limits have one of it.

    Raises:
        ValueError: a limit of a distance, and no distance.
    """
    if novelty is None and point.novelty is not None:
        raise ValueError("a limit of novelty needs a distance")
    build = Nodes(_PREFIX)
    outputs = []
    if novelty is not None:
        build.node("Identity", [_distance(build, novelty)], "novelty")
        outputs.append(helper.make_tensor_value_info("novelty", TensorProto.FLOAT, ["N"]))
    wide = build("Cast", ["probabilities"], to=TensorProto.DOUBLE)  # limits are compared as doubles
    decision = _several(build, point, wide) if point.several else _one(build, point, wide)
    if point.novelty is not None:
        far = build("Cast", ["novelty"], to=TensorProto.DOUBLE)
        known = build("LessOrEqual", [far, _double(build, point.novelty)])
        if point.several:
            known = build("Unsqueeze", [known, build.ints(1)])
        decision = build("Where", [known, decision, _review(build)])
    build.node("Identity", [decision], "decision")
    shape: list[str | int | None] = ["N", len(point.reject)] if point.several else ["N"]
    outputs.append(helper.make_tensor_value_info("decision", TensorProto.INT64, shape))
    if point.ok:
        build.node("Cast", [_any_of(build, decision, point.ok)], "ok", to=TensorProto.BOOL)
        outputs.append(helper.make_tensor_value_info("ok", TensorProto.BOOL, ["N"]))
    model.graph.node.extend(build.nodes)
    model.graph.initializer.extend(build.constants)
    model.graph.output.extend(outputs)


def _distance(build: Nodes, novelty: Novelty) -> str:
    """[N], as :class:`~cvtune.evaluation.novelty.Novelty` computes it."""
    one = build.ints(1)
    length = build("ReduceL2", ["embedding", one], keepdims=1)  # (N, 1)
    shortest = build.constant(np.array(SHORTEST, np.float32))
    unit = build("Div", ["embedding", build("Max", [length, shortest])])  # (N, D)
    centred = build("Sub", [unit, build.constant(novelty.mean)])
    z = build("MatMul", [centred, build.constant(np.ascontiguousarray(novelty.basis))])  # (N, d)
    own = build("ReduceSumSquare", [z, one], keepdims=1)  # (N, 1)
    across = build("MatMul", [z, build.constant(np.ascontiguousarray(-2 * novelty.points.T))])  # (N, m)
    squares = build("Add", [build("Add", [own, across]), build.constant((novelty.points**2).sum(axis=1))])
    nearest = f"{_PREFIX}_nearest"
    count = build.ints(novelty.neighbours)
    build.node("TopK", [squares, count], nearest, f"{nearest}_places", largest=0, sorted=0)
    roots = build("Sqrt", [build("Max", [nearest, build.constant(np.array(0, np.float32))])])
    return build("ReduceMean", [roots, one], keepdims=0)


def _one(build: Nodes, point: OperatingPoint, wide: str) -> str:
    """[N], of classes that exclude each other."""
    reject = _double(build, *point.reject)
    if not point.ok:
        likely = build("ArgMax", [wide], axis=1, keepdims=0)
        sure = build("ReduceMax", [wide, build.ints(1)], keepdims=0)
        decided = build("GreaterOrEqual", [sure, build("Gather", [reject, likely])])
        return build("Where", [decided, likely, _review(build)])
    k = len(point.reject)
    bad, good = build.ints(*(i for i in range(k) if i not in point.ok)), build.ints(*point.ok)
    shares = build("Gather", [wide, bad], axis=1)
    score = build("ReduceSum", [shares, build.ints(1)], keepdims=0)
    likely = build("Gather", [bad, build("ArgMax", [shares], axis=1, keepdims=0)])
    best = build("Gather", [good, build("ArgMax", [build("Gather", [wide, good], axis=1)], axis=1, keepdims=0)])
    is_ok = build("Less", [score, build("Gather", [_double(build, *point.accept), likely])])
    is_ng = build("GreaterOrEqual", [score, build("Gather", [reject, likely])])
    return build("Where", [is_ng, likely, build("Where", [is_ok, best, _review(build)])])


def _several(build: Nodes, point: OperatingPoint, wide: str) -> str:
    """[N, K], of labels that are decided by themselves."""
    yes = build("GreaterOrEqual", [wide, _double(build, *point.reject)])
    no = build("Less", [wide, _double(build, *point.accept)])
    return build("Where", [yes, build.ints(1), build("Where", [no, build.ints(0), _review(build)])])


def _any_of(build: Nodes, decision: str, ok: tuple[int, ...]) -> str:
    """Whether decisions [N] are among some classes, as numbers [N]."""
    each = build("Equal", [build("Unsqueeze", [decision, build.ints(1)]), build.ints(*ok)])  # (N, m)
    return build("ReduceMax", [build("Cast", [each], to=TensorProto.INT64), build.ints(1)], keepdims=0)


def _double(build: Nodes, *values: float) -> str:
    return build.constant(np.array(values, np.float64))


def _review(build: Nodes) -> str:
    return build.ints(REVIEW)
