"""The backbones that timm knows: their names, and what is recorded about their pretrained weights."""

from __future__ import annotations

import difflib

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg

from cvtune.errors import ModelError


def lookup(name: str) -> PretrainedCfg:
    """What timm records about a backbone: size, mean, std, licence and where its weights are.

    Args:
        name: `architecture` (the default weights) or `architecture.tag`.

    Raises:
        ModelError: timm has no such architecture or no such tag; the message names the nearest ones.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ModelError(f"unknown backbone '{name}'", hint=_near(architecture))
    names = [full for full in timm.list_pretrained(f"{architecture}.*") if full.startswith(f"{architecture}.")]
    if tag and name not in names:
        known = ", ".join(names) or "none"
        raise ModelError(f"unknown weights '{tag}' of backbone '{architecture}'; there are: {known}", hint=_near(name))
    return get_pretrained_cfg(name) or PretrainedCfg()


def _near(name: str) -> str:
    known = timm.list_pretrained() if "." in name else timm.list_models()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if not near:
        return "timm.list_models() lists every name, for example tf_efficientnet_lite0, resnet18, vit_tiny_patch16_224"
    return "did you mean " + " or ".join(f"'{one}'" for one in near) + "?"
