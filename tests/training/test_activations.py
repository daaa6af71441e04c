from __future__ import annotations

import copy
import errno
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cvtune.config import load_config
from cvtune.data.augment import build_augmentation
from cvtune.data.index import build_index
from cvtune.data.pixels import PixelCache, fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.errors import RunError
from cvtune.models.backbone import Backbone, load_backbone
from cvtune.models.folding import folded
from cvtune.models.normalize import Normalize
from cvtune.models.weights import find_weights
from cvtune.rundir import DiskFullError
from cvtune.training import activations
from cvtune.training.activations import (
    ActivationCache,
    FrozenPrefix,
    Source,
    Storage,
    fill,
    orders,
    room,
    room_for,
)
from cvtune.training.datamodule import PixelDataset

SIZE, COUNT = 96, 42
CUTS = {"tf_efficientnet_lite0": 5, "resnet18": 7, "vit_tiny_patch16_224": 9}
NORMALIZE = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
Load = Callable[[str], Backbone]


@pytest.fixture(scope="session")
def steel(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> PixelCache:
    """42 photographs of steel strip, 7 of each kind of defect, 96 px."""
    folder = tmp_path_factory.mktemp("steel")
    for kind in sorted(path for path in (real_data / "neu_steel").iterdir() if path.is_dir()):
        (folder / "data" / kind.name).mkdir(parents=True)
        for file in sorted(kind.iterdir())[: COUNT // 6]:
            shutil.copy(file, folder / "data" / kind.name)
    frame = Preprocessing(SIZE)
    return fill_pixels(build_index(folder / "data"), frame, frame.reading, scratch=folder, cache_gb=0).pixels


@pytest.fixture(scope="session")
def load(real_data: Path) -> Load:
    """`load("resnet18")`: with its real weights, at 96 px."""

    def make(name: str) -> Backbone:
        file = real_data / "weights" / f"{name}.safetensors"
        config = load_config(flags={"model.weights": str(file)} if file.exists() else None).model
        return load_backbone(find_weights(name, config), size=SIZE)

    return make


@pytest.fixture
def lite(load: Load) -> Backbone:
    return load("tf_efficientnet_lite0")


def shown(steel: PixelCache, **changes: Any) -> Source:
    transform = build_augmentation(load_config("defects").augment, SIZE)
    return replace(Source(steel, np.arange(COUNT)[::-1].copy(), transform, seed=3), **changes)


def filled(folder: Path, prefix: FrozenPrefix, source: Source, views: tuple[int, ...], **more: Any) -> ActivationCache:
    cache = fill(folder, prefix, source, views, **more)
    assert cache is not None
    return cache


def content(cache: ActivationCache, slot: int) -> Tensor:
    return cache.batch([slot] * len(cache), np.arange(len(cache)))[0]


@pytest.mark.parametrize("name", CUTS)
def test_the_cache_holds_what_the_frozen_layers_make_of_the_augmented_image(
    name: str, load: Load, steel: PixelCache, tmp_path: Path
) -> None:
    backbone, cut, source = load(name), CUTS[name], shown(steel)
    prefix = FrozenPrefix(backbone, NORMALIZE, cut)
    cache = filled(tmp_path, prefix, source, (4, 9), storage="float32")
    live = PixelDataset(steel, source.rows, np.zeros(COUNT), transform=source.transform, seed=3)
    positions = [5, 40, 0]
    for slot, view in enumerate((4, 9)):
        pixels = torch.stack([live[(view, position)][0] for position in positions])
        z, pooled = cache.batch([slot] * 3, positions)
        with torch.no_grad():
            x = NORMALIZE(pixels).contiguous(memory_format=torch.channels_last)
            wanted, pools = backbone.prefix(x, cut)
        assert z.shape == (3, *cache.shape) == (3, *prefix.shape)
        assert z.stride() == wanted.stride()
        torch.testing.assert_close(z, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
        torch.testing.assert_close(pooled, pools, rtol=1e-3, atol=1e-3)


def test_a_view_is_the_same_whatever_is_made_with_it(lite: Backbone, steel: PixelCache, tmp_path: Path) -> None:
    prefix = FrozenPrefix(lite, NORMALIZE, 5, frozen="bfloat16")
    state = torch.get_rng_state()
    three = filled(tmp_path, prefix, shown(steel), (0, 1, 2))
    one = filled(tmp_path, FrozenPrefix(lite, NORMALIZE, 5, frozen="bfloat16"), shown(steel), (2,))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(content(three, 2), content(one, 0))
    assert not torch.equal(content(three, 1), content(three, 2))
    other = filled(tmp_path, prefix, shown(steel, seed=4), (2,))
    assert not torch.equal(content(one, 0), content(other, 0))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_processes_that_augment_give_the_same_bytes_as_the_thread(
    lite: Backbone, steel: PixelCache, tmp_path: Path
) -> None:
    prefix = FrozenPrefix(lite, NORMALIZE, 5)
    thread, process = (filled(tmp_path, prefix, shown(steel, workers=count), (0, 1)) for count in (0, 2))
    assert all(torch.equal(content(thread, slot), content(process, slot)) for slot in (0, 1))


def test_without_augmentation_the_number_of_the_view_does_not_matter(
    lite: Backbone, steel: PixelCache, tmp_path: Path
) -> None:
    prefix = FrozenPrefix(lite, NORMALIZE, 5)
    cache = filled(tmp_path, prefix, Source(steel, np.arange(COUNT)), (0, 7))
    assert torch.equal(content(cache, 0), content(cache, 1))
    with torch.no_grad():
        first = prefix(torch.from_numpy(steel.batch([0])))[0]
    torch.testing.assert_close(content(cache, 0)[:1], first.bfloat16(), rtol=0.01, atol=0.01)


def test_bfloat16_keeps_all_that_a_prefix_in_bfloat16_gives(lite: Backbone, steel: PixelCache, tmp_path: Path) -> None:
    prefix, source = FrozenPrefix(lite, NORMALIZE, 5, frozen="bfloat16"), shown(steel)
    full = filled(tmp_path, prefix, source, (0,), storage="float32")
    short = filled(tmp_path, prefix, source, (0,), storage="bfloat16")
    assert (full.nbytes, short.nbytes) == tuple(
        COUNT * prefix.bytes_per_image(kind) for kind in ("float32", "bfloat16")
    )
    assert full.nbytes == full.file.stat().st_size == 2 * short.nbytes
    assert content(short, 0).dtype == torch.bfloat16
    assert torch.equal(content(full, 0), content(short, 0).float())


@pytest.mark.parametrize(("storage", "error"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_storage_rounds_and_no_more(
    storage: Storage, error: float, lite: Backbone, steel: PixelCache, tmp_path: Path
) -> None:
    prefix, source = FrozenPrefix(lite, NORMALIZE, 5), shown(steel)
    exact = content(filled(tmp_path, prefix, source, (0,), storage="float32"), 0)
    rounded = content(filled(tmp_path, prefix, source, (0,), storage=storage), 0).float()
    assert 0 < (rounded - exact).abs().max() <= error * exact.abs().max()


def test_float16_holds_what_is_too_large_for_it_as_its_largest(
    steel: PixelCache, tmp_path: Path, lite: Backbone
) -> None:
    prefix = FrozenPrefix(
        lite, Normalize((0.5, 0.5, 0.5), (1e-7, 1e-7, 1e-7)), 1
    )  # the stem's ReLU6 goes with Identity
    prefix._backbone.net.bn1 = nn.Identity()
    z = content(filled(tmp_path, prefix, shown(steel), (0,), storage="float16"), 0)
    assert torch.isfinite(z).all()
    assert z.abs().max() == 65504


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_norms_are_folded_and_the_backbone_is_left_alone(name: str, load: Load) -> None:
    backbone = load(name).train()
    before = copy.deepcopy(backbone.state_dict())
    copied, *_ = folded(backbone, CUTS[name])
    frozen = [module for i in range(CUTS[name]) for module in copied.group_modules(i)]
    assert not any(isinstance(part, nn.BatchNorm2d) for module in frozen for part in module.modules())
    assert not copied.training
    assert not any(p.requires_grad for p in copied.parameters())
    assert backbone.training
    assert all(p.requires_grad for p in backbone.parameters())
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


class Fork(nn.Module):
    """A convolution whose output goes into a norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        out: Tensor = (self.norm(y) + y).mean((2, 3))
        return out


def test_a_norm_that_cannot_be_folded_stays() -> None:
    net = Fork()
    nn.init.constant_(net.norm.weight, 3.0)
    backbone = Backbone(net, "fork", native=16)
    copied, z, _ = folded(backbone, 1)
    assert isinstance(copied.net.norm, nn.BatchNorm2d)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(copied(x), backbone(x))
    assert z.shape == (1, 4)


def test_what_taps_pool_is_kept_in_float32(lite: Backbone, steel: PixelCache, tmp_path: Path) -> None:
    lite.set_taps((2, 4, 6))
    prefix = FrozenPrefix(lite, NORMALIZE, 5, frozen="bfloat16")
    cache = filled(tmp_path, prefix, shown(steel), (0, 1, 2))
    assert prefix.pooled == cache.pooled == 24 + 80
    assert cache.nbytes == cache.file.stat().st_size == 3 * COUNT * prefix.bytes_per_image("bfloat16")
    for slot in range(3):
        z, pooled = cache.batch([slot] * COUNT, np.arange(COUNT))
        assert pooled.dtype == torch.float32
        torch.testing.assert_close(pooled[:, 24:], z.float().mean((2, 3)), rtol=1e-4, atol=1e-4)  # the group before
        assert not torch.equal(pooled, pooled.bfloat16().float())
        with torch.no_grad():
            embedding = lite.tail(z.float(), pooled, 5)
        assert embedding.shape == (COUNT, lite.width)


def test_a_stop_leaves_nothing(lite: Backbone, steel: PixelCache, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Stop:
        def __bool__(self) -> bool:
            return len(seen) >= 3

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    prefix = FrozenPrefix(lite, NORMALIZE, 5)
    assert fill(tmp_path, prefix, shown(steel), (0, 1), progress=note, stop=Stop()) is None
    assert seen == [(32, 84), (42, 84), (74, 84)]
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_augmentation_comes_through_and_leaves_nothing(
    lite: Backbone, steel: PixelCache, tmp_path: Path
) -> None:
    def broken(image: Any) -> dict[str, Any]:
        raise RuntimeError("no such colour")

    with pytest.raises(RuntimeError, match="no such colour"):
        fill(tmp_path, FrozenPrefix(lite, NORMALIZE, 5), shown(steel, transform=broken), (0,))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_refused(
    lite: Backbone, steel: PixelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, activations.MARGIN + 2_000_000))
    prefix = FrozenPrefix(lite, NORMALIZE, 5)
    needed = COUNT * prefix.bytes_per_image("bfloat16")
    assert room(tmp_path) == 2_000_000
    assert (room_for(tmp_path, 2_000_000), room_for(tmp_path, 2_000_001)) == (True, False)
    filled(tmp_path, prefix, shown(steel), (0,)).close()
    with pytest.raises(RunError, match=r"needs 0\.0 GB, 0\.0 GB may be used") as caught:
        fill(tmp_path, prefix, shown(steel), tuple(range(2_000_000 // needed + 1)))
    assert "--out" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_said(
    lite: Backbone, steel: PixelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(activations._Layout, "write", write)
    with pytest.raises(DiskFullError, match="the disk is full"):
        fill(tmp_path, FrozenPrefix(lite, NORMALIZE, 5), shown(steel), (0,))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_cached(lite: Backbone, steel: PixelCache, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing lies before cut 0"):
        FrozenPrefix(lite, NORMALIZE, 0)
    with pytest.raises(ValueError, match="0 images in 1 views"):
        fill(tmp_path, FrozenPrefix(lite, NORMALIZE, 1), Source(steel, np.arange(0)), (0,))


def test_a_closed_cache_is_gone_and_what_was_read_stays(lite: Backbone, steel: PixelCache, tmp_path: Path) -> None:
    with filled(tmp_path, FrozenPrefix(lite, NORMALIZE, 5), shown(steel), (0,)) as cache:
        sent = ForkingPickler.loads(ForkingPickler.dumps(cache))  # what a loader sends to its workers
        kept = content(cache, 0)
        before = kept.clone()
        assert torch.equal(content(sent, 0), kept)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(kept, before)
    assert float(kept.abs().max()) > 0


def test_reading_costs_no_memory_but_the_batch(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("memory is read from /proc")

    def anonymous() -> int:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["RssAnon"].split()[0])  # kB

    layout = activations._Layout(4, 2000, (40, 14, 14), 16, "bfloat16", True)
    file = tmp_path / "large.bin"
    with file.open("wb") as handle:
        handle.truncate(layout.nbytes)  # 126 MB
    cache = ActivationCache(file, layout)
    cache.batch(np.zeros(32, np.int64), np.arange(32))
    before = anonymous()
    for slot in range(4):
        for start in range(0, 2000, 40):
            cache.batch([slot] * 40, np.arange(start, start + 40))
    assert anonymous() - before < 20_000


def test_every_image_shows_all_its_views_in_an_order_of_its_own() -> None:
    first, second = orders(500, 4, 7, 0), orders(500, 4, 7, 1)
    assert (np.sort(first, axis=1) == np.arange(4)).all()
    assert len(np.unique(first, axis=0)) == 24
    assert (np.bincount(first[:, 0], minlength=4) > 90).all()
    assert (first != second).any(axis=1).mean() > 0.9
    orders.cache_clear()
    assert (orders(500, 4, 7, 0) == first).all()
    assert (orders(500, 4, 8, 0) != first).any()
