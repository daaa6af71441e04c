"""A lighter model for a bundle: made, asked beside model.onnx about the user's own images, timed, and put in."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from cvtune_edge.errors import ImageError
from cvtune_edge.golden import index_of
from cvtune_edge.manifest import MODEL_FILE, PLAIN
from cvtune_edge.opening import read_model
from cvtune_edge.runtime import Bundle
from cvtune_edge.session import open_session
from numpy.typing import NDArray

from cvtune.bundle.enclose import put, renewed
from cvtune.bundle.forms import with_network
from cvtune.bundle.gate import Said, answers
from cvtune.bundle.golden import answered_by
from cvtune.bundle.lighter.float16 import halved
from cvtune.bundle.lighter.maker import Maker, Tell
from cvtune.bundle.lighter.parts import PIXELS, embeddings, network_of, with_pixels
from cvtune.bundle.lighter.refit import refitted
from cvtune.bundle.lighter.tally import Loss
from cvtune.config import Precision
from cvtune.data.index import DatasetIndex
from cvtune.data.split import Split
from cvtune.errors import GateError
from cvtune.evaluation.task import task_of

FASTER: Final = 0.95  # of model.onnx's time; above it the gain is none that anybody would notice
_RANGES: Final = 64  # training images that ranges, rounding and recipes are chosen by
_REFIT: Final = 1024  # that features and head are moved back by
_REFIT_BYTES: Final = 256 << 20  # of their pixels together
_TRIES: Final = 8  # recipes that are asked about
_PAIRS: Final = 30  # of timed answers
_INSTEAD: Final = f"nothing was written; {MODEL_FILE} is as it was"


@dataclass(frozen=True)
class Lighter:
    """A model of fewer bits beside model.onnx.

    Attributes:
        precision: "int8" or "float16".
        made: how, in words.
        chosen: what it loses on val and calib, where it was gated.
        test: what it loses on test; None where no test image is at hand.
        share: of model.onnx's time that it takes here for a frame.
        bytes: of the file, and of model.onnx.
    """

    precision: Precision
    made: str
    chosen: Loss
    test: Loss | None
    share: float
    bytes: tuple[int, int]

    @property
    def file(self) -> str:
        """Its name in the bundle."""
        return file_of(self.precision)

    @property
    def size(self) -> str:
        """`5.8 MB in place of 15.4`."""
        return "{:.1f} MB in place of {:.1f}".format(*(size / 1e6 for size in self.bytes))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the manifest has them."""
        losses = {"chosen": self.chosen.to_json(), "test": self.test and self.test.to_json()}
        return {**_form(self.precision), "made": self.made, **losses, "share": self.share}


def file_of(precision: Precision) -> str:
    """`model.int8.onnx`."""
    return f"model.{precision}.onnx"


def _form(precision: Precision) -> dict[str, Any]:
    return {**PLAIN, "precision": precision}


def add_lighter(
    folder: Path,
    precision: Precision,
    index: DatasetIndex,
    split: Split,
    *,
    max_drop: float,
    untrusted: bool = False,
    tell: Tell = lambda what, done, of: None,
) -> Lighter:
    """Write a lighter model into a bundle if it loses next to nothing; int8 only if it is faster here besides.

    Args:
        folder: of the bundle.
        precision: "int8" or "float16".
        index: the images with their labels.
        split: their sides.
        max_drop: points of accuracy that it may lose on val and calib; one image in any case.
        untrusted: decode the images in child processes.
        tell: called with what is done, how much of it, and of how much.

    Raises:
        GateError: it loses more, or is not faster, and by how much; or no image could be asked about.
    """
    with Bundle(folder, precision="float32", untrusted=untrusted) as bundle, renewed(folder) as beside:
        asked = _Asked(bundle, index.with_classes(bundle.classes), split, untrusted, tell)
        model = onnx.load_model_from_string(read_model(folder, MODEL_FILE, bundle.manifest))
        networks = _halved(model, bundle) if precision == "float16" else _in_eight_bits(model, bundle, asked, tell)
        lighter = _first_good(beside, model, precision, networks, asked, max_drop)
        lighter = replace(lighter, test=asked.loss(beside, precision, "test") if asked.rows("test").size else None)
        with Bundle(beside, precision=precision, verify=False) as made:
            golden = answered_by(made)
        put(beside, {index_of(precision): golden}, variants={lighter.file: lighter.to_json()})
    return lighter


def _first_good(
    beside: Path,
    model: onnx.ModelProto,
    precision: Precision,
    networks: Iterable[tuple[str, onnx.ModelProto]],
    asked: _Asked,
    max_drop: float,
) -> Lighter:
    """The first of some networks that passes; it stands in `beside` then.

    Raises:
        GateError: none does, and why.
    """
    name, why, frame = file_of(precision), [], asked.frame()
    for made, network in networks:
        data = _checked(with_network(model, network))
        put(beside, {name: data}, variants={name: _form(precision)})
        share = _share(beside / MODEL_FILE, beside / name, frame)
        if precision == "int8" and share > FASTER:
            why.append(f"{made}: takes {100 * share:.0f} % of model.onnx's time on this machine")
            break  # those with more in float are slower still
        loss = asked.loss(beside, precision, "chosen")
        problems = "; ".join(loss.problems(max_drop))
        if not problems:
            return Lighter(precision, made, loss, None, share, (len(data), (beside / MODEL_FILE).stat().st_size))
        why.append(f"{made}: {problems}")
    raise GateError(f"{precision} is not good enough here\n" + "\n".join(f"  {one}" for one in why), hint=_INSTEAD)


