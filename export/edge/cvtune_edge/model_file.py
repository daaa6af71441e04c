"""Look at the bytes of a model before onnxruntime does: a graph from other hands may ask for more than computing.

ONNX can name files to read weights from, bring operators of a runtime's own that load programs or files, declare
tensors of any size, and nest graphs in graphs. None of it is in a model that cvtune writes, so all of it is refused.

The walk reads the wire format of protocol buffers (protobuf.dev, Encoding) with the field numbers of onnx.proto; a
message knows which others it may hold, and none holds itself, so that nothing recurses. A field that is unknown, comes
twice where once is meant or has another form than declared is refused too: parsers differ in what they make of it, and
what was looked at must be what is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

# Domains of operators and which of them: None is all. Beyond the standard's own, onnxruntime has operators that read
# files (EPContext) or call back (PyOp): whoever lets one of its fused ones in names it here, frozenset({"..."}).
OPERATORS: Final[Mapping[str, frozenset[str] | None]] = {"": None, "ai.onnx": None}
# They hold graphs, or run as long as they are told to.
CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})
MOST_FIELDS: Final = 1_000_000  # a model of 3,000 nodes has 100,000; more than a second of looking is refused
MOST_TENSOR: Final = (1 << 31) - 1  # bytes

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS: Final = {_FIXED64: 8, _FIXED32: 4}
_ALIKE: Final = frozenset({"attribute", "type", "shape", "dimension"})  # many of them are equal
_REMEMBERED: Final = 4096  # bytes of one that is compared with those seen before
# bits of an element by TensorProto.DataType; texts and complex numbers are no tensors of an image model
_BITS: Final[Mapping[int, int]] = {
    **dict.fromkeys((21, 22), 4),
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13), 64),
}
# AttributeProto.type: number, text and tensor, or several numbers or texts
_ATTRIBUTES: Final = frozenset({1, 2, 3, 4, 6, 7, 8})


class ModelFileError(ValueError):
    """Bytes that are no model of ours; the message is the reason, one line."""


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message.

    Attributes:
        wire: how it is written.
        several: whether it may come more than once; numbers may then also stand packed in one run of bytes.
        counted: of such numbers only how many there are is asked.
        holds: "text", the name of another message, or "" for what is not looked into.
        refused: why a model that has it is refused; empty where it is fine.
    """

    wire: int
    several: bool = False
    counted: bool = False
    holds: str = ""
    refused: str = ""


_TEXT = _Field(_BYTES, holds="text")
_TEXTS = _Field(_BYTES, several=True, holds="text")
_NUMBER = _Field(_VARINT)
_NUMBERS = _Field(_VARINT, several=True, counted=True)
_FLOATS = _Field(_FIXED32, several=True, counted=True)
_PAIRS = _Field(_BYTES, several=True, holds="pair")


def _none(reason: str) -> _Field:
    return _Field(_BYTES, several=True, refused=reason)


_EXTERNAL: Final = "keeps weights in another file; all of a bundle's weights are in the model itself"
_GRAPHS: Final = "holds a graph within a node; no model of cvtune does"
_SPARSE: Final = "holds a sparse tensor; no model of cvtune does"
_NO_TENSOR: Final = "holds a value that is no tensor"
_FUNCTIONS: Final = "brings functions of its own; no model of cvtune does"
_TRAINING: Final = "brings a training graph"
_DEVICES: Final = "names devices to run on"
_SEGMENT: Final = "holds a part of a tensor"

