from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvtune.config import Config, dump_toml, load_config, merge_flags, overlay, preset_names, read_preset
from cvtune.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def reread(config: Config, folder: Path) -> Config:
    return load_config(file=write(folder / "config.toml", dump_toml(config)))


def keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    nested = [keys(value, f"{prefix}{key}.") for key, value in tree.items() if isinstance(value, dict)]
    return {f"{prefix}{key}" for key, value in tree.items() if not isinstance(value, dict)}.union(*nested)


def test_the_default_preset_says_what_the_classes_say() -> None:
    assert load_config("default").model_copy(update={"preset": "auto"}) == Config()


def test_the_default_preset_lists_every_key(repo: Path) -> None:
    known = keys(Config().model_dump()) - {"preset"}
    text = (repo / "configs" / "default.toml").read_text(encoding="utf-8")
    commented = set()
    section = ""
    for line in text.splitlines():
        section = f"{found[1]}." if (found := re.match(r"\[(.*)\]", line)) else section
        commented |= {section + found[1]} if (found := re.match(r"# (\w+) = ", line)) else set()
    unset = {name for name in known if not isinstance(_at(Config().model_dump(), name), (bool, int, float, str, tuple))}
    assert keys(tomllib.loads(text)) == known - unset
    for name in unset - commented:
        assert name in text.split("\n\n")[0], name  # named in the head of the file


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_says_why(name: str, repo: Path) -> None:
    assert load_config(name).preset == name
    lines = (repo / "configs" / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"# {name}: ")
    assert any("#" in line for line in lines[1:])


def test_presets_are_those_of_the_folder() -> None:
    assert preset_names() == ("default", "defects", "traffic-signs", "xray")


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'defect'; there are: auto, default, defects, ") as caught:
        load_config("defect")
    assert caught.value.hint == "did you mean 'defects'?"


def test_the_last_word_wins(tmp_path: Path) -> None:
    file = write(tmp_path / "my.toml", "seed = 3\n[augment]\nrotate = 1.5\n[train.tail]\nsteps = 9\n")
    config = load_config("defects", file, {"train.tail.steps": 7, "train.budget": None, "seed": None})
    assert (config.augment.vflip, config.augment.rotate, config.seed) == (True, 1.5, 3)
    assert (config.train.tail.steps, config.train.tail.patience, config.train.budget) == (7, 12, None)


def test_a_file_may_name_its_preset_and_a_flag_overrules_it(tmp_path: Path) -> None:
    file = write(tmp_path / "my.toml", 'preset = "defects"\n')
    assert load_config(file=file) == load_config("defects")
    assert load_config("xray", file) == load_config("xray")
    with pytest.raises(ConfigError, match="unknown preset 'weld'"):
        load_config(file=write(tmp_path / "my.toml", 'preset = "weld"\n'))
    with pytest.raises(ConfigError, match="unknown preset '5'"):
        load_config(file=write(tmp_path / "my.toml", "preset = 5\n"))


def test_all_problems_at_once_each_with_the_nearest_name(tmp_path: Path) -> None:
    file = write(
        tmp_path / "bad.toml",
        "sead = 3\n[train]\nbatchsize = 8\nwarmup = 2.0\n[train.tail]\nlearningrate = 1\n[augment]\nrotate = 'a lot'\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_config(file=file)
    message = caught.value.message
    assert message.startswith(f"5 problems in the settings from {file}:\n")
    assert "sead: unknown key, did you mean 'seed'?" in message
    assert "train.batchsize: unknown key, did you mean 'train.batch_size'?" in message
    assert "train.tail.learningrate: unknown key, did you mean 'train.tail.learning_rate'?" in message
    assert "train.warmup = 2.0: input should be less than 1" in message
    assert "augment.rotate = 'a lot': input should be a valid number" in message
    assert "configs/default.toml" in caught.value.hint


@pytest.mark.parametrize("flag", ["train.tale.steps", "modell.backbone", "image.siz"])
def test_flags_are_checked_like_files(flag: str) -> None:
    with pytest.raises(ConfigError, match=r"1 problem in the settings from the flags") as caught:
        load_config(flags={flag: 64})
    assert "unknown key, did you mean" in caught.value.message


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("data.val", 0.0),
        ("data.test", 0.5),
        ("image.size", 8),
        ("image.resize", "squash"),
        ("augment.hue", 0.6),
        ("augment.scale", (0.5, 2.0)),
        ("augment.scale", (0.0, 1.0)),
        ("train.batch_size", 1),
        ("train.budget", 0.0),
        ("train.budget", float("nan")),
        ("train.tail.learning_rate", float("inf")),
        ("train.tail.layer_decay", 0.0),
        ("train.loggers", ["wandb"]),
        ("train", 3),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_refused(flag: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(flags={flag: value})
    assert caught.value.message.splitlines()[1].strip().startswith(flag)


def test_something_is_left_for_training() -> None:
    with pytest.raises(ConfigError, match=r"data = .*val, calib and test together leave nothing for train"):
        load_config(flags={"data.val": 0.4, "data.calib": 0.4, "data.test": 0.4})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"seed = \n", "not readable as TOML"),
        (b"seed = 1\nseed = 2\n", "not readable as TOML"),
        (b"\xff\xfe", "not readable as TOML"),
    ],
)
def test_a_broken_file_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(file=tmp_path / "x.toml")
    assert str(tmp_path / "x.toml") in caught.value.message


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfseed = 4\r\n")
    assert load_config(file=tmp_path / "x.toml").seed == 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such config file"):
        load_config(file=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"not readable as TOML"):
        load_config(file=tmp_path)


