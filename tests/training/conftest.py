from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvtune.config import load_config
from cvtune.data.augment import build_augmentation
from cvtune.data.index import DatasetIndex, build_index
from cvtune.data.pixels import PixelCache, fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.evaluation.comparison import better
from cvtune.evaluation.metrics import score
from cvtune.evaluation.predictions import Predictions
from cvtune.models.backbone import create_empty
from cvtune.models.head import Classifier, LinearHead
from cvtune.models.normalize import Normalize
from cvtune.training.datamodule import PixelDataModule, PixelDataset
from cvtune.training.losses import build_loss
from cvtune.training.module import FineTuner
from cvtune.training.session import Floats, Judge, Judgement, Material, Session
from cvtune.training.stop import StopRequest
from cvtune.training.views import Views

SIZE = 64
MakeSession = Callable[..., Session]
MakeTuner = Callable[..., tuple[FineTuner, PixelDataModule]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cached(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetIndex, PixelCache]:
    """96 parts of 64 px in 4 classes, read once."""
    frame = Preprocessing(SIZE)
    filled = fill_pixels(
        build_index(parts), frame, frame.reading, scratch=tmp_path_factory.mktemp("pixels"), cache_gb=0
    )
    return filled.index, filled.pixels


@pytest.fixture(scope="session")
def material(cached: tuple[DatasetIndex, PixelCache]) -> Material:
    """Of each class's 24 parts 14 train, 5 val, 5 test."""
    index, pixels = cached
    labels = np.array([image.label for image in index.images], np.int64)
    turn = np.arange(len(labels)) % 24
    return Material(
        pixels=pixels,
        labels=labels,
        groups=tuple(image.group for image in index.images),
        train=np.flatnonzero(turn < 14),
        val=np.flatnonzero((turn >= 14) & (turn < 19)),
        held=np.flatnonzero(turn >= 14),
        classes=4,
    )


@pytest.fixture
def make_session(material: Material, tmp_path: Path) -> MakeSession:
    """`make_session({"train.tail.steps": 8}, backbone=..., verdict=True, stop=...)`; a verdict settles every stage."""

    def make(
        flags: dict[str, Any] | None = None,
        *,
        backbone: str = "test_resnet",
        verdict: bool | None = None,
        **changes: Any,
    ) -> Session:
        base = {"train.batch_size": 16, "train.tail.steps": 6, "train.all.steps": 3, "train.workers": 0}
        base["train.all.rounds"] = 1
        config = load_config(flags={**base, **(flags or {})})
        normalize = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        net = create_empty(backbone, size=SIZE)
        values: dict[str, Any] = {
            "classifier": Classifier(net, LinearHead(net.width, 4)).eval(),
            "material": material,
            "judge": _judge(material, verdict),
            "stop": StopRequest(),
            "progress": lambda what, done, of: None,
            **changes,
        }
        seen: Material = values["material"]
        values.setdefault(
            "views",
            Views(
                tmp_path,
                values["classifier"].backbone,
                normalize,
                pixels=seen.pixels,
                rows=np.union1d(seen.train, seen.val),
                transform=values.pop("augmentation", None) or build_augmentation(config.augment, SIZE),
                seed=config.seed,
                window=seen.window,
                stop=values["stop"],
                progress=values["progress"],
            ),
        )
        return Session(config=config, normalize=normalize, **values)

    return make


def _judge(material: Material, verdict: bool | None) -> Judge:
    truth = material.labels[material.val].astype(np.int64)

    def predictions(logits: Floats) -> Predictions:
        probabilities = torch.softmax(torch.from_numpy(logits), 1).numpy()
        return Predictions(tuple(map(str, material.val)), truth, probabilities, ("a", "b", "c", "d"))

    def judge(new: Floats, old: Floats | None) -> Judgement:
        fresh = predictions(new)
        figures = score(fresh).balanced_accuracy, fresh.log_loss
        if old is None:
            return Judgement(True, "the first model", *figures)
        found = better(fresh, predictions(old))
        return Judgement(found.keep if verdict is None else verdict, found.reason, *figures)

    return judge


@pytest.fixture
def make_tuner(material: Material) -> MakeTuner:
    """`make_tuner("test_vit", first_group=2, steps=7, flags={...})`: a module and its data, 4 batches an epoch."""

    def make(
        backbone: str = "test_resnet", *, first_group: int = 3, steps: int = 8, flags: dict[str, Any] | None = None
    ) -> tuple[FineTuner, PixelDataModule]:
        config = load_config(flags=flags).train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = create_empty(backbone, size=SIZE)
            classifier = Classifier(net, LinearHead(net.width, 4)).eval()
        m = material
        tuner = FineTuner(
            classifier,
            Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            first_group=first_group,
            stage=config.tail,
            train=config,
            loss=build_loss(m.labels[m.train], 4, smoothing=config.label_smoothing),
            total_steps=steps,
        )
        data = PixelDataModule(
            PixelDataset(m.pixels, m.train, m.labels[m.train]),
            PixelDataset(m.pixels, m.val, m.labels[m.val]),
            batch_size=14,
            seed=0,
            workers=0,
        )
        return tuner, data

    return make