_MESSAGES: Final[Mapping[str, Mapping[int, _Field]]] = {
    "model": {
        **dict.fromkeys((2, 3, 4, 6), _TEXT),
        1: _NUMBER,
        5: _NUMBER,
        7: _Field(_BYTES, holds="graph"),
        8: _Field(_BYTES, several=True, holds="opset"),
        14: _PAIRS,
        20: _none(_TRAINING),
        25: _none(_FUNCTIONS),
        26: _none(_DEVICES),
    },
    "opset": {1: _TEXT, 2: _NUMBER},
    "pair": {1: _TEXT, 2: _TEXT},
    "graph": {
        1: _Field(_BYTES, several=True, holds="node"),
        2: _TEXT,
        5: _Field(_BYTES, several=True, holds="tensor"),
        10: _TEXT,
        **dict.fromkeys((11, 12, 13), _Field(_BYTES, several=True, holds="value")),
        14: _Field(_BYTES, several=True, holds="annotation"),
        15: _none(_SPARSE),
        16: _PAIRS,
    },
    "annotation": {1: _TEXT, 2: _PAIRS},
    "node": {
        **dict.fromkeys((1, 2), _TEXTS),
        **dict.fromkeys((3, 4, 6, 7, 8), _TEXT),
        5: _Field(_BYTES, several=True, holds="attribute"),
        9: _PAIRS,
        10: _none(_DEVICES),
    },
    "attribute": {
        **dict.fromkeys((1, 13), _TEXT),
        21: _none(_FUNCTIONS),  # ref_attr_name: an argument of a function
        20: _NUMBER,
        2: _Field(_FIXED32),
        3: _NUMBER,
        4: _TEXT,
        5: _Field(_BYTES, holds="tensor"),
        **dict.fromkeys((6, 11), _none(_GRAPHS)),
        7: _FLOATS,
        8: _NUMBERS,
        9: _TEXTS,
        10: _none(_NO_TENSOR),
        **dict.fromkeys((14, 15), _none(_NO_TENSOR)),
        **dict.fromkeys((22, 23), _none(_SPARSE)),
    },
    "tensor": {
        1: _Field(_VARINT, several=True),
        2: _NUMBER,
        3: _none(_SEGMENT),
        4: _FLOATS,
        5: _NUMBERS,
        6: _none("holds texts in a tensor"),
        7: _NUMBERS,
        8: _TEXT,
        9: _Field(_BYTES),
        10: _Field(_FIXED64, several=True, counted=True),
        11: _NUMBERS,
        12: _TEXT,
        13: _none(_EXTERNAL),
        14: _NUMBER,
        16: _PAIRS,
    },
    "value": {1: _TEXT, 2: _Field(_BYTES, holds="type"), 3: _TEXT, 4: _PAIRS},
    "type": {
        1: _Field(_BYTES, holds="tensor type"),
        **dict.fromkeys((4, 5, 7, 8, 9), _none(_NO_TENSOR)),
        6: _TEXT,
    },
    "tensor type": {1: _NUMBER, 2: _Field(_BYTES, holds="shape")},
    "shape": {1: _Field(_BYTES, several=True, holds="dimension")},
    "dimension": {1: _NUMBER, 2: _TEXT, 3: _TEXT},
}
_NAMES: Final = {"node": 3, "tensor": 8, "value": 1, "attribute": 1}  # the field that names it
_DATA: Final = (4, 5, 7, 10, 11)  # fields of a tensor that hold its elements as numbers
_RAW: Final = 9  # and as bytes
_LONGEST: Final = 10  # bytes of a varint
_BEFORE_LAST: Final = bytes(range(128, 256))  # bytes of a varint before its last
_PIECE: Final = 1 << 20
_MOST_DIMS: Final = 64
_MOST_TEXT: Final = 1 << 26

Content = dict[int, list[Any]]  # what a message holds, by field: numbers, texts, counts of numbers, lengths of bytes


def check_model(data: bytes) -> None:
    """Refuse a model that is more, or other, than a graph of standard operators with its weights inside.

    Costs some 10 ms, and 2 s whatever the bytes are: tensors are measured, not read.

    Args:
        data: the whole file.

    Raises:
        ModelFileError: why.
    """
    if data[4:8] == b"ORTM":  # the same bytes can be both, and onnxruntime would take them for its own format
        raise ModelFileError("a model in onnxruntime's own format, expected ONNX")
    model = _Walk(data).message("model", 0, len(data))
    if 7 not in model:
        raise ModelFileError("no ONNX model, it has no graph" if data else "empty file (0 bytes)")


