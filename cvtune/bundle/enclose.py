"""What comes to a bundle that is written already: files, whose checksums go into the manifest, or how fast it is."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cvtune_edge.errors import BundleError
from cvtune_edge.inside import walk_inside
from cvtune_edge.latency import Latency
from cvtune_edge.manifest import MANIFEST_FILE, Manifest, file_sha256
from cvtune_edge.signature import SIGNATURE_FILE

from cvtune.bundle.export import swap
from cvtune.rundir import read_json, write_bytes, write_json


@contextmanager
def renewed(folder: Path) -> Iterator[Path]:
    """A copy of a bundle to be changed, which takes its place when the block ends well: at any moment one is whole.

    Raises:
        BundleError: something in it is no regular file: a link would be followed, out of the bundle too.
    """
    try:
        deque(walk_inside(folder), maxlen=0)
    except OSError as error:
        raise BundleError(
            f"{folder.as_posix()}: {error.strerror}", hint="take it away, and repeat the command"
        ) from error
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(folder, beside, copy_function=_link)
        yield beside
        swap(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def put(beside: Path, files: Mapping[str, bytes], *, variants: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write files into a copy of a bundle; its manifest gets their checksums, and it is signed no more.

    Args:
        beside: from :func:`renewed`.
        files: what they hold, by their names; one of that name is replaced.
        variants: of further models, what the manifest's `variants` says of them, by their names.
    """
    drop_signature(beside)
    for name, data in files.items():
        (beside / name).unlink(missing_ok=True)  # it may be a link to the file in the bundle itself
        write_bytes(beside / name, data)
    manifest = Manifest.from_json(read_json(beside / MANIFEST_FILE), str(beside / MANIFEST_FILE))
    sums = {**manifest.files, **{name: file_sha256(beside / name) for name in files}}
    told = {**manifest.variants, **(variants or {})}
    write_json(beside / MANIFEST_FILE, replace(manifest, files=sums, variants=told).to_json())


def enclose(folder: Path, name: str, data: bytes, *, variant: Mapping[str, Any] | None = None) -> None:
    """Write a file into a bundle.

    Args:
        folder: of the bundle.
        name: of the file; one of that name is replaced.
        data: what it holds.
        variant: of a further model, what the manifest's `variants` says of it.
    """
    with renewed(folder) as beside:
        put(beside, {name: data}, variants=None if variant is None else {name: variant})


def note_latency(folder: Path, latency: Latency) -> None:
    """Write into a bundle's manifest how long it takes and on which machine; it is signed no more then.

    Args:
        folder: of the bundle.
        latency: what was measured.
    """
    path = folder / MANIFEST_FILE
    manifest = Manifest.from_json(read_json(path), str(path))
    drop_signature(folder)
    write_json(path, replace(manifest, latency=latency.to_json()).to_json())


def drop_signature(folder: Path) -> None:
    """Take the signature away from a bundle that is being changed: it would say that somebody else changed it."""
    (folder / SIGNATURE_FILE).unlink(missing_ok=True)


def _link(source: str, target: str) -> str:
    """The same file under another name where the file system can, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
