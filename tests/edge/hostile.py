"""Bundles that want something else than to be asked about pictures, each made from a small one that is fine."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle  # noqa: TID251 - what must never be loaded has to be written first
import shutil
import socket
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.export.bundles import golden_tree, seal, write_bundle

Change = Callable[[Path, Path], object]
FRAMES = 3


@dataclass(frozen=True)
class Case:
    """One hostile bundle.

    Attributes:
        name: of what it tries.
        change: makes it of a fine bundle in this folder; the second folder lies outside, and is never to be touched.
        says: what the error says; None where an answer is as good as an error.
        info: whether `info`, which runs no model, refuses it too; None where it is not asked.
    """

    name: str
    change: Change
    says: str | None
    info: bool | None = True


def fine(folder: Path) -> Path:
    """The bundle that they are made of: three golden frames, a decision, a distance."""
    write_bundle(folder)
    tree = golden_tree(folder)
    for frame in tree["frames"][FRAMES:]:
        (folder / frame["file"]).unlink()
    put_json(folder / "golden/golden.json", {**tree, "frames": tree["frames"][:FRAMES]})
    seal(folder)
    return folder


def make(case: Case, of: Path, folder: Path, outside: Path) -> None:
    """Write a hostile bundle."""
    shutil.copytree(of, folder)
    case.change(folder, outside)


def fill_outside(outside: Path) -> None:
    """What is not to be read: weights that would do, a secret, a whole golden folder."""
    outside.mkdir()
    (outside / "weights.bin").write_bytes(bytes(range(48)))
    (outside / "linked.bin").write_bytes(bytes(range(48)))
    (outside / "secret.txt").write_text("secret", encoding="utf-8")
    (outside / "golden").mkdir()
    (outside / "golden" / "00.bin").write_bytes(bytes(144))


def cases() -> Iterator[Case]:
    """All of them, their names being different."""
    for group in (
        *(external_data, operators, sizes, wire, disguised, json_tricks, names, files, wrong_hashes, golden_lists),
        *(other_answers, terminal, bombs),
    ):
        yield from group()
    yield from mutations(range(60), sealed=True)
    yield from mutations(range(60, 80), sealed=False)


# ---- ways to write


def put_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree), encoding="utf-8")


def with_model(change: Callable[[onnx.ModelProto, Path, Path], object]) -> Change:
    """The model is changed, and the manifest says that it is right."""

    def write(folder: Path, outside: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        change(model, folder, outside)
        with_bytes(model.SerializeToString())(folder, outside)

    return write


def with_bytes(data: bytes | Callable[[bytes], bytes], name: str = "model.onnx", *, sealed: bool = True) -> Change:
    """A file is exchanged; `sealed`, the manifest says that it is right."""

    def write(folder: Path, _: Path) -> None:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data(path.read_bytes()))
        if sealed:
            seal(folder)

    return write


def with_manifest(**changes: Any) -> Change:
    def write(folder: Path, _: Path) -> None:
        path = folder / "manifest.json"
        put_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})

    return write


def with_text(change: Callable[[str], str], name: str = "manifest.json") -> Change:
    def write(folder: Path, _: Path) -> None:
        path = folder / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
        if name != "manifest.json":
            seal(folder)

    return write


def field(number: int, form: int, value: bytes) -> bytes:
    """A field of the wire format: its number, its form, what follows."""
    return varint(number << 3 | form) + (varint(len(value)) if form == 2 else b"") + value


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


# ---- weights elsewhere


def external_data() -> Iterator[Case]:
    says = "keeps weights in another file"
    places = ["weights.bin", "../outside/weights.bin", "golden/../../outside/weights.bin", "golden/00.bin", "", "."]
    places += ["..\\..\\outside\\weights.bin", "C:\\Windows\\win.ini", "\\\\server\\share\\x", "file:///etc/passwd"]
    places += ["/dev/zero", "/etc/passwd", "/proc/self/environ", "~/.ssh/id_rsa", "model.onnx", "weights.bin\x00.txt"]
    for place in places:
        yield Case(f"external data in {place!r}", with_model(partial(_elsewhere, place=place)), says, info=None)
    yield Case("external data by its absolute path", with_model(_absolute), says, info=None)
    yield Case("external data through a link", with_model(_linked), "", info=None)
    yield Case("external data through a hard link", with_model(_hard_linked), says, info=None)
    yield Case(
        "external data with offset and length", with_model(partial(_elsewhere, place="x", more=True)), says, None
    )
    yield Case("external data without a place", with_model(_nowhere), says, info=None)
    yield Case("a place without external data", with_model(_only_a_place), says, info=None)
    yield Case("external data in a constant", with_model(_in_a_constant), says, info=None)
    yield Case("external data in a branch", with_model(_in_a_branch), "holds a graph within a node", info=None)
    yield Case("external data in a function", with_model(_in_a_function), "brings functions of its own", info=None)
    yield Case("external data in a sparse tensor", with_model(_in_a_sparse), "holds a sparse tensor", info=None)
    yield Case("external data in a training graph", with_model(_in_training), "brings a training graph", info=None)
    yield Case("external data in an attribute of tensors", with_model(_in_tensors), "no tensor", info=None)


def _outer(tensor: TensorProto, place: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)


def _embed(model: onnx.ModelProto) -> TensorProto:
    (found,) = (tensor for tensor in model.graph.initializer if tensor.name == "embed")
    assert isinstance(found, TensorProto)
    return found


def _elsewhere(model: onnx.ModelProto, folder: Path, outside: Path, place: str, more: bool = False) -> None:
    (folder / "weights.bin").write_bytes(bytes(48))
    _outer(_embed(model), place)
    if more:
        for key, value in (("offset", "0"), ("length", "48")):
            _embed(model).external_data.add(key=key, value=value)


def _absolute(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    _outer(_embed(model), str(outside / "weights.bin"))


def _linked(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    (folder / "weights.bin").symlink_to(outside / "weights.bin")
    _outer(_embed(model), "weights.bin")


def _hard_linked(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    os.link(outside / "linked.bin", folder / "weights.bin")
    _outer(_embed(model), "weights.bin")


def _nowhere(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    _embed(model).data_location = TensorProto.EXTERNAL


def _only_a_place(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    _embed(model).external_data.add(key="location", value="../outside/weights.bin")


def _outer_tensor() -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros((3, 4), np.float32), "w")
    _outer(tensor, "../outside/weights.bin")
    return tensor


def _in_a_constant(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=_outer_tensor()))


def _branch() -> onnx.GraphProto:
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])
    return helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "b", [], [given], [_outer_tensor()])


def _in_a_branch(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    node = helper.make_node("If", ["yes"], ["unused"], then_branch=_branch(), else_branch=_branch())
    model.graph.node.append(node)


def _in_a_function(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value=_outer_tensor())
    model.functions.append(helper.make_function("own", "F", [], ["y"], [node], model.opset_import))
    model.opset_import.append(helper.make_opsetid("own", 1))


def _in_a_sparse(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    indices = numpy_helper.from_array(np.arange(12, dtype=np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(_outer_tensor(), indices, [3, 4]))


def _in_training(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    model.training_info.add().initialization.CopyFrom(_branch())


def _in_tensors(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("extra", [_outer_tensor()]))


# ---- operators that are not the standard's


def operators() -> Iterator[Case]:
    foreign = [("com.microsoft", "EPContext"), ("com.microsoft", "FusedMatMul"), ("com.microsoft.nchwc", "Conv")]
    foreign += [("ai.onnx.ml", "TreeEnsembleRegressor"), ("ai.onnx.contrib", "PyOp"), ("ai.onnx.training", "Gradient")]
    foreign += [("org.pytorch.aten", "ATen"), ("evil", "Run"), ("ai.onnx.preview.training", "Adam"), (" ", "Add")]
    foreign += [("AI.ONNX", "Add"), ("ai.onnx/../x", "Add")]
    for domain, operator in foreign:
        change = with_model(partial(_foreign, domain=domain, operator=operator))
        yield Case(f"operator {operator} of {domain!r}", change, "expected one of ONNX itself", info=None)
    for operator in ("If", "Loop", "Scan", "SequenceMap"):
        change = with_model(partial(_foreign, domain="", operator=operator))
        yield Case(f"operator {operator}", change, "which runs as long as it is told to", info=None)
    unknown = with_model(partial(_foreign, domain="", operator="Evil"))
    yield Case("an operator that there is not", unknown, "onnxruntime cannot load it", info=None)
    yield Case("a function of its own", with_model(_function), "expected one of ONNX itself", info=None)
    referred = with_model(lambda model, *_: model.graph.node[0].attribute.add(name="x", ref_attr_name="y", type=1))
    yield Case("an argument of a function", referred, "brings functions of its own", info=None)


def _foreign(model: onnx.ModelProto, folder: Path, outside: Path, domain: str, operator: str) -> None:
    node = helper.make_node(operator, ["image"], ["unused"], "foreign", domain=domain)
    if operator == "EPContext":
        node.attribute.append(helper.make_attribute("ep_cache_context", str(outside / "weights.bin")))
        node.attribute.append(helper.make_attribute("embed_mode", 0))
    model.graph.node.append(node)
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _function(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], [node], model.opset_import))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("F", ["image"], ["unused"], domain="own"))


# ---- tensors that are not what they say


def sizes() -> Iterator[Case]:
    absurd, needs = "a size that there cannot be", "its sizes"
    for dims, says in {
        (-1, 4): absurd,
        (2**40, 2**40): absurd,
        (2**63 - 1,): absurd,
        (2**32, 2**32): absurd,  # its product is 0 in 64 bits
        (2**31 - 1, 2**31 - 1): "bytes large, at most",
        (2**28, 8): "bytes large, at most",
        (1000, 1000): needs,
        (3, 3): needs,
        (0,): needs,
        (): needs,
    }.items():
        change = with_model(partial(_sized, dims=dims))
        yield Case(f"weights of size {list(dims)}", change, says, info=None)
    yield Case("weights of 65 dimensions", with_model(partial(_sized, dims=(1,) * 65)), absurd, info=None)
    for kind in (0, 8, 14, 99):
        change = with_model(lambda model, *_, kind=kind: setattr(_embed(model), "data_type", kind))
        yield Case(f"weights of type {kind}", change, "expected numbers", info=None)
    yield Case("weights half as wide", with_model(lambda m, *_: setattr(_embed(m), "data_type", 10)), needs, info=None)
    yield Case("numbers and bytes in one tensor", with_model(_both), "numbers, its sizes", info=None)
    yield Case("too few numbers in a tensor", with_model(_few), "numbers, its sizes", info=None)
    yield Case("texts in a tensor", with_model(_texts), "holds texts in a tensor", info=None)
    yield Case("a part of a tensor", with_model(_segment), "holds a part of a tensor", info=None)
    packed = field(7, 2, field(5, 2, field(1, 2, b"\x01" * 10_000)))
    yield Case("10,000 dimensions packed", with_bytes(packed), "more than 64 dimensions", info=None)


def _sized(model: onnx.ModelProto, folder: Path, outside: Path, dims: tuple[int, ...]) -> None:
    tensor = _embed(model)
    del tensor.dims[:]
    tensor.dims.extend(dims)


def _both(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    _embed(model).float_data.extend([1.0] * 5)


def _few(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    _embed(model).ClearField("raw_data")
    _embed(model).float_data.extend([1.0] * 5)


def _texts(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    model.graph.initializer.add(name="t", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"])


def _segment(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    _embed(model).segment.begin = 0


# ---- bytes that are no whole model


def wire() -> Iterator[Case]:
    def case(name: str, change: Change, says: str | None) -> Case:
        return Case(name, change, says, info=None)

    for cut in (1, 2, 3, 7, 20, 100, 300, 600, -300, -40, -2, -1):
        yield case(f"cut at {cut}", with_bytes(partial(_cut, at=cut)), "")
    damaged = "truncated or damaged"
    yield case("empty", with_bytes(b""), "empty file")
    yield case("zeros behind", with_bytes(lambda data: data + bytes(64)), "a field 0")
    yield case("noise behind", with_bytes(lambda data: data + np.random.default_rng(0).bytes(99)), "")
    yield case("two graphs", with_bytes(lambda data: data + data), "twice")
    yield case("a second graph", with_bytes(lambda data: data + field(7, 2, field(2, 2, b"g"))), "field 7 twice")
    yield case("two versions", with_bytes(lambda data: data + field(1, 0, b"\x0a")), "field 1 twice")
    yield case("a group", with_bytes(lambda data: data + varint(30 << 3 | 3) + varint(30 << 3 | 4)), "field of form 3")
    yield case("the end of a group", with_bytes(lambda data: data + varint(30 << 3 | 4)), "field of form 4")
    yield case("a form that there is not", with_bytes(lambda data: data + varint(2 << 3 | 7)), "field of form 7")
    yield case("an unknown field", with_bytes(lambda data: data + field(30, 0, b"\x01")), "a field 30")
    yield case("an unknown field of 4 MB", with_bytes(lambda data: data + field(99, 2, bytes(1 << 22))), "a field 99")
    yield case(
        "the largest field", with_bytes(lambda data: data + field((1 << 29) - 1, 0, b"\x01")), "a field 536870911"
    )
    yield case("a field beyond all numbers", with_bytes(lambda data: data + b"\xff" * 9 + b"\x01"), "a field")
    yield case("a number without an end", with_bytes(lambda data: data + b"\x28" + b"\xff" * 12), damaged)
    yield case("a length beyond the end", with_bytes(lambda data: data + b"\x32" + varint(1 << 40)), damaged)
    yield case("a length below nothing", with_bytes(lambda data: data + b"\x32" + varint((1 << 64) - 1)), damaged)
    yield case("a version in another form", with_bytes(field(1, 2, b"x")), "another form than ONNX declares")
    yield case("a million small fields", with_bytes(field(7, 2, b"\x0a\x00" * 1_000_001)), "more than 1,000,000 fields")
    deep = b""
    for _ in range(3000):
        deep = field(4, 2, field(1, 2, deep))
    value = field(7, 2, field(13, 2, field(1, 2, b"v") + field(2, 2, deep)))
    yield case("a list of lists of lists", with_bytes(value), "no tensor")
    nested = b""
    for _ in range(3000):
        nested = field(7, 2, field(1, 2, field(5, 2, field(6, 2, nested))))
    yield case("a graph in a graph in a graph", with_bytes(nested), "")
    yield case("onnxruntime's own format", with_bytes(b"\x18\x00\x00\x00ORTM" + bytes(99)), "onnxruntime's own format")
    yield case("two formats in one", with_bytes(_both_formats), "onnxruntime's own format")
    yield case("a name that is no UTF-8", with_bytes(lambda data: data.replace(b"embed", b"\xff\xfeed!")), "no UTF-8")
    yield case("a name for a terminal", with_bytes(lambda data: data.replace(b"embed", b"\x1b[2J!")), "with the name")
    yield case("an operator for a terminal", with_bytes(lambda data: data.replace(b"Cast", b"\x1b[2J")), "")
    yield case("a later version of ONNX", with_model(lambda model, *_: setattr(model, "ir_version", 10**9)), "")
    yield case("a later set of operators", with_model(_later), "")
    yield case("no graph", with_bytes(field(1, 0, b"\x0a")), "it has no graph")
    yield case("an empty graph", with_bytes(field(1, 0, b"\x0a") + field(7, 2, b"")), "")


def _cut(data: bytes, at: int) -> bytes:
    return data[:at]


def _both_formats(data: bytes) -> bytes:
    """A model of ONNX whose first field is a text that holds the mark of the other format."""
    return field(2, 2, b"\x00\x00ORTM" + bytes(26)) + data.replace(field(2, 2, b""), b"")


def _later(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    model.opset_import[0].version = 10**6


# ---- something else under the name


class Executed:
    """What a pickle would run: it leaves a file."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.place}'",)


