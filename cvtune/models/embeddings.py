"""Embeddings kept between runs, found again by the content of the image files and of the weights.

They lie in the store of the pixels (`data.store`) under keys of their own and count against the same share of the disk.
A run that finds some images gives the same bytes as one that finds none: see `features.full_batches`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cvtune.data.key import code_sum
from cvtune.data.pixels import PixelCache
from cvtune.data.segments import FORMAT, Maps, RowLayout
from cvtune.data.store import Store
from cvtune.data.userdirs import cache_dir
from cvtune.models.backbone import Backbone
from cvtune.models.features import BATCH, Mirror, batches, full_batches, passes
from cvtune.models.normalize import Normalize

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Progress = Callable[[int, int], None]

_SOURCES: Final = ("backbone.py", "families.py", "features.py", "engine.py", "folding.py", "normalize.py")


@dataclass(frozen=True)
class Content:
    """Which file an embedding belongs to."""

    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Content:
        """From :meth:`to_json`, and what else the store wrote beside it."""
        return cls(values["sha256"])


@dataclass(frozen=True)
class Embedder:
    """What a backbone makes of the images of a folder; run only on those that no earlier run has shown it.

    Attributes:
        pixels: the network's input of all N images.
        normalize: from raw values to the network's input.
        names: sha256 of the N files.
        pixels_key: what decided the pixels, `data.key.store_key`.
        cache_gb: what the cache may hold of all folders together, pixels too; 0 keeps nothing.
    """

    pixels: PixelCache
    normalize: Normalize
    names: Sequence[str]
    pixels_key: str
    cache_gb: float

    def __post_init__(self) -> None:
        if len(self.names) != len(self.pixels):
            raise ValueError(f"{len(self.names)} names of {len(self.pixels)} images")

    def __call__(
        self, backbone: Backbone, rows: Rows, *, mirror: Mirror | None = None, progress: Progress | None = None
    ) -> Floats:
        """Embeddings of some images, float32 [n, D]: the network's own and those of its taps.

        Args:
            backbone: as it is; every weight of it counts.
            rows: [n] positions of the images.
            mirror: how the images are mirrored.
            progress: called with (done, total) while the backbone runs.
        """
        key = embedding_key(backbone, self.normalize, self.pixels_key, mirror)
        table = np.empty((len(rows), backbone.width), np.float32)
        with _Kept(key, backbone.width, len(rows), self.cache_gb) as kept:
            missing = [i for i, row in enumerate(rows) if not kept.read(self.names[row], table[i])]
            known = len(rows) - len(missing)
            told = None if progress is None else lambda done, _: progress(known + done, len(rows))
            fresh = batches(self.pixels, self.normalize, rows[missing], mirror=mirror, progress=told)
            at = 0
            for out in passes(backbone, full_batches(fresh)):
                for i, embedding in zip(missing[at : at + BATCH], out, strict=False):
                    table[i] = embedding
                    kept.add(self.names[rows[i]], embedding)
                at += BATCH
        return table


def embedding_key(backbone: Backbone, normalize: Normalize, pixels_key: str, mirror: Mirror | None) -> str:
    """What decides the values of embeddings, as 32 hexadecimal digits.

    The weights themselves, the network, its taps and size, pixels and normalisation, the batch, the lines of code and
    versions, and what a processor sums up by: its instructions and the number of threads.
    """
    facts = {
        "format": FORMAT,
        "backbone": [backbone.name, backbone.size, backbone.taps],
        "images": [pixels_key, mirror, BATCH],
        "versions": [*map(metadata.version, ("torch", "timm", "onnxruntime")), _CODE],
        "machine": [platform.system(), platform.machine(), _device(next(backbone.parameters()).device)],
        "sums": [torch.get_num_threads(), torch.get_float32_matmul_precision()],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for module in (backbone, normalize):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"\0{name} {plain.dtype} {list(plain.shape)}\0".encode())
            digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()


_CODE: Final = code_sum(resources.files("cvtune.models") / name for name in _SOURCES)


class _Kept:
    """The store of one key while it is used; where it cannot be had, nothing is found and nothing kept."""

    def __init__(self, key: str, width: int, count: int, cache_gb: float) -> None:
        layout, cap = RowLayout(width, "float32"), int(cache_gb * 10**9)
        self._maps = Maps(layout)
        self._store: Store[Content] | None = None
        if not 0 < count * layout.record_bytes <= cap:
            return
        with contextlib.suppress(OSError):  # a home that cannot be written or locked
            self._store = Store(cache_dir() / "pixels", key, layout, Content.from_json, cap=cap)
            if not self._store.make_room(max(0, count - len(self._store)) * layout.record_bytes):
                self._close()

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()  # after Ctrl-C too: what was made before it need not be made again

    def read(self, name: str, into: Floats) -> bool:
        """Copy the embedding [D] of a file; whether there is one."""
        kept = None if self._store is None else self._store.find(name)
        if kept is not None:
            with contextlib.suppress(OSError, IndexError):
                into[:] = self._maps.record(kept.place)
                return True
        return False

    def add(self, name: str, embedding: Floats) -> None:
        """Keep an embedding, unless the disk is full: that is no reason to end a run."""
        try:
            if self._store is not None:
                self._store.add(Content(name), embedding)
        except OSError:
            self._close()

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(OSError):
                store.close()
            store.lease.release()
