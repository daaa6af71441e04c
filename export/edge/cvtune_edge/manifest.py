"""manifest.json of a bundle: what was trained on what, and the checksum of every file beside it.

Readers ignore keys they do not know; `SCHEMA` rises when a key changes its meaning or a new one must not be ignored.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cvtune_edge.errors import EXPORT_AGAIN, BundleError, listed
from cvtune_edge.inside import MOST_FILES, MOST_JSON, problems_inside, read_inside, stays_inside
from cvtune_edge.strict_json import parse_json

if TYPE_CHECKING:
    from cvtune_edge.decision import OperatingPoint

SCHEMA: Final = 3
READABLE: Final = (1, 2, 3)  # schema 1: 8 bits, classes that exclude each other; before 3 a bundle does not decide
MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = "model.onnx"
PIXEL_TYPES: Final = ("uint8", "uint16", "float32")
COLOURS: Final = ("rgb", "bgr", "gray")
PLAIN: Final[Mapping[str, Any]] = {
    "colour": "rgb",
    "shape": None,
    "heatmap": False,
}  # a variant that takes and gives what model.onnx does
LABEL_SEPARATOR: Final = ";"  # between the labels of one image, wherever they are text
NOVELTY_KINDS: Final = ("knn", "mahalanobis")

_EIGHT_BIT: Final[Mapping[str, Any]] = {"pixels": "uint8", "background": [255, 255, 255]}
_SINCE_2: Final[Mapping[str, Any]] = {"reading": dict(_EIGHT_BIT), "window": None, "task": "single", "thresholds": []}
# Came within a schema and may be missing: what they say is in the graph too, or is for people; readers that ignore them
# lose nothing.
_LATER: Final[Mapping[str, Any]] = {"scales": [], "shifts": [], "latency": None, "variants": {}}
_SINCE_3: Final[Mapping[str, Any]] = {"limits": None, "novelty": None, "region": None, "targets": [], "training": ""}
_SCHEMAS: Final = f"schema {READABLE[0]} to {SCHEMA}"
_MOST_SHOWN: Final = 300  # characters of a value in an error


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself; checked on construction.

    Attributes:
        schema: version of this file's layout.
        name: of the bundle, for people.
        created: ISO 8601 with time zone, UTC.
        cvtune_version: that exported it.
        classes: names in the order of the probabilities, K of them.
        backbone: timm's name of the network.
        size: side of the network's input, pixels.
        resize: how a frame becomes that square: "stretch", "pad" or "crop".
        roi: x, y, width, height in pixels of the frame that are looked at; None for the whole frame.
        frame_size: (H, W) that every frame must have, because a mask belongs to it; None for any.
        embedding: width D of the embedding.
        temperature: the logits were divided by it (Guo et al. 2017); 1 when uncalibrated, or with scales in its place.
        weights: source, licence and sha256 of the pretrained weights.
        parity: what the parity gate found: images, worst (difference of a probability), ties.
        files: sha256 of each file of the bundle by its name, POSIX style and relative to the folder.
        versions: of the libraries that made it.
        reading: how files become frames: "pixels", "uint8", "uint16" or "float32", is the type of the graph's input;
            "background" the R, G, B that transparent pixels are laid over.
        window: of deep pixels, the values that the network sees as black and as white; None at 8 bits.
        task: "single", the classes exclude each other and the probabilities add up to 1, or "multi", an image may have
            several labels or none.
        thresholds: of a multi-label bundle, the probability from which on an image has the label, K of them.
        scales: of vector scaling (Guo et al. 2017), the factor of each of the K logits, for "single" after their mean
            was taken away; none where there is one temperature for all.
        shifts: what was added to each of the K logits after that; none likewise.
        limits: by which the graph decides, as :meth:`cvtune_edge.decision.OperatingPoint.to_json` has them; None in
            bundles before schema 3, which do not decide.
        novelty: "kind" of the distance from what was trained on, "neighbours" that count and "points" to compare with;
            None where the graph gives no distance.
        region: x, y, width, height that the graph cuts out, the roi narrowed to what a mask leaves; None for all.
        targets: what the limits were chosen for, "escape<=0.5%".
        training: sha256 of what the model was made from: settings, images with their labels, and sides.
        latency: how long it takes and on which machine that was measured, as
            :meth:`cvtune_edge.latency.Latency.to_json` has it; None where nobody measured it.
        variants: further models by their files: "colour" of the frames, "rgb", "bgr" or "gray" ([N, H, W]), "shape"
            (H, W) of the only frame that one takes or None, "precision", whether it gives a "heatmap"; and how they
            were checked.

    Raises:
        BundleError: all wrong values at once.
    """

    schema: int
    name: str
    created: str
    cvtune_version: str
    classes: tuple[str, ...]
    backbone: str
    size: int
    resize: str
    roi: tuple[int, int, int, int] | None
    frame_size: tuple[int, int] | None
    embedding: int
    temperature: float
    weights: Mapping[str, str]
    parity: Mapping[str, float | str]
    files: Mapping[str, str]
    versions: Mapping[str, str]
    reading: Mapping[str, Any] = field(default_factory=lambda: dict(_EIGHT_BIT))
    window: tuple[float, float] | None = None
    task: str = "single"
    thresholds: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()
    limits: Mapping[str, Any] | None = None
    novelty: Mapping[str, Any] | None = None
    region: tuple[int, int, int, int] | None = None
    targets: tuple[str, ...] = ()
    training: str = ""
    latency: Mapping[str, Any] | None = None
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = _problems({name: getattr(self, name) for name in _CHECKS})
        if problems:
            raise _wrong("manifest", problems)

    @property
    def decides(self) -> bool:
        """Whether the graph gives decisions."""
        return self.limits is not None

    @property
    def models(self) -> dict[str, str]:
        """The models that take the same frames as model.onnx, by their precision; model.onnx first."""
        found = {"float32": MODEL_FILE}
        for file, form in self.variants.items():
            if all(form[name] == value for name, value in PLAIN.items()):
                found.setdefault(form["precision"], file)
        return found

    @cached_property
    def point(self) -> OperatingPoint:
        """The limits.

        Raises:
            BundleError: it is a bundle of an earlier schema, without any.
        """
        if self.limits is None:
            raise BundleError(
                f"bundle {self.name} does not decide: schema {self.schema} has probabilities alone",
                hint="fit again with this version of cvtune, or use its probabilities",
            )
        return _point(self.limits)

    def to_json(self) -> dict[str, Any]:
        """A tree for `json.dump`, keys in the order of the attributes."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Any, source: str = MANIFEST_FILE) -> Manifest:
        """Read what :meth:`to_json` gave.

        Args:
            tree: the parsed JSON.
            source: what to call it in an error, normally its path.

        Raises:
            BundleError: not a manifest, of another schema, or with missing or wrong values, all at once.
        """
        if not isinstance(tree, dict) or "schema" not in tree:
            raise BundleError(f"{source}: not a cvtune manifest, it has no 'schema'", hint=EXPORT_AGAIN)
        if not _is_schema(tree["schema"]):
            raise BundleError(
                f"{source}: schema {_shown(tree['schema'])}, this version of cvtune-edge reads {_SCHEMAS}",
                hint="install the version of cvtune-edge that belongs to the cvtune that exported the bundle",
            )
        later = {1: {**_SINCE_2, **_LATER, **_SINCE_3}, 2: _SINCE_3}.get(tree["schema"], {})
        tree = {**_LATER, **tree, **later}
        values = {known.name: _tupled(tree[known.name]) for known in fields(cls) if known.name in tree}
        missing = [f"{known.name}: missing" for known in fields(cls) if known.name not in tree]
        problems = missing + _problems(values)
        if problems:
            raise _wrong(source, problems)
        return cls(**values)


def load_manifest(folder: Path | str) -> Manifest:
    """Read a bundle's manifest and verify every file it lists against its checksum.

    Raises:
        BundleError: not a bundle, a wrong manifest, or files that are missing or changed, each by its name.
    """
    manifest, _ = read_manifest(Path(folder))
    check_files(Path(folder), manifest)
    return manifest


def check_files(folder: Path, manifest: Manifest, *, later: Container[str] = ()) -> None:
    """Verify every file that a manifest lists against its checksum.

    Args:
        folder: of the bundle.
        manifest: of it.
        later: files that are verified when they are read, so that what was verified is what is used.

    Raises:
        BundleError: files that are missing or changed, each by its name.
    """
    problems = problems_inside(folder, {name: it for name, it in manifest.files.items() if name not in later})
    if problems:
        raise _wrong(folder.as_posix(), problems)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """A bundle's manifest, and its SHA-256; the files that it lists are not looked at.

    Raises:
        BundleError: not a bundle, or a wrong manifest.
    """
    path = folder / MANIFEST_FILE
    try:
        data = read_inside(folder, MANIFEST_FILE, most=MOST_JSON)
        tree = parse_json(data)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_bundle(folder) from None
    except OSError as error:
        raise BundleError(f"{path.as_posix()}: cannot be read ({error.strerror})", hint=EXPORT_AGAIN) from error
    except ValueError as error:  # a wrong encoding is one too
        raise BundleError(f"{path.as_posix()}: cannot be read as JSON ({error})", hint=EXPORT_AGAIN) from error
    return Manifest.from_json(tree, path.as_posix()), hashlib.sha256(data).hexdigest()


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits, read in pieces."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _no_bundle(folder: Path) -> BundleError:
    if (folder / "bundle" / MANIFEST_FILE).is_file():
        hint = f"{folder.as_posix()} is a run; its bundle is {(folder / 'bundle').as_posix()}"
    elif folder.is_file():
        hint = "name the folder that holds model.onnx and manifest.json, not a file in it"
    else:
        hint = "name a folder that `cvtune fit` wrote, for example runs/parts-1/bundle"
    what = f"it has no {MANIFEST_FILE}" if folder.is_dir() else "a file" if folder.is_file() else "no such folder"
    return BundleError(f"{folder.as_posix()} is not a cvtune bundle: {what}", hint=hint)


def _wrong(source: str, problems: list[str]) -> BundleError:
    return BundleError(f"{source}: {listed(problems)}", hint=EXPORT_AGAIN)


def _shown(value: Any) -> str:
    """A value in an error: what somebody wrote into a manifest may be as long as the file."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _problems(values: Mapping[str, Any]) -> list[str]:
    """Of each value, then of those that are right by themselves but do not go together."""
    wrong = {name: _CHECKS[name][1] for name, value in values.items() if not _CHECKS[name][0](value)}
    lines = [f"{name} = {_shown(values[name])}: expected {expected}" for name, expected in wrong.items()]
    for names, (holds, expected) in _PAIRS.items():
        if not any(name in wrong or name not in values for name in names) and not holds(*map(values.get, names)):
            lines.append(", ".join(f"{name} = {_shown(values[name])}" for name in names) + f": expected {expected}")
    return lines


