"""A further model file for a bundle: made, asked beside model.onnx about the user's own images, and put in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnx
import torch
from cvtune_edge.errors import ImageError
from cvtune_edge.golden import read_golden
from cvtune_edge.manifest import MODEL_FILE
from cvtune_edge.opening import read_model
from cvtune_edge.runtime import Bundle
from cvtune_edge.session import open_session
from numpy.typing import NDArray

from cvtune.bundle.enclose import enclose
from cvtune.bundle.forms import Form, formed, with_network
from cvtune.bundle.gate import Parity, Said, check, compare
from cvtune.bundle.graph import Task, quick
from cvtune.bundle.heat import Heated, heated_graph
from cvtune.bundle.lighter.parts import with_pixels
from cvtune.errors import ConfigError, GateError, ModelError
from cvtune.evaluation.calibration import Calibration
from cvtune.evaluation.explanation import heat_maps
from cvtune.models.head import Classifier
from cvtune.models.normalize import Normalize

Frame = NDArray[Any]
CLOSE_HEAT: Final = 0.01  # of a map's hottest place; it is drawn in 256 shades
_MAPS: Final = 16  # that are compared with torch's; each costs a backward pass
_INSTEAD: Final = f"nothing was written; {MODEL_FILE} is as it was"


@dataclass(frozen=True)
class Variant:
    """A model file beside model.onnx.

    Attributes:
        form: what it takes and gives.
        parity: with model.onnx, over the user's images.
        heat: largest difference of a heat map from torch's, None without maps.
    """

    form: Form
    parity: Parity
    heat: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the manifest has them."""
        return {**self.form.to_json(), "precision": "float32", "parity": asdict(self.parity), "heat": self.heat}


def add_variant(
    folder: Path,
    form: Form,
    *,
    classifier: Classifier | None,
    normalize: Normalize,
    calibration: Calibration,
    root: Path,
    paths: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, of: None,
    untrusted: bool = False,
) -> Variant:
    """Write `form.file` into a bundle if it answers as its model.onnx does; else leave the bundle as it is.

    Args:
        folder: of the bundle.
        form: what the file takes and gives.
        classifier: the trained one, in eval mode; needed for a heat map alone.
        normalize: pixels to the network's input.
        calibration: of its logits.
        root: of the folder of images.
        paths: images of the val, calib and test sides.
        progress: called after each image.
        untrusted: decode the images in child processes.

    Raises:
        ConfigError: the form does not go with the bundle or with the images.
        GateError: it answers otherwise, or no image could be asked about.
        ModelError: the backbone has no maps.
    """
    with Bundle(folder, untrusted=untrusted, precision="float32") as bundle:
        _check_shape(bundle, form)
        model = onnx.load_model_from_string(read_model(folder, MODEL_FILE, bundle.manifest))
        if form.heatmap:
            assert classifier is not None
            model = with_network(model, _heated(bundle, classifier, normalize, calibration))
        data = formed(model, form).SerializeToString()
        session = open_session(data)
        asked = _Asked(bundle, form, session)
        for done, frame in enumerate(_frames(bundle, form, root, paths), start=1):
            asked.add(frame)
            progress(done, len(paths))
        if not asked.count:
            raise GateError(
                f"{root}: none of the {len(paths)} images of the val, calib and test sides can be asked about",
                hint=f"{_INSTEAD}; the images have to be where the run found them",
            )
        for golden in read_golden(folder, bundle.manifest.files):
            if _fits(golden.shape, form, bundle):
                asked.add(_fitted(golden.frame(folder, bundle.manifest.files), form))
        parity = asked.parity()
        check(parity)
        heat = None if classifier is None or not form.heatmap else asked.heat(model, classifier, normalize)
    variant = Variant(form, parity, heat)
    enclose(folder, form.file, data, variant=variant.to_json())
    return variant


def _check_shape(bundle: Bundle, form: Form) -> None:
    manifest = bundle.manifest
    if form.shape is None:
        return
    if manifest.frame_size is not None and manifest.frame_size != form.shape:
        raise ConfigError(
            f"--static {form.shape[0]}x{form.shape[1]}: the mask of this model belongs to frames of "
            f"{manifest.frame_size[0]}x{manifest.frame_size[1]} (height x width)",
            hint=f"--static {manifest.frame_size[0]}x{manifest.frame_size[1]}",
        )
    if manifest.roi is not None:
        x, y, width, height = manifest.roi
        if y + height > form.shape[0] or x + width > form.shape[1]:
            raise ConfigError(
                f"--static {form.shape[0]}x{form.shape[1]}: the region of interest needs {y + height}x{x + width}",
                hint="height x width of the camera's whole frame",
            )


