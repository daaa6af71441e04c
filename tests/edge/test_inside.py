from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cvtune_edge import inside, opening
from cvtune_edge.bench_timed import Setting, Timed
from cvtune_edge.errors import BundleError
from cvtune_edge.inside import RefusedError, hash_inside, problems_inside, read_inside, stays_inside
from cvtune_edge.manifest import file_sha256
from cvtune_edge.model_file import check_model
from cvtune_edge.runtime import Bundle
from cvtune_edge.strict_json import parse_json
from cvtune_edge.terminal import inert

from tests.edge.conftest import CLASSES, MakeBundle, tiny_model

HASH = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # FIPS 180-4, of "hello"


@pytest.fixture(params=["by folder", "by path"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As systems do that open within a folder, and as Windows does."""
    monkeypatch.setattr(inside, "_BY_FOLDER", request.param == "by folder" and inside._BY_FOLDER)


@pytest.mark.usefixtures("way")
class TestFiles:
    def test_a_file_in_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b.bin").write_bytes(b"hello")
        assert read_inside(tmp_path, "a/b.bin") == b"hello"
        assert hash_inside(tmp_path, "a/b.bin") == (HASH, 5)
        assert problems_inside(tmp_path, {"a/b.bin": HASH}) == []

    def test_a_longer_one_than_allowed_is_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"hello")
        assert read_inside(tmp_path, "x", most=5) == b"hello"
        for read in (read_inside, hash_inside):
            with pytest.raises(RefusedError, match="5 bytes, at most 4 are read"):
                read(tmp_path, "x", most=4)

    def test_all_of_them_together(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inside, "MOST_BYTES", 8)
        for name in "xy":
            (tmp_path / name).write_bytes(b"hello")
        assert problems_inside(tmp_path, {"x": HASH, "y": HASH}) == ["y: 5 bytes, at most 3 are read"]

    @pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
    def test_links(self, tmp_path: Path) -> None:
        bundle = tmp_path / "bundle"
        bundle.mkdir()
        (tmp_path / "x").write_bytes(b"hello")
        (bundle / "link").symlink_to("../x")
        (bundle / "folder").symlink_to("..")
        os.link(tmp_path / "x", bundle / "hard")
        for name in ("link", "folder/x"):
            with pytest.raises(RefusedError, match="a link, which may lead out of the bundle"):
                read_inside(bundle, name)
        assert read_inside(bundle, "hard") == b"hello"
        (tmp_path / "bundle link").symlink_to(bundle)  # the user's own
        assert read_inside(tmp_path / "bundle link", "hard") == b"hello"

    @pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
    def test_a_pipe_does_not_hold_the_reader(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(RefusedError, match="a named pipe"):
            read_inside(tmp_path, "pipe")


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "link", "other file"])
def test_what_is_exchanged_after_the_look_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an other process, between looking at a file and opening it."""
    path, real = tmp_path / "x", os.open
    path.write_bytes(b"hello")
    (tmp_path / "y").write_bytes(b"other")

    def exchange(name: object, *args: object, **options: object) -> int:
        if str(name).endswith("x"):
            path.unlink()  # its number is free for another file at once: here that one is there already
            {"pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("y")}.get(
                kind, lambda: (tmp_path / "y").rename(path)
            )()
        return real(name, *args, **options)  # type: ignore[arg-type]

    for by_folder in (True, False):
        monkeypatch.setattr(inside, "_BY_FOLDER", by_folder)
        monkeypatch.setattr(os, "open", exchange)
        if kind == "other file" and by_folder:  # what was opened is what is read, and its checksum is asked
            assert read_inside(tmp_path, "x") == b"other"
        else:
            with pytest.raises(OSError, match=r"exchanged|a named pipe|symbolic links"):
                read_inside(tmp_path, "x")
        monkeypatch.setattr(os, "open", real)
        path.unlink()
        path.write_bytes(b"hello")
        (tmp_path / "y").write_bytes(b"other")


def test_a_file_that_grows_or_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    real = os.fstat

    def lying(number: int, change: int) -> os.stat_result:
        status = list(real(number))
        status[6] += change
        return os.stat_result(status)

    for change in (-1, 1):
        monkeypatch.setattr(os, "fstat", partial(lying, change=change))
        for read in (read_inside, hash_inside):
            with pytest.raises(RefusedError, match="its length changes while it is read"):
                read(tmp_path, "x")
        monkeypatch.setattr(os, "fstat", real)


@pytest.mark.parametrize("name", ["model.onnx", "golden/00.bin", "MODEL_CARD.md", "Öse 1.bin", "a.b.c", ".hidden"])
def test_names_that_stay_inside(name: str) -> None:
    assert stays_inside(name)


def test_the_bytes_that_were_checked_are_those_that_run(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is exchanged as soon as it was read: onnxruntime does not look at it again."""
    folder = make_bundle()
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    expected = Bundle(folder).predict(frame)
    real = check_model

    def exchange(data: bytes) -> None:
        real(data)
        (folder / "model.onnx").write_bytes(tiny_model(CLASSES, divide_by=1.0).SerializeToString())

    monkeypatch.setattr(opening, "check_model", exchange)
    assert Bundle(folder).predict(frame).probabilities.tobytes() == expected.probabilities.tobytes()
    with pytest.raises(BundleError, match=r"model\.onnx: changed after the export"):
        Bundle(folder)


def test_a_further_model_is_looked_at_before_it_is_timed(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    (folder / "model.int8.onnx").write_bytes(b"\x80\x04cos\nsystem\n.")
    names = ("model.onnx", "model.int8.onnx")
    form = {"colour": "rgb", "shape": None, "heatmap": False, "precision": "int8"}
    make_bundle(files={name: file_sha256(folder / name) for name in names}, variants={names[1]: form})
    with pytest.raises(BundleError, match=r"no ONNX model|not known here|another form|truncated"):
        Timed(folder, Setting("int8", 1, 1), provider="cpu", spin=False)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
        (b"[NaN]", "NaN is no number of JSON"),
        (b"[1e999]", "beyond what 64 bits hold"),
        (b"[1234567890123456789]", "a whole number of 19 digits"),
        (b"[" * 100_000, "too deep"),
        (b"[]," * 1_000_001, "more than 1,000,000 lists and objects"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_json_that_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_json(data)


def test_json_that_is_read() -> None:
    assert parse_json('{"a": [1, -2.5e-3, true, null, "ö\\u001b"], "b": 123456789012345678}'.encode()) == {
        "a": [1, -2.5e-3, True, None, "ö\x1b"],
        "b": 123456789012345678,
    }


def test_nothing_acts_on_a_terminal() -> None:
    assert inert("\x1b]0;x\x07 \x9b2J a\rb\nc") == "\\x1b]0;x\\x07 \\x9b2J a\\x0db\\x0ac"
    assert inert("error: a\nhint: b\x1b", keep="\n") == "error: a\nhint: b\\x1b"
    assert inert("\u202egpj\u200b") == "\\u202egpj\\u200b"
    plain = "Öse, 傷, naïve 1e3 ✓ \udcfc"
    assert inert(plain) == plain