def _pickled(protocol: int, outside: Path) -> bytes:
    return pickle.dumps(Executed(str(outside / "executed")), protocol)


def _zipped(name: str, data: bytes, size: int | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data if size is None else bytes(size))
    return file.getvalue()


def _npy(outside: Path) -> bytes:
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + _pickled(2, outside)


def disguised() -> Iterator[Case]:
    def exchanged(name: str, data: Callable[[Path], bytes]) -> Change:
        def write(folder: Path, outside: Path) -> None:
            (folder / name).write_bytes(data(outside))
            if name != "manifest.json":
                seal(folder)

        return write

    contents: dict[str, Callable[[Path], bytes]] = {
        **{f"a pickle of protocol {number}": partial(_pickled, number) for number in range(6)},
        "a checkpoint of torch": lambda outside: _zipped("archive/data.pkl", _pickled(2, outside)),
        "an array of objects": _npy,
        "arrays of objects": lambda outside: _zipped("arr_0.npy", _npy(outside)),
        "a zip of names": lambda outside: _zipped("../../outside/executed", b"x"),
        "a zip bomb": lambda outside: _zipped("arr_0.npy", b"", 1 << 24),
        "gzip": lambda outside: gzip.compress(bytes(1 << 20)),
        "a page": lambda outside: b"<html><script>fetch('/')</script></html>",
        "a program": lambda outside: b"\x7fELF" + bytes(400),
        "a script": lambda outside: f"#!/bin/sh\ntouch {outside}/executed\n".encode(),
        "a pointer of Git LFS": lambda outside: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "YAML": lambda outside: b"!!python/object/apply:os.system ['touch executed']\n",
    }
    for what, data in contents.items():
        yield Case(f"model.onnx is {what}", exchanged("model.onnx", data), "model.onnx: ", info=None)
        yield Case(f"manifest.json is {what}", exchanged("manifest.json", data), "cannot be read as JSON")
    for what in ("a pickle of protocol 2", "an array of objects", "arrays of objects", "a zip bomb"):
        yield Case(f"a golden frame is {what}", exchanged("golden/00.bin", contents[what]), "golden/00.bin", info=False)
        says = "no list of golden frames"
        yield Case(f"golden.json is {what}", exchanged("golden/golden.json", contents[what]), says, info=False)