FULL: dict[str, Any] = {
    "seed": 7,
    "data.group_by": r'^(?:teil|part)_(\d+)"\\[^/]*\.[jJ]pe?g$',
    "image.roi": (1, 2, 300, 400),
    "image.mask": "Mäße/日本\\mask \t'1'.png",
    "image.size": 288,
    "model.accept_license": ("cc-by-nc-4.0", "é"),
    "model.from_scratch": True,
    "augment.scale": (0.5, 0.9),
    "train.budget": 1e-7,
    "train.weight_decay": 1e20,
    "train.loggers": ("tensorboard", "mlflow"),
    "train.workers": 0,
    "train.tail.learning_rate": 3e-5,
}


@pytest.mark.parametrize("preset", ["auto", *preset_names()])
def test_settings_survive_the_file(preset: str, tmp_path: Path) -> None:
    config = load_config(preset, flags=FULL)
    assert reread(config, tmp_path) == config
    assert reread(load_config(preset), tmp_path) == load_config(preset)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)  # surrogates are no UTF-8


@given(text, text, st.floats(1e-300, 1e300), st.lists(text, max_size=3))
def test_any_text_and_number_survives(regex: str, mask: str, budget: float, names: list[str]) -> None:
    flags = {"data.group_by": regex, "image.mask": mask, "train.budget": budget, "model.accept_license": names}
    config = load_config(flags=flags)
    tree = tomllib.loads(dump_toml(config))
    assert Config.model_validate(tree) == config


def test_overlay_fills_in_what_nobody_set() -> None:
    config = load_config(flags={"augment.rotate": 2.0, "augment.hflip": False})
    full = overlay(config, read_preset("defects"))
    assert (full.augment.rotate, full.augment.hflip, full.augment.vflip) == (2.0, False, True)
    again = overlay(full, {"augment": {"vflip": False, "blur": 0.5}, "seed": 4})
    assert (again.augment.vflip, again.augment.blur, again.seed) == (True, 0.0, 4)


def test_overlay_keeps_a_value_that_equals_the_default() -> None:
    config = load_config(flags={"train.batch_size": 32})
    assert overlay(config, {"train": {"batch_size": 64}}).train.batch_size == 32
    assert overlay(load_config(), {"train": {"batch_size": 64}}).train.batch_size == 64


def test_merge_flags_replaces_and_checks() -> None:
    config = load_config("xray", flags={"seed": 2})
    changed = merge_flags(config, {"seed": 3, "train.budget": None, "model.backbone": "resnet18"})
    assert (changed.seed, changed.model.backbone, changed.augment, changed.preset) == (
        3,
        "resnet18",
        config.augment,
        "xray",
    )
    with pytest.raises(ConfigError, match=r"from the arguments"):
        merge_flags(config, {"model.backbon": "resnet18"})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


def test_merged_classes_of_any_name_survive_the_file(tmp_path: Path) -> None:
    merges = {"a b": ["x", 'q"uote'], "défaut": ["é"], "plain": ["1"]}
    config = load_config(flags={"data.merge": merges})
    file = tmp_path / "c.toml"
    file.write_text(dump_toml(config), encoding="utf-8")
    assert load_config(file=file) == config
