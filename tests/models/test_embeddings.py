from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvtune.data.index import build_index
from cvtune.data.key import store_key
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.models import embeddings
from cvtune.models.backbone import Backbone, create_empty
from cvtune.models.embeddings import Embedder, embedding_key
from cvtune.models.features import embed
from cvtune.models.normalize import Normalize

PRE = Preprocessing(64)
ALL = np.arange(96)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("CVTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


@pytest.fixture(scope="module")
def folder(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """96 parts of 64 px."""
    filled = fill_pixels(build_index(parts), PRE, PRE.reading, scratch=tmp_path_factory.mktemp("pixels"), cache_gb=0)
    names = [image.sha256 for image in filled.index.images]
    return Embedder(filled.pixels, Normalize((0.5,) * 3, (0.25,) * 3), names, store_key(PRE), 1.0)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    net = create_empty("test_efficientnet", size=64)
    net.set_taps(net.default_taps())
    return net


def files(cache: Path, suffix: str = "pixels") -> list[Path]:
    return sorted(cache.rglob(f"*.{suffix}"))


def test_the_second_run_does_not_run_the_backbone(folder: Embedder, backbone: Backbone, passes: list[int]) -> None:
    cold = folder(backbone, ALL)
    assert passes == [32, 32, 32]
    warm = folder(backbone, ALL)
    assert passes == [32, 32, 32]
    assert np.array_equal(cold, warm)
    assert np.array_equal(cold, embed(backbone, folder.pixels, folder.normalize, ALL))


def test_a_run_that_finds_some_images_gives_the_same_bytes(
    folder: Embedder, backbone: Backbone, passes: list[int]
) -> None:
    some = np.array([70, 3, 4, 50, 95])
    folder(backbone, some)
    told: list[tuple[int, int]] = []
    mixed = folder(backbone, ALL, progress=lambda done, of: told.append((done, of)))
    assert passes == [32] * 4  # five images, then the other 91
    assert told == [(37, 96), (69, 96), (96, 96)]
    assert np.array_equal(mixed, embed(backbone, folder.pixels, folder.normalize, ALL))


def test_no_share_of_the_disk_keeps_none(folder: Embedder, backbone: Backbone, passes: list[int], cache: Path) -> None:
    for gigabytes in (0.0, 96 * backbone.width * 4 / 1e9 * 0.99):
        table = replace(folder, cache_gb=gigabytes)(backbone, ALL)
        assert np.array_equal(table, embed(backbone, folder.pixels, folder.normalize, ALL))
    assert not files(cache)
    folder(backbone, ALL)
    assert len(passes) == 4 * 3 + 3


def test_mirrored_images_have_a_key_of_their_own(folder: Embedder, backbone: Backbone, passes: list[int]) -> None:
    rows = ALL[:20]
    plain, mirrored = folder(backbone, rows), folder(backbone, rows, mirror="left-right")
    assert not np.array_equal(plain, mirrored)
    assert np.array_equal(mirrored, embed(backbone, folder.pixels, folder.normalize, rows, mirror="left-right"))
    assert np.array_equal(folder(backbone, rows, mirror="left-right"), mirrored)
    assert len(passes) == 3


def test_what_decides_the_values_decides_the_key(folder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    net = create_empty("test_resnet", size=64)
    plain = (folder.normalize, folder.pixels_key, None)
    keys = [embedding_key(net, *plain)]
    assert embedding_key(create_empty("test_resnet", size=64), *plain) == keys[0]
    keys.append(embedding_key(net, folder.normalize, "other pixels", None))
    keys.append(embedding_key(net, folder.normalize, folder.pixels_key, "upside-down"))
    keys.append(embedding_key(net, Normalize((0.5,) * 3, (0.5,) * 3), folder.pixels_key, None))
    keys.append(embedding_key(net, Normalize((0.5,) * 3, (0.25,) * 3, (0, 4095)), folder.pixels_key, None))
    keys.append(embedding_key(net, Normalize((0.5,) * 3, (0.25,) * 3, (0, 4094)), folder.pixels_key, None))
    keys.append(embedding_key(create_empty("test_resnet", size=96), *plain))
    net.set_taps([2])
    keys.append(embedding_key(net, *plain))
    with torch.no_grad():
        net.get_parameter("net.layer4.0.bn1.bias")[3] += 1e-7
    keys.append(embedding_key(net, *plain))
    net.get_buffer("net.bn1.running_mean")[0] += 1e-3
    keys.append(embedding_key(net, *plain))
    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "_CODE", "other lines")
        keys.append(embedding_key(net, *plain))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    keys.append(embedding_key(net, *plain))
    torch.set_num_threads(threads)
    assert len(set(keys)) == len(keys) == 12
    assert all(len(key) == 32 for key in keys)


def flip_a_byte(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", ["record", "torn", "index", "no index", "empty index"])
def test_damage_is_noticed_and_made_good(
    folder: Embedder, backbone: Backbone, passes: list[int], cache: Path, damage: str
) -> None:
    cold = folder(backbone, ALL)
    passes.clear()
    (data,), (index,) = files(cache), files(cache, "json")
    if damage == "record":
        flip_a_byte(data, 40 * backbone.width * 4 + 1)
    elif damage == "torn":
        data.write_bytes(data.read_bytes()[: 41 * backbone.width * 4 - 1])
    elif damage == "index":
        flip_a_byte(index, 300)
    elif damage == "no index":
        index.unlink()
    else:
        index.write_bytes(b"")
    assert np.array_equal(folder(backbone, ALL), cold)
    assert len(passes) == {"record": 1, "torn": 2}.get(damage, 3)
    assert np.array_equal(folder(backbone, ALL), cold)
    assert len(passes) == {"record": 1, "torn": 2}.get(damage, 3)  # repaired for good


def test_images_of_one_content_share_an_embedding(folder: Embedder, backbone: Backbone, cache: Path) -> None:
    twins = replace(folder, names=[folder.names[0]] * 2 + list(folder.names[2:]))
    twins(backbone, np.array([0, 1, 2]))
    assert [file.stat().st_size for file in files(cache)] == [2 * backbone.width * 4]


def test_a_cache_that_cannot_be_written_stops_nothing(
    folder: Embedder, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = embed(backbone, folder.pixels, folder.normalize, ALL)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CVTUNE_CACHE", str(tmp_path / "file"))
    assert np.array_equal(folder(backbone, ALL), expected)


def test_a_disk_that_fills_up_stops_nothing(
    folder: Embedder, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cvtune.data.segments.Writer.append", full)
    assert np.array_equal(folder(backbone, ALL), embed(backbone, folder.pixels, folder.normalize, ALL))
    monkeypatch.undo()
    monkeypatch.setenv("CVTUNE_CACHE", str(cache.parent))
    usage = shutil.disk_usage(cache.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert np.array_equal(folder(backbone, ALL), embed(backbone, folder.pixels, folder.normalize, ALL))


def test_what_was_made_before_ctrl_c_is_kept(folder: Embedder, backbone: Backbone, passes: list[int]) -> None:
    def stop(done: int, of: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder(backbone, ALL, progress=stop)
    passes.clear()
    folder(backbone, ALL)
    assert len(passes) == 1


def test_names_of_other_images_are_refused(folder: Embedder) -> None:
    with pytest.raises(ValueError, match="3 names of 96 images"):
        replace(folder, names=folder.names[:3])


_CHILD = """
import sys, numpy as np, torch
from pathlib import Path
torch.set_num_threads(1)
from cvtune.data.index import build_index
from cvtune.data.key import store_key
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.models.backbone import create_empty
from cvtune.models.embeddings import Embedder
from cvtune.models.normalize import Normalize
pre = Preprocessing(64)
filled = fill_pixels(build_index(Path(sys.argv[1])), pre, pre.reading, scratch=Path(sys.argv[2]), cache_gb=0)
names = [image.sha256 for image in filled.index.images]
net = create_empty("test_efficientnet", size=64)
net.set_taps(net.default_taps())
ran = []
net.register_forward_hook(lambda module, args, out: ran.append(1))
table = Embedder(filled.pixels, Normalize((0.5,) * 3, (0.25,) * 3), names, store_key(pre), 1.0)(net, np.arange(96))
np.save(sys.argv[3], table)
print(len(ran))
"""


def test_another_process_finds_them(
    folder: Embedder, backbone: Backbone, parts: Path, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    mine = folder(backbone, ALL)
    torch.set_num_threads(threads)
    assert run_python(_CHILD, str(parts), str(tmp_path / "s"), str(tmp_path / "table.npy")) == "0"
    assert np.array_equal(np.load(tmp_path / "table.npy"), mine)


@pytest.fixture
def run_python() -> Callable[..., str]:
    def run(code: str, *args: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    return run