def _halved(model: onnx.ModelProto, bundle: Bundle) -> Iterator[tuple[str, onnx.ModelProto]]:
    yield "weights as float16", halved(_network(model, bundle))


def _in_eight_bits(
    model: onnx.ModelProto, bundle: Bundle, asked: _Asked, tell: Tell
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """One network after the other, each with more in float; features and head of each moved back."""
    network = _network(model, bundle)
    pixels = asked.pixels(model)
    maker = Maker(network, pixels[:_RANGES], tell=tell)
    wanted = embeddings(network, pixels)
    for recipe in islice(maker.recipes(), _TRIES):
        made = maker.make(recipe)
        yield str(recipe), refitted(made, embeddings(made, pixels), wanted)


def _network(model: onnx.ModelProto, bundle: Bundle) -> onnx.ModelProto:
    return network_of(model, bundle.manifest.size, deep=_is_deep(bundle))


def _is_deep(bundle: Bundle) -> bool:
    return bundle.reading.pixels != "uint8"


def _checked(model: onnx.ModelProto) -> bytes:
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _share(before: Path, after: Path, frame: NDArray[Any]) -> float:
    """Of the time of a model that another takes for a frame: medians of answers taken in turns."""
    sessions = [open_session(path) for path in (before, after)]
    times: tuple[list[float], ...] = ([], [])
    for turn in range(_PAIRS + 3):
        for session, own in zip(sessions, times, strict=True):
            began = time.perf_counter()
            session.run(None, {"image": frame[None]})
            if turn >= 3:  # the first ones of a session are slower
                own.append(time.perf_counter() - began)
    slow, fast = map(np.median, times)
    return round(float(fast / slow), 3)


class _Asked:
    """The user's images, and what model.onnx says of them."""

    def __init__(self, bundle: Bundle, index: DatasetIndex, split: Split, untrusted: bool, tell: Tell) -> None:
        self._bundle, self._index, self._split, self._untrusted, self._tell = bundle, index, split, untrusted, tell
        self._before: dict[str, tuple[Said, NDArray[np.bool_]]] = {}

    def rows(self, side: str) -> NDArray[np.int64]:
        """Of the images of a side; "chosen" are val and calib."""
        return self._split.choosing if side == "chosen" else self._split.indices(side)

    def loss(self, folder: Path, precision: Precision, side: str) -> Loss:
        """What a model of a bundle loses on a side.

        Raises:
            GateError: there is no image of it.
        """
        rows = self.rows(side)
        with Bundle(folder, precision=precision, untrusted=self._untrusted, verify=False) as bundle:
            after, _ = self._said(bundle, rows, f"{precision} on {side}")
        if side not in self._before:
            self._before[side] = self._said(self._bundle, rows, f"float32 on {side}")
        before, there = self._before[side]
        if not there.any():
            raise GateError(f"{self._index.root}: no image to ask about", hint=_INSTEAD)
        truth = task_of(self._index).truth(self._index)[rows[there]]
        return Loss.between(before.where(there), after.where(there), truth, bundle.manifest.point)

    def _said(self, bundle: Bundle, rows: NDArray[np.int64], what: str) -> tuple[Said, NDArray[np.bool_]]:
        paths = [self._index.images[row].path for row in rows]
        return answers(bundle, self._index.root, paths, progress=lambda done, of: self._tell(what, done, of))

    def frame(self) -> NDArray[Any]:
        """One of the user's images, as the camera delivers it.

        Raises:
            GateError: none can be read.
        """
        for frame in self._frames(self.rows("chosen")):
            return frame
        raise GateError(f"{self._index.root}: no image of val and calib can be read", hint=_INSTEAD)

    def pixels(self, model: onnx.ModelProto) -> list[NDArray[Any]]:
        """What the network sees of training images, [1, 3, S, S] each, in an order without meaning."""
        session = open_session(with_pixels(model, deep=_is_deep(self._bundle)).SerializeToString())
        rows = np.random.default_rng(0).permutation(self.rows("train"))
        found: list[NDArray[Any]] = []
        for frame in self._frames(rows):
            found += session.run([PIXELS], {"image": frame[None]})
            self._tell("training images", len(found), min(_REFIT, len(rows)))
            if len(found) == _REFIT or len(found) * found[0].nbytes > _REFIT_BYTES:
                break
        if not found:
            raise GateError(f"{self._index.root}: no training image can be read", hint=_INSTEAD)
        return found

    def _frames(self, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        for row in rows:
            with contextlib.suppress(ImageError):  # gone by now
                yield self._bundle.read(self._index.root / self._index.images[row].path).pixels
