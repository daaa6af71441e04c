from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cvtune.config import DataConfig
from cvtune.data.index import DatasetIndex
from cvtune.data.memory import Kept, folder_identity, recall, remember
from cvtune.data.split import Split, split_index
from cvtune.errors import DataError
from cvtune.rundir import write_json, write_text

MakeIndex = Callable[..., DatasetIndex]
DATA = DataConfig()
NEW = DataConfig(new_split=True)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory of its own."""
    monkeypatch.setenv("CVTUNE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def index(make_index: MakeIndex) -> DatasetIndex:
    """Forty images, read: each has the hash of its own path."""
    return hashed(make_index({"a": 20, "b": 20}))


def hashed(index: DatasetIndex) -> DatasetIndex:
    return replace(index, images=tuple(replace(image, sha256=sha_of(image.path)) for image in index.images))


def sha_of(path: str) -> str:
    return path.encode().hex().ljust(64, "0")


def files(home: Path, root: Path) -> tuple[Path, Path]:
    folder = home / "splits" / folder_identity(root)
    return folder / "split.csv", folder / "split.json"


def recalled(root: Path, data: DataConfig = DATA) -> Kept:
    kept = recall(root, data)
    assert kept is not None
    return kept


def test_kept_and_recalled(index: DatasetIndex, tmp_path: Path, home: Path) -> None:
    assert recall(tmp_path / "parts", DATA) is None
    assert not home.exists()  # asking leaves nothing behind
    split = split_index(index, DATA, seed=0)
    assert remember(tmp_path / "parts", index, split, DATA) == ""
    kept = recalled(tmp_path / "parts")
    assert kept.sides == {image.sha256: side for image, side in zip(index.images, split.sides, strict=True)}
    assert (kept.path, kept.note) == (files(home, tmp_path / "parts")[0], "")
    with kept.path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["path"] for row in rows] == sorted(image.path for image in index.images)
    again = split_index(index, DATA, seed=7, kept=kept.sides)
    assert again.sides == split.sides


def test_by_content_not_by_name(index: DatasetIndex, tmp_path: Path) -> None:
    split = split_index(index, DATA, seed=0)
    remember(tmp_path, index, split, DATA)
    renamed = tuple(replace(image, path=f"a/new{i}.png", group=str(i)) for i, image in enumerate(index.images))
    after = split_index(replace(index, images=renamed), DATA, seed=1, kept=recalled(tmp_path).sides)
    assert after.sides == split.sides


def test_other_folders_have_their_own(index: DatasetIndex, tmp_path: Path) -> None:
    remember(tmp_path / "one", index, split_index(index, DATA, seed=0), DATA)
    assert recall(tmp_path / "two", DATA) is None


def test_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts").mkdir()
    identity = folder_identity(tmp_path / "parts")
    assert len(identity) == 32
    assert identity == folder_identity(tmp_path / "parts" / ".." / "parts")
    monkeypatch.chdir(tmp_path)
    assert identity == folder_identity("parts") == folder_identity(f"parts{os.sep}")
    assert identity != folder_identity(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "parts", target_is_directory=True)
    assert identity == folder_identity("link")


def test_new_split_starts_over(index: DatasetIndex, tmp_path: Path) -> None:
    first, second = split_index(index, DATA, seed=0), split_index(index, DATA, seed=1)
    remember(tmp_path, index, first, DATA)
    assert recall(tmp_path, NEW) is None
    half = replace(index, images=index.images[::2])
    remember(tmp_path, half, Split(second.sides[::2]), NEW)
    kept = recalled(tmp_path)
    assert kept.sides == {image.sha256: side for image, side in zip(half.images, second.sides[::2], strict=True)}


def test_images_that_are_gone_keep_their_sides(index: DatasetIndex, tmp_path: Path) -> None:
    split = split_index(index, DATA, seed=0)
    remember(tmp_path, index, split, DATA)
    half = replace(index, images=index.images[::2])
    kept = recalled(tmp_path).sides
    remember(tmp_path, half, split_index(half, DATA, seed=1, kept=kept), DATA)
    assert recalled(tmp_path).sides == kept
    assert split_index(index, DATA, seed=2, kept=recalled(tmp_path).sides).sides == split.sides


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (DataConfig(group_by=r"(p\d+)_"), r"--group-by was not given and is '(p\d+)_' now"),
        (DataConfig(val=0.2, test=0.3), "val was 0.1 and is 0.2 now, test was 0.15 and is 0.3 now"),
    ],
)
def test_other_terms(index: DatasetIndex, tmp_path: Path, other: DataConfig, reason: str) -> None:
    remember(tmp_path, index, split_index(index, DATA, seed=0), DATA)
    kept = recalled(tmp_path, other)
    assert kept.sides == {}
    assert kept.note == f"the sides of earlier runs on this folder do not fit, images are dealt anew: {reason}"
    half = replace(index, images=index.images[::2])
    remember(tmp_path, half, split_index(half, other, seed=0), other)
    assert len(recalled(tmp_path, other).sides) == len(half)  # those of the other terms are gone
    assert recalled(tmp_path).sides == {}


def test_equal_files_have_one_side(make_index: MakeIndex, tmp_path: Path) -> None:
    index = hashed(make_index({"a": 20, "b": 20}, side=lambda name, i: "test" if i < 5 else "train"))
    images = list(index.images)
    images[7] = replace(images[7], sha256=images[0].sha256)  # in train/ and in test/
    images[30] = replace(images[30], sha256="")  # not read
    index = replace(index, images=tuple(images))
    split = split_index(index, DATA, seed=0)
    remember(tmp_path, index, split, DATA)
    sides = recalled(tmp_path).sides
    assert sides[images[0].sha256] == split.sides[7] != "test"
    assert "" not in sides
    assert split_index(index, DATA, seed=3, kept=sides).sides[7] == split.sides[7]


def test_any_path_is_kept(index: DatasetIndex, tmp_path: Path) -> None:
    names = ["a/new\nline.png", 'a/"quoted", comma.png', "a/\u00fcn\U0001f600.png", "a/\r.png", "a/=cmd.png"]
    images = tuple(replace(image, path=name) for image, name in zip(index.images, names, strict=False))
    odd = replace(index, images=(*images, *index.images[len(names) :]))
    remember(tmp_path, odd, split_index(odd, DATA, seed=0), DATA)
    before = recalled(tmp_path).path.read_bytes()
    remember(tmp_path, index, split_index(index, DATA, seed=0, kept=recalled(tmp_path).sides), DATA)
    remember(tmp_path, odd, split_index(odd, DATA, seed=0, kept=recalled(tmp_path).sides), DATA)
    assert recalled(tmp_path).path.read_bytes() == before


def test_changed_by_hand(index: DatasetIndex, tmp_path: Path, home: Path) -> None:
    remember(tmp_path, index, split_index(index, DATA, seed=0), DATA)
    table, _ = files(home, tmp_path)
    table.write_text(table.read_text().replace('"test"', '"train"'))
    message = r"split\.csv: was changed, .*\nhint: --new-split forgets it and deals the images out anew"
    with pytest.raises(DataError, match=message):
        recall(tmp_path, DATA)
    with pytest.raises(DataError, match=message):
        remember(tmp_path, index, split_index(index, DATA, seed=0), DATA)
    assert recall(tmp_path, NEW) is None
    remember(tmp_path, index, split_index(index, DATA, seed=0), NEW)
    assert len(recalled(tmp_path).sides) == len(index)


@pytest.mark.parametrize("size", [0, 1, 200])
def test_torn_tables(index: DatasetIndex, tmp_path: Path, home: Path, size: int) -> None:
    remember(tmp_path, index, split_index(index, DATA, seed=0), DATA)
    table, _ = files(home, tmp_path)
    table.write_bytes(table.read_bytes()[:size])
    with pytest.raises(DataError, match=r"split\.csv: was changed"):
        recall(tmp_path, DATA)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', '{"sha256": 3, "schema": 1}', "\xff"])
def test_damaged_terms(index: DatasetIndex, tmp_path: Path, home: Path, text: str) -> None:
    remember(tmp_path, index, split_index(index, DATA, seed=0), DATA)
    files(home, tmp_path)[1].write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"split\.json: missing or damaged .*\nhint: --new-split"):
        recall(tmp_path, DATA)


@pytest.mark.parametrize("gone", [0, 1])
def test_half_deleted(index: DatasetIndex, tmp_path: Path, home: Path, gone: int) -> None:
    remember(tmp_path, index, split_index(index, DATA, seed=0), DATA)
    files(home, tmp_path)[gone].unlink()
    with pytest.raises(DataError, match=r"split\.(csv: cannot be read|json: missing)"):
        recall(tmp_path, DATA)


def test_rows_of_another_program(index: DatasetIndex, tmp_path: Path, home: Path) -> None:
    remember(tmp_path, index, split_index(index, DATA, seed=0), DATA)
    table, terms = files(home, tmp_path)
    table.write_text("sha256,side,path\nabc,left,a.png\n")
    about = json.loads(terms.read_text())
    terms.write_text(json.dumps({**about, "sha256": [hashlib.sha256(table.read_bytes()).hexdigest()]}))
    with pytest.raises(DataError, match=r"split\.csv: damaged, expected rows of sha256,side,path"):
        recall(tmp_path, DATA)


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_killed_while_writing(
    index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, goes_on: bool
) -> None:
    half = replace(index, images=index.images[::2])
    first = split_index(half, DATA, seed=0)
    remember(tmp_path, half, first, DATA)
    other = DATA if goes_on else DataConfig(group_by="(.)")
    second = split_index(index, other, seed=0, kept=recalled(tmp_path, other).sides)
    done = 0

    def until_killed(write: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: object) -> None:
            nonlocal done
            if done == steps:
                raise KeyboardInterrupt
            done += 1
            write(*args)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr("cvtune.data.memory.write_json", until_killed(write_json))
        patched.setattr("cvtune.data.memory.write_text", until_killed(write_text))
        with pytest.raises(KeyboardInterrupt):
            remember(tmp_path, index, second, other)
    kept = recall(tmp_path, other)
    if steps == 2:  # the table is there
        assert kept is not None
        assert len(kept.sides) == len(index)
    elif goes_on:
        assert kept is not None
        assert len(kept.sides) == len(half)
    else:
        assert kept is None or not kept.sides
    remember(tmp_path, index, second, other)
    assert len(recalled(tmp_path, other).sides) == len(index)


def test_nowhere_to_keep(index: DatasetIndex, tmp_path: Path, home: Path) -> None:
    home.write_text("a file where the folder should be")
    split = split_index(index, DATA, seed=0)
    told = remember(tmp_path, index, split, DATA)
    assert told.startswith("the sides cannot be kept for later runs: ")
    assert "CVTUNE_DATA" in told
    assert recall(tmp_path, DATA) is None


_WRITER = """
import sys
from pathlib import Path
from cvtune.config import DataConfig
from cvtune.data.index import DatasetIndex, Image
from cvtune.data.memory import recall, remember
from cvtune.data.split import Split
root, who = Path(sys.argv[1]), sys.argv[2]
data = DataConfig()
for turn in range(15):
    images = tuple(Image(f"{who}{turn}-{i}", i % 2, None, str(i), 1, 1, f"{who}{turn:02x}{i:061x}") for i in range(50))
    assert remember(root, DatasetIndex(root, ("a", "b"), images), Split(("train",) * 50), data) == ""
    assert recall(root, data).sides[images[0].sha256] == "train"
"""


def test_several_processes_at_once(tmp_path: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path / "parts"), who]) for who in "abc"]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert len(recalled(tmp_path / "parts").sides) == 3 * 15 * 50  # none lost another's
