from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cvtune_edge.decode import read_image
from cvtune_edge.session import open_session

from cvtune.data.index import build_index
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.errors import DataError

MakeFolder = Callable[..., Path]
FOUR = ("a/1.png", "a/2.png", "b/1.png", "b/2.png")


def test_cache_is_what_the_line_computes(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*FOUR)
    pre = Preprocessing(16)
    calls: list[tuple[int, int]] = []
    index, cache = fill_pixels(build_index(folder), pre, tmp_path, progress=lambda done, n: calls.append((done, n)))
    session = open_session(frame_graph(pre).SerializeToString())
    for position, image in enumerate(index.images):
        frame = read_image(folder / image.path).pixels
        np.testing.assert_array_equal(cache.batch([position]), session.run(None, {"image": frame[None]})[0])
        assert (image.height, image.width) == (6, 8)
        assert image.sha256 == hashlib.sha256((folder / image.path).read_bytes()).hexdigest()
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert cache.array.shape == (4, 3, 16, 16)
    assert len(cache) == 4
    assert cache.batch([3, 0]).shape == (2, 3, 16, 16)


def test_unreadable_images_are_moved_not_fatal(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*FOUR, "a/0.png")
    (folder / "a/0.png").write_bytes((folder / "a/1.png").read_bytes()[:60])
    index, cache = fill_pixels(build_index(folder), Preprocessing(8), tmp_path)
    assert [item.path for item in index.skipped] == ["a/0.png"]
    assert index.skipped[0].reason
    assert [image.path for image in index.images] == list(FOUR) == list(cache.rows)
    alone = fill_pixels(build_index(folder), Preprocessing(8), tmp_path / "again")[1]
    np.testing.assert_array_equal(cache.batch([0]), alone.array[1:2])


def test_a_file_that_vanishes_is_listed(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*FOUR, "a/3.png")
    index = build_index(folder)
    (folder / "a/3.png").unlink()
    assert [item.path for item in fill_pixels(index, Preprocessing(8), tmp_path)[0].skipped] == ["a/3.png"]


def test_a_class_that_cannot_be_read_is_an_error(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*FOUR)
    (folder / "b/2.png").write_bytes((folder / "b/2.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"(?s)'b' has 1.*b/2\.png: "):
        fill_pixels(build_index(folder), Preprocessing(8), tmp_path)


def test_16_bit_is_counted(make_folder: MakeFolder, tmp_path: Path, png: Callable[..., None]) -> None:
    folder = make_folder(*FOUR)
    for path in FOUR[:3]:
        png(folder / path, dtype=np.uint16)
    index, _ = fill_pixels(build_index(folder), Preprocessing(8), tmp_path)
    ((note, count),) = index.notes
    assert "16-bit" in note
    assert count == 3


def test_frames_that_do_not_fit_the_roi_in_one_error(make_folder: MakeFolder, tmp_path: Path) -> None:
    index = build_index(make_folder(*FOUR))
    with pytest.raises(DataError, match="4 of 4 images do not fit") as caught:
        fill_pixels(index, Preprocessing(8, roi=(0, 0, 9, 3)), tmp_path)
    assert "a/1.png: 8 x 6 pixels, too small for the roi 0,0,9,3" in caught.value.message


def test_no_room_on_the_disk(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build_index(make_folder(*FOUR))
    monkeypatch.setattr("cvtune.data.pixels.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"the pixel cache needs 0\.0 GB, 0\.0 GB are free"):
        fill_pixels(index, Preprocessing(8), tmp_path)


def test_travels_to_a_worker_as_a_path(make_folder: MakeFolder, tmp_path: Path) -> None:
    _, cache = fill_pixels(build_index(make_folder(*FOUR)), Preprocessing(8), tmp_path)
    opened = cache.batch([0, 1])
    sent = copy.deepcopy(cache)  # takes the same way as a loader worker's copy
    assert sent._array is None
    np.testing.assert_array_equal(sent.batch([0, 1]), opened)


def test_ctrl_c_stops_soon(make_folder: MakeFolder, tmp_path: Path) -> None:
    index = build_index(make_folder(*(f"{name}/{i}.png" for name in "ab" for i in range(100))))

    def stop(done: int, n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_pixels(index, Preprocessing(8), tmp_path, progress=stop)


def test_order_and_threads_do_not_matter(real_data: Path, tmp_path: Path) -> None:
    index = build_index(real_data / "gtsrb" / "test")
    one, first = fill_pixels(index, Preprocessing(32), tmp_path / "1", workers=1)
    four, second = fill_pixels(index, Preprocessing(32), tmp_path / "4", workers=4)
    assert one == four
    np.testing.assert_array_equal(first.array, second.array)
