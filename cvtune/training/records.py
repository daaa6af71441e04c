"""The files of checkpoints: tensors as safetensors, facts as JSON, each with a checksum that is verified on reading."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cvtune.rundir import write_bytes, write_parts

State = dict[str, Tensor]
Record = dict[str, Any]

_FORMAT: Final = 1  # another layout: what is there counts as not there
_FLOAT: Final = "$float"  # JSON has no nan and no infinity: {"$float": "nan"}
_TYPES: Final = {  # of the safetensors format
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Unusable(Exception):
    """Why a file counts as not there."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor | NDArray[Any]]) -> str:
    """Write a safetensors file atomically, without a second copy of the tensors in memory.

    Not by safetensors' own `save_file`: that one writes to a name of its own choosing, which a kill leaves behind,
    and tells of a full disk in a sentence.

    Args:
        path: of the file.
        tensors: by name, on any device, in any memory layout; they may share memory.

    Returns:
        The file's sha256.

    Raises:
        DiskFullError: no room.
        OSError: it cannot be written for another reason.
        TypeError: a tensor is of a type that the format does not know.
    """
    parts = serialised(tensors)
    write_parts(path, parts)
    return checksum_of(parts)


def serialised(tensors: Mapping[str, Tensor | NDArray[Any]]) -> list[bytes | memoryview]:
    """A safetensors file in parts: the header, then each tensor's memory (huggingface.co/docs/safetensors).

    Raises:
        TypeError: a tensor is of a type that the format does not know.
    """
    table = {name: _on_cpu(name, value) for name, value in tensors.items()}
    order = sorted(table, key=lambda name: (-table[name].element_size(), name))  # so that each is aligned
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        begin, end = end, end + table[name].nbytes
        kind, shape = _TYPES[table[name].dtype], list(table[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    bodies = [table[name].reshape(-1).view(torch.uint8).numpy().data for name in order]
    return [len(text).to_bytes(8, "little") + text, *bodies]


def _on_cpu(name: str, value: Tensor | NDArray[Any]) -> Tensor:
    tensor = value.detach().cpu().contiguous() if isinstance(value, Tensor) else torch.from_numpy(value.copy())
    if tensor.dtype not in _TYPES:
        raise TypeError(f"{name}: {tensor.dtype} cannot be kept, expected one of {', '.join(map(str, _TYPES))}")
    return tensor


def checksum_of(parts: Sequence[bytes | memoryview]) -> str:
    """The sha256 of a file in parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def read_tensors(path: Path, checksum: str) -> State:
    """What `write_tensors` wrote, on the CPU.

    Raises:
        Unusable: the file is missing, or is not the one with this checksum.
    """
    try:
        with path.open("rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != checksum:
                raise Unusable(f"{path.name} is not the file that was written")
        return {name: value.clone() for name, value in sorted(load_file(path).items())}  # a mapped file: let it go
    except (OSError, SafetensorError) as error:
        raise Unusable(f"{path.name} cannot be read ({error})") from error


def write_record(path: Path, key: str, facts: Mapping[str, Any]) -> str:
    """Write facts as JSON, atomically.

    Args:
        path: of the file.
        key: what they depend on.
        facts: numbers (nan and infinity may occur), texts, None, lists and mappings; "sum", "format" and "key" are
            taken.

    Returns:
        The sha256 of what was written, which is also in it.

    Raises:
        DiskFullError: no room.
        OSError: it cannot be written for another reason.
        TypeError: JSON cannot hold `facts`.
    """
    rest = {"format": _FORMAT, "key": key, **_plain(facts)}
    write_bytes(path, (_dumped({"sum": _sum(rest), **rest}) + "\n").encode())
    return _sum(rest)


def read_record(path: Path, key: str) -> Record:
    """What `write_record` wrote, with "sum", "format" and "key"; tuples come back as lists.

    Raises:
        Unusable: the file is missing, damaged, changed, or was written for another key.
    """
    try:
        text = path.read_bytes()
        tree = json.loads(text)
        whole = tree["sum"] == _sum({name: value for name, value in tree.items() if name != "sum"})
        record: Record = json.loads(text, object_hook=_number)
    except OSError as error:
        raise Unusable(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable(f"{path.name} is damaged ({error!r})") from error
    if not whole:
        raise Unusable(f"{path.name} was changed since it was written")
    if (record["format"], record["key"]) != (_FORMAT, key):
        raise Unusable(f"{path.name} is of another run, or of another version of cvtune")
    return record


def _sum(tree: Record) -> str:
    return hashlib.sha256(_dumped(tree).encode()).hexdigest()


def _dumped(tree: Record) -> str:
    return json.dumps(tree, indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """Facts as JSON holds them, nan and infinity by name."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(float(value))}
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) and key != _FLOAT for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"facts hold {value!r}: expected numbers, texts, None, lists, and mappings with texts as keys")


def _number(tree: dict[str, Any]) -> Any:
    return float(tree[_FLOAT]) if tree.keys() == {_FLOAT} else tree
