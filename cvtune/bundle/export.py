"""From the trained classifier to `RUN/bundle`: write beside, ask with the user's own files, swap when it passed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cvtune_edge.decision import OperatingPoint
from cvtune_edge.decode import ReadOptions
from cvtune_edge.manifest import SCHEMA, Manifest, file_sha256
from cvtune_edge.runtime import Bundle
from numpy.typing import NDArray

from cvtune.bundle.gate import Parity, Said, answers, check, check_shapes, compare
from cvtune.bundle.golden import choose, write_golden
from cvtune.bundle.graph import Task, as_json, build_model
from cvtune.data.preprocess import Preprocessing
from cvtune.evaluation.calibration import Calibration
from cvtune.evaluation.novelty import Novelty
from cvtune.evaluation.task import task_named
from cvtune.models.head import Classifier
from cvtune.models.normalize import Normalize
from cvtune.rundir import write_bytes, write_json

Floats = NDArray[np.float32]
MODEL = "model.onnx"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Product:
    """Everything a bundle is made of, apart from the classifier.

    Attributes:
        name: of the run.
        classes: names in class order.
        backbone: timm's name.
        weights: source, licence and sha256 of the pretrained weights.
        preprocessing: frame to pixels.
        calibration: what the logits go through.
        point: the limits that decide.
        novelty: the distance from what was trained on, where there is one.
        task: "single" where the classes exclude each other, "multi" where an image may have several labels.
        targets: what the limits were chosen for.
        training: sha256 of what the model was made from.
    """

    name: str
    classes: tuple[str, ...]
    backbone: str
    weights: dict[str, str]
    preprocessing: Preprocessing
    calibration: Calibration
    point: OperatingPoint
    novelty: Novelty | None = None
    task: Task = "single"
    targets: tuple[str, ...] = ()
    training: str = ""

    @property
    def normalize(self) -> Normalize:
        """Pixels to the network's input."""
        pre = self.preprocessing
        return Normalize(pre.mean, pre.std, pre.window)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of the K labels, the probability from which on an image has one; for "multi" alone."""
        return self.point.reject if self.point.several else ()

    def said(self, logits: Floats, embeddings: Floats) -> Said:
        """What the classifier's logits [N, K] and embeddings [N, D] mean: the gate's own side of the comparison."""
        probabilities = task_named(self.task).probabilities(logits, self.calibration)
        novelty = None if self.novelty is None else self.novelty(embeddings)
        return Said(probabilities, novelty, self.point.decide(probabilities, novelty))


@dataclass(frozen=True, eq=False)
class Exported:
    """What a bundle that was written answered for n files.

    Attributes:
        parity: with the classifier.
        probabilities: float32 [n, K]; those of a file that vanished since it was read are the classifier's.
        novelty: distances float32 [n], likewise; None where there is no distance.
    """

    parity: Parity
    probabilities: Floats
    novelty: Floats | None


def export_bundle(
    folder: Path,
    product: Product,
    classifier: Classifier,
    *,
    logits: Floats,
    embeddings: Floats,
    root: Path,
    paths: Sequence[str],
    progress: Callable[[int, int], None],
    untrusted: bool = False,
    limits: ReadOptions | None = None,
) -> Exported:
    """Write the bundle if it answers like the classifier; else leave the one that is there.

    Args:
        folder: where the bundle goes.
        product: what it is.
        classifier: in eval mode.
        logits: float32 [n, K], the classifier's answers for `paths`.
        embeddings: float32 [n, D], what its head saw of them.
        root: of the folder of images.
        paths: n images of the val, calib and test sides.
        progress: called after each image.
        untrusted: decode the images in child processes.
        limits: those that the images were read with.

    Returns:
        What the gate measured and the bundle answered.

    Raises:
        GateError: it answers otherwise.
    """
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        manifest = _write(beside, product, classifier)
        pre, point = product.preprocessing, product.point
        with Bundle(beside, untrusted=untrusted, options=limits, verify=False) as bundle:
            exported, there = answers(bundle, root, paths, progress=progress)
            trained = product.said(logits, embeddings)
            parity = compare(trained.where(there), exported.where(there), point)
            parity = replace(parity, vanished=int((~there).sum()))
            check(parity)
            check_shapes(beside / MODEL, pre, partial(_by_torch, product, classifier), point)
            golden = write_golden(beside, bundle, pre, root, paths, choose(exported, point, there))
        manifest = replace(manifest, parity=asdict(parity), files={**manifest.files, **golden})
        write_json(beside / MANIFEST, manifest.to_json())
        swap(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    probabilities = np.where(there[:, None], exported.probabilities, trained.probabilities)
    novelty = None
    if exported.novelty is not None and trained.novelty is not None:
        novelty = np.where(there, exported.novelty, trained.novelty)
    return Exported(parity, probabilities, novelty)


@torch.inference_mode()
def _by_torch(product: Product, classifier: Classifier, pixels: NDArray[Any]) -> Said:
    """What the trained network says of pixels [N, 3, S, S]."""
    x = product.normalize(torch.from_numpy(pixels))
    logits, embeddings = classifier.parts(x.to(next(classifier.parameters()).device))
    return product.said(logits.float().cpu().numpy(), embeddings.float().cpu().numpy())


def _write(folder: Path, product: Product, classifier: Classifier) -> Manifest:
    """Model and manifest, the manifest still without a parity."""
    pre = product.preprocessing
    manifest = _manifest(product, classifier.backbone.width)  # first: it refuses what does not go together
    model = build_model(
        pre,
        product.normalize,
        classifier,
        calibration=product.calibration,
        metadata=_metadata(product),
        task=product.task,
        point=product.point,
        novelty=product.novelty,
    )
    write_bytes(folder / MODEL, model.SerializeToString())
    manifest = replace(manifest, files={MODEL: file_sha256(folder / MODEL)})
    write_json(folder / MANIFEST, manifest.to_json())
    return manifest


def _metadata(product: Product) -> dict[str, str]:
    pre = product.preprocessing
    return {
        "cvtune_version": version("cvtune"),
        "name": product.name,
        "classes": as_json(product.classes),
        "size": str(pre.size),
        "colour": "RGB",
        "backbone": product.backbone,
        "reading": as_json(pre.reading.to_json()),
        "window": as_json(pre.window),
        "task": product.task,
        "thresholds": as_json(product.thresholds),
        "limits": as_json(product.point.to_json()),
        "targets": as_json(product.targets),
        "training": product.training,
    }


def _manifest(product: Product, width: int) -> Manifest:
    """Still without the model's checksum."""
    pre = product.preprocessing
    return Manifest(
        schema=SCHEMA,
        name=product.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cvtune_version=version("cvtune"),
        classes=product.classes,
        backbone=product.backbone,
        size=pre.size,
        resize=pre.resize,
        roi=pre.roi,
        frame_size=pre.frame_size,
        embedding=width,
        temperature=product.calibration.temperature,
        weights=product.weights,
        parity={},
        files={MODEL: "0" * 64},
        versions={name: version(name) for name in ("torch", "timm", "onnx", "onnxruntime")},
        reading=pre.reading.to_json(),
        window=pre.window,
        task=product.task,
        thresholds=product.thresholds,
        scales=product.calibration.scales,
        shifts=product.calibration.shifts,
        limits=product.point.to_json(),
        novelty=_about(product.novelty),
        region=pre.region,
        targets=product.targets,
        training=product.training,
    )


def _about(novelty: Novelty | None) -> dict[str, Any] | None:
    if novelty is None:
        return None
    return {"kind": novelty.kind, "neighbours": novelty.neighbours, "points": len(novelty.points)}


def swap(new: Path, folder: Path) -> None:
    """Put the new folder in the old one's place; no system replaces a folder that is not empty in one step."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:  # on Windows a virus scanner may hold a file of it
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