def _is_schema(value: Any) -> bool:
    return _is_whole(value) and value in READABLE


def _is_reading(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) != {"pixels", "background"}:
        return False
    colour = value["background"]
    fine = isinstance(colour, (list, tuple)) and len(colour) == 3
    return value["pixels"] in PIXEL_TYPES and fine and all(_is_whole(item, 0) and item <= 255 for item in colour)


def _is_window(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_finite, value)) and value[0] < value[1]


def _are_shares(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_finite(item) and 0 <= item <= 1 for item in value)


def _are_factors(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_finite(item) and item > 0 for item in value)


def _point(limits: Mapping[str, Any]) -> OperatingPoint:
    from cvtune_edge.decision import OperatingPoint  # numpy: `cvtune-edge --help` does without

    return OperatingPoint.from_json(limits)


def _are_limits(value: Any) -> bool:
    if value is None:
        return True
    try:
        return isinstance(value, Mapping) and _point(value) is not None
    except (TypeError, ValueError):
        return False


def _is_latency(value: Any) -> bool:
    """A later layout of it is passed over: it is for people, and no reason to refuse a bundle."""
    if value is None:
        return True
    from cvtune_edge.latency import SCHEMA as KNOWN  # statistics: `cvtune-edge --help` does without
    from cvtune_edge.latency import Latency

    if isinstance(value, Mapping) and _is_whole(value.get("schema"), KNOWN + 1):
        return True
    try:
        return Latency.from_json(value) is not None
    except ValueError:
        return False


