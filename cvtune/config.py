"""One frozen tree of settings: presets in configs/*.toml, then the user's file, then flags; the last one wins.

Unknown keys and wrong values are refused all at once, each with the nearest name that exists.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cvtune.errors import ConfigError

Share = Annotated[float, Field(gt=0, le=1)]
Colour = Annotated[int, Field(ge=0, le=255)]


Precision = Literal["int8", "float16"]  # of lighter models


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    """How the folder is read and divided."""

    group_by: str | None = None  # regex, level:N, column:NAME or FILE.csv:COLUMN: names the part, patient or track
    merge: dict[str, tuple[str, ...]] = {}  # {"defect": ["scratch", "dent"]}: these folders are one class
    ignore: tuple[str, ...] = ()  # class folders that are left out
    corrections: str | None = None  # CSV of labels to change, as `cvtune check` proposes them
    folds: int | None = Field(None, ge=2, le=50)  # cross-validate instead of holding a test side back
    new_split: bool = False  # deal the images out anew instead of keeping the sides of earlier runs
    near_duplicates: bool = True  # look for re-encoded, resized and cropped copies and keep them together
    unknown: tuple[str, ...] = ()  # folders of what is none of the classes: how much of it goes to REVIEW
    untrusted: bool = False  # decode in a child process with limits of time and memory
    max_pixels: int = Field(200_000_000, ge=1)  # width times height of a file, by its header
    max_bytes: int = Field(2**31 - 1, ge=1, le=2**31 - 1)  # of a file
    cache_gb: float = Field(20.0, ge=0)  # the pixel cache's share of the disk, all folders together
    val: float = Field(0.10, gt=0, lt=0.5)
    calib: float = Field(0.15, gt=0, lt=0.5)
    test: float = Field(0.15, gt=0, lt=0.5)  # only where no test/ folder is given

    @model_validator(mode="after")
    def _leave_some_for_train(self) -> DataConfig:
        if self.val + self.calib + self.test >= 1:
            raise ValueError("val, calib and test together leave nothing for train")
        return self


class ImageConfig(_Section):
    """From the camera's frame to the network's input."""

    size: int | None = Field(None, ge=16, le=2048)  # pixels; the weights' own size when unset
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    roi: tuple[int, int, int, int] | None = None  # x, y, width, height in pixels of the frame
    mask: str | None = None  # image of the frame's size: white is looked at, black is not
    pixels: Literal["auto", "uint8", "uint16", "float32"] = "auto"  # auto: what most of the files hold
    window: tuple[float, float] | None = None  # deep images: values shown as black and white; measured when unset
    background: tuple[Colour, Colour, Colour] = (255, 255, 255)  # what transparent pixels are laid over


class ModelConfig(_Section):
    """The backbone and where its weights come from."""

    backbone: str = "tf_efficientnet_lite0"
    weights: str | None = None  # a .safetensors or .pth file
    download: bool = False
    from_scratch: bool = False
    accept_license: tuple[str, ...] = ()


class AugmentConfig(_Section):
    """What may change in a training image without changing its class."""

    hflip: bool = False
    vflip: bool = False
    quarter_turns: bool = False
    rotate: float = Field(10.0, ge=0, le=180)  # degrees, either way
    scale: tuple[Share, Share] = (0.8, 1.0)  # share of the area kept by the random crop
    shift: float = Field(0.0, ge=0, le=0.5)  # share of the size
    brightness: float = Field(0.2, ge=0, le=1)
    contrast: float = Field(0.2, ge=0, le=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=0.5)
    blur: float = Field(0.0, ge=0, le=1)  # probability
    noise: float = Field(0.0, ge=0, le=1)  # probability
    erase: float = Field(0.0, ge=0, le=1)  # probability of a small blanked patch


class StageConfig(_Section):
    """One Lightning stage."""

    steps: int = Field(2000, ge=0)  # optimizer steps at most; 0 leaves the stage out
    learning_rate: float = Field(1e-3, gt=0)
    layer_decay: float = Field(0.75, gt=0, le=1)  # the rate shrinks by this factor per layer group towards the input
    head_factor: float = Field(1.0, gt=0)  # the head's rate over the last group's
    depthwise: Literal["frozen", "learn"] = "learn"  # weights of depthwise convolutions, which are few and slow
    patience: int = Field(12, ge=1)  # epochs without a better validation loss; high rates look bad until they fall


class AllConfig(StageConfig):
    """The stage in which every layer learns: few steps, low rates."""

    steps: int = Field(500, ge=0)
    rounds: int = Field(4, ge=1)  # at most: once more, at half the rate, as long as that gains
    learning_rate: float = Field(2e-4, gt=0)
    patience: int = Field(6, ge=1)


class TrainConfig(_Section):
    """The stages after the probe."""

    batch_size: int = Field(32, ge=2)
    weight_decay: float = Field(0.01, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    warmup: float = Field(0.1, ge=0, lt=1)  # share of the steps
    batch_norm: Literal["frozen", "batch"] = "batch"  # statistics: the pretrained ones, or those of each batch
    loss: Literal["cross-entropy", "logit-adjusted", "focal"] = "cross-entropy"
    class_weights: Literal["auto", "balanced", "none"] = "auto"
    mixup: Literal["auto", "off"] | Share = "auto"  # alpha; auto: off below 20,000 images
    cut: float | None = Field(None, ge=0, le=1)  # share of the layer groups that the tail leaves frozen; else measured
    budget: float | None = Field(None, gt=0)  # seconds for the whole fit
    final_fit: Literal["auto", "all", "train"] = "auto"  # train once more on train, val and calib; auto: small folders
    workers: int | None = Field(None, ge=0)  # loader processes; chosen from the cores when unset
    loggers: tuple[Literal["tensorboard", "mlflow"], ...] = ()  # beside the run's own metrics.csv
    tail: StageConfig = StageConfig(layer_decay=1.0, head_factor=5.0, depthwise="frozen")
    all: AllConfig = AllConfig()


class CostsConfig(_Section):
    """What wrong decisions cost, in any unit, in place of targets."""

    escape: float | dict[str, float]  # a defective image decided OK; or by class, with "" for the others
    overkill: float  # a good image decided NG
    review: float | None = None  # a look by a person


class ObjectiveConfig(_Section):
    """What the decisions are for."""

    ok: tuple[str, ...] | None = None  # the good classes; [] for none; guessed from the names when unset
    target: tuple[str, ...] = ()  # "escape<=0.5%", "overkill<=2%", "error<=1%", "sensitivity>=99%", "specificity>=98%"
    targets: dict[str, str] = {}  # of single classes: {"crack": "escape<=0.1%"}
    review_rate: float | None = Field(None, gt=0, lt=1)  # share of the images that a person may look at
    novelty: float = Field(0.02, ge=0, lt=0.5)  # share of known images that may go to REVIEW as never seen; 0: no limit
    guarantee: bool = False  # calib has to prove the targets at 95 %, not to meet them in the mean
    costs: CostsConfig | None = None
    words: Literal["factory", "clinic"] = "factory"  # escape and overkill, or sensitivity and specificity


class ExportConfig(_Section):
    """[export]: further models in the bundle."""

    int8: bool = False  # in eight bits, if it is as good and faster on this machine; takes minutes
    fp16: bool = False  # weights as float16: half the size
    int8_max_drop: float = Field(0.5, ge=0, le=100)  # points of accuracy that either may lose

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that are asked for."""
        asked: dict[Precision, bool] = {"int8": self.int8, "float16": self.fp16}
        return tuple(precision for precision, wanted in asked.items() if wanted)