def _heated(bundle: Bundle, classifier: Classifier, normalize: Normalize, calibration: Calibration) -> onnx.ModelProto:
    manifest = bundle.manifest
    task: Task = "multi" if manifest.task == "multi" else "single"
    network = Heated(normalize, quick(classifier), calibration, task=task).eval()
    try:
        return heated_graph(network, manifest.size, deep=bundle.reading.pixels != "uint8")
    except (ValueError, NotImplementedError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"{manifest.backbone}: its heat map does not go into a graph ({str(error).splitlines()[0]})", hint=_INSTEAD
        ) from error


def _frames(bundle: Bundle, form: Form, root: Path, paths: Iterable[str]) -> Iterator[Frame]:
    """Those that are still there, as the camera of this form would show them, still in R, G, B."""
    for path in paths:
        try:
            frame = bundle.read(root / path).pixels
        except ImageError:
            continue
        if form.colour == "gray" and not (frame == frame[:, :, :1]).all():
            raise ConfigError(
                f"{root / path} has colours: a camera that delivers gray would not show what this model has learnt",
                hint="fit a folder of gray images, or export --colour bgr",
            )
        if not _fits(frame.shape, form, bundle):
            size = f"{frame.shape[0]}x{frame.shape[1]}"
            raise ConfigError(
                f"{root / path}: an image of {size} (height x width), and the region of interest "
                "belongs to one size of frame",
                hint=f"--static {size}",
            )
        yield _fitted(frame, form)


def _fits(shape: tuple[int, ...], form: Form, bundle: Bundle) -> bool:
    """Whether a frame [H, W, ...] can be shown: one of another size is resized, but not where a region is set."""
    return form.shape in (None, shape[:2]) or bundle.manifest.region is None


def _fitted(frame: Frame, form: Form) -> Frame:
    if form.shape is None or frame.shape[:2] == form.shape:
        return frame
    height, width = form.shape
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA))


class _Asked:
    """What model.onnx and the new file said of the same frames."""

    def __init__(self, bundle: Bundle, form: Form, session: Any) -> None:
        self._bundle, self._form, self._session = bundle, form, session
        self._names = [output.name for output in session.get_outputs()]
        self._told: list[tuple[Any, Any]] = []
        self._maps: list[tuple[Frame, NDArray[np.float32], int]] = []

    @property
    def count(self) -> int:
        """Frames so far."""
        return len(self._told)

    def add(self, frame: Frame) -> None:
        """Ask both about a frame [H, W, 3] in R, G, B."""
        if self._form.colour == "gray" and not (frame == frame[:, :, :1]).all():
            frame = np.repeat(frame[:, :, :1], 3, axis=2)  # a drawn golden frame
        ours = self._bundle.predict(frame)
        shown = {"rgb": frame, "bgr": frame[:, :, ::-1], "gray": frame[:, :, 0]}[self._form.colour]
        answers = self._session.run(None, {"image": np.ascontiguousarray(shown)[None]})
        theirs = {name: answer[0] for name, answer in zip(self._names, answers, strict=True)}
        if self._form.heatmap and len(self._maps) < _MAPS:
            self._maps.append((frame, theirs["heatmap"], int(ours.probabilities.argmax())))
        self._told.append(
            (
                (ours.probabilities, ours.novelty, ours.decision),
                (theirs["probabilities"], theirs.get("novelty"), theirs["decision"]),
            )
        )

    def parity(self) -> Parity:
        """Of all that was asked."""
        ours, theirs = (self._said([told[side] for told in self._told]) for side in (0, 1))
        return compare(ours, theirs, self._bundle.manifest.point)

    def _said(self, told: Sequence[Any]) -> Said:
        probabilities, novelty, decisions = zip(*told, strict=True)
        far = None if novelty[0] is None else np.array(novelty, np.float32)
        return Said(np.stack(probabilities), far, np.stack(decisions).astype(np.int64))

    def heat(self, model: onnx.ModelProto, classifier: Classifier, normalize: Normalize) -> float:
        """Largest difference of a map from the one that torch draws of the same pixels.

        Raises:
            GateError: it can be seen.
        """
        deep = self._bundle.reading.pixels != "uint8"
        pixels = open_session(with_pixels(model, deep=deep).SerializeToString())
        worst = 0.0
        for frame, found, label in self._maps:
            (small,) = pixels.run(["pixels"], {"image": frame[None]})
            x = normalize(torch.from_numpy(small))
            wanted = heat_maps(classifier, x, torch.tensor([label]))[0].numpy()
            worst = max(worst, float(np.abs(found - wanted).max()))
        if not worst <= CLOSE_HEAT:
            raise GateError(
                f"the heat map in the graph differs from torch's by {worst:.2g} (at most {CLOSE_HEAT:g} is allowed)",
                hint=_INSTEAD,
            )
        return worst