def _are_variants(value: Any) -> bool:
    def fits(one: Any) -> bool:
        keys = {"colour", "shape", "precision", "heatmap"}
        if not isinstance(one, Mapping) or not keys <= set(one) or one["colour"] not in COLOURS:
            return False
        shape, kinds = one["shape"], (isinstance(one["precision"], str), isinstance(one["heatmap"], bool))
        return all(kinds) and (shape is None or _are_whole(_tupled(shape), (1, 1)))

    return _is_map(value, fits)


def _limits_fit(
    schema: int, task: str, classes: tuple[str, ...], limits: Mapping[str, Any] | None, thresholds: tuple[float, ...]
) -> bool:
    if limits is None:
        return schema < 3
    several = task == "multi"
    fit = len(limits["reject"]) == len(classes) and limits["several"] is several
    return fit and (not several or tuple(limits["reject"]) == thresholds)


def _is_novelty(value: Any) -> bool:
    if value is None:
        return True
    counts = ("neighbours", "points")
    return (
        isinstance(value, Mapping)
        and set(value) == {"kind", *counts}
        and value["kind"] in NOVELTY_KINDS
        and all(_is_whole(value[name]) for name in counts)
        and value["neighbours"] <= value["points"]
    )


def _has_a_distance(limits: Mapping[str, Any] | None, novelty: Mapping[str, Any] | None) -> bool:
    return limits is None or limits["novelty"] is None or novelty is not None