class _Walk:
    """One pass over the bytes of a model."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MOST_FIELDS
        self._seen: set[tuple[str, bytes]] = set()

    def message(self, kind: str, at: int, end: int) -> Content:
        """Look at a message and all that it holds.

        Args:
            kind: a key of the table.
            at: where it begins.
            end: where it ends.
        """
        known, found, data = _MESSAGES[kind], Content(), self._data
        while at < end:  # every field of every message passes here, some 5,000 of a small model: written for speed
            self._left -= 1
            key, at = (data[at], at + 1) if data[at] < 128 else self._varint(at, end)
            number, wire = key >> 3, key & 7
            field = known.get(number)
            if field is None or field.refused or wire != field.wire or self._left < 0:
                at = self._odd(kind, found, key, at, end)
                continue
            if number not in found:
                found[number] = []
            elif not field.several:
                raise ModelFileError(f"{_called(kind, found)} has its field {number} twice")
            if wire in _WIDTHS:
                value, stop = 0, at + _WIDTHS[wire]
            else:
                value, stop = (data[at], at + 1) if at < end and data[at] < 128 else self._varint(at, end)
            begin = stop
            if wire == _BYTES:
                stop += value
            if stop > end:
                raise _torn(kind)
            number_or_one = 1 if field.counted else value
            found[number].append(self._item(kind, number, begin, stop) if wire == _BYTES else number_or_one)
            at = stop
        if kind in _CHECKS:
            _CHECKS[kind](found)
        return found

    def _odd(self, kind: str, found: Content, key: int, at: int, end: int) -> int:
        """Numbers that are packed into one run of bytes, and where that ends; any other field is refused."""
        number, wire = key >> 3, key & 7
        field = _MESSAGES[kind].get(number)
        if self._left < 0:
            raise ModelFileError(f"more than {MOST_FIELDS:,} fields")
        if wire not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            raise ModelFileError(f"no ONNX model, or a damaged one: a {kind} with a field of form {wire}")
        if field is None:
            raise ModelFileError(f"{_called(kind, found)} has a field {number}, which is not known here")
        if field.refused:
            raise ModelFileError(f"{_called(kind, found)} {field.refused}")
        if wire != _BYTES or not field.several:
            raise ModelFileError(f"{_called(kind, found)} has its field {number} in another form than ONNX declares")
        length, at = self._varint(at, end)
        if at + length > end:
            raise _torn(kind)
        found.setdefault(number, []).extend(self._packed(field, at, at + length))
        return at + length

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number and where it ends."""
        value = 0
        for place, byte in enumerate(self._data[at : min(end, at + _LONGEST)]):
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                return value & _ALL_64, at + place + 1
        raise ModelFileError("truncated or damaged: a number without an end")

    def _item(self, kind: str, number: int, begin: int, end: int) -> Any:
        """What a run of bytes is to the message around it: its text, else its length."""
        holds = _MESSAGES[kind][number].holds
        if holds == "text":
            return self._text(kind, number, begin, end)
        if holds not in _ALIKE or end - begin > _REMEMBERED:
            if holds:
                self.message(holds, begin, end)
        elif (seen := (holds, self._data[begin:end])) not in self._seen:
            self.message(holds, begin, end)
            self._seen.add(seen)
        return end - begin

    def _packed(self, field: _Field, at: int, end: int) -> list[int]:
        """Numbers in one run of bytes: their count, or themselves where they are asked for."""
        if field.wire in _WIDTHS:
            count, over = divmod(end - at, _WIDTHS[field.wire])
            if over:
                raise ModelFileError("truncated or damaged: a run of numbers ends within one")
            return [count]
        if field.counted:
            pieces = (self._data[place : min(place + _PIECE, end)] for place in range(at, end, _PIECE))
            return [sum(len(piece.translate(None, _BEFORE_LAST)) for piece in pieces)]
        if end - at > _MOST_DIMS * _LONGEST:
            raise ModelFileError(f"a tensor of more than {_MOST_DIMS} dimensions")
        values: list[int] = []
        while at < end:
            value, at = self._varint(at, end)
            values.append(value)
        return values

    def _text(self, kind: str, number: int, at: int, end: int) -> str:
        """A text; names stand in messages, so they hold nothing that a terminal acts on."""
        if end - at > _MOST_TEXT:
            raise ModelFileError(f"a {kind} with a text of {end - at:,} bytes")
        try:
            text = self._data[at:end].decode("utf-8")
        except UnicodeDecodeError:
            raise ModelFileError(f"a {kind} with a text that is no UTF-8") from None
        if _NAMES.get(kind) == number and not text.isprintable():
            raise ModelFileError(f"a {kind} with the name {text[:40]!r}")
        return text


