"""Run a bundle: pixels or files in, predictions out; always one image at a time, so that lab and line are bit-equal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.decode import Frame, ReadOptions, read_bytes, read_image
from cvtune_edge.errors import BundleError, CvtuneError, ImageError, MismatchError, first_line
from cvtune_edge.golden import Verified, check, index_of, verify
from cvtune_edge.manifest import LABEL_SEPARATOR, Manifest, check_files, read_manifest
from cvtune_edge.opening import MOST_SHOWN, open_model, outputs_of
from cvtune_edge.providers import short_name
from cvtune_edge.results import Decision, Prediction, Unreadable, has_labels
from cvtune_edge.session import SESSION_ERRORS, nodes_by_provider
from cvtune_edge.signature import check_signature

if TYPE_CHECKING:
    from cvtune_edge.child import DecoderPool
    from cvtune_edge.decision import OperatingPoint

__all__ = ["Bundle", "Decision", "Prediction", "Unreadable"]


class Bundle:
    """An exported classifier, ready to answer.

    Args:
        path: the folder with model.onnx and manifest.json.
        threads: threads inside one operator; chosen from the machine when None.
        untrusted: decode files in child processes, with limits of time and memory for each file.
        options: limits for files, their pixels, bytes and formats. What decides values, the type of the pixels and the
            background, is the bundle's own in any case.
        verify: ask about the bundle's golden frames first; a machine that answers otherwise than the lab is refused.
        provider: who computes: "cpu", "cuda", "tensorrt", "openvino", "coreml", "xnnpack", "directml", or a list in
            order of preference. One that does not run here is refused; the CPU takes what it cannot compute.
        spin: let threads wait actively within an answer: faster for one frame at a time, slower for a stream of files.
        precision: which model answers: "float32", "int8", "float16", or "auto": int8 on a processor where the bundle
            has it and this machine answers for the golden frames as the lab did with it, else float32.
        key: a public key, PEM: a bundle that was not signed with its private one is refused.

    Attributes:
        path: the folder.
        manifest: what it says about itself; every file was verified against it.
        classes: names in the order of the probabilities.
        reading: how files become frames for this bundle, for :func:`cvtune_edge.read_image`.
        precision: of the model that answers.
        fallback: why it is not the faster one that the bundle has; empty where it is.

    Raises:
        BundleError: not a bundle, changed after the export, not signed with the key, a model that is not what the
            manifest says, or none of this precision.
        MismatchError: this machine answers otherwise than the lab.
        CvtuneError: the provider does not run here, or the key cannot be used.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        threads: int | None = None,
        untrusted: bool = False,
        options: ReadOptions | None = None,
        verify: bool = True,
        provider: str | Sequence[str] = "cpu",
        spin: bool = False,
        precision: str = "auto",
        key: Path | str | None = None,
    ) -> None:
        self.path = Path(path)
        self.manifest, digest = read_manifest(self.path)
        if key is not None:
            check_signature(self.path, Path(key), self.manifest, digest)
        on_cpu = isinstance(provider, str) and provider.lower() == "cpu"
        self.precision, self.fallback = self._chosen(precision, asked=verify and on_cpu), ""
        lighter = precision == "auto" and self.precision != "float32"  # if it does not do here, model.onnx will
        check_files(self.path, self.manifest, later=() if lighter else {self._file})
        self.classes: tuple[str, ...] = self.manifest.classes
        own = ReadOptions.from_json(self.manifest.reading)
        self.reading = replace(options or own, pixels=own.pixels, background=own.background)
        self._forms = {name: form for name, (_, form) in outputs_of(self.manifest).items()}
        self._asked = [name for name in self._forms if name not in ("ok", "embedding")]
        self._children = _start_pool(self.reading) if untrusted else None
        start = partial(self._start, threads, provider=provider, spin=spin, verify=verify)
        try:
            start()
        except (BundleError, MismatchError) as error:
            if not lighter:
                raise
            self.precision, self.fallback = "float32", error.message
            start()

    def close(self) -> None:
        """End the child processes of an untrusted bundle; the next file would start new ones."""
        if self._children is not None:
            self._children.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def _file(self) -> str:
        """The model that answers, by its name in the bundle."""
        return self.manifest.models[self.precision]

    def _chosen(self, precision: str, *, asked: bool) -> str:
        """The precision to begin with; int8 only on a processor, where it was timed, and if it is asked first.

        Raises:
            BundleError: the bundle has no model of this precision.
        """
        models = self.manifest.models
        if precision == "auto":
            return "int8" if asked and "int8" in models else "float32"
        if precision not in models:
            raise BundleError(
                f"{self.path.as_posix()} has no model of precision {precision!r}; it has {', '.join(models)}",
                hint="make one with `cvtune export RUN --int8` or `--fp16`",
            )
        return precision

    def _start(self, threads: int | None, *, provider: str | Sequence[str], spin: bool, verify: bool) -> None:
        self._session = self._load(threads, provider=provider, spin=spin)
        if verify:
            verified = self.verify()
            check(verified, self.path)
            if self.precision != "float32" and not verified.frames:
                raise MismatchError(f"{self.path.as_posix()}: no golden frame says how {self.precision} answers")

    def _load(self, threads: int | None, *, provider: str | Sequence[str], spin: bool) -> Any:
        """The session that answers; `cvtune_edge.bench` times others of the same bundle."""
        return open_model(self.path, self._file, self.manifest, threads=threads, provider=provider, spin=spin)

    @property
    def nodes(self) -> Mapping[str, int]:
        """How many nodes of the graph each provider computes, by its name; empty where the CPU has them all."""
        return {short_name(full): count for full, count in nodes_by_provider(self._session).items()}

    def verify(self) -> Verified:
        """Ask about the golden frames, and say how this machine answers."""
        return verify(self.path, self.manifest.files, self.predict, index=index_of(self.precision))

    def predict(self, image: NDArray[Any] | Path | str, *, embedding: bool = False) -> Prediction:
        """Classify one image.

        Args:
            image: [H, W, 3] in RGB as the camera delivers it, of the type `reading.pixels` (uint8 in most bundles), or
                the path of a file.
            embedding: give the embedding as well.

        Raises:
            ImageError: the file cannot be read, the pixels have another type or shape, or the frame does not fit the
                bundle's region of interest or mask.
        """
        if isinstance(image, np.ndarray):
            return self._answer(Frame(image), "", embedding)
        return self._answer(self.read(image), Path(image).as_posix(), embedding)

    @overload
    def decide(self, image: NDArray[Any] | Path | str) -> Decision: ...

    @overload
    def decide(self, image: Sequence[NDArray[Any]] | Sequence[Path] | list[str]) -> list[Decision]: ...

    def decide(
        self, image: NDArray[Any] | Path | str | Sequence[NDArray[Any]] | Sequence[Path] | list[str]
    ) -> Decision | list[Decision]:
        """Decide one image, or each of several: OK, NG (class), REVIEW, by the limits in the bundle.

        Args:
            image: as for :meth:`predict`, or a list of such; frames [N, H, W, 3] as `list(frames)`.

        Raises:
            BundleError: the bundle is of an earlier schema, which does not decide.
            ImageError: as for :meth:`predict`.
        """
        point = self.manifest.point
        if isinstance(image, np.ndarray | Path | str):
            return _decided(self.predict(image), point, self.classes)
        return [_decided(self.predict(one), point, self.classes) for one in image]

    def decisions(self, paths: Iterable[Path | str], *, workers: int = 2) -> Iterator[Decision | Unreadable]:
        """Decide files as they come, as :meth:`stream` reads them.

        Raises:
            BundleError: the bundle is of an earlier schema, which does not decide.
        """
        point = self.manifest.point
        for answer in self.stream(paths, workers=workers):
            yield answer if isinstance(answer, Unreadable) else _decided(answer, point, self.classes)

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
                waiting.append((Path(path).as_posix(), pool.submit(self.read, path)))
                if len(waiting) > workers:
                    yield self._next(*waiting.popleft(), embedding)
            while waiting:
                yield self._next(*waiting.popleft(), embedding)

    def read(self, path: Path | str) -> Frame:
        """A file as this bundle takes it, decoded in a child process where it is untrusted.

        Raises:
            ImageError: it cannot be read.
        """
        if self._children is None:
            return read_image(path, self.reading)
        return self._children.decode(read_bytes(path, self.reading), Path(path).as_posix())

    def _next(self, path: str, frame: Future[Frame], embedding: bool) -> Prediction | Unreadable:
        try:
            return self._answer(frame.result(), path, embedding)
        except ImageError as error:
            return Unreadable(path, error.reason)

    def _answer(self, frame: Frame, path: str, embedding: bool) -> Prediction:
        _check_frame(frame.pixels, self.manifest, path or "image")
        answer = self._run(frame.pixels, path, embedding)
        probabilities = answer["probabilities"]
        if not np.isfinite(probabilities).all():
            raise CvtuneError(
                f"{path or 'image'}: the model of {self.path.as_posix()} answers with numbers that are not finite",
                hint="check this machine with `cvtune-edge info`, and export the bundle again",
            )
        labels = self._labels(probabilities)
        return Prediction(
            path=path,
            label=LABEL_SEPARATOR.join(labels) if self.manifest.task == "multi" else labels[0],
            probability=float(probabilities.max()),
            probabilities=probabilities,
            embedding=answer.get("embedding"),
            notes=frame.notes,
            labels=labels,
            novelty=float(answer["novelty"]) if "novelty" in answer else None,
            decision=answer.get("decision"),
        )

    def _labels(self, probabilities: NDArray[np.float32]) -> tuple[str, ...]:
        if self.manifest.task == "single":
            return (self.classes[int(probabilities.argmax())],)
        reached = has_labels(probabilities, self.manifest.thresholds)
        return tuple(name for name, has in zip(self.classes, reached, strict=True) if has)

    def _run(self, pixels: NDArray[Any], path: str, embedding: bool) -> dict[str, NDArray[Any]]:
        """The graph's outputs of one frame, without the batch."""
        asked = [*self._asked, "embedding"] if embedding else self._asked
        try:
            answers = self._session.run(asked, {"image": pixels[None]})
        except SESSION_ERRORS as error:  # memory, mostly: one huge frame must not stop the stream
            height, width = pixels.shape[:2]
            reason = f"the model cannot run on {width} x {height} pixels ({first_line(error, MOST_SHOWN)})"
            raise ImageError(path or "image", reason) from error
        for name, answer in zip(asked, answers, strict=True):  # widths may be open in the graph: known by its answer
            if answer.shape != (1, *self._forms[name]):
                raise _other_answer(self.path, f"{name} {list(answer.shape)}, expected {[1, *self._forms[name]]}")
        found = {name: answer[0] for name, answer in zip(asked, answers, strict=True)}
        top = 1 if self.manifest.task == "multi" else len(self.classes) - 1
        if "decision" in found and not ((found["decision"] >= -1) & (found["decision"] <= top)).all():
            raise _other_answer(self.path, f"decision {found['decision'].tolist()}, expected -1 to {top}")
        return found


