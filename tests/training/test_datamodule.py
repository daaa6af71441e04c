from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cvtune.config import load_config
from cvtune.data.augment import build_augmentation
from cvtune.training.datamodule import Order, PixelDataModule, PixelDataset, StepSampler
from cvtune.training.module import FineTuner
from cvtune.training.session import Material
from cvtune.training.stop import StopRequest
from cvtune.training.trainer import Extras, train_stage

Batch = tuple[Tensor, Tensor]


def data_module(m: Material, *, batch_size: int = 14, workers: int = 0, count: int = 56) -> PixelDataModule:
    transform = build_augmentation(load_config("defects").augment, 64)
    train = PixelDataset(m.pixels, m.train[:count], m.labels[m.train[:count]], transform=transform, seed=3)
    val = PixelDataset(m.pixels, m.val, m.labels[m.val])
    return PixelDataModule(train, val, batch_size=batch_size, seed=3, workers=workers)


def epoch(data: PixelDataModule, number: int) -> list[Batch]:
    data.step = number * data.batches
    return list(data.train_dataloader())


def same(a: list[Batch], b: list[Batch]) -> bool:
    return all(torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_the_same_bytes_for_any_number_of_workers_and_others_each_epoch(material: Material) -> None:
    runs = [data_module(material, workers=workers) for workers in (0, 1, 2)]
    first, second = ([epoch(data, number) for data in runs] for number in (0, 1))
    for numbers in (first, second):
        assert same(numbers[0], numbers[1])
        assert same(numbers[0], numbers[2])
    assert not same(first[0], second[0])
    assert same(first[0], epoch(runs[0], 0))


def test_a_picture_changes_from_epoch_to_epoch(material: Material) -> None:
    dataset = data_module(material).train
    versions = [dataset[(number, 5)][0] for number in range(6)]
    assert len({v.numpy().tobytes() for v in versions}) == 6
    assert torch.equal(versions[4], dataset[(4, 5)][0])


def test_lightning_moves_the_epoch_on(material: Material, make_tuner: Callable[..., Any]) -> None:
    tuner: FineTuner = make_tuner(steps=12)[0]
    seen: list[list[bytes]] = []

    class Watch(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            seen.append([])

        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            seen[-1].append(batch[0].numpy().tobytes())

    train_stage(
        "tail",
        tuner,
        data_module(material),
        stop=StopRequest(),
        progress=lambda what, done, of: None,
        extras=Extras((Watch(),)),
    )
    data = data_module(material)
    assert seen == [[x.numpy().tobytes() for x, _ in epoch(data, number)] for number in range(3)]


@given(st.integers(2, 200), st.integers(2, 64), st.integers(0, 5))
def test_a_batch_of_one_image_never_occurs(count: int, batch_size: int, number: int) -> None:
    order = Order(count, batch_size, 0)
    size = min(batch_size, count)
    assert (order.batch_size, order.batches) == (size, count // size)
    batches = [order.keys(number * order.batches + turn) for turn in range(order.batches)]
    assert {len(batch) for batch in batches} == {size}
    positions = [position for batch in batches for _, position in batch]
    assert len(set(positions)) == len(positions) > count - size
    assert {key[0] for batch in batches for key in batch} == {number}


@pytest.mark.parametrize("step", [0, 1, 3, 4, 7])
def test_a_loader_goes_on_from_any_step_to_the_next_look(step: int, material: Material) -> None:
    whole = data_module(material)
    wanted = [epoch(whole, 0), epoch(whole, 1)]
    data = data_module(material)
    data.step = step
    assert same(list(data.train_dataloader()), wanted[step // 4][step % 4 :])


def test_a_part_of_an_epoch_between_two_looks(material: Material) -> None:
    m = material
    plain = PixelDataset(m.pixels, m.train, m.labels[m.train])
    data = PixelDataModule(plain, plain, batch_size=8, seed=1, validate_every=3, workers=0)
    assert data.batches == 7
    lengths = []
    while data.step < 14:
        lengths.append(len(list(data.train_dataloader())))
        data.step += lengths[-1]
    assert lengths == [3, 3, 3, 3, 3]


def test_several_processes_share_every_batch() -> None:
    order = Order(50, 8, 3)
    shares = [list(StepSampler(order, range(2, 9), rank=rank, world=2)) for rank in range(2)]
    for one, other, step in zip(*shares, range(2, 9), strict=True):
        assert sorted(one + other) == sorted(order.keys(step))
        assert len(one) == len(other) == 4


@pytest.mark.parametrize(("count", "wanted"), [(15, [14]), (14, [14]), (5, [5]), (29, [14, 14])])
def test_the_loader_leaves_incomplete_batches_out(material: Material, count: int, wanted: list[int]) -> None:
    data = data_module(material, count=count)
    assert [len(labels) for _, labels in data.train_dataloader()] == wanted
    assert data.batches == len(wanted)


def test_no_image_is_left_out_for_good() -> None:
    order = Order(15, 14, 0)
    assert {position for step in range(20) for _, position in order.keys(step)} == set(range(15))


def test_val_is_complete_in_order_and_as_stored(material: Material) -> None:
    batches = list(data_module(material).val_dataloader())
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.numpy(), material.pixels.batch(material.val))
    assert np.array_equal(labels.numpy(), material.labels[material.val])


def test_labels_stay_with_their_images(material: Material) -> None:
    m = material
    plain = PixelDataset(m.pixels, m.train, m.labels[m.train])
    data = PixelDataModule(plain, plain, batch_size=8, seed=1, workers=0)
    known = {m.pixels.batch([row]).tobytes(): m.labels[row] for row in m.train}
    for pixels, labels in data.train_dataloader():
        assert [known[x.numpy().tobytes()] for x in pixels] == labels.tolist()


def test_the_users_own_augmentation_is_called_with_an_image(material: Material) -> None:
    def invert(*, image: np.ndarray[Any, Any]) -> dict[str, Any]:
        assert image.shape == (64, 64, 3)
        return {"image": 255 - image}

    rows = material.train[:4]
    dataset = PixelDataset(material.pixels, rows, material.labels[rows], transform=invert)
    assert np.array_equal(dataset[(0, 2)][0].numpy(), 255 - material.pixels.batch(rows[2:3])[0])


class Deep:
    """A cache of four deep images, as `data.pixels.PixelCache` gives them."""

    def __init__(self, kind: str) -> None:
        self.array = np.random.default_rng(0).integers(0, 60_000, (4, 3, 64, 64)).astype(kind)

    def batch(self, indices: Any) -> np.ndarray[Any, Any]:
        return np.asarray(self.array[np.asarray(indices)])


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_deep_images_come_as_raw_values(kind: str) -> None:
    pixels: Any = Deep(kind)
    rows, labels = np.arange(4), np.array([1, 0, 1, 0])
    plain = PixelDataset(pixels, rows, labels)
    assert plain[2][0].dtype == torch.float32
    assert np.array_equal(plain[2][0].numpy(), pixels.array[2])
    transform = build_augmentation(load_config("default").augment, 64)
    changed = PixelDataset(pixels, rows, labels, transform=transform, window=(1000, 50_000), seed=3)
    versions = [changed[(number, 2)][0] for number in range(4)]
    assert len({v.numpy().tobytes() for v in versions}) == 4
    assert torch.equal(versions[3], changed[(3, 2)][0])
    for version in versions:
        assert (version.dtype, tuple(version.shape)) == (torch.float32, (3, 64, 64))
        assert 1000 <= float(version.min()) < float(version.max()) <= 50_000
        assert (kind == "uint16") is bool((version == version.round()).all())


@pytest.mark.parametrize("kind", [bool, np.float32, np.int64])
def test_several_labels_come_as_rows(material: Material, kind: Any) -> None:
    table = np.eye(4)[material.labels].astype(kind)
    table[:, 2] = 1
    plain = PixelDataset(material.pixels, material.train, table[material.train])
    data = PixelDataModule(plain, plain, batch_size=8, seed=1, workers=0)
    known = {material.pixels.batch([row]).tobytes(): table[row] for row in material.train}
    for pixels, labels in [*data.train_dataloader(), *data.val_dataloader()]:
        assert (labels.dtype, labels.shape[1]) == (torch.float32, 4)
        for x, row in zip(pixels, labels, strict=True):
            assert np.array_equal(known[x.numpy().tobytes()].astype(np.float32), row.numpy())


def test_a_dataset_travels_to_a_worker_without_its_pixels(material: Material) -> None:
    data = data_module(material)
    data.train[0]  # opens the memory map
    sent = ForkingPickler.dumps(data.train)  # how Windows and macOS hand it over
    assert len(sent) < material.pixels.batch(range(len(material.pixels))).nbytes / 10
    assert torch.equal(ForkingPickler.loads(sent)[(2, 7)][0], data.train[(2, 7)][0])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_ctrl_c_reaches_the_main_process_alone(material: Material) -> None:
    def interrupted(*, image: np.ndarray[Any, Any]) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)  # a terminal sends it to the workers too
        return {"image": image}

    rows = material.train[:6]
    train = PixelDataset(material.pixels, rows, material.labels[rows], transform=interrupted)
    data = PixelDataModule(train, train, batch_size=3, seed=0, workers=1)
    assert len(list(data.train_dataloader())) == 2
