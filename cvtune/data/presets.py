"""`--preset auto`: which augmentations are safe, from what the folder shows without training.

Mirrors are allowed only when nothing speaks against them: a mirrored picture with the old label would be a wrong label.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cvtune.config import Config, overlay, read_preset
from cvtune.data.index import DatasetIndex

_SIDES = "left right lefthand righthand links rechts gauche droite izquierda derecha sinistra destra lh rh"
_TURNS = "cw ccw clockwise counterclockwise anticlockwise"
_SIGNS = "sign signs speed arrow arrows digit digits letter letters char character symbol"
_MEDICAL = "pneumonia fracture fractured tuberculosis covid covid19 effusion cardiomegaly"
_SIDE_WORDS = frozenset(f"{_SIDES} {_TURNS}".split())
_SIGN_WORDS = frozenset(_SIGNS.split())
_XRAY_WORDS = frozenset(_MEDICAL.split())


@dataclass(frozen=True)
class PresetChoice:
    """The preset that auto chose.

    Attributes:
        name: a preset of configs/.
        hflip: whether mirrors are allowed although the preset itself does not ask for them.
        reason: why, in plain words, for the terminal and the report.
    """

    name: str
    hflip: bool
    reason: str


def choose_preset(index: DatasetIndex) -> PresetChoice:
    """Choose augmentations from class names and picture sizes."""
    against = _against_mirrors(index.classes)
    if against:
        return PresetChoice("traffic-signs", False, f"{against}: never mirrored or turned")
    medical = sorted(_words(index.classes) & _XRAY_WORDS)
    if medical:
        return PresetChoice("xray", True, f"class names such as '{medical[0]}': radiographs, no hue, never upside down")
    sizes = {(image.width, image.height) for image in index.images}
    if len(sizes) == 1 and next(iter(sizes))[0] == next(iter(sizes))[1]:
        side = next(iter(sizes))[0]
        return PresetChoice("defects", True, f"square close-ups, all {side}x{side}: flips and quarter turns")
    return PresetChoice("default", True, "nothing in the class names speaks against mirrors: left-right flips only")


def settle_preset(config: Config, index: DatasetIndex) -> tuple[Config, str]:
    """Replace `auto` by the choice; keys that the user set stay.

    Returns:
        The settled settings, and a sentence that says what was chosen and why.
    """
    if config.preset != "auto":
        return config, f"{config.preset} (as asked)"
    choice = choose_preset(index)
    tree = read_preset(choice.name)
    if choice.hflip:
        tree.setdefault("augment", {})["hflip"] = True
    settled = overlay(config, tree).model_copy(update={"preset": choice.name})
    return settled, f"{choice.name} (auto: {choice.reason})"


def _words(classes: tuple[str, ...]) -> set[str]:
    spaced = " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) for name in classes)  # keepLeft
    words = set(re.split(r"[^a-z0-9]+", spaced.casefold()))
    return (words | {word.strip("0123456789") for word in words}) - {""}  # left2


def _against_mirrors(classes: tuple[str, ...]) -> str:
    words = _words(classes)
    if found := sorted(words & _SIDE_WORDS):
        return f"class names say '{found[0]}'"
    if found := sorted(words & _SIGN_WORDS):
        return f"class names say '{found[0]}'"
    short = [name for name in classes if re.fullmatch(r"\d{1,3}|[A-Za-z]", name)]
    if len(short) >= 2:
        return f"class names are digits or letters ({', '.join(short[:3])})"
    mirrored = [name for name in classes if name[::-1] in classes and name != name[::-1]]
    if mirrored:
        return f"class names mirror each other ({mirrored[0]}, {mirrored[0][::-1]})"
    return ""