def _torn(kind: str) -> ModelFileError:
    return ModelFileError(f"truncated or damaged: a {kind} ends within a field")


def _called(kind: str, found: Content) -> str:
    """What a message is called in an error, by its own name as far as that is known."""
    (name,) = found.get(_NAMES.get(kind, -1), [""])
    return f"the {kind} '{name[:60]}'" if name else f"a {kind}"


def _check_node(node: Content) -> None:
    (operator,), (domain,) = node.get(4, [""]), node.get(7, [""])
    allowed = OPERATORS.get(domain, frozenset())
    if allowed is not None and operator not in allowed:
        whole = f"{domain}.{operator}"
        raise ModelFileError(f"{_called('node', node)} is of operator {whole[:80]!r}, expected one of ONNX itself")
    if operator in CONTROL_FLOW:
        raise ModelFileError(f"{_called('node', node)} is of operator {operator}, which runs as long as it is told to")


def _check_attribute(attribute: Content) -> None:
    (kind,) = attribute.get(20, [1])
    if kind not in _ATTRIBUTES:
        raise ModelFileError(f"{_called('attribute', attribute)} is of type {kind}, expected numbers, text or a tensor")


def _check_tensor(tensor: Content) -> None:
    """That it is as large as it says: memory is taken for what it says."""
    called, dims = _called("tensor", tensor), tensor.get(1, [])
    (kind,), (elsewhere,) = tensor.get(2, [0]), tensor.get(14, [0])
    if elsewhere:
        raise ModelFileError(f"{called} {_EXTERNAL}")
    if kind not in _BITS:
        raise ModelFileError(f"{called} is of type {kind}, expected numbers")
    if len(dims) > _MOST_DIMS or any(side > MOST_TENSOR for side in dims):  # a negative one is 2^64 and less
        raise ModelFileError(f"{called} has a size that there cannot be")
    count = prod(dims)
    size = (count * _BITS[kind] + 7) // 8
    if size > MOST_TENSOR:
        raise ModelFileError(f"{called} is {size:,} bytes large, at most {MOST_TENSOR:,} are read")
    given = [sum(tensor[field]) for field in _DATA if field in tensor]
    if _RAW in tensor and not any(given):
        if tensor[_RAW] != [size]:
            raise ModelFileError(f"{called} holds {tensor[_RAW][0]:,} bytes, its sizes {dims} need {size:,}")
    elif [number for number in given if number] != [number for number in [_held_by(kind, count)] if number]:
        raise ModelFileError(f"{called} holds {sum(given):,} numbers, its sizes {dims} need {_held_by(kind, count):,}")


def _held_by(kind: int, count: int) -> int:
    """Numbers that hold so many elements: those of four bits share one."""
    return (count + 1) // 2 if _BITS[kind] == 4 else count


_ALL_64: Final = (1 << 64) - 1
_CHECKS: Final[Mapping[str, Callable[[Content], None]]] = {
    "node": _check_node,
    "attribute": _check_attribute,
    "tensor": _check_tensor,
}