# ---- JSON


def json_tricks() -> Iterator[Case]:
    def first(more: str) -> Change:
        return with_text(lambda text: "{" + more + "," + text[1:])

    bad = "cannot be read as JSON"
    yield Case("lists in lists", first('"x": ' + "[" * 100_000 + "]" * 100_000), bad)
    yield Case("objects in objects", first('"x": ' + '{"a":' * 100_000 + "1" + "}" * 100_000), bad)
    yield Case("a million lists", first('"x": [' + "[]," * 1_000_000 + "[]]"), "more than 1,000,000 lists")
    yield Case("a number of 5,000 digits", first('"x": ' + "9" * 5000), "a whole number of 5000 digits")
    yield Case(
        "a number of 400 digits as temperature", with_manifest(temperature=10**400), "a whole number of 401 digits"
    )
    yield Case("a number of 30 digits as size", with_manifest(size=10**29), "a whole number of 30 digits")
    yield Case("a number beyond floats", first('"x": 1e999'), "a number beyond what 64 bits hold")
    for text in ("NaN", "Infinity", "-Infinity"):
        yield Case(f"{text} as temperature", first(f'"x": {text}'), f"{text} is no number of JSON")
    yield Case("files twice", with_text(lambda text: text[:-1] + ', "files": {}}'), "the key 'files' comes twice")
    yield Case("a file twice", with_text(lambda text: text.replace('"files": {', '"files": {"a":"","a":"",')), "twice")
    yield Case("two objects", with_text(lambda text: text + text), bad)
    yield Case("UTF-16", with_bytes(lambda data: data.decode().encode("utf-16"), "manifest.json", sealed=False), bad)
    yield Case(
        "a mark of byte order", with_bytes(lambda data: b"\xef\xbb\xbf" + data, "manifest.json", sealed=False), bad
    )
    yield Case(
        "bytes that are no UTF-8", with_bytes(b'{"schema": 3, "name": "\xff"}', "manifest.json", sealed=False), bad
    )
    yield Case("a manifest that is cut", with_text(lambda text: text[: len(text) // 2]), bad)
    yield Case("a manifest of 65 MiB", with_text(lambda text: text + " " * (65 << 20)), "at most 67,108,864 are read")
    for tree in ("[]", "null", '"text"', "3", "{}"):
        yield Case(f"a manifest of {tree}", with_text(partial(_another, text=tree)), "not a cvtune manifest")
    for schema in (99, 0, -1, "3", True, None, [3], 3.0, {"a": "x" * 10_000}):
        yield Case(f"schema {str(schema)[:20]!r}", with_manifest(schema=schema), "this version of cvtune-edge reads")
    yield Case("a text of 100,000 letters", with_manifest(task="x" * 100_000), "...: expected single or multi")
    yield Case("100,000 classes", with_manifest(classes=[str(i) for i in range(100_000)]), "limits for each class")
    yield Case(
        "everything is a list",
        with_text(lambda text: json.dumps({k: [] for k in json.loads(text)} | {"schema": 3})),
        "",
    )
    yield Case(
        "everything is an object",
        with_text(lambda text: json.dumps({k: {} for k in json.loads(text)} | {"schema": 3})),
        "",
    )
    yield Case("everything is missing", with_text(lambda _: '{"schema": 3}'), "missing")
    yield Case("limits without keys", with_manifest(limits={}), "limits = ")
    yield Case("limits of texts", with_manifest(limits={"ok": "a", "accept": "b", "reject": "c"}), "limits = ")
    yield Case("a class of objects", with_manifest(classes=[{"a": 1}, "b", "c"]), "two or more different names")
    yield Case("a latency of lists", with_manifest(latency={"schema": 1, "rows": [[]] * 3}), "null or what")


def _another(_: str, text: str) -> str:
    return text


# ---- names


def names() -> Iterator[Case]:
    hostile = [
        "../secret.txt",
        "/etc/passwd",
        "C:secret",
        "C:/x",
        "golden\\00.bin",
        "golden//00.bin",
        "./model.onnx",
        "",
    ]
    hostile += ["..", ".", "golden/../model.onnx", "golden/../../outside/secret.txt", "a\x00b", "a\nb", "\x1b]0;x\x07"]
    hostile += ["nul", "CON", "con.txt", "aux.bin", "LPT1.bin", "com1", "golden/prn.x", "x.", "x ", "x" * 300, "a|b"]
    hostile += ["\u202egpj.exe", "file:stream", "a*b", "what?", '"x"', "<x>", "//server/share", "\ud800"]
    says = "files = "
    for name in hostile:
        yield Case(f"a file named {name[:40]!r}", _named(name), says)
    for name in ("missing.bin", "~root/x", "golden", "golden/00.bin/x", "$HOME", "%TEMP%", "-rf"):
        yield Case(f"a file named {name!r}", _named(name), f"{name}: ")
    yield Case(
        "a variant outside of the files", with_manifest(variants={"../x.onnx": _form()}), "variants among the files"
    )
    yield Case(
        "10,001 files", with_manifest(files={"model.onnx": "0" * 64, **{f"{i}": "0" * 64 for i in range(10_000)}}), says
    )
    yield Case("9,000 files that are missing", _many_missing, "9000 problems")


def _form() -> dict[str, Any]:
    return {"colour": "rgb", "shape": None, "heatmap": False, "precision": "int8"}


def _named(name: str) -> Change:
    def write(folder: Path, _: Path) -> None:
        path = folder / "manifest.json"
        tree = json.loads(path.read_text(encoding="utf-8"))
        tree["files"][name] = "0" * 64
        put_json(path, tree)

    return write


def _many_missing(folder: Path, outside: Path) -> None:
    path = folder / "manifest.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["files"] |= {f"{i}.bin": "0" * 64 for i in range(9000)}
    put_json(path, tree)


# ---- what lies there is no file


def files() -> Iterator[Case]:
    for name in ("model.onnx", "manifest.json", "golden/golden.json", "golden/00.bin"):
        for what, put in _NO_FILES.items():
            refusal = {"nothing": "missing" if name != "manifest.json" else "not a cvtune bundle"}.get(what, name)
            yield Case(f"{name} is {what}", partial(_instead, name, put), refusal)
    yield Case("golden is a link", _linked_folder, "a link, which may lead out of the bundle")
    yield Case("golden is a link to itself", _circle, "a link, which may lead out of the bundle")
    yield Case("a hard link to a file outside", _hard_link, None)
    yield Case("a model of 3 GB", partial(_sparse, "model.onnx"), "at most 2,147,483,647 are read")
    yield Case("a golden frame of 3 GB", partial(_sparse, "golden/00.bin"), "at most 2,147,483,647 are read")
    yield Case("a bundle that is a file", _file_bundle, "a file")


def _instead(name: str, put: Callable[[Path, Path], object], folder: Path, outside: Path) -> None:
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    (outside / f"{path.name}.copy").write_bytes(data) if not (outside / f"{path.name}.copy").exists() else None
    put(path, outside)


def _bind(path: Path, _: Path) -> None:
    at = os.getcwd()  # noqa: PTH109 - the name of a socket may be 107 bytes long
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(at)


_NO_FILES: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, outside: None,
    "a link out of the bundle": lambda path, outside: path.symlink_to(outside / f"{path.name}.copy"),
    "a link to nothing": lambda path, outside: path.symlink_to("nowhere"),
    "a link to itself": lambda path, outside: path.symlink_to(path.name),
    "a link to a device": lambda path, outside: path.symlink_to("/dev/zero"),
    "a named pipe": lambda path, outside: os.mkfifo(path),
    "a socket": _bind,
    "a folder": lambda path, outside: path.mkdir(),
}
if hasattr(os, "geteuid") and os.geteuid() == 0:
    _NO_FILES["a device"] = lambda path, outside: os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 5))


