from __future__ import annotations

import copy
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cvtune_edge.decode import Frame
from cvtune_edge.headers import Header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvtune.data import segments
from cvtune.data.cache import PixelCache
from cvtune.data.facts import Facts, measure
from cvtune.data.segments import Layout, Maps, Place
from cvtune.data.store import PixelStore

KEY, OTHER = "a" * 32, "b" * 32
LAYOUT = Layout(8, "uint8")
RECORD = LAYOUT.record_bytes  # 192


def content(number: int) -> str:
    return f"{number:064x}"


def facts(number: int) -> Facts:
    pixels = np.full((4, 5, 3), number % 256, np.uint8)
    return measure(Frame(pixels, (), Header("PNG", 5, 4)), b"", content(number))


def pixels(number: int, layout: Layout = LAYOUT) -> npt.NDArray[Any]:
    values = np.random.default_rng(number).integers(0, 256, layout.shape)
    return values.astype(layout.dtype)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 4 * RECORD)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pixels"


def fill(root: Path, numbers: Iterator[int] | range, key: str = KEY, **options: Any) -> PixelStore:
    """A store that was closed after these were looked up or added."""
    store = PixelStore(root, key, LAYOUT, **options)
    for number in numbers:
        if store.find(content(number)) is None:
            store.add(facts(number), pixels(number))
    store.close()
    return store


def let_go(store: PixelStore) -> None:
    """As if its process had ended."""
    store.lease.release()


def data_files(root: Path, key: str = KEY) -> list[Path]:
    return sorted((root / key).glob("*.pixels"))


def found(store: PixelStore, numbers: Iterator[int] | range) -> list[int]:
    """Which of them the store has, each with the right pixels."""
    maps, have = Maps(store.layout), []
    for number in numbers:
        kept = store.find(content(number))
        if kept is not None:
            np.testing.assert_array_equal(maps.record(kept.place), pixels(number, store.layout))
            assert kept.facts == facts(number)
            have.append(number)
    return have


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_was_added_is_found_again(root: Path, dtype: str) -> None:
    layout = Layout(5, dtype)
    first = PixelStore(root, KEY, layout)
    for number in range(11):
        first.add(facts(number), pixels(number, layout))
    first.close()
    let_go(first)
    second = PixelStore(root, KEY, layout)
    assert found(second, range(12)) == list(range(11))
    assert len(second) == 11
    assert second.repaired == 0
    assert found(PixelStore(root, OTHER, layout), range(12)) == []  # another key, other pixels


