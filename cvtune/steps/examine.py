"""What is to be seen in the images before they are divided: copies, and labels that look wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cvtune.audit import Judged, Pair, Suspect, clusters, exact_clusters, judge_labels, near_pairs
from cvtune.audit.proven import pairs_key, proven
from cvtune.config import Config
from cvtune.console import Console
from cvtune.data.groups import Proposal, propose_grouping
from cvtune.data.key import store_key
from cvtune.data.pixels import measure_window
from cvtune.models.backbone import Backbone
from cvtune.steps.read import Data

NOT_JUDGED = Judged((), "labels were not judged")


@dataclass(frozen=True)
class Seen:
    """What was seen.

    Attributes:
        same: clusters of positions with the same bytes.
        near: clusters of positions that show the same picture, saved again.
        pairs: the copies one by one, exact and near.
        judged: labels that look wrong, or why none was judged.
        table: float32 [N, D], embeddings of the pretrained network, its own and those of its taps; None where nothing
            was embedded.
        proposal: a grouping that the file names suggest.
        window: the window that deep images were embedded with, None for 8 bits.
    """

    same: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...] = ()
    pairs: tuple[Pair, ...] = ()
    judged: Judged = NOT_JUDGED
    table: NDArray[np.float32] | None = None
    window: tuple[float, float] | None = None
    proposal: Proposal | None = None

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        """Labels that look wrong."""
        return self.judged.suspects

    @property
    def clusters(self) -> tuple[tuple[int, ...], ...]:
        """Exact and near together."""
        return (*self.same, *self.near)


def examine(data: Data, backbone: Backbone | None, config: Config, console: Console) -> Seen:
    """Find copies that were saved again and labels that look wrong.

    Args:
        data: the folder, read.
        backbone: the pretrained network; None compares perceptual hashes alone and suspects no label.
        config: `data.near_duplicates` false looks at identical bytes alone.
        console: progress and a line.
    """
    same, proposal = exact_clusters(data.index), propose_grouping(data.index)
    if not config.data.near_duplicates:
        return Seen(same, proposal=proposal)
    window = _window(data, config)
    table = None if backbone is None else _embed(data, backbone, window, config, console)
    own = None if table is None or backbone is None else np.ascontiguousarray(table[:, : backbone.net_width])
    pairs = _pairs(data, own, config, console)
    near = clusters([pair for pair in pairs if pair.kind == "near"], len(data.index))
    judged = NOT_JUDGED
    if own is not None and not config.model.from_scratch:  # random weights have no opinion on labels
        judged = judge_labels(
            data.index,
            own,
            seed=config.seed,
            near=near,
            progress=lambda done, of: console.progress("labels", done, of),
        )
    console.step("audit", _sentence(data, same, near, judged))
    return Seen(same, near, pairs, judged, table, window, proposal)


def _pairs(data: Data, own: NDArray[np.float32] | None, config: Config, console: Console) -> tuple[Pair, ...]:
    """Copies, searched unless this very folder was searched before."""
    progress = lambda done, of: console.progress("copies", done, of)  # noqa: E731
    search = partial(near_pairs, data.index, data.facts, data.pixels, own, progress=progress)
    if config.data.cache_gb == 0:
        return search()
    names = [image.sha256 for image in data.index.images]
    return proven(pairs_key(names, store_key(data.frame), own), search)


def _window(data: Data, config: Config) -> tuple[float, float] | None:
    """Of all images: there are no sides yet, and nothing is learned from this pass."""
    if data.frame.pixels == "uint8":
        return None
    return config.image.window or measure_window(data.pixels, np.arange(len(data.index)))


def _embed(
    data: Data, backbone: Backbone, window: tuple[float, float] | None, config: Config, console: Console
) -> NDArray[np.float32]:
    return data.embedder(window, config)(
        backbone, np.arange(len(data.index)), progress=lambda done, of: console.progress("looking", done, of)
    )


def _sentence(data: Data, same: tuple[tuple[int, ...], ...], near: tuple[tuple[int, ...], ...], judged: Judged) -> str:
    copies, wrong = sum(len(cluster) for cluster in near), len(judged.suspects)
    parts = [
        f"{len(same)} {'picture' if len(same) == 1 else 'pictures'} more than once byte for byte"
        if same
        else "no identical files",
        f"{copies} images are near-copies of each other" if near else "no near-copies",
        f"{wrong} labels of {len(data.index)} look wrong" if wrong else judged.note or "no label looks wrong",
    ]
    return ", ".join(parts)
