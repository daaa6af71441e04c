"""What comes to a bundle that is written already: a file, whose checksum goes into the manifest, or how fast it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cvtune_edge.latency import Latency
from cvtune_edge.manifest import MANIFEST_FILE, Manifest, file_sha256

from cvtune.bundle.export import swap
from cvtune.rundir import read_json, write_bytes, write_json


def enclose(folder: Path, name: str, data: bytes, *, variant: Mapping[str, Any] | None = None) -> None:
    """Write a file into a bundle, so that the bundle is at any moment the old one or the new one.

    Args:
        folder: of the bundle.
        name: of the file; one of that name is replaced.
        data: what it holds.
        variant: of a further model, what the manifest's `variants` says of it.
    """
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(folder, beside, copy_function=_link)
        (beside / name).unlink(missing_ok=True)
        write_bytes(beside / name, data)
        manifest = Manifest.from_json(read_json(folder / MANIFEST_FILE), str(folder / MANIFEST_FILE))
        files = {**manifest.files, name: file_sha256(beside / name)}
        variants = manifest.variants if variant is None else {**manifest.variants, name: variant}
        write_json(beside / MANIFEST_FILE, replace(manifest, files=files, variants=variants).to_json())
        swap(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def note_latency(folder: Path, latency: Latency) -> None:
    """Write into a bundle's manifest how long it takes and on which machine; the files beside it stay as they are.

    Args:
        folder: of the bundle.
        latency: what was measured.
    """
    path = folder / MANIFEST_FILE
    manifest = Manifest.from_json(read_json(path), str(path))
    write_json(path, replace(manifest, latency=latency.to_json()).to_json())


def _link(source: str, target: str) -> str:
    """The same file under another name where the file system can, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
