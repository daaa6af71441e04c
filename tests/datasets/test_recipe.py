from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest


@pytest.fixture(scope="module")
def recipe(script: Any) -> Any:
    script("datasets/elpv.py")  # any script: it makes the module `recipe` known
    import importlib

    return importlib.import_module("recipe")


@pytest.fixture
def card(recipe: Any) -> Any:
    words = "a sentence that is long enough to be wrapped, since it has many more words than would go on one line " * 2
    return recipe.Card("Title", words, "the task", "the sides", "the source", "the licence", "the authors")


@pytest.fixture
def write(card: Any) -> Callable[[Path], Counter[str]]:
    def files(folder: Path) -> Counter[str]:
        for place in ("train/a/1.png", "train/b/1.png", "test/a/2.png"):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(b"pixels")
        counts = Counter({"train/a": 1, "train/b": 1, "test/a": 1})
        card.write(folder, counts)
        return counts

    return files


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_found_again_and_mended(recipe: Any, write: Any, tmp_path: Path) -> None:
    out, made = tmp_path / "out", recipe.Recipe("one", {"seed": 0})
    assert made.build(out, write)
    assert names(out) == [".recipe.json", "README.md", "test/a/2.png", "train/a/1.png", "train/b/1.png"]
    assert not made.build(out, write)
    for damaged in ("train/b/1.png", "README.md"):
        (out / damaged).unlink()
        assert made.build(out, write)
    assert recipe.Recipe("one", {"seed": 1}).build(out, write)
    assert json.loads((out / ".recipe.json").read_text(encoding="utf-8")) == {
        "recipe": "one",
        "seed": 1,
        "images": 3,
        "counts": {"test/a": 1, "train/a": 1, "train/b": 1},
        "beside": ["README.md"],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("mark", ["", "[]", "{", '{"recipe": "another"}'])
def test_what_another_wrote_is_not_touched(recipe: Any, write: Any, tmp_path: Path, mark: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".recipe.json").write_text(mark, encoding="utf-8")
    with pytest.raises(recipe.RecipeError, match="holds something that this recipe did not write"):
        recipe.Recipe("one", {}).build(out, write)
    assert names(out) == [".recipe.json"]


def test_a_recipe_that_fails_leaves_the_old_folder(recipe: Any, write: Any, tmp_path: Path) -> None:
    def fail(folder: Path) -> Counter[str]:
        write(folder)
        raise recipe.RecipeError("the rest is missing")

    out = tmp_path / "out"
    recipe.Recipe("one", {"seed": 0}).build(out, write)
    before = names(out)
    with pytest.raises(recipe.RecipeError):
        recipe.Recipe("one", {"seed": 1}).build(out, fail)
    assert names(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_card(card: Any, tmp_path: Path) -> None:
    card.write(tmp_path, {"train/b": 1234, "test/a": 1})
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Title"
    assert max(map(len, lines)) <= 120
    table = lines.index("| --- | --- |")
    assert lines[table + 1 : table + 3] == ["| `test/a` | 1 |", "| `train/b` | 1,234 |"]
    points = [line for line in lines if line.startswith("- ")]
    assert points[0] == "- **Task**: the task"
    assert [point.split("**")[1] for point in points] == ["Task", "Sides", "Source", "Licence", "Cite"]


def test_a_download_is_kept_where_it_was_asked_for(recipe: Any, tmp_path: Path) -> None:
    asked: list[Path] = []

    def fetch(folder: Path) -> None:
        asked.append(folder)
        (folder / "archive").write_bytes(b"files")

    kept = tmp_path / "kept"
    kept.mkdir()  # empty: as good as none
    for _ in range(2):
        with recipe.fetched("Signs", fetch, out=tmp_path / "out", source=kept, download=True) as files:
            assert files == kept
            assert names(files) == ["archive"]
    assert len(asked) == 1
    with recipe.fetched("Signs", fetch, out=tmp_path / "out", source=None, download=True) as files:
        assert names(files) == ["archive"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_nothing_is_downloaded_unless_asked(recipe: Any, tmp_path: Path) -> None:
    never = pytest.fail
    for source, why in ((None, "nothing is downloaded unless asked"), (tmp_path / "none", "there are no files in")):
        with (
            pytest.raises(recipe.RecipeError, match=f"^Signs is not here, and {why}[^\n]*\nhint: add --download"),
            recipe.fetched("Signs", never, out=tmp_path / "out", source=source, download=False),
        ):
            never("entered")
    assert not list(tmp_path.iterdir())


def test_a_download_that_fails_leaves_nothing(recipe: Any, tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "half").write_bytes(b"of it")
        try:
            raise URLError("no route to host")
        except URLError as error:
            raise RuntimeError("Automatic download failed!\nfive lines\nof advice") from error

    for source in (None, tmp_path / "kept"):
        with (
            pytest.raises(recipe.RecipeError) as caught,
            recipe.fetched("Signs", half, out=tmp_path / "out", source=source, download=True),
        ):
            pytest.fail("entered")
        assert str(caught.value).splitlines() == [
            "Signs could not be downloaded (<urlopen error no route to host>)",
            "hint: check the network, or download it elsewhere and name that folder with --source FOLDER",
        ]
    assert not list(tmp_path.iterdir())


def test_a_downloader_does_not_hide_ctrl_c(recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def swallow(folder: Path) -> None:
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise RuntimeError("Automatic download failed!")  # noqa: B904  as medmnist does

    def build() -> bool:
        with recipe.fetched("Signs", swallow, out=tmp_path / "out", source=None, download=True):
            return pytest.fail("entered")

    assert recipe.run(build, tmp_path / "out") == 130
    assert "stopped" in capsys.readouterr().err


def test_the_last_line_is_short(recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(counts: dict[str, int]) -> str:
        (tmp_path / ".recipe.json").write_text(json.dumps({"counts": counts}), encoding="utf-8")
        assert recipe.run(lambda: True, tmp_path) == 0
        return capsys.readouterr().out.removeprefix(f"wrote {tmp_path}: ").strip()

    assert told({"test/a": 1, "train/a": 2000}) == "test/a 1, train/a 2,000"
    assert told({f"{side}/{i}": 1000 for side in ("test", "train") for i in range(9)}) == (
        "test 9,000, train 9,000, 9 classes"
    )
    assert told({f"{i}": 100 for i in range(12)}) == "1,200 images of 12 classes"


@pytest.mark.parametrize(
    "name, folder", [("colt's foot", "colt-s-foot"), ("normal, benign", "normal-benign"), ("pink?", "pink"), ("0", "0")]
)
def test_class_names_are_folder_names(recipe: Any, name: str, folder: str) -> None:
    assert recipe.slug(name) == folder
