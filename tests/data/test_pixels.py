from __future__ import annotations

import copy
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cvtune_edge.decode import Frame, ReadOptions, decode, read_image
from cvtune_edge.headers import Header
from cvtune_edge.session import open_session
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cvtune.data import pixels as module
from cvtune.data import segments
from cvtune.data.cache import PixelCache
from cvtune.data.facts import measure
from cvtune.data.index import DatasetIndex, build_index
from cvtune.data.pixels import Filled, choose_pixels, fill_pixels, measure_window
from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.data.segments import Layout, Place
from cvtune.errors import DataError, ImageError

MakeFolder = Callable[..., Path]
FOUR = ("a/1.png", "a/2.png", "b/1.png", "b/2.png")
SMALL = Preprocessing(8)


def fill(index: DatasetIndex, tmp_path: Path, pre: Preprocessing = SMALL, **options: Any) -> Filled:
    given: dict[str, Any] = {"scratch": tmp_path / "scratch", "cache_gb": 1.0} | options
    return fill_pixels(index, pre, given.pop("reading", pre.reading), **given)


def everything(filled: Filled) -> Any:
    return filled.pixels.batch(range(len(filled.pixels)))


def data_files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.pixels"))


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_cache_is_what_the_line_computes(
    kind: Any, make_folder: MakeFolder, tmp_path: Path, png: Callable[..., None]
) -> None:
    folder = make_folder(*FOUR)
    for seed, path in enumerate(FOUR):
        png(folder / path, seed, size=(60, 80), dtype=np.uint8 if kind == "uint8" else np.uint16)
    pre = Preprocessing(16, pixels=kind, roi=(1, 2, 70, 50))
    calls: list[tuple[int, int]] = []
    index = build_index(folder)
    cold = fill(index, tmp_path, pre, progress=lambda done, n: calls.append((done, n)))
    warm = fill(index, tmp_path, pre)
    session = open_session(frame_graph(pre).SerializeToString())
    for position, image in enumerate(cold.index.images):
        frame = read_image(folder / image.path, pre.reading)
        expected = session.run(None, {"image": frame.pixels[None]})[0]
        for filled in (cold, warm):
            pixels = filled.pixels.batch([position])
            assert pixels.dtype == kind
            np.testing.assert_array_equal(pixels, expected)
        data = (folder / image.path).read_bytes()
        assert (image.height, image.width) == (60, 80)
        assert image.sha256 == hashlib.sha256(data).hexdigest()
        assert cold.facts[position] == warm.facts[position] == measure(frame, data)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert cold.index == warm.index
    assert (cold.reused, warm.reused) == (0, 4)
    assert (cold.pixels.size, cold.pixels.dtype, len(cold.pixels)) == (16, np.dtype(kind), 4)
    assert cold.pixels.batch([3, 0, 3]).shape == (3, 3, 16, 16)
    assert cold.pixels.batch([]).shape == (0, 3, 16, 16)


def test_a_second_run_decodes_nothing(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(*FOUR)
    first = fill(build_index(folder), tmp_path)
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("decoded again"))
    second = fill(build_index(folder), tmp_path)
    (folder / "b" / "2.png").rename(folder / "b" / "3.png")  # the content counts, not the name
    renamed = fill(build_index(folder), tmp_path)
    for filled in (second, renamed):
        assert (filled.reused, filled.repaired, filled.kept) == (4, 0, True)
        assert filled.facts == first.facts
        np.testing.assert_array_equal(everything(filled), everything(first))


def test_a_changed_file_is_read_anew(make_folder: MakeFolder, tmp_path: Path, png: Callable[..., None]) -> None:
    folder = make_folder(*FOUR)
    first = fill(build_index(folder), tmp_path)
    status = (folder / FOUR[1]).stat()
    png(folder / FOUR[1], 99)
    os.utime(folder / FOUR[1], ns=(status.st_atime_ns, status.st_mtime_ns))  # as copying tools set it
    second = fill(build_index(folder), tmp_path)
    assert second.reused == 3
    same = [bool((a == b).all()) for a, b in zip(everything(first), everything(second), strict=True)]
    assert same == [True, False, True, True]