def _other_answer(folder: Path, what: str) -> BundleError:
    return BundleError(
        f"the model of {folder.as_posix()} answers otherwise than its manifest says: {what}",
        hint="export the bundle again with cvtune; export/CONTRACT.md describes the graph",
    )


def _decided(answer: Prediction, point: OperatingPoint, classes: Sequence[str]) -> Decision:
    assert answer.decision is not None
    decision = tuple(answer.decision.tolist()) if answer.decision.ndim else int(answer.decision)
    return Decision(
        prediction=answer,
        said=point.said(answer.decision, classes),
        decision=decision,
        ok=decision in point.ok if point.ok else None,
        reason=point.reason(answer.decision, answer.probabilities, answer.novelty, classes),
    )


def _start_pool(reading: ReadOptions) -> DecoderPool:
    from cvtune_edge.child import DecoderPool  # subprocess and its machinery: only where it is asked for

    return DecoderPool(reading)


def _check_frame(pixels: NDArray[Any], manifest: Manifest, name: str) -> None:
    wanted = manifest.reading["pixels"]
    if pixels.dtype != wanted or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError(
            name,
            f"{pixels.dtype.name} {list(pixels.shape)}, expected {wanted} [H, W, 3] in RGB",
            hint="cvtune_edge.read_image(path, bundle.reading).pixels reads any file into this form",
        )
    if wanted == "float32" and not np.isfinite(pixels).all():  # one of them would spread over the whole answer
        raise ImageError(name, "holds values that are not finite (NaN or infinity)")
    height, width = pixels.shape[:2]
    if manifest.frame_size is not None and manifest.frame_size != (height, width):
        mask = f"{manifest.frame_size[1]} x {manifest.frame_size[0]}"
        raise ImageError(name, f"frame of {width} x {height} pixels, the bundle's mask expects {mask}")
    if manifest.roi is not None:
        x, y, w, h = manifest.roi
        if x + w > width or y + h > height:
            raise ImageError(
                name, f"frame of {width} x {height} pixels, the region of interest ends at {x + w} x {y + h}"
            )