def _linked_folder(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder / "golden")
    (folder / "golden").symlink_to(outside / "golden")


def _circle(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder / "golden")
    (folder / "golden").symlink_to(".")


def _hard_link(folder: Path, outside: Path) -> None:
    os.link(outside / "linked.bin", folder / "linked.bin")
    seal(folder)


def _sparse(name: str, folder: Path, outside: Path) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(3 << 30)


def _file_bundle(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"PK\x03\x04")


# ---- checksums


def wrong_hashes() -> Iterator[Case]:
    def flipped(data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1])

    for name in ("model.onnx", "golden/golden.json", "golden/00.bin", "golden/02.bin"):
        yield Case(f"a bit of {name}", with_bytes(flipped, name, sealed=False), "changed after the export")
        yield Case(f"{name} is longer", with_bytes(lambda data: data + b"\n", name, sealed=False), "changed after")
        yield Case(f"{name} is empty", with_bytes(b"", name, sealed=False), "changed after the export")
    for what, digest in {
        "in capitals": "A" * 64,
        "too short": "0" * 63,
        "too long": "0" * 65,
        "no number": "g" * 64,
        "of another kind": "0" * 40,
        "nothing": "",
    }.items():
        yield Case(f"a checksum {what}", with_manifest(files={"model.onnx": digest}), "files = ")
    yield Case("a checksum that is a number", with_manifest(files={"model.onnx": 5}), "files = ")
    yield Case("no checksum of the model", with_manifest(files={"golden/00.bin": "0" * 64}), "files = ")
    yield Case("checksums that are exchanged", _exchanged, "changed after the export")