def _one_each(
    classes: tuple[str, ...], temperature: float, scales: tuple[float, ...], shifts: tuple[float, ...]
) -> bool:
    return len(scales) == len(shifts) and (not scales or (len(scales) == len(classes) and temperature == 1))


def _enough_thresholds(task: str, classes: tuple[str, ...], thresholds: tuple[float, ...]) -> bool:
    return len(thresholds) == (len(classes) if task == "multi" else 0)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_instant(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _are_classes(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) >= 2 and all(map(_is_text, value)) and len(set(value)) == len(value)


def _are_whole(value: Any, least: Iterable[int]) -> bool:
    bounds = tuple(least)
    return isinstance(value, tuple) and len(value) == len(bounds) and all(map(_is_whole, value, bounds))


def _is_map(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(_is_text(key) and holds(item) for key, item in value.items())


def _are_files(value: Any) -> bool:
    digest = re.compile(r"[0-9a-f]{64}").fullmatch
    hashed = _is_map(value, lambda item: isinstance(item, str) and digest(item) is not None)
    return hashed and MODEL_FILE in value and len(value) <= MOST_FILES and all(map(stays_inside, value))


_TEXT = (_is_text, "a text")
_WHOLE = (_is_whole, "a whole number above 0")
_TEXTS = (lambda value: _is_map(value, lambda item: isinstance(item, str)), "texts by name")

_CHECKS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "schema": (_is_schema, _SCHEMAS),
    "name": _TEXT,
    "created": (_is_instant, "an ISO 8601 time with its zone, like 2025-01-31T12:00:00+00:00"),
    "cvtune_version": _TEXT,
    "classes": (_are_classes, "two or more different names"),
    "backbone": _TEXT,
    "size": _WHOLE,
    "resize": (lambda value: value in ("stretch", "pad", "crop"), "stretch, pad or crop"),
    "roi": (lambda value: value is None or _are_whole(value, (0, 0, 1, 1)), "null or x, y, width, height"),
    "frame_size": (lambda value: value is None or _are_whole(value, (1, 1)), "null or height, width"),
    "embedding": _WHOLE,
    "temperature": (lambda value: _is_finite(value) and value > 0, "a number above 0"),
    "weights": _TEXTS,
    "parity": (lambda value: _is_map(value, lambda item: isinstance(item, str) or _is_finite(item)), "numbers by name"),
    "files": (_are_files, f"the sha256 of {MODEL_FILE} and others by their names inside the folder"),
    "versions": _TEXTS,
    "reading": (_is_reading, "pixels, one of uint8, uint16 and float32, and background, three numbers from 0 to 255"),
    "window": (_is_window, "null or two numbers, the first below the second"),
    "task": (lambda value: value in ("single", "multi"), "single or multi"),
    "thresholds": (_are_shares, "numbers from 0 to 1"),
    "scales": (_are_factors, "numbers above 0"),
    "shifts": (lambda value: isinstance(value, tuple) and all(map(_is_finite, value)), "finite numbers"),
    "limits": (_are_limits, "positions of the good classes, limits to accept and to reject, novelty and several"),
    "novelty": (_is_novelty, "null or a kind of distance, its neighbours and its points"),
    "region": (lambda value: value is None or _are_whole(value, (0, 0, 1, 1)), "null or x, y, width, height"),
    "targets": (lambda value: isinstance(value, tuple) and all(map(_is_text, value)), "texts"),
    "training": (lambda value: isinstance(value, str), "a sha256, or nothing"),
    "variants": (_are_variants, "colour, shape, precision and heatmap of each further model"),
    "latency": (_is_latency, "null or what `cvtune bench` measured, with its machine"),
}

_PAIRS: Final[dict[tuple[str, ...], tuple[Callable[..., bool], str]]] = {
    ("reading", "window"): (
        lambda reading, window: (reading["pixels"] == "uint8") is (window is None),
        "a window for uint16 and float32 pixels, and none for uint8",
    ),
    ("task", "classes", "thresholds"): (
        _enough_thresholds,
        "a threshold for each class where the task is multi, and none where it is single",
    ),
    ("classes", "temperature", "scales", "shifts"): (
        _one_each,
        "a scale and a shift for each class and the temperature 1, or none of them",
    ),
    ("schema", "task", "classes", "limits", "thresholds"): (
        _limits_fit,
        "limits for each class, those to reject being the thresholds where the task is multi",
    ),
    ("files", "variants"): (lambda files, variants: set(variants) <= set(files), "variants among the files"),
    ("limits", "novelty"): (_has_a_distance, "a distance where there is a limit of it"),
    ("task", "classes"): (
        lambda task, classes: task == "single" or not any(LABEL_SEPARATOR in name for name in classes),
        f"names without '{LABEL_SEPARATOR}', which stands between the labels of an image",
    ),
}