def test_copies_share_one_record(make_folder: MakeFolder, tmp_path: Path, cache: Path) -> None:
    folder = make_folder(*FOUR)
    for path in FOUR[1:3]:
        (folder / path).write_bytes((folder / FOUR[0]).read_bytes())
    filled = fill(build_index(folder), tmp_path)
    assert [image.path for image in filled.index.images] == list(FOUR)
    np.testing.assert_array_equal(filled.pixels.batch([0]), filled.pixels.batch([2]))
    assert sum(file.stat().st_size for file in data_files(cache)) == 2 * 3 * 8 * 8


def test_several_segments(
    make_folder: MakeFolder, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3 * 3 * 8 * 8)
    index = build_index(make_folder(*(f"{name}/{i}.png" for name in "ab" for i in range(10))))
    cold, warm = fill(index, tmp_path), fill(index, tmp_path)
    assert len(data_files(cache)) == 7
    np.testing.assert_array_equal(everything(cold), everything(warm))
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(warm.pixels.batch(order), everything(warm)[order])


def test_damage_is_mended_and_told(make_folder: MakeFolder, tmp_path: Path, cache: Path) -> None:
    index = build_index(make_folder(*FOUR))
    first = fill(index, tmp_path)
    expected = everything(first)
    del first
    (file,) = data_files(cache)
    data = bytearray(file.read_bytes())
    data[-1] ^= 255
    file.write_bytes(data)
    second = fill(index, tmp_path)
    assert (second.repaired, second.reused) == (1, 3)
    np.testing.assert_array_equal(everything(second), expected)
    third = fill(index, tmp_path)
    assert (third.repaired, third.reused) == (0, 4)
    np.testing.assert_array_equal(everything(third), expected)


def test_reading_and_preprocessing_must_agree(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="options read"):
        fill(build_index(make_folder(*FOUR)), tmp_path, reading=ReadOptions(pixels="uint16"))


def test_switched_off_the_pixels_lie_in_the_scratch_folder(
    make_folder: MakeFolder, tmp_path: Path, cache: Path
) -> None:
    index = build_index(make_folder(*FOUR))
    first = fill(index, tmp_path, cache_gb=0)
    second = fill(index, tmp_path, cache_gb=0, scratch=tmp_path / "elsewhere")
    assert not cache.exists()
    assert [first.kept, second.kept, second.reused] == [False, False, 0]
    assert data_files(tmp_path / "scratch" / "pixels")
    np.testing.assert_array_equal(everything(first), everything(second))


def test_a_folder_larger_than_the_cap_lies_in_the_scratch_folder(
    make_folder: MakeFolder, tmp_path: Path, cache: Path
) -> None:
    filled = fill(build_index(make_folder(*FOUR)), tmp_path, cache_gb=4 * 3 * 8 * 8 / 1e9 - 1e-9)
    assert not filled.kept
    assert not cache.exists()
    assert len(everything(filled)) == 4


def test_a_cache_that_cannot_be_written(make_folder: MakeFolder, tmp_path: Path, cache: Path) -> None:
    cache.parent.write_bytes(b"a file in the way")
    filled = fill(build_index(make_folder(*FOUR)), tmp_path)
    assert not filled.kept
    assert len(everything(filled)) == 4


def test_other_folders_are_evicted(make_folder: MakeFolder, tmp_path: Path, cache: Path) -> None:
    first = build_index(make_folder(*FOUR, name="first"))
    second = build_index(make_folder(*(f"{name}/{i}.png" for name in "cd" for i in range(9)), name="second"))
    fill(first, tmp_path)
    room = sum(file.stat().st_size for file in cache.rglob("*")) * 4 / 1e9
    assert fill(second, tmp_path, cache_gb=room).kept
    assert fill(second, tmp_path, cache_gb=room).reused == 18
    assert fill(first, tmp_path, cache_gb=room).reused in (0, 4)  # four of them are in both folders