class Config(_Section):
    """Everything that decides a run.

    Raises:
        ConfigError: unknown keys or wrong values (from :func:`load_config`).
    """

    preset: str = "auto"
    seed: int = Field(0, ge=0)
    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    export: ExportConfig = ExportConfig()


def preset_names() -> tuple[str, ...]:
    """Names that `--preset` takes besides `auto`, in alphabetical order."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _preset_dir().iterdir() if p.name.endswith(".toml")))


def load_config(preset: str = "auto", file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """Merge preset < file < flags.

    Args:
        preset: a name from :func:`preset_names`, or `auto`: the file's own, else the data settles it (`data.presets`).
        file: a TOML file with any of the keys.
        flags: dotted keys, `{"train.budget": 300.0}`; values of None are left out.

    Raises:
        ConfigError: every unknown key and wrong value, each with its place and the nearest name.
    """
    own = {} if file is None else _read_toml(file)
    if preset == "auto":
        preset = str(own.get("preset", preset))
    tree = _merge({} if preset == "auto" else read_preset(preset), own)
    for key, value in (flags or {}).items():
        if value is not None:
            tree = _merge(tree, _nest(key, value))
    tree["preset"] = preset
    return _validate(tree, str(file) if file else "the flags")


def overlay(config: Config, tree: Mapping[str, Any]) -> Config:
    """Fill in the keys of `tree` that nobody set explicitly in `config`."""
    return _validate(_merge(tree, config.model_dump(exclude_unset=True)), "the preset")


def merge_flags(config: Config, flags: Mapping[str, Any]) -> Config:
    """Settings with some keys replaced; dotted keys as for :func:`load_config`."""
    tree: dict[str, Any] = config.model_dump(exclude_unset=True)
    for key, value in flags.items():
        if value is not None:
            tree = _merge(tree, _nest(key, value))
    return _validate(tree, "the arguments")


def dump_toml(config: Config) -> str:
    """The settings as TOML that :func:`load_config` reads back; unset keys are left out."""
    tree = config.model_dump(mode="json", exclude_none=True)
    lines = [f"{key} = {_toml_value(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += _toml_table(key, value)
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's, but for one character


def _toml_table(name: str, table: Mapping[str, Any]) -> list[str]:
    lines = ["", f"[{name}]"]
    lines += [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _toml_table(f"{name}.{_toml_key(key)}", value)
    return lines


def _toml_key(key: str) -> str:
    """Quoted where TOML asks for it: a merged class may have any name."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _preset_dir() -> Any:
    packaged = resources.files("cvtune") / "configs"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "configs"


def read_preset(name: str) -> dict[str, Any]:
    """The keys that a preset sets.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in preset_names():
        raise ConfigError(
            f"unknown preset '{name}'; there are: auto, {', '.join(preset_names())}",
            hint=_did_you_mean(name, ("auto", *preset_names())),
        )
    return tomllib.loads((_preset_dir() / f"{name}.toml").read_text(encoding="utf-8"))


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # Windows' editors begin with a byte order mark
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no such config file", hint="check the path given to --config") from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not readable as TOML ({error})", hint="see configs/default.toml") from error


def _nest(key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nest(rest, value) if rest else value}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _validate(tree: Mapping[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_problem(item) for item in error.errors()]
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise ConfigError(
            f"{count} in the settings from {source}:\n" + "\n".join(f"  {line}" for line in lines),
            hint="configs/default.toml lists every key with what it does",
        ) from None


def _problem(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{place}: unknown key{_suggestion(place, _all_keys(Config))}"
    return f"{place} = {item['input']!r}: {item['msg'].lower()}"


def _suggestion(name: str, known: Iterable[str]) -> str:
    hint = _did_you_mean(name, known)
    return f", {hint}" if hint else ""


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else ""


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _all_keys(kind, f"{prefix}{name}.")
    return keys
