"""Run a bundle: pixels or files in, predictions out; always one image at a time, so that lab and line are bit-equal."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.decode import Frame, read_image
from cvtune_edge.errors import BundleError, CvtuneError, ImageError
from cvtune_edge.manifest import MODEL_FILE, Manifest, load_manifest
from cvtune_edge.results import Prediction, Unreadable
from cvtune_edge.session import SESSION_ERRORS, open_session

__all__ = ["Bundle", "Prediction", "Unreadable"]


class Bundle:
    """An exported classifier, ready to answer.

    Args:
        path: the folder with model.onnx and manifest.json.
        threads: threads inside one operator; chosen from the machine when None.

    Attributes:
        path: the folder.
        manifest: what it says about itself; every file was verified against it.
        classes: names in the order of the probabilities.

    Raises:
        BundleError: not a bundle, changed after the export, or a model that is not what the manifest says.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        self.path = Path(path)
        self.manifest: Manifest = load_manifest(self.path)
        self.classes: tuple[str, ...] = self.manifest.classes
        self._session = _open(self.path / MODEL_FILE, self.manifest, threads)

    def predict(self, image: NDArray[np.uint8] | Path | str, *, embedding: bool = False) -> Prediction:
        """Classify one image.

        Args:
            image: uint8 [H, W, 3] in RGB as the camera delivers it, or the path of a file.
            embedding: give the embedding as well.

        Raises:
            ImageError: the file cannot be read, the pixels have another type or shape, or the frame does not fit the
                bundle's region of interest or mask.
        """
        if isinstance(image, np.ndarray):
            return self._answer(Frame(image), "", embedding)
        return self._answer(read_image(image), Path(image).as_posix(), embedding)

    def stream(
        self, paths: Iterable[Path | str], *, workers: int = 2, embedding: bool = False
    ) -> Iterator[Prediction | Unreadable]:
        """Classify files as they come, in their order; a bad file does not stop the rest.

        Files are decoded by threads a few images ahead, so memory does not grow with their number.

        Args:
            paths: files; read no further ahead than is decoded.
            workers: decoding threads.
            embedding: give the embeddings as well.
        """
        waiting: deque[tuple[str, Future[Frame]]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="cvtune-decode") as pool:
            for path in paths:
                waiting.append((Path(path).as_posix(), pool.submit(read_image, path)))
                if len(waiting) > workers:
                    yield self._next(*waiting.popleft(), embedding)
            while waiting:
                yield self._next(*waiting.popleft(), embedding)

    def _next(self, path: str, frame: Future[Frame], embedding: bool) -> Prediction | Unreadable:
        try:
            return self._answer(frame.result(), path, embedding)
        except ImageError as error:
            return Unreadable(path, error.reason)

    def _answer(self, frame: Frame, path: str, embedding: bool) -> Prediction:
        _check_frame(frame.pixels, self.manifest, path or "image")
        probabilities, *rest = self._run(frame.pixels, path, embedding)
        if not np.isfinite(probabilities).all():
            raise CvtuneError(
                f"{path or 'image'}: the model of {self.path.as_posix()} answers with numbers that are not finite",
                hint="check this machine with `cvtune-edge info`, and export the bundle again",
            )
        best = int(probabilities.argmax())
        return Prediction(
            path=path,
            label=self.classes[best],
            probability=float(probabilities[best]),
            probabilities=probabilities,
            embedding=rest[0] if rest else None,
            notes=frame.notes,
        )

    def _run(self, pixels: NDArray[np.uint8], path: str, embedding: bool) -> list[NDArray[np.float32]]:
        outputs = ["probabilities", "embedding"] if embedding else ["probabilities"]
        try:
            return [answer[0] for answer in self._session.run(outputs, {"image": pixels[None]})]  # [K], [D]
        except SESSION_ERRORS as error:  # memory, mostly: one huge frame must not stop the stream
            height, width = pixels.shape[:2]
            reason = f"the model cannot run on {width} x {height} pixels ({str(error).splitlines()[0]})"
            raise ImageError(path or "image", reason) from error


def _open(model: Path, manifest: Manifest, threads: int | None) -> Any:
    try:
        session = open_session(model, threads=threads)
    except SESSION_ERRORS as error:
        raise BundleError(
            f"{model.as_posix()}: onnxruntime cannot load it ({str(error).splitlines()[0]})",
            hint="install the onnxruntime version that the manifest names, or a later one",
        ) from error
    problems = _contract_problems(session, manifest)
    if problems:
        raise BundleError(
            f"{model.as_posix()} does not keep the graph contract:\n" + "\n".join(f"  {line}" for line in problems),
            hint="export the bundle again with cvtune; export/CONTRACT.md describes the graph",
        )
    return session


def _contract_problems(session: Any, manifest: Manifest) -> list[str]:
    """Compare the graph's inputs and outputs with export/CONTRACT.md."""
    inputs = {node.name: (node.type, node.shape) for node in session.get_inputs()}
    outputs = {node.name: (node.type, node.shape) for node in session.get_outputs()}
    problems = [] if list(inputs) == ["image"] else [f"inputs {list(inputs)}, expected ['image']"]
    for name, (kind, shape) in inputs.items():
        if kind != "tensor(uint8)" or len(shape) != 4 or shape[3] != 3:
            problems.append(f"{name} is {kind} {shape}, expected uint8 [N, H, W, 3]")
    for name, width in (("probabilities", len(manifest.classes)), ("embedding", manifest.embedding)):
        kind, shape = outputs.get(name, ("missing", []))
        # a width that the exporter left open is a name here, and is checked on no image
        if kind != "tensor(float)" or len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != width):
            problems.append(f"{name} is {kind} {shape}, expected float32 [N, {width}]")
    told = session.get_modelmeta().custom_metadata_map.get("classes")
    if told is not None and _parsed(told) != list(manifest.classes):
        problems.append(f"classes in the model are {told}, in the manifest {list(manifest.classes)}")
    return problems


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _check_frame(pixels: NDArray[Any], manifest: Manifest, name: str) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError(
            name,
            f"{pixels.dtype.name} {list(pixels.shape)}, expected uint8 [H, W, 3] in RGB",
            hint="cvtune_edge.read_image(path).pixels reads any file into this form",
        )
    height, width = pixels.shape[:2]
    if manifest.frame_size is not None and manifest.frame_size != (height, width):
        wanted = f"{manifest.frame_size[1]} x {manifest.frame_size[0]}"
        raise ImageError(name, f"frame of {width} x {height} pixels, the bundle's mask expects {wanted}")
    if manifest.roi is not None:
        x, y, w, h = manifest.roi
        if x + w > width or y + h > height:
            raise ImageError(
                name, f"frame of {width} x {height} pixels, the region of interest ends at {x + w} x {y + h}"
            )
