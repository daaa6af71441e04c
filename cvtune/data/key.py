"""The name of a pixel cache: another preprocessing, another decoder or another library, another cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from itertools import chain
from typing import Final

import cv2

from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.data.segments import FORMAT


def store_key(pre: Preprocessing) -> str:
    """What decides the values of the pixels and the facts, as 32 hexadecimal digits: another key, another cache.

    The window is left out, because it is applied behind the cache.
    """
    versions = [_version(name) for name in ("cvtune-edge", "numpy", "onnxruntime", "imagehash", "pydicom")]
    # OpenCV's text names the versions of its codecs; builds of one version differ in them.
    system = [cv2.getBuildInformation(), platform.system(), platform.machine()]
    reading = json.dumps(pre.reading.to_json(), sort_keys=True)
    digest = hashlib.sha256(frame_graph(replace(pre, window=None)).SerializeToString())
    digest.update("\0".join([str(FORMAT), _CODE, reading, *versions, *system]).encode())
    return digest.hexdigest()[:32]  # enough, and Windows' paths end at 260 characters


def code_sum(sources: Iterable[Traversable]) -> str:
    """sha256 of the lines that make what a cache holds, which change without a version while they are worked on.

    To be taken at import: that is what runs, whatever is written into the files later.
    """
    digest = hashlib.sha256()
    with contextlib.suppress(OSError):  # no sources, as in a frozen program: the versions speak for them
        for source in sources:
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _sources(folder: Traversable) -> Iterator[Traversable]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.name.endswith(".py"):
            yield entry


_CODE: Final = code_sum(chain(_sources(resources.files("cvtune_edge")), [resources.files("cvtune.data") / "facts.py"]))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
