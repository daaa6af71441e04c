"""The same files for every tool: dealt once by cvtune's splitter, laid out for tools that look one level deep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import deal, sides
from cvtune.data.index import DatasetIndex, Image, read_rows
from cvtune.errors import ConfigError, DataError


def test_the_readme_sets_are_found(tmp_path: Path) -> None:
    for name in ("neu_steel", "gtsrb"):
        (tmp_path / name).mkdir()
    found = {source.name: source for source in sides.sources(tmp_path)}
    assert list(found) == ["elpv", "neu_steel", "gtsrb"]
    assert found["elpv"].recipe
    assert found["neu_steel"] == sides.Source(
        "neu_steel", "NEU steel strip", (tmp_path / "neu_steel").resolve(), "defects"
    )
    assert found["gtsrb"].preset == "traffic-signs"
    assert found["gtsrb"].group_by == r"([^/]+/\d+)_\d+\.ppm$"
    assert [source.name for source in sides.sources(tmp_path / "gtsrb")] == ["gtsrb"]


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "parts" / "ok").mkdir(parents=True)
    (source,) = sides.sources(tmp_path / "parts", group_by="(a)", preset="xray")
    assert (source.name, source.preset, source.group_by, source.recipe) == ("parts", "xray", "(a)", False)


def test_what_data_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        sides.sources(tmp_path / "nowhere")
    (tmp_path / "gtsrb").mkdir()
    with pytest.raises(ConfigError, match="for a folder of your own"):
        sides.sources(tmp_path, group_by="(a)")


def test_images_lie_one_level_deep_and_keep_their_groups(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    paths = ["train/ok/left/a.png", "train/ok/right/a.png", "test/ok/a.png"]
    for number, path in enumerate(paths):
        (source / path).parent.mkdir(parents=True)
        (source / path).write_bytes(bytes([number]))
    dealt = [(paths[0], "ok", "g1", "train"), (paths[1], "ok", "g1", "train"), (paths[2], "ok", paths[2], "test")]
    digest = sides.lay_out(source, dealt, root)
    laid = {file.relative_to(root / "images").as_posix(): file.read_bytes() for file in root.rglob("*.png")}
    assert laid == {"train/ok/left__a.png": b"\0", "train/ok/right__a.png": b"\1", "test/ok/a.png": b"\2"}
    groups = {row["path"]: row["group"] for row in read_rows(root / "groups.csv", ("path", "group"))}
    assert groups["images/train/ok/left__a.png"] == groups["images/train/ok/right__a.png"] == "g1"
    (source / paths[2]).unlink()
    (source / paths[2]).write_bytes(b"other")
    assert sides.lay_out(source, dealt, tmp_path / "again") != digest


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    for path in ("ok/a/b.png", "ok/a__b.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    dealt = [("ok/a/b.png", "ok", "1", "train"), ("ok/a__b.png", "ok", "2", "test")]
    sides.lay_out(tmp_path, dealt, tmp_path / "root")  # on different sides they do not meet
    with pytest.raises(DataError, match=r"two images would be a__b.png of class 'ok'"):
        sides.lay_out(tmp_path, [(*row[:3], "train") for row in dealt], tmp_path / "other")


def test_a_copy_where_there_is_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError("other file system")

    (tmp_path / "a").write_bytes(b"a")
    sides.link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")
    monkeypatch.setattr("os.link", refuse)
    sides.link(tmp_path / "a", tmp_path / "c")
    assert not (tmp_path / "c").samefile(tmp_path / "a")
    assert (tmp_path / "c").read_bytes() == b"a"


def test_a_slice_has_every_class_and_side() -> None:
    places = [(label, side) for label in (0, 1) for side in ("train", "test") for _ in range(9)]
    images = [Image(f"{side}/{label}/{number}.png", label, side, "") for number, (label, side) in enumerate(places)]
    thinned = deal.thin(DatasetIndex(Path(), ("0", "1"), tuple(images)), 12)
    assert [sum((image.label, image.side) == place for image in thinned.images) for place in sorted(set(places))] == [
        3
    ] * 4


def test_a_folder_is_dealt_once(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By cvtune's splitter in a process of its own; used again until something changes."""
    files = sorted(file.relative_to(parts).as_posix() for file in parts.glob("*/*.png"))
    pairs = [f"{parts / file},{number // 2}" for number, file in enumerate(files)]
    (tmp_path / "pairs.csv").write_text("\n".join(["path,pair", *pairs]) + "\n", encoding="utf-8")
    source = sides.Source("parts", "Parts", parts, "defects", f"{tmp_path / 'pairs.csv'}:pair")
    prepared = sides.prepare(source, tmp_path, seed=0)
    listed = {file.relative_to(prepared.images).parts[:2] for file in prepared.images.rglob("*.png")}
    assert {side for side, _ in listed} == {"train", "val", "test"}
    assert {label for _, label in listed} == {"dent", "ok", "scratch", "stain"}
    assert sum(prepared.counts.values()) == 96
    assert prepared.counts["train"] > prepared.counts["test"] >= prepared.counts["val"] > 0
    groups = read_rows(prepared.groups, ("path", "group"))
    of: dict[str, set[str]] = {}
    for row in groups:
        of.setdefault(row["group"], set()).add(row["path"].split("/")[1])
    assert len(of) == 48
    assert all(len(found) == 1 for found in of.values())  # a group is on one side
    assert sides.weights_file(tmp_path).stat().st_size > 10_000_000
    capsys.readouterr()
    assert sides.prepare(source, tmp_path, seed=0) == prepared
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "parts" / "ok").mkdir(parents=True)
    (tmp_path / "parts" / "ok" / "a.png").write_bytes(b"no image")
    (tmp_path / "work").mkdir()
    sides.weights_file(tmp_path / "work").touch()
    with pytest.raises(DataError, match=r"parts: it could not be prepared: .*no readable image"):
        sides.prepare(sides.Source("parts", "Parts", tmp_path / "parts"), tmp_path / "work", seed=0)


def test_weights_carry_timm_names(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import load_file

    deal.write_weights(tmp_path / "weights.safetensors")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
