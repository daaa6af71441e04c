"""Open a model of a bundle: the bytes that were checked are those that run, and they keep the graph contract."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from cvtune_edge.errors import EXPORT_AGAIN, BundleError, first_line
from cvtune_edge.inside import RefusedError, changed, read_inside
from cvtune_edge.manifest import Manifest
from cvtune_edge.model_file import ModelFileError, check_model
from cvtune_edge.session import LOAD_ERRORS, open_session
from cvtune_edge.strict_json import parse_json

MOST_SHOWN: Final = 300  # characters of what a model says, in an error
_TENSORS: Final = {
    "uint8": "tensor(uint8)",
    "uint16": "tensor(uint16)",
    "float32": "tensor(float)",
    "int64": "tensor(int64)",
    "bool": "tensor(bool)",
}


def read_model(folder: Path, name: str, manifest: Manifest) -> bytes:
    """A model of a bundle: read once, and these bytes checked, so that nothing can be exchanged before they are used.

    Args:
        folder: of the bundle.
        name: of the model's file.
        manifest: of the bundle.

    Raises:
        BundleError: missing, changed, no regular file, or a graph that asks for more than computing.
    """
    if name not in manifest.files:
        raise BundleError(f"{(folder / name).as_posix()}: not in the manifest, so it is not opened", hint=EXPORT_AGAIN)
    try:
        data = read_inside(folder, name)
        _check_bytes(data, manifest.files[name])
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder.as_posix()}: {name}: missing", hint=EXPORT_AGAIN) from None
    except (OSError, ModelFileError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BundleError(f"{folder.as_posix()}: {name}: {reason}", hint=EXPORT_AGAIN) from error
    return data


def _check_bytes(data: bytes, digest: str) -> None:
    """Checksum and graph at the same time: hashing needs no interpreter, and each takes 10 ms for a model of 15 MB.

    Raises:
        RefusedError: another checksum, whatever else there is about it.
        ModelFileError: a graph that is not run.
    """
    with ThreadPoolExecutor(1) as pool:
        hashed = pool.submit(lambda: hashlib.sha256(data).hexdigest())
        try:
            check_model(data)
        finally:
            if hashed.result() != digest:
                raise RefusedError(changed(hashed.result(), digest))


def open_model(folder: Path, name: str, manifest: Manifest, **options: Any) -> Any:
    """A session on a model that keeps the contract and says what the manifest says.

    Args:
        folder: of the bundle.
        name: of the model's file.
        manifest: of the bundle.
        **options: of :func:`cvtune_edge.session.open_session`.

    Raises:
        BundleError: it was changed, cannot be loaded, or is another model.
        CvtuneError: the provider does not run here.
    """
    model = folder / name
    try:
        session = open_session(read_model(folder, name, manifest), **options)
    except LOAD_ERRORS as error:
        raise BundleError(
            f"{model.as_posix()}: onnxruntime cannot load it ({first_line(error, MOST_SHOWN)})",
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
        pixels = manifest.reading["pixels"]
        if kind != _TENSORS[pixels] or len(shape) != 4 or shape[3] != 3:
            problems.append(f"{name} is {kind} {shape}, expected {pixels} [N, H, W, 3]")
    for name, (wanted, form) in outputs_of(manifest).items():
        kind, shape = outputs.get(name, ("missing", []))
        # a width that the exporter left open is a name here, and is checked on no image
        fits = all(width == found or not isinstance(found, int) for width, found in zip(form, shape[1:], strict=False))
        if kind != _TENSORS[wanted] or len(shape) != 1 + len(form) or not fits:
            problems.append(f"{name} is {kind} {shape}, expected {wanted} [{', '.join(('N', *map(str, form)))}]")
    return problems + _metadata_problems(session.get_modelmeta().custom_metadata_map, manifest)


def outputs_of(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and widths behind N of everything that the graph gives."""
    k = len(manifest.classes)
    outputs: dict[str, tuple[str, tuple[int, ...]]] = {
        "probabilities": ("float32", (k,)),
        "embedding": ("float32", (manifest.embedding,)),
    }
    if manifest.novelty is not None:
        outputs["novelty"] = ("float32", ())
    if manifest.limits is not None:
        outputs["decision"] = ("int64", (k,) if manifest.task == "multi" else ())
        if manifest.limits["ok"]:
            outputs["ok"] = ("bool", ())
    return outputs


def _metadata_problems(told: Mapping[str, str], manifest: Manifest) -> list[str]:
    """The model says some things too, for those who have it without the manifest; it must not say others."""
    problems = []
    for name in ("classes", "reading", "window", "task", "thresholds", "limits", "targets"):
        ours = getattr(manifest, name)
        ours = ours if name == "task" else json.loads(json.dumps(ours))  # lists for tuples
        if name in told and (told[name] if name == "task" else _parsed(told[name])) != ours:
            problems.append(
                f"{name} in the model: {told[name][:MOST_SHOWN]}, in the manifest: {str(ours)[:MOST_SHOWN]}"
            )
    return problems


def _parsed(text: str) -> Any:
    try:
        return parse_json(text.encode())
    except ValueError:
        return None