def _exchanged(folder: Path, outside: Path) -> None:
    path = folder / "manifest.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    digests = list(tree["files"].values())
    tree["files"] = dict(zip(tree["files"], digests[1:] + digests[:1], strict=True))
    put_json(path, tree)


# ---- golden frames


def golden_lists() -> Iterator[Case]:
    none = "no list of golden frames"
    frames: list[tuple[str, Any, str]] = [
        *(("file", name, none) for name in ("../outside/golden/00.bin", "/etc/passwd", "a\\b", "\x1b[2J", "", "nul")),
        ("file", "golden/99.bin", "not in the manifest"),
        ("file", "manifest.json", "not in the manifest"),
        ("file", "model.onnx", "at most 144 are read"),
        *(
            ("shape", shape, none)
            for shape in ([-6, -8, 3], [10**9, 10**9, 3], [6.0, 8.0, 3], "683", [6, 8], [0, 8, 3])
        ),
        ("shape", [6, 7, 3], "at most 126 are read"),
        ("shape", [60, 8, 3], "144 bytes, expected"),
        *(("pixels", kind, none) for kind in ("object", "O", "V9", ["uint8"], "float64", None)),
        *(("decision", answer, none) for answer in _NO_DECISIONS),
        ("decision", 1e300, "this machine answers otherwise"),
        ("probabilities", [10**17] * 3, "this machine answers otherwise"),
        ("probabilities", [0.5], "of another bundle"),
        ("probabilities", "half", none),
        ("probabilities", [[1], [2], [3]], none),
        ("novelty", "far", none),
    ]
    for key, given, says in frames:
        yield Case(f"a golden frame of {key} {str(given)[:30]!r}", partial(_frame, key, given), says, info=False)
    yield Case("100,000 golden frames", _many_frames, "expected at most 1000", info=False)
    deep = with_text(lambda _: "[" * 100_000, "golden/golden.json")
    yield Case("golden frames in lists in lists", deep, none, info=False)
    yield Case("golden frames of no schema", with_text(lambda _: "[]", "golden/golden.json"), none, info=False)


