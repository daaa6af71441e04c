"""Pictures that went wrong: blurred, black or burnt out, without any content, of an odd size, depth or colour.

Each is compared with its own class: inclusions are soft and crazing is crisp, and both are as they should be. The
thresholds were chosen on four real folders: none is found on neu_steel and ELPV, 1 of 5,840 on the chest X-rays, and on
gtsrb 11 of 1,920, which by eye are nearly black or washed out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cvtune.audit.finding import Finding, counted, listed
from cvtune.data.facts import Facts
from cvtune.data.index import DatasetIndex

Values = NDArray[np.float64]
Rows = NDArray[np.intp]

_ENOUGH: Final = 20  # images of a class below which nothing can be called unusual
_FLAT: Final = 0.05  # variance of the Laplacian; noise of one grey level in a hundred pixels has as much
_DULL: Final = 4.0  # robust standard deviations below the class's median sharpness, on a logarithmic scale
_DULLER: Final = 8.0  # and so many times less: a class of very equal pictures has a small deviation
_EXPOSED: Final = 0.8  # share of pixels at one end of the range
_USUAL: Final = 0.4  # a class whose median share is above this is photographed that way
_SAME_SIZE: Final = 0.9  # share of images of one size (or shape) from which the others are odd
_ODD_SHAPE: Final = 1.5  # times the usual ratio of width to height, or less than its inverse
_TINY: Final = 32  # pixels; the networks at hand halve the picture five times


def quality(index: DatasetIndex, facts: Sequence[Facts]) -> tuple[Finding, ...]:
    """Pictures that look as if something went wrong when they were taken or saved; the worst come first.

    Args:
        index: the images.
        facts: aligned with the index.

    Raises:
        ValueError: other facts than images.
    """
    if len(facts) != len(index):
        raise ValueError(f"{len(facts)} facts, expected {len(index)}")
    if not facts:
        return ()
    flat = np.array([one.sharpness < _FLAT for one in facts])
    checks = (
        _flat(index, facts, flat),
        _blurred(index, facts, flat),
        _exposure(index, facts, flat),
        _sizes(index, facts),
        _tiny(index, facts),
        _mixtures(index, facts),
    )
    return tuple(finding for check in checks for finding in check)


def _flat(index: DatasetIndex, facts: Sequence[Facts], flat: NDArray[np.bool_]) -> Iterator[Finding]:
    rows = np.flatnonzero(flat).tolist()
    if rows:
        lines = [f"{index.images[i].path}: mean grey {facts[i].brightness:.2f}" for i in rows]
        title = f"{counted(len(lines), 'image')} of one colour, with nothing to be seen"
        yield listed("flat", "warning", title, lines, "remove them; they teach a class that means nothing")


def _blurred(index: DatasetIndex, facts: Sequence[Facts], flat: NDArray[np.bool_]) -> Iterator[Finding]:
    sharpness = np.log(np.array([max(one.sharpness, _FLAT) for one in facts]))
    usual, spread = _by_class(index, sharpness)
    distance = (usual - sharpness) / np.maximum(spread, 1e-9)
    dull = (distance > _DULL) & (usual - sharpness > np.log(_DULLER)) & ~flat
    rows = sorted(np.flatnonzero(dull).tolist(), key=lambda i: sharpness[i] - usual[i])
    if rows:
        lines = [
            f"{index.images[i].path}: sharpness {facts[i].sharpness:.3g}, usual in its class {np.exp(usual[i]):.3g}"
            for i in rows
        ]
        title = f"{counted(len(lines), 'image')} with far less detail than the others of the class"
        action = "look at them: out of focus, moved, or hardly any light; remove what the line would not deliver"
        yield listed("blurred", "warning", title, lines, action)


def _exposure(index: DatasetIndex, facts: Sequence[Facts], flat: NDArray[np.bool_]) -> Iterator[Finding]:
    for code, word, values in (
        ("underexposed", "black", np.array([one.dark for one in facts])),
        ("overexposed", "white", np.array([one.bright for one in facts])),
    ):
        usual, _ = _by_class(index, values)
        wrong = (values >= _EXPOSED) & (usual <= _USUAL) & ~flat
        rows = sorted(np.flatnonzero(wrong).tolist(), key=lambda i: -values[i])
        if rows:
            lines = [f"{index.images[i].path}: {100 * values[i]:.0f} % {word}" for i in rows]
            title = f"{counted(len(lines), 'image')} almost all {word}, unlike the others of the class"
            yield listed(code, "warning", title, lines, "look at them: the light or the exposure failed")


def _sizes(index: DatasetIndex, facts: Sequence[Facts]) -> Iterator[Finding]:
    sizes = Counter((one.width, one.height) for one in facts)
    (most, share), shape = sizes.most_common(1)[0], np.array([one.width / one.height for one in facts])
    if len(facts) >= _ENOUGH and _SAME_SIZE * len(facts) <= share < len(facts):
        rows = [i for i, one in enumerate(facts) if (one.width, one.height) != most]
        lines = [f"{index.images[i].path}: {facts[i].width} x {facts[i].height}" for i in rows]
        title = f"{counted(len(lines), 'image')} of another size than the usual {most[0]} x {most[1]}"
        action = "look whether they show the same part from the same distance: all are resized to the same input"
        yield listed("odd_size", "note", title, lines, action)
        return
    ratio = np.maximum(shape / np.median(shape), np.median(shape) / shape)
    odd = sorted(np.flatnonzero(ratio >= _ODD_SHAPE).tolist(), key=lambda i: -ratio[i])
    if len(facts) >= _ENOUGH and 0 < len(odd) <= (1 - _SAME_SIZE) * len(facts):
        lines = [f"{index.images[i].path}: {facts[i].width} x {facts[i].height}" for i in odd]
        title = f"{counted(len(lines), 'image')} of another shape than the usual {np.median(shape):.2f} : 1"
        action = 'the whole frame is stretched to a square: image.resize = "pad" keeps shapes as they are'
        yield listed("odd_shape", "note", title, lines, action)


def _tiny(index: DatasetIndex, facts: Sequence[Facts]) -> Iterator[Finding]:
    rows = [i for i, one in enumerate(facts) if min(one.width, one.height) < _TINY]
    rows.sort(key=lambda i: min(facts[i].width, facts[i].height))
    if rows:
        lines = [f"{index.images[i].path}: {facts[i].width} x {facts[i].height}" for i in rows]
        title = f"{counted(len(lines), 'image')} with fewer than {_TINY} pixels on a side"
        yield listed("tiny", "note", title, lines, "thumbnails are useless; true crops of that size are enlarged")


def _mixtures(index: DatasetIndex, facts: Sequence[Facts]) -> Iterator[Finding]:
    depths = [f"{one.bits}-bit" for one in facts]
    colours = ["grey" if one.channels == "grey" else "colour" for one in facts]
    for code, values, what, action in (
        ("mixed_depth", depths, "bit depths", "deep images lose levels where most are 8-bit, see image.pixels"),
        ("mixed_colour", colours, "grey and colour files", "grey files are read as three equal channels"),
    ):
        counts = Counter(values)
        if len(counts) > 1:
            rare = min(counts, key=lambda value: (counts[value], value))
            rows = [i for i, value in enumerate(values) if value == rare]
            title = f"different {what}: " if code == "mixed_depth" else f"{what} together: "
            title += ", ".join(f"{number:,} {name}" for name, number in counts.most_common())
            lines = [f"{index.images[i].path}: {rare}" for i in rows]
            yield listed(code, "note", title, lines, f"{action}; the same program should save all of them")


def _by_class(index: DatasetIndex, values: Values) -> tuple[Values, Values]:
    """Median and robust standard deviation (1.4826 MAD) of each image's class, [N]; infinite spread for small ones.

    Of several labels the sets of labels are taken as classes.
    """
    usual, spread = np.full(len(values), np.median(values)), np.full(len(values), np.inf)
    members: dict[tuple[int, ...], list[int]] = {}
    for position, labels in enumerate(index.label_sets):
        members.setdefault(labels, []).append(position)
    for rows in members.values():
        if len(rows) >= _ENOUGH:
            usual[rows] = np.median(values[rows])
            spread[rows] = 1.4826 * np.median(np.abs(values[rows] - usual[rows]))
    return usual, spread
