from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cvtune_edge.decision import OperatingPoint
from cvtune_edge.decode import read_image
from numpy.typing import NDArray

from cvtune.bundle.export import Product, export_bundle
from cvtune.bundle.gate import Parity
from cvtune.bundle.graph import Task
from cvtune.config import ModelConfig
from cvtune.data.index import DatasetIndex, Image
from cvtune.data.pixels import fill_pixels
from cvtune.data.preprocess import Preprocessing
from cvtune.evaluation.calibration import Calibration
from cvtune.evaluation.novelty import fit_novelty
from cvtune.models.backbone import load_backbone
from cvtune.models.head import Classifier, LinearHead
from cvtune.models.normalize import Normalize, to_tensor
from cvtune.models.weights import find_weights

Floats = NDArray[np.float32]
CLASSES = ("dent", "ok", "Öse", "1e3")
POINT = OperatingPoint((1,), (0.45, 0.45, 0.4, 0.35), (0.55, 0.6, 0.7, 0.65))  # "ok" is the good class
WARM = Calibration(1.5, 0.9, 0.8, 40)
VECTOR = Calibration(1.0, 0.9, 0.7, 40, scales=(0.5, 1.5, 1.0, 0.7), shifts=(0.6, -0.8, 0.2, 0.0))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


class Case:
    """A classifier with everything that its bundle needs: images, pixels, logits of the torch path."""

    def __init__(
        self,
        root: Path,
        scratch: Path,
        *,
        backbone: str = "test_resnet",
        weights: Path | None = None,
        task: Task = "single",
        thresholds: tuple[float, ...] = (),
        point: OperatingPoint | None = None,
        strange: float | None = None,
        **changes: Any,
    ) -> None:
        model = ModelConfig(
            weights=None if weights is None else str(weights), from_scratch=not changes.pop("real", weights)
        )
        info = find_weights(backbone, model)
        options: dict[str, Any] = {"size": 64, "mean": info.mean, "std": info.std, **changes}
        self.pre = Preprocessing(interpolation=info.interpolation, **options)
        files = [path for folder in sorted(root.iterdir()) for path in sorted(folder.iterdir())[:3]][:12]
        self.root, self.paths = root, [path.relative_to(root).as_posix() for path in files]
        images = tuple(Image(path, i % 4, None, path) for i, path in enumerate(self.paths))
        index = DatasetIndex(root, CLASSES, images)
        filled = fill_pixels(index, self.pre, self.pre.reading, scratch=scratch, cache_gb=0)
        self.cache = filled.pixels
        self.pixels = to_tensor(filled.pixels.batch(range(len(files))))
        self.classifier = fitted_classifier(load_backbone(info, size=self.pre.size), self.normalized)
        several = OperatingPoint((), thresholds, thresholds, several=True) if task == "multi" else None
        point, novelty = point or several or POINT, None
        if strange is not None:  # that share of the images is nearer to the first nine than the limit
            novelty = fit_novelty("knn", self.embeddings[:9], np.arange(9) % 4)
            point = replace(point, novelty=float(np.quantile(novelty(self.embeddings), strange)))
        self.product = Product("parts-1", CLASSES, backbone, info.record(), self.pre, WARM, point, novelty, task)

    @property
    def normalized(self) -> torch.Tensor:
        pixels: torch.Tensor = Normalize(self.pre.mean, self.pre.std, self.pre.window)(self.pixels)
        return pixels

    @property
    def logits(self) -> Floats:
        with torch.inference_mode():
            logits: Floats = self.classifier(self.normalized).numpy()
        return logits

    @property
    def embeddings(self) -> Floats:
        with torch.inference_mode():
            embeddings: Floats = self.classifier.embed(self.normalized).numpy()
        return embeddings

    def export(self, folder: Path, **changes: Any) -> tuple[Parity, Floats]:
        options: dict[str, Any] = {
            "logits": self.logits,
            "embeddings": self.embeddings,
            "root": self.root,
            "paths": self.paths,
            "progress": lambda done, of: None,
            **changes,
        }
        exported = export_bundle(folder, options.pop("product", self.product), self.classifier, **options)
        return exported.parity, exported.probabilities


def fitted_classifier(backbone: Any, images: torch.Tensor) -> Classifier:
    """A head that tells the images apart: random directions on standardised embeddings."""
    with torch.no_grad():
        seen = backbone(images)
    spread = seen.std(0) + 1e-3
    weight = torch.randn(len(CLASSES), backbone.width, generator=torch.Generator().manual_seed(1)) / spread
    weight *= 4 / backbone.width**0.5
    head = LinearHead(backbone.width, len(CLASSES))
    head.set(weight, -weight @ seen.mean(0))
    return Classifier(backbone, head).eval()


@pytest.fixture
def make_case(parts: Path, tmp_path: Path) -> Callable[..., Case]:
    """`make_case(root=..., backbone=..., weights=..., task=..., point=..., strange=..., roi=...)`."""

    def make(root: Path = parts, **changes: Any) -> Case:
        return Case(root, tmp_path / "scratch", **changes)

    return make


@pytest.fixture(scope="session")
def deep_parts(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Read only: twelve of the parts with 12 bits, as 16-bit PNG ("uint16") and as float TIFF ("float32")."""
    folder: Path = tmp_path_factory.mktemp("deep")
    random = np.random.default_rng(0)
    for path in (one for name in sorted(parts.iterdir()) for one in sorted(name.iterdir())[:3]):
        raw = read_image(path).pixels.astype(np.uint16) * 16 + random.integers(0, 16, (64, 64, 3), dtype=np.uint16)
        for kind, suffix, pixels in (("uint16", ".png", raw), ("float32", ".tif", raw.astype(np.float32) / 7 - 100)):
            file = (folder / kind / path.relative_to(parts)).with_suffix(suffix)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    return {kind: folder / kind for kind in ("uint16", "float32")}


@pytest.fixture(scope="session")
def small(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    """Read only: test_resnet from scratch at 64 px, and its bundle."""
    folder: Path = tmp_path_factory.mktemp("small")
    case = Case(parts, folder / "scratch", strange=0.8)
    case.export(folder / "bundle")
    return case, folder / "bundle"


@pytest.fixture
def exported(make_case: Callable[..., Case], tmp_path: Path) -> tuple[Case, Path]:
    """test_resnet from scratch at 64 px, and its bundle, which a test may change."""
    case = make_case(strange=0.8)
    case.export(tmp_path / "bundle")
    return case, tmp_path / "bundle"