_NO_DECISIONS: tuple[Any, ...] = ("OK", None, {}, [None])


def _frame(key: str, value: Any, folder: Path, outside: Path) -> None:
    tree = golden_tree(folder)
    tree["frames"][0][key] = value
    put_json(folder / "golden/golden.json", tree)
    seal(folder)


def _many_frames(folder: Path, outside: Path) -> None:
    tree = golden_tree(folder)
    put_json(folder / "golden/golden.json", {**tree, "frames": tree["frames"][:1] * 100_000})
    seal(folder)


# ---- models that keep the contract and answer something else


def other_answers() -> Iterator[Case]:
    for value, says in ((3, "expected -1 to 2"), (-2, "expected -1 to 2"), (2**62, "expected -1 to 2")):
        yield Case(f"the decision {value}", with_model(partial(_constant, value=value)), says, info=False)
    for width in (0, 2, 5):
        change = with_model(partial(_wide, width=width))
        yield Case(f"{width} probabilities of 3", change, "does not keep the graph contract", info=False)
    says = "probabilities [1, 6], expected [1, 3]"
    yield Case("as many probabilities as rows", with_model(_as_rows), says, info=False)
    yield Case("other classes in the model", with_manifest(classes=["a", "b", "c"]), "classes in the model", info=False)
    yield Case("no answer named as it should be", with_model(_renamed), "does not keep the graph contract", info=False)
    yield Case("a second input", with_model(_second_input), "does not keep the graph contract", info=False)
    yield Case("metadata that is no JSON", with_model(_metadata), "classes in the model", info=False)