def test_no_room_on_the_disk(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build_index(make_folder(*FOUR))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"the pixel cache needs 0\.0 GB, 0\.0 GB are free") as caught:
        fill(index, tmp_path)
    assert "CVTUNE_CACHE" in (caught.value.hint or "")


def test_no_room_for_new_images_is_needed_when_there_are_none(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build_index(make_folder(*FOUR))
    fill(index, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    assert fill(index, tmp_path).reused == 4


def test_a_disk_that_fills_up_is_told(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cvtune.data.segments.os.fsync", full)
    with pytest.raises(DataError, match=r"the pixel cache cannot be written \(No space left on device\)"):
        fill(build_index(make_folder(*FOUR)), tmp_path)


def test_unreadable_images_are_moved_not_fatal(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*FOUR, "a/0.png")
    (folder / "a/0.png").write_bytes((folder / "a/1.png").read_bytes()[:60])
    for _ in range(2):  # refused files are not kept: the second run lists them as the first
        filled = fill(build_index(folder), tmp_path)
        assert [item.path for item in filled.index.skipped] == ["a/0.png"]
        assert filled.index.skipped[0].reason
        assert [image.path for image in filled.index.images] == list(FOUR)
        assert [fact.sha256 for fact in filled.facts] == [image.sha256 for image in filled.index.images]
    alone = fill(build_index(folder), tmp_path, cache_gb=0)
    np.testing.assert_array_equal(everything(filled), everything(alone))


def test_a_file_that_vanishes_is_listed(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*FOUR, "a/3.png", "b/3.png")
    index = build_index(folder)
    (folder / "a/3.png").unlink()
    (folder / "b/3.png").unlink()
    (folder / "b/3.png").mkdir()
    skipped = fill(index, tmp_path).index.skipped
    assert [(item.path, item.reason) for item in skipped] == [
        ("a/3.png", "vanished since the folder was listed"),
        ("b/3.png", "not a regular file"),
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_file_that_becomes_a_pipe_is_not_waited_for(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*FOUR, "a/3.png")
    index = build_index(folder)
    (folder / "a/3.png").unlink()
    os.mkfifo(folder / "a/3.png")
    assert [item.reason for item in fill(index, tmp_path).index.skipped] == ["not a regular file"]
    assert choose_pixels(index) == "uint8"


def test_a_file_that_may_not_be_read_is_listed(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(*FOUR, "a/3.png")
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == folder / "a/3.png":  # root may read everything, so modes prove nothing here
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert [item.reason for item in fill(build_index(folder), tmp_path).index.skipped] == [
        "cannot be read: Permission denied"
    ]


def test_limits_hold_for_images_of_earlier_runs_too(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*FOUR, "a/3.png")
    (folder / "a/3.png").write_bytes(cv2.imencode(".png", np.zeros((20, 20), np.uint8))[1].tobytes())
    index = build_index(folder)
    assert len(fill(index, tmp_path).index) == 5
    limited = fill(index, tmp_path, reading=ReadOptions(max_pixels=100))
    fresh = fill(index, tmp_path, reading=ReadOptions(max_pixels=100), cache_gb=0)
    assert limited.index == fresh.index
    assert [item.path for item in limited.index.skipped] == ["a/3.png"]
    smallest = min((folder / path).stat().st_size for path in FOUR)
    with pytest.raises(DataError, match="expected at most"):
        fill(index, tmp_path, reading=ReadOptions(max_bytes=smallest - 1))


def test_another_decoder_can_be_given(make_folder: MakeFolder, tmp_path: Path) -> None:
    class Stubborn:
        def decode(self, data: bytes, name: str) -> Frame:
            if name == "a/3.png":
                raise ImageError(name, "took longer than 5 s")
            frame = decode(data, name)
            return replace(frame, pixels=255 - frame.pixels)

    index = build_index(make_folder(*FOUR, "a/3.png"))
    filled = fill(index, tmp_path, cache_gb=0, decoder=Stubborn())
    assert [item.reason for item in filled.index.skipped] == ["took longer than 5 s"]
    assert not np.array_equal(everything(filled), everything(fill(index, tmp_path)))


def test_no_memory_for_an_image(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(data: bytes, name: str, options: ReadOptions) -> Frame:
        if name == "a/3.png":
            raise MemoryError
        return decode(data, name, options)

    monkeypatch.setattr(module, "decode", hungry)
    skipped = fill(build_index(make_folder(*FOUR, "a/3.png")), tmp_path).index.skipped
    assert [item.reason for item in skipped] == ["needs more memory than there is"]


def test_a_class_that_cannot_be_read_is_an_error(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*FOUR)
    (folder / "b/2.png").write_bytes((folder / "b/2.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"(?s)'b' has 1.*b/2\.png: "):
        fill(build_index(folder), tmp_path)


def test_16_bit_is_counted_in_every_run(make_folder: MakeFolder, tmp_path: Path, png: Callable[..., None]) -> None:
    folder = make_folder(*FOUR)
    for path in FOUR[:3]:
        png(folder / path, dtype=np.uint16)
    for _ in range(2):
        ((note, count),) = fill(build_index(folder), tmp_path).index.notes
        assert "16-bit" in note
        assert count == 3


def test_frames_that_do_not_fit_the_roi_in_one_error(make_folder: MakeFolder, tmp_path: Path) -> None:
    index = build_index(make_folder(*FOUR))
    with pytest.raises(DataError, match="4 of 4 images do not fit") as caught:
        fill(index, tmp_path, Preprocessing(8, roi=(0, 0, 9, 3)))
    assert "a/1.png: 8 x 6 pixels, too small for the roi 0,0,9,3" in caught.value.message


def test_travels_to_a_worker_as_a_path(make_folder: MakeFolder, tmp_path: Path) -> None:
    cache = fill(build_index(make_folder(*FOUR)), tmp_path).pixels
    opened = cache.batch([0, 1])
    sent = copy.deepcopy(cache)  # takes the same way as a loader worker's copy
    assert sent._lease is None
    np.testing.assert_array_equal(sent.batch([0, 1]), opened)


def test_ctrl_c_stops_soon_and_keeps_what_was_read(make_folder: MakeFolder, tmp_path: Path) -> None:
    index = build_index(make_folder(*(f"{name}/{i}.png" for name in "ab" for i in range(100))))

    def stop(done: int, n: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(index, tmp_path, progress=stop)
    assert 20 <= fill(index, tmp_path).reused < 100


def test_order_and_threads_do_not_matter(real_data: Path, tmp_path: Path) -> None:
    index = build_index(real_data / "gtsrb" / "test")
    pre = Preprocessing(32)
    one = fill(index, tmp_path, pre, workers=1, cache_gb=0)
    four = fill(index, tmp_path, pre, workers=4)
    again = fill(index, tmp_path, pre, workers=3)
    assert one.index == four.index == again.index
    assert one.facts == four.facts == again.facts
    for filled in (four, again):
        np.testing.assert_array_equal(everything(one), everything(filled))


_CHILD = """
import sys, time
from pathlib import Path
from cvtune.data import segments
from cvtune.data.index import build_index
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
segments.SEGMENT_BYTES = 5 * 3 * 8 * 8
def progress(done, n):
    print(done, flush=True)
    time.sleep(float(sys.argv[3]))
pre = Preprocessing(8)
fill_pixels(build_index(Path(sys.argv[1])), pre, pre.reading, scratch=Path(sys.argv[2]), cache_gb=1, progress=progress)
"""


def child(folder: Path, tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    arguments = [str(folder), str(tmp_path / "child"), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", _CHILD, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_loses_one_segment(make_folder: MakeFolder, tmp_path: Path, cache: Path) -> None:
    folder = make_folder(*(f"{name}/{i}.png" for name in "ab" for i in range(100)))
    with child(folder, tmp_path, 0.005) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 32:
            pass
        process.send_signal(signal.SIGKILL)
    filled = fill(build_index(folder), tmp_path)
    assert filled.reused >= 32 - 5
    assert filled.repaired == 0
    np.testing.assert_array_equal(everything(filled), everything(fill(build_index(folder), tmp_path, cache_gb=0)))
    assert {file.stem for file in cache.glob("*/*.json")} == {file.stem for file in data_files(cache)}


def test_two_runs_at_once(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*(f"{name}/{i}.png" for name in "ab" for i in range(50)))
    with child(folder, tmp_path, 0.002) as one, child(folder, tmp_path, 0.002) as two:
        here = fill(build_index(folder), tmp_path)
        for process in (one, two):
            process.communicate(timeout=120)
    assert (one.returncode, two.returncode) == (0, 0)
    after = fill(build_index(folder), tmp_path)
    assert (after.reused, after.repaired) == (100, 0)
    np.testing.assert_array_equal(everything(here), everything(after))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux' own figures")
def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import cv2, numpy as np
from cvtune.data.index import build_index
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
root, pre = Path(sys.argv[1]), Preprocessing(256)
noise = np.random.default_rng(0)
for number in range(400):
    (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
    frame = noise.integers(0, 255, (300, 400, 3), np.uint8)
    (root / "ab"[number % 2] / f"{number}.bmp").write_bytes(cv2.imencode(".bmp", frame)[1].tobytes())
def anonymous():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024
seen = {}
def progress(done, n):
    if done in (100, n):
        seen.setdefault((filled, done), anonymous())
for filled in range(2):
    cache = fill_pixels(build_index(root), pre, pre.reading, scratch=root, cache_gb=1, progress=progress).pixels
for start in range(0, 400, 10):
    cache.batch(range(start, start + 10))
print(max(*seen.values(), anonymous()) - seen[0, 100])
"""
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], capture_output=True, text=True, check=True)
    assert float(out.stdout) < 25  # MB; the frames are 144 MB and the pixels 79


def tiff32(path: Path, value: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".tiff", np.full((6, 8), value, np.float32))[1].tobytes())


@pytest.mark.parametrize(
    "eight, sixteen, floats, bad, expected",
    [
        (4, 0, 0, 0, "uint8"),
        (2, 2, 0, 0, "uint8"),  # a tie
        (2, 3, 0, 0, "uint16"),
        (2, 0, 3, 0, "float32"),
        (2, 2, 1, 0, "uint16"),
        (1, 2, 2, 0, "float32"),  # the only type that reads all of them
        (0, 4, 0, 9, "uint16"),  # files that cannot be read have no say
        (2, 1, 1, 0, "uint8"),
    ],
)
def test_most_files_choose_the_depth(
    eight: int, sixteen: int, floats: int, bad: int, expected: str, tmp_path: Path, png: Callable[..., None]
) -> None:
    folder = tmp_path / "parts"
    for number in range(eight):
        png(folder / f"a/8-{number}.png", number)
    for number in range(sixteen):
        png(folder / f"a/16-{number}.png", number, dtype=np.uint16)
    for number in range(floats):
        tiff32(folder / f"a/f-{number}.tif", 0.5 + number)
    for number in range(bad):
        (folder / f"a/bad-{number}.tif").write_bytes(b"II*\0" + struct.pack("<I", 10**6))
    calls: list[tuple[int, int]] = []
    index = build_index(folder, trainable=False)
    assert choose_pixels(index, progress=lambda done, n: calls.append((done, n))) == expected
    assert calls[-1] == (len(index), len(index))


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".webp", ".gif", ".pgm", ".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_depth_of_each_format(suffix: str, dtype: Any, tmp_path: Path) -> None:
    deep = dtype is np.uint16
    if deep and suffix not in (".pgm", ".png", ".tif"):
        pytest.skip("8 bits only")
    for number in range(2):
        file = tmp_path / "parts" / "a" / f"{number}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(
            cv2.imencode(suffix, np.full((9, 9, 3)[: 2 if suffix == ".pgm" else 3], 7, dtype))[1].tobytes()
        )
    index = build_index(tmp_path / "parts", trainable=False)
    assert choose_pixels(index) == ("uint16" if deep else "uint8")


@pytest.mark.parametrize(
    "kind, bits, sample, expected",
    [
        ("TIFF", 16, "int", "float32"),  # a uint16 run refuses it
        ("TIFF", 32, "uint", "float32"),
        ("TIFF", 64, "float", "float32"),
        ("DICOM", 16, "int", "uint16"),  # by its own window
        ("DICOM", 8, "uint", "uint8"),
    ],
)
def test_depth_by_header(
    kind: str,
    bits: int,
    sample: str,
    expected: str,
    make_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "sniff", lambda head: kind)
    monkeypatch.setattr(module, "read_header", lambda data, kind: Header(kind, 8, 6, bits=bits, sample=sample))
    assert choose_pixels(build_index(make_folder(*FOUR))) == expected


def cache_of(pixels: Any, tmp_path: Path) -> PixelCache:
    file = tmp_path / f"{time.monotonic_ns()}.pixels"
    pixels.tofile(file)
    return PixelCache([Place(file, row) for row in range(len(pixels))], Layout(pixels.shape[-1], pixels.dtype.name))


def test_window_holds_nearly_all_values_of_every_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(500, 1000, (5, 3, 100, 100), np.uint16)
    pixels[2, :, :3, :3] = 3000  # a bright defect in one image of five, 0.02 % of all values
    pixels[3, :, 0, 0] = 65535  # a hot pixel
    pixels[4] = 9  # not on the training side
    cache = cache_of(pixels, tmp_path)
    assert measure_window(cache, range(4)) == (500, 3000)
    assert measure_window(cache, np.array([4])) == (9, 10)


def test_window_of_float_pixels(tmp_path: Path) -> None:
    pixels = np.linspace(-3, 5, 2 * 3 * 50 * 50, dtype=np.float32).reshape(2, 3, 50, 50)
    assert measure_window(cache_of(pixels, tmp_path), [0, 1]) == pytest.approx((-3, 5), abs=0.01)


@given(
    hnp.arrays(
        st.sampled_from([np.uint16, np.float32]),
        (2, 3, 3, 3),
        elements=st.sampled_from([0, 1, 7, 65535]) | st.integers(0, 65535),
        fill=st.just(65535) | st.just(0),
    )
)
def test_a_window_is_open(tmp_path_factory: pytest.TempPathFactory, pixels: Any) -> None:
    low, high = measure_window(cache_of(pixels, tmp_path_factory.mktemp("window")), [0, 1])
    assert low < high
    assert np.float32(low) < np.float32(high)
    assert low <= max(low, pixels.min())
    if pixels.dtype == np.uint16:
        assert low == int(low) >= 0
        assert high == int(high) <= 65535


@pytest.mark.parametrize("value", [0.0, -1e30, 3e38, 16_777_216.0])
def test_a_window_of_one_value_is_open_in_float32(value: float, tmp_path: Path) -> None:
    low, high = measure_window(cache_of(np.full((1, 3, 2, 2), value, np.float32), tmp_path), [0])
    assert np.float32(low) < np.float32(high) < np.inf


def test_no_window_without_depth_or_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no window of 1 images of uint8 pixels"):
        measure_window(cache_of(np.zeros((1, 3, 2, 2), np.uint8), tmp_path), [0])
    with pytest.raises(ValueError, match="no window of 0 images"):
        measure_window(cache_of(np.zeros((1, 3, 2, 2), np.uint16), tmp_path), [])
