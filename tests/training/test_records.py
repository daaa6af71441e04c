from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cvtune.training.records import Unusable, read_record, read_tensors, write_record, write_tensors

ALL_KINDS = {
    "float32": torch.tensor([[0.1, -0.0, math.nan], [math.inf, 1e-45, -3.0]]),
    "float64": torch.tensor([1 / 3], dtype=torch.float64),
    "float16": torch.tensor([65504.0, 6e-8], dtype=torch.float16),
    "bfloat16": torch.tensor([1.0, -2.5, 1 / 3], dtype=torch.bfloat16),
    "int64": torch.tensor([2**62, -1]),
    "int32": torch.tensor([[7]], dtype=torch.int32),
    "int16": torch.tensor([-7], dtype=torch.int16),
    "int8": torch.tensor([-7], dtype=torch.int8),
    "uint8": torch.arange(5, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "a number": torch.tensor(3.5),
    "a count/of steps": torch.tensor(41),
    "nothing": torch.zeros(0, 3),
    "名": torch.ones(2),
}


def same(a: Tensor, b: Tensor) -> bool:
    """Type, shape and every bit."""
    bits = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def test_every_bit_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    back = read_tensors(file, write_tensors(file, ALL_KINDS))
    assert back.keys() == ALL_KINDS.keys()
    assert not [name for name in back if not same(back[name], ALL_KINDS[name])]


def test_safetensors_itself_reads_and_writes_the_same(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", ALL_KINDS)
    theirs = load_file(tmp_path / "a.safetensors")
    assert not [name for name in ALL_KINDS if not same(theirs[name], ALL_KINDS[name])]
    save_file(ALL_KINDS, tmp_path / "b.safetensors")
    sizes = [(tmp_path / name).stat().st_size for name in ("a.safetensors", "b.safetensors")]
    assert sizes[0] == sizes[1]
    with safe_open(tmp_path / "a.safetensors", framework="pt") as handle:
        assert handle.metadata() is None


def test_the_same_tensors_are_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    shuffled = dict(reversed(ALL_KINDS.items()))
    assert write_tensors(tmp_path / "a", ALL_KINDS) == write_tensors(tmp_path / "b", shuffled)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_memory_layout_is_taken(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(1, 2, 3, 4)
    odd = {
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "turned": base.mT,
        "a part": base[..., 1:3],
        "shared": base,
        "shared too": base,
        "learning": torch.nn.Parameter(base),
    }
    back = read_tensors(tmp_path / "a", write_tensors(tmp_path / "a", odd))
    assert not [name for name in odd if not same(back[name], odd[name])]


def test_arrays_are_taken(tmp_path: Path) -> None:
    arrays = {"logits": np.ones((3, 2), np.float32)[::-1], "rows": np.array([4, 2]), "one": np.array(0.5)}
    arrays["rows"].flags.writeable = False
    back = read_tensors(tmp_path / "a", write_tensors(tmp_path / "a", arrays))
    for name, array in arrays.items():
        assert (back[name].numpy().dtype, back[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back[name].numpy(), array)


def test_no_tensors_at_all(tmp_path: Path) -> None:
    assert read_tensors(tmp_path / "a", write_tensors(tmp_path / "a", {})) == {}


def test_types_that_the_format_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"w: torch\.complex128 cannot be kept, expected one of torch\.float64"):
        write_tensors(tmp_path / "a", {"w": torch.zeros(2, dtype=torch.complex128)})
    assert not list(tmp_path.iterdir())


def test_what_was_read_does_not_depend_on_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    back = read_tensors(file, write_tensors(file, ALL_KINDS))
    file.write_bytes(bytes(file.stat().st_size))  # in place: a mapped file would change under its readers
    assert not [name for name in back if not same(back[name], ALL_KINDS[name])]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, str]:
    """A file of 2 MB and its checksum."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer.{i}": torch.randn(512, 512, generator=generator) for i in range(2)}
    return tmp_path / "a.safetensors", write_tensors(tmp_path / "a.safetensors", tensors)


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_torn_file_is_noticed(sixteenth: int, written: tuple[Path, str]) -> None:
    file, checksum = written
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * sixteenth // 16])
    with pytest.raises(Unusable, match=r"a\.safetensors is not the file that was written"):
        read_tensors(file, checksum)
    file.write_bytes(data[: len(data) * sixteenth // 16].ljust(len(data), b"\0"))  # the size is there, the data is not
    with pytest.raises(Unusable, match=r"a\.safetensors is not the file that was written"):
        read_tensors(file, checksum)


@pytest.mark.parametrize("place", [0, 7, 8, 30, 100, -1, -100_000])
def test_a_flipped_bit_is_noticed(place: int, written: tuple[Path, str]) -> None:
    file, checksum = written
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)
    with pytest.raises(Unusable, match="is not the file"):
        read_tensors(file, checksum)


def test_files_that_are_missing_or_no_safetensors(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"a\.safetensors cannot be read \(.*No such file"):
        read_tensors(tmp_path / "a.safetensors", "0")
    (tmp_path / "a.safetensors").write_bytes(b"text")
    with pytest.raises(Unusable, match=r"a\.safetensors cannot be read \(.*header"):
        read_tensors(tmp_path / "a.safetensors", hashlib.sha256(b"text").hexdigest())


FACTS: dict[str, Any] = {
    "step": 120,
    "big": 2**70,
    "loss": 0.1 + 0.2,
    "tiny": 5e-324,
    "zero": -0.0,
    "best_loss": math.inf,
    "low": -math.inf,
    "rows": [{"val_loss": math.nan, "stage": "tail"}, []],
    "text": "名 \ud800 \n",
    "none": None,
    "yes": True,
    "table": {},
}


def test_facts_come_back_nan_and_infinity_too(tmp_path: Path) -> None:
    total = write_record(tmp_path / "a.json", "key", FACTS)
    back = read_record(tmp_path / "a.json", "key")
    assert repr({name: back[name] for name in FACTS}) == repr(FACTS)
    assert (back["sum"], back["key"]) == (total, "key")
    assert write_record(tmp_path / "b.json", "key", back | {"sum": 0}) != total


def test_it_is_json_for_others_too(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", "", FACTS)

    def refuse(token: str) -> float:
        raise ValueError(token)

    tree = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert tree["best_loss"] == {"$float": "inf"}


def test_numpy_numbers_and_tuples(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", "", {"loss": np.float64("nan"), "pair": (1, 2.5)})
    back = read_record(tmp_path / "a.json", "")
    assert math.isnan(back["loss"])
    assert back["pair"] == [1, 2.5]


@pytest.mark.parametrize("value", [np.float32(1), torch.tensor(1), {1: 2}, {"$float": "nan"}, {1, 2}, b"bytes", Path()])
def test_facts_that_json_cannot_hold_are_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"facts hold .*: expected numbers, texts"):
        write_record(tmp_path / "a.json", "", {"rows": [value]})
    assert not list(tmp_path.iterdir())


def test_every_byte_of_a_record_counts(tmp_path: Path) -> None:
    """Whatever byte is changed: it is noticed, or it says the same."""
    file = tmp_path / "a.json"
    write_record(file, "key", FACTS)
    whole, data = repr(read_record(file, "key")), file.read_bytes()
    noticed = 0
    for place in range(len(data)):
        for changed in (data[place] ^ 1, data[place] ^ 64):
            file.write_bytes(data[:place] + bytes([changed]) + data[place + 1 :])
            try:
                assert repr(read_record(file, "key")) == whole
            except Unusable:
                noticed += 1
    assert noticed > 1.5 * len(data)


def test_torn_records(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_record(file, "key", FACTS)
    data = file.read_bytes()
    for size in range(len(data) - 2):  # the last byte but one closes it
        file.write_bytes(data[:size])
        with pytest.raises(Unusable, match=r"a\.json is damaged"):
            read_record(file, "key")


@pytest.mark.parametrize("text", ["[]", "null", '{"sum": "0"}', "{}", "7"])
def test_other_json_is_no_record(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(Unusable, match=r"a\.json (is damaged|was changed)"):
        read_record(tmp_path / "a.json", "")


def test_records_of_another_key(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", "plan 1", {})
    with pytest.raises(Unusable, match=r"^a\.json is of another run, or of another version of cvtune$"):
        read_record(tmp_path / "a.json", "plan 2")
    with pytest.raises(Unusable, match=r"^b\.json cannot be read \(No such file or directory\)$"):
        read_record(tmp_path / "b.json", "plan 1")
    shutil.copy(tmp_path / "a.json", tmp_path / "b.json")
    assert read_record(tmp_path / "b.json", "plan 1")["key"] == "plan 1"
