"""Reading weight files and fitting them onto a timm network, strictly and without pickle."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cvtune.errors import WeightsError
from cvtune.models.catalog import lookup

State = dict[str, Tensor]

_SAMPLES = 3  # names shown of each kind of mismatch: enough to recognise another architecture


def read_state(path: Path) -> State:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file, by name.

    Torch files go through torch's restricted loader, and wrappers of training scripts (`state_dict`, `model`,
    `module.`) are taken off.

    Raises:
        WeightsError: not readable, or holding more than tensors.
    """
    try:
        raw = load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not readable as weights ({error})", hint="is the file whole?") from error
    state = _unwrap(raw)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: holds no table of named tensors", hint="save the model's state_dict() alone")
    prefix = "module."
    stripped = all(name.startswith(prefix) for name in state)
    return {name.removeprefix(prefix): value for name, value in state.items()} if stripped else state


def read_metadata(path: Path) -> dict[str, str]:
    """The text fields of a safetensors header; empty for other files.

    Raises:
        WeightsError: the file is not readable as safetensors.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as handle:
            return dict(handle.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not readable as weights ({error})", hint="is the file whole?") from error


def by_order(name: str, state: State, *, source: str) -> State:
    """Rename the entries of a file whose order, not names, is that of timm's network with 1000 classes.

    Raises:
        WeightsError: another number of entries, or a shape that differs.
    """
    with torch.device("meta"):  # shapes alone: no time, no random numbers
        wanted = timm.create_model(name, num_classes=1000).state_dict()
    pairs = list(zip(wanted.items(), state.items(), strict=False))
    wrong = [
        f"{ours} is {_shape(a)}, {theirs} is {_shape(b)}" for (ours, a), (theirs, b) in pairs if a.shape != b.shape
    ]
    if wrong or len(wanted) != len(state):
        raise WeightsError(
            f"{source}: {len(state)} entries do not line up with the {len(wanted)} of {name} {_few(wrong)}",
            hint="install the package again",
        )
    return {ours: value for (ours, _), (_, value) in pairs}


def fit_state(net: nn.Module, state: State, *, name: str, source: str) -> None:
    """Load `state` into `net` (built without classifier), every tensor of it, none left over.

    Raises:
        WeightsError: names or shapes differ; lists how many and the first of each kind.
    """
    own = net.state_dict()
    state = _without_classifier(state, own, name)
    if state.keys() != own.keys():
        state = _without_classifier(_timm_layout(net, state), own, name)
    shapes = [
        f"{k}: {_shape(state[k])}, not {_shape(own[k])}" for k in own if k in state and state[k].shape != own[k].shape
    ]
    problems = {
        "missing": [key for key in own if key not in state],
        "left over": [key for key in state if key not in own],
        "of another shape": shapes,
    }
    if any(problems.values()):
        lines = [f"  {len(names)} {kind} {_few(names)}" for kind, names in problems.items() if names]
        raise WeightsError(
            f"{source}: these are not the weights of {name}:\n" + "\n".join(lines),
            hint="name the architecture that the file was trained with: --backbone NAME",
        )
    net.load_state_dict(state, strict=True)


def first_line(error: Exception) -> str:
    """The first line of an error, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the restricted loader raises many kinds, one of them named in the module we avoid
        raise WeightsError(
            f"{path}: torch's restricted loader refuses it ({first_line(error)})",
            hint="save the model's state_dict() alone, best as .safetensors",
        ) from None


def _unwrap(raw: Any) -> dict[str, Any]:
    for key in ("state_dict", "model"):
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            raw = raw[key]
    return dict(raw) if isinstance(raw, dict) else {}


def _without_classifier(state: State, own: Collection[str], name: str) -> State:
    classifier = lookup(name).classifier or ()
    prefixes = tuple(f"{one}." for one in ((classifier,) if isinstance(classifier, str) else classifier))
    return {key: value for key, value in state.items() if key in own or not key.startswith(prefixes)}


def _timm_layout(net: nn.Module, state: State) -> State:
    """Translate an original checkpoint (ConvNeXt, DINOv2, ...) by timm's own filter of its family, if there is one."""
    translate = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return state
    try:
        return dict(translate(dict(state), net))
    except Exception:  # a foreign file; the comparison that follows says in words what does not fit
        return state


def _few(names: list[str]) -> str:
    more = f", and {len(names) - _SAMPLES} more" if len(names) > _SAMPLES else ""
    return f"({', '.join(names[:_SAMPLES])}{more})" if names else ""


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
