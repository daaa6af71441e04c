"""The look at a model's bytes against the package onnx: what is fine for one is fine for the other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cvtune_edge import model_file
from cvtune_edge.model_file import ModelFileError, check_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.edge.conftest import CLASSES, tiny_model
from tests.edge.hostile import field, mutate
from tests.export.bundles import write_bundle

TINY = tiny_model(CLASSES).SerializeToString()
KINDS = sorted(set(model_file._BITS) - {17, 18, 19, 20, 21, 22})


def refusal(data: bytes) -> str:
    try:
        check_model(data)
    except ModelFileError as error:
        return str(error)
    return ""


def one_tensor(tensor: TensorProto) -> bytes:
    graph = helper.make_graph([], "g", [], [], [tensor])
    data: bytes = helper.make_model(graph).SerializeToString()
    return data


def test_models_that_decide_are_fine(tmp_path: Path) -> None:
    """Those of real networks pass wherever a test opens a bundle of cvtune's."""
    for data in (TINY, *(path.read_bytes() for path in sorted(write_bundle(tmp_path / "b", heat=True).glob("*.onnx")))):
        check_model(data)
        check_model(onnx.load_model_from_string(data).SerializeToString())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dims", [(), (1,), (0, 3), (2, 3), (300,)])
def test_tensors_as_onnx_writes_them(kind: int, raw: bool, dims: tuple[int, ...]) -> None:
    values = np.zeros(dims, helper.tensor_dtype_to_np_dtype(kind))
    tensor = numpy_helper.from_array(values) if raw else helper.make_tensor("t", kind, dims, values.ravel())
    check_model(one_tensor(tensor))


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN])
def test_narrow_tensors_as_onnx_writes_them(kind: int) -> None:
    for raw in (True, False):
        data: Any = bytes(2 if kind == TensorProto.FLOAT8E4M3FN else 1) if raw else [1, 2]
        check_model(one_tensor(helper.make_tensor("t", kind, [2], data, raw=raw)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_element_more_or_less_is_refused(kind: int) -> None:
    tensor = numpy_helper.from_array(np.zeros((2, 3), helper.tensor_dtype_to_np_dtype(kind)), "weights")
    for dims in ((2, 4), (1, 3), (7,)):
        del tensor.dims[:]
        tensor.dims.extend(dims)
        with pytest.raises(ModelFileError, match=r"the tensor 'weights' holds .* bytes, its sizes"):
            check_model(one_tensor(tensor))


def test_unpacked_numbers_are_counted_like_packed_ones() -> None:
    """Both forms are legal for a parser (protobuf.dev, Encoding, Packed repeated fields)."""
    loose = b"".join(field(4, 5, bytes(4)) for _ in range(3))
    for numbers in (loose, field(4, 2, bytes(12)), field(4, 2, bytes(8)) + field(4, 5, bytes(4))):
        for dims in (field(1, 0, b"\x03"), field(1, 2, b"\x03")):
            tensor = dims + field(2, 0, b"\x01") + numbers
            data = field(7, 2, field(5, 2, tensor))
            assert numpy_helper.to_array(onnx.ModelProto.FromString(data).graph.initializer[0]).shape == (3,)
            check_model(data)
    with pytest.raises(ModelFileError, match="a tensor holds 2 numbers, its sizes \\[3\\] need 3"):
        check_model(field(7, 2, field(5, 2, field(1, 0, b"\x03") + field(2, 0, b"\x01") + field(4, 2, bytes(8)))))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32))
def test_what_is_let_through_is_what_onnx_reads(seed: int) -> None:
    """A mutated model that passes has no file beside it and no operator of another domain for onnx either."""
    data = mutate(TINY, seed)
    if reason := refusal(data):
        assert len(reason) < 300
        assert reason.isprintable()
        return
    model = onnx.ModelProto.FromString(data)
    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute if a.HasField("t"))]
    assert not any(tensor.external_data or tensor.data_location for tensor in tensors)
    assert not model.functions
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not [a for node in model.graph.node for a in node.attribute if a.HasField("g") or a.graphs]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_at_all(data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(ModelFileError):
        check_model(data)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "data",
    [
        field(7, 2, b"\x0a\x00" * 1_000_001),  # nodes without anything
        field(7, 2, field(1, 2, b"\x0a\x00" * 1_000_001)),  # a node of so many inputs
        field(7, 2, field(5, 2, b"\x20\x01" * 600_000)),  # a tensor of numbers one by one, in another form
        field(6, 2, b"x" * (1 << 26)),
    ],
)
def test_large_ones_are_looked_at_in_seconds(data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(ModelFileError):
        check_model(data)
    assert time.perf_counter() - start < 10


def test_a_domain_is_let_in_by_its_operators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(operator: str) -> bytes:
        node = helper.make_node(operator, ["x"], ["y"], "n", domain="com.microsoft")
        data: bytes = helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString()
        return data

    with pytest.raises(ModelFileError, match=r"the node 'n' is of operator 'com\.microsoft\.DynamicQuantizeMatMul'"):
        check_model(model("DynamicQuantizeMatMul"))
    allowed = {**model_file.OPERATORS, "com.microsoft": frozenset({"DynamicQuantizeMatMul"})}
    monkeypatch.setattr(model_file, "OPERATORS", allowed)
    check_model(model("DynamicQuantizeMatMul"))
    with pytest.raises(ModelFileError, match="EPContext"):
        check_model(model("EPContext"))


def test_the_table_has_the_numbers_of_onnx() -> None:
    """Every field that onnx knows is either looked into or refused, by its own number and form."""
    messages: dict[str, Any] = {
        "model": onnx.ModelProto,
        "opset": onnx.OperatorSetIdProto,
        "pair": onnx.StringStringEntryProto,
        "graph": onnx.GraphProto,
        "annotation": onnx.TensorAnnotation,
        "node": onnx.NodeProto,
        "attribute": onnx.AttributeProto,
        "tensor": onnx.TensorProto,
        "value": onnx.ValueInfoProto,
        "type": onnx.TypeProto,
        "tensor type": onnx.TypeProto.Tensor,
        "shape": onnx.TensorShapeProto,
        "dimension": onnx.TensorShapeProto.Dimension,
    }
    assert set(messages) == set(model_file._MESSAGES)
    forms = {"STRING": 2, "BYTES": 2, "MESSAGE": 2, "FLOAT": 5, "DOUBLE": 1}
    for name, message in messages.items():
        for number, known in model_file._MESSAGES[name].items():
            if (name, number) in (("type", 8), ("type", 7)):  # sparse and opaque: not in every build of onnx
                continue
            declared = message.DESCRIPTOR.fields_by_number[number]
            kind = next(
                key[5:] for key in dir(declared) if key[:5] == "TYPE_" and getattr(declared, key) == declared.type
            )
            assert known.wire == forms.get(kind, 0), (name, declared.name)
            repeated = declared.is_repeated if hasattr(declared, "is_repeated") else declared.label == 3
            assert known.refused or known.several == repeated, (name, declared.name)
        unknown = set(message.DESCRIPTOR.fields_by_number) - set(model_file._MESSAGES[name])
        assert not unknown, (name, unknown)