def _open(model: onnx.ModelProto, name: str) -> None:
    """The graph says of this output only how many sides it has."""
    output = next(one for one in model.graph.output if one.name == name)
    for i, side in enumerate(output.type.tensor_type.shape.dim):
        side.Clear()
        side.dim_param = f"{name}{i}"


def _instead_of(model: onnx.ModelProto, name: str, operator: str, *inputs: str) -> None:
    for node in model.graph.node:
        for i, output in enumerate(node.output):
            if output == name:
                node.output[i] = f"{name}_before"
        for i, given in enumerate(node.input):
            if given == name:
                node.input[i] = f"{name}_before"
    model.graph.node.append(helper.make_node(operator, [f"{name}_before", *inputs], [name]))


def _constant(model: onnx.ModelProto, folder: Path, outside: Path, value: int) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "nought"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), "value"))
    _instead_of(model, "decision", "Mul", "nought")
    model.graph.node[-1].output[0] = "none_of_it"
    model.graph.node.append(helper.make_node("Add", ["none_of_it", "value"], ["decision"]))


def _wide(model: onnx.ModelProto, folder: Path, outside: Path, width: int) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 2, 0, 1][:width], np.int64), "which"))
    _instead_of(model, "probabilities", "Gather", "which")
    model.graph.node[-1].attribute.append(helper.make_attribute("axis", 1))
    _open(model, "probabilities")