def test_segments_are_cut_by_bytes(root: Path) -> None:
    fill(root, range(11))
    assert [file.stat().st_size // RECORD for file in data_files(root)] == [4, 4, 3]
    assert Layout(224, "uint8").per_segment >= 1
    assert Layout(2048, "float32").per_segment >= 1  # one image larger than a segment still has a place


def test_128_mb_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert Layout(224, "uint8").per_segment == 891
    assert -(-50_000 // Layout(224, "uint8").per_segment) == 57  # files of a folder of 50,000


def test_one_content_is_kept_once(root: Path) -> None:
    store = PixelStore(root, KEY, LAYOUT)
    assert store.add(facts(1), pixels(1)) == store.add(facts(1), pixels(1))
    kept = store.find(content(1))
    assert kept is not None
    assert kept.facts == facts(1)
    store.close()
    assert [file.stat().st_size for file in data_files(root)] == [RECORD]


def test_other_shapes_and_types_are_refused(root: Path) -> None:
    store = PixelStore(root, KEY, LAYOUT)
    for wrong in (pixels(1)[:, :4], pixels(1).astype(np.uint16)):
        with pytest.raises(ValueError, match="expected Layout"):
            store.add(facts(1), wrong)


def test_a_flipped_bit_is_noticed_and_mended(root: Path) -> None:
    let_go(fill(root, range(6)))
    file = data_files(root)[0]
    data = bytearray(file.read_bytes())
    data[2 * RECORD + 7] ^= 1
    file.write_bytes(data)
    second = fill(root, range(6))
    assert second.repaired == 1
    assert len(data_files(root)) == 3  # the third holds the mended record
    let_go(second)
    third = PixelStore(root, KEY, LAYOUT)
    assert found(third, range(6)) == list(range(6))
    assert third.repaired == 0  # the newer of the two records counts


def test_a_newer_record_counts_though_the_clock_was_set_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go(fill(root, range(1)))
    data_files(root)[0].write_bytes(bytes(RECORD))
    with monkeypatch.context() as patch:
        patch.setattr("cvtune.data.store.time.time_ns", lambda: 5)
        let_go(fill(root, range(1)))
    third = PixelStore(root, KEY, LAYOUT)
    assert found(third, range(1)) == [0]
    assert third.repaired == 0


@pytest.mark.parametrize("keep", [0, 1, RECORD - 1, RECORD, 4 * RECORD - 1])
def test_of_data_that_was_cut_short_the_whole_records_count(root: Path, keep: int) -> None:
    let_go(fill(root, range(6)))
    os.truncate(data_files(root)[0], keep)
    whole = list(range(keep // RECORD))
    store = PixelStore(root, KEY, LAYOUT)
    assert found(store, range(6)) == [*whole, 4, 5]
    assert store.repaired == 4 - len(whole)
    let_go(fill(root, range(6)))
    assert found(PixelStore(root, KEY, LAYOUT), range(6)) == list(range(6))


def test_half_a_segment_is_deleted(root: Path) -> None:
    let_go(fill(root, range(6)))
    first, second = data_files(root)
    first.with_suffix(".json").unlink()
    second.unlink()
    (root / KEY / f".{first.stem}.json.part").write_bytes(b"half an index")
    store = PixelStore(root, KEY, LAYOUT)
    assert len(store) == 0
    assert list((root / KEY).iterdir()) == [store.lease.file]


@given(at=st.integers(0, 10**6), flip=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_an_index_with_any_byte_changed_counts_for_nothing(root: Path, at: int, flip: int) -> None:
    let_go(fill(root, range(4)))
    index = data_files(root)[0].with_suffix(".json")
    data = bytearray(index.read_bytes())
    data[at % len(data)] ^= flip
    index.write_bytes(data)
    store = PixelStore(root, KEY, LAYOUT)
    assert found(store, range(4)) == []
    let_go(store)


def test_other_files_are_never_deleted(root: Path) -> None:
    folder = root / KEY
    theirs = [folder / "holiday.pixels", folder / "holiday.json", folder / "x.run", root / "holiday" / "1.json"]
    theirs += [root / "holiday" / f"{'0' * 20}-{'0' * 8}.pixels", root / f"{'0' * 20}-{'0' * 8}.pixels"]
    for file in theirs:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"somebody's")
    let_go(fill(root, range(6), cap=1))
    fill(root, range(6), key=OTHER, cap=1)
    assert data_files(root) == [theirs[0]]
    assert all(file.read_bytes() == b"somebody's" for file in theirs)


def test_a_living_process_is_not_swept(root: Path) -> None:
    writing = PixelStore(root, KEY, LAYOUT)
    writing.add(facts(1), pixels(1))
    beside = PixelStore(root, KEY, LAYOUT)
    assert len(data_files(root)) == 1
    let_go(beside)
    writing.close()
    assert found(PixelStore(root, KEY, LAYOUT), range(3)) == [1]


def test_segments_not_used_for_longest_go_first(root: Path) -> None:
    for start, key in ((0, OTHER), (4, OTHER), (8, KEY)):
        let_go(fill(root, range(start, start + 4), key))
    for age, file in enumerate([*data_files(root), *data_files(root, OTHER)]):  # in this run's own key the oldest
        os.utime(file.with_suffix(".json"), (age, age))
    total = sum(file.stat().st_size for file in root.glob("*/*")) + RECORD  # indices differ by a few bytes
    let_go(fill(root, range(20, 24), cap=total))  # as much again as one segment
    assert [found(PixelStore(root, OTHER, LAYOUT), range(8)), len(data_files(root))] == [[4, 5, 6, 7], 2]


def test_use_makes_young(root: Path) -> None:
    let_go(fill(root, range(8)))
    for age, file in enumerate(data_files(root)):
        os.utime(file.with_suffix(".json"), (age, age))
    total = sum(file.stat().st_size for file in root.glob("*/*")) + RECORD  # indices differ by a few bytes
    let_go(fill(root, range(1)))  # the older one is of use
    let_go(fill(root, range(20, 24), cap=total))
    assert found(PixelStore(root, KEY, LAYOUT), range(8)) == [0, 1, 2, 3]


def test_what_a_run_uses_stays_beyond_the_cap(root: Path) -> None:
    other = fill(root, range(4), OTHER)
    store = fill(root, range(8), cap=1)
    assert found(store, range(8)) == list(range(8))
    assert len(data_files(root, OTHER)) == 1  # another run is using it
    let_go(other)
    store.make_room()
    assert not data_files(root, OTHER)
    let_go(store)
    fill(root, range(30, 31), cap=1)
    assert len(data_files(root)) == 1


def test_a_full_disk_is_emptied_of_old_segments_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go(fill(root, range(8), OTHER))
    store = PixelStore(root, KEY, LAYOUT)
    size = 10_000

    def usage(folder: Path) -> Any:
        return type("Usage", (), {"free": size - sum(file.stat().st_size for file in data_files(root, OTHER))})

    monkeypatch.setattr("cvtune.data.store.shutil.disk_usage", usage)
    assert store.make_room(size - 5 * RECORD)
    assert len(data_files(root, OTHER)) == 1
    assert not store.make_room(size + 1)


def test_a_record_cut_short_by_a_full_disk_leaves_a_sound_segment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PixelStore(root, KEY, LAYOUT)
    store.add(facts(0), pixels(0))
    assert store._writer is not None
    handle = store._writer._handle

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(handle, name)

        def write(self, data: memoryview) -> int:
            handle.write(data[:50])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store._writer, "_handle", Full())
        with pytest.raises(OSError, match="No space"):
            store.add(facts(1), pixels(1))
    store.close()
    let_go(store)
    assert found(PixelStore(root, KEY, LAYOUT), range(3)) == [0]


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs file modes")
def test_a_folder_that_cannot_be_written(root: Path) -> None:
    root.mkdir()
    root.chmod(0o500)
    with pytest.raises(OSError, match="Permission"):
        PixelStore(root, KEY, LAYOUT)


def test_a_file_in_the_way(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(OSError, match=r"."):
        PixelStore(root, KEY, LAYOUT)


def test_the_cache_is_its_users_own(root: Path) -> None:
    if os.name == "nt":
        pytest.skip("no file modes")
    PixelStore(root, KEY, LAYOUT)
    assert root.stat().st_mode & 0o077 == 0


def test_a_lease_ends_with_the_cache_that_holds_it(root: Path) -> None:
    store = fill(root, range(2))
    cache = PixelCache([Place(data_files(root)[0], row) for row in (1, 0, 1)], LAYOUT, lease=store.lease)
    del store
    gc.collect()
    assert len(list((root / KEY).glob("*.run"))) == 1
    sent = copy.deepcopy(cache)  # takes the same way as a loader worker's copy, and holds none
    assert cache.batch([0, 1, 2, -1]).shape == (4, 3, 8, 8)
    np.testing.assert_array_equal(sent.batch([1, 2]), np.stack([pixels(0), pixels(1)]))
    del cache
    gc.collect()
    assert not list((root / KEY).glob("*.run"))


def test_few_files_are_open_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_OPEN", 3)
    store = fill(root, range(40))
    maps = Maps(LAYOUT)
    for number in np.random.default_rng(0).integers(0, 40, 200):
        kept = store.find(content(number))
        assert kept is not None
        np.testing.assert_array_equal(maps.record(kept.place), pixels(number))
        assert len(maps._open) <= 3


def test_threads_share_a_store(root: Path) -> None:
    store = PixelStore(root, KEY, LAYOUT)
    places: dict[tuple[int, int], Place] = {}

    def work(thread: int) -> None:
        for number in range(thread, 60):
            kept = store.find(content(number))
            places[thread, number] = kept.place if kept else store.add(facts(number), pixels(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    for number in range(60):
        assert len({place for (_, other), place in places.items() if other == number}) == 1
    assert sum(file.stat().st_size for file in data_files(root)) == 60 * RECORD
    assert found(store, range(60)) == list(range(60))


_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_store as t
t.segments.SEGMENT_BYTES = 4 * t.RECORD
store = t.PixelStore(Path(sys.argv[2]), t.KEY, t.LAYOUT, cap=10**9)
start, stop = int(sys.argv[3]), int(sys.argv[4])
for number in range(start, stop):
    if store.find(t.content(number)) is None:
        store.add(t.facts(number), t.pixels(number))
    print(number, flush=True)
store.close()
"""


def child(root: Path, start: int, stop: int) -> subprocess.Popen[str]:
    arguments = [str(Path(__file__).parent), str(root), str(start), str(stop)]
    return subprocess.Popen([sys.executable, "-c", _CHILD, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("after", [0, 3, 8, 30])
def test_kill_9_loses_one_segment_at_most(root: Path, after: int) -> None:
    with child(root, 0, 10**6) as process:
        assert process.stdout is not None
        done = -1
        while done < after:
            done = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    store = PixelStore(root, KEY, LAYOUT)
    have = found(store, range(done + 1))
    assert have == list(range(len(have)))
    assert len(have) >= done + 1 - 4
    assert store.repaired == 0
    whole = {file.stem for file in data_files(root)}
    assert {file.stem for file in (root / KEY).glob("*.json")} == whole  # what was torn is gone
    assert len(list((root / KEY).glob("*.run"))) == 1


def test_processes_do_each_other_no_harm(root: Path) -> None:
    with child(root, 0, 40) as one, child(root, 20, 60) as two:
        for process in (one, two):
            process.communicate(timeout=60)
    assert (one.returncode, two.returncode) == (0, 0)
    store = PixelStore(root, KEY, LAYOUT)
    assert found(store, range(70)) == list(range(60))
    assert store.repaired == 0


def test_entering_waits_for_the_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cvtune.data.store import _turn

    root.mkdir()
    monkeypatch.setattr("cvtune.data.store._WAIT", 0.05)
    with _turn(root) as mine, _turn(root) as also:
        assert mine
        assert not also
    with _turn(root) as mine:
        assert mine


def test_one_line_of_json_a_record(root: Path) -> None:
    fill(root, range(3))
    head, *records = data_files(root)[0].with_suffix(".json").read_text(encoding="ascii").splitlines()
    assert json.loads(head)["records"] == len(records) == 3
    assert json.loads(records[1])["sha256"] == content(1)


def test_ten_thousand_records_open_quickly(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2**20)
    layout = Layout(1, "uint8")
    store = PixelStore(root, KEY, layout)
    plain = facts(0)
    for number in range(10_000):
        store.add(Facts.from_json(plain.to_json() | {"sha256": content(number)}), pixels(0, layout))
    store.close()
    start = time.perf_counter()
    assert len(PixelStore(root, KEY, layout)) == 10_000
    assert time.perf_counter() - start < 5  # 0.1 s on an idle core