def _as_rows(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    """Nobody knows how many before a picture of six rows is shown."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    _instead_of(model, "probabilities", "ReduceMax")
    model.graph.node[-1].output[0] = "most"
    model.graph.node.append(helper.make_node("Shape", ["image"], ["rows"], start=1, end=2))
    model.graph.node.append(helper.make_node("Concat", ["one", "rows"], ["shape"], axis=0))
    model.graph.node.append(helper.make_node("Expand", ["most", "shape"], ["probabilities"]))
    _open(model, "probabilities")


def _renamed(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    _instead_of(model, "embedding", "Identity")
    model.graph.node[-1].output[0] = "other"
    next(one for one in model.graph.output if one.name == "embedding").name = "other"


def _second_input(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    model.graph.input.append(helper.make_tensor_value_info("path", TensorProto.FLOAT, [1]))


def _metadata(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    next(one for one in model.metadata_props if one.key == "classes").value = "[" * 5000


# ---- text for a terminal


ESCAPES = {
    "a title": "\x1b]0;owned\x07",
    "a link": "\x1b]8;;file:///etc/passwd\x07ok\x1b]8;;\x07",
    "a clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "colours": "\x1b[2J\x1b[31mOK",
    "C1": "\x9b2JOK",
    "a carriage return": "NG\rOK",
    "a backspace": "NG\b\bOK",
    "another direction": "\u202eKO",
    "a line": "OK\nunreadable: x",
}


def terminal() -> Iterator[Case]:
    for what, text in ESCAPES.items():
        yield Case(f"a class named by {what}", partial(_classes, text), None, info=None)
        yield Case(f"a bundle named by {what}", with_manifest(name=text, backbone=text), None, info=None)
        yield Case(f"a task named by {what}", with_manifest(task=text), "expected single or multi")


def _classes(text: str, folder: Path, outside: Path) -> None:
    named = [text, text + "2", text + "3"]
    with_manifest(classes=named)(folder, outside)
    with_model(lambda model, *_: helper.set_model_props(model, {"classes": json.dumps(named)}))(folder, outside)


# ---- more than a machine has


def bombs() -> Iterator[Case]:
    for power in (33, 40, 62):
        change = with_model(partial(_of_shape, side=2**power))
        yield Case(f"2^{power} numbers in memory", change, None, info=None)
    yield Case("a picture made 2^20 times larger", with_model(_tiled), None, info=None)
    yield Case("a range of 2^40 numbers", with_model(_range), None, info=None)


def _summed(model: onnx.ModelProto, name: str) -> None:
    """It is used for an answer, so that it has to be computed."""
    model.graph.node.append(helper.make_node("ReduceMax", [name], ["large"], keepdims=0))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    model.graph.node.append(helper.make_node("Mul", ["large", "zero"], ["none"]))
    _instead_of(model, "embedding", "Add", "none")


def _of_shape(model: onnx.ModelProto, folder: Path, outside: Path, side: int) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([side], np.int64), "side"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["side"], ["much"]))
    _summed(model, "much")


def _tiled(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2**10, 2**10, 1], np.int64), "times"))
    model.graph.node.append(helper.make_node("Tile", ["float", "times"], ["much"]))
    _summed(model, "much")


def _range(model: onnx.ModelProto, folder: Path, outside: Path) -> None:
    for name, value in (("from", 0.0), ("to", 2.0**40), ("by", 1.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    model.graph.node.append(helper.make_node("Range", ["from", "to", "by"], ["much"]))
    _summed(model, "much")


# ---- at random


def mutations(seeds: range, *, sealed: bool) -> Iterator[Case]:
    """A few bytes of the model changed, taken out or doubled, each seed always the same ones."""
    for seed in seeds:
        change = with_bytes(partial(mutate, seed=seed), sealed=sealed)
        yield Case(
            f"mutation {seed}", change, None if sealed else "changed after the export", info=None if sealed else True
        )


def mutate(data: bytes, seed: int) -> bytes:
    """Between one and eight changes."""
    random, found = np.random.default_rng(seed), bytearray(data)
    for _ in range(int(random.integers(1, 9))):
        at = int(random.integers(len(found)))
        match int(random.integers(5)):
            case 0:
                found[at] = int(random.integers(256))
            case 1:
                found[at] ^= 1 << int(random.integers(8))
            case 2:
                del found[at : at + int(random.integers(1, 20))]
            case 3:
                found[at:at] = found[at : at + int(random.integers(1, 40))]
            case _:
                found[at:at] = random.bytes(int(random.integers(1, 6)))
    return bytes(found)
