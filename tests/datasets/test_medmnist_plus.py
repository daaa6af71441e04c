"""A stand-in for the package `medmnist`, with its names, its records and the files that its downloader leaves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import cv2
import numpy as np
import pytest

from cvtune.data.index import build_index

COUNTS = {"train": 6, "val": 2, "test": 4}
INFO = {
    "pneumoniamnist": {
        "python_class": "PneumoniaMNIST",
        "description": "X-rays of\n children.",
        "task": "binary-class",
        "label": {"0": "normal", "1": "pneumonia"},
        "n_samples": COUNTS,
        "license": "CC BY 4.0",
    },
    "breastmnist": {
        "python_class": "BreastMNIST",
        "description": "Ultrasound.",
        "task": "binary-class",
        "label": {"0": "malignant", "1": "normal, benign"},
        "n_samples": COUNTS,
        "license": "CC BY 4.0",
    },
    "retinamnist": {
        "python_class": "RetinaMNIST",
        "description": "Fundus.",
        "task": "ordinal-regression",
        "label": {"0": "0", "1": "1"},
        "n_samples": COUNTS,
        "license": "CC BY 4.0",
    },
    "chestmnist": {
        "python_class": "ChestMNIST",
        "description": "X-rays.",
        "task": "multi-label, binary-class",
        "label": {"0": "atelectasis", "1": "effusion", "2": "mass"},
        "n_samples": COUNTS,
        "license": "CC BY 4.0",
    },
}


def arrays(name: str, size: int) -> dict[str, Any]:
    """What the .npz of a set holds; colour for retinamnist."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for side, count in COUNTS.items():
        shape = (count, size, size, 3) if name == "retinamnist" else (count, size, size)
        found[f"{side}_images"] = rng.integers(0, 256, shape, np.uint8)
        several = np.array([[(i >> bit) & 1 for bit in range(3)] for i in range(count)])
        found[f"{side}_labels"] = several if name == "chestmnist" else np.arange(count)[:, None] % 2
    return found


def save(root: Path, name: str, size: int = 28, **more: Any) -> None:
    root.mkdir(exist_ok=True)
    file = f"{name}.npz" if size == 28 else f"{name}_{size}.npz"
    np.savez_compressed(root / file, **(arrays(name, size) | more))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in: its classes download when they are made, as the real ones do."""
    made, info = ModuleType("medmnist"), ModuleType("medmnist.info")
    asked: list[tuple[str, str, int]] = []

    def maker(name: str) -> Callable[..., None]:
        def make(*, split: str, download: bool, root: str, size: int) -> None:
            assert download
            asked.append((name, split, size))
            save(Path(root), name, size)

        return make

    for name, record in INFO.items():
        setattr(made, str(record["python_class"]), maker(name))
    vars(made)["asked"], vars(info)["INFO"] = asked, INFO
    monkeypatch.setitem(sys.modules, "medmnist", made)
    monkeypatch.setitem(sys.modules, "medmnist.info", info)
    return made


@pytest.fixture(scope="module")
def medmnist_plus(script: Any) -> Any:
    return script("datasets/medmnist_plus.py")


def test_one_label_an_image(
    medmnist_plus: Any, package: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "files", "pneumoniamnist", 64)
    command = ["--name", "pneumoniamnist", "--size", "64", "--out", str(tmp_path / "out")]
    assert medmnist_plus.main([*command, "--source", str(tmp_path / "files")]) == 0
    assert "test/0-normal 2, test/1-pneumonia 2, train/0-normal 3, train/1-pneumonia 3" in capsys.readouterr().out
    written = cv2.imread(str(tmp_path / "out/train/1-pneumonia/00003.png"), cv2.IMREAD_UNCHANGED)
    assert written is not None
    assert np.array_equal(written, arrays("pneumoniamnist", 64)["train_images"][3])
    index = build_index(tmp_path / "out")
    assert index.classes == ("0-normal", "1-pneumonia")
    assert [image.side for image in index.images].count("val") == 2
    assert medmnist_plus.main(command) == 0
    assert capsys.readouterr().out.startswith("found ")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "\nX-rays of children.\n" in card
    assert "CC BY 4.0" in card


def test_several_labels_are_a_table(medmnist_plus: Any, package: Any, tmp_path: Path) -> None:
    save(tmp_path / "files", "chestmnist")
    assert medmnist_plus.build(tmp_path / "out", "chestmnist", size=28, source=tmp_path / "files")
    lines = (tmp_path / "out/labels.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:5] == [
        "path,labels,side",
        "images/train/00000.png,,train",
        "images/train/00001.png,atelectasis,train",
        "images/train/00002.png,effusion,train",
        "images/train/00003.png,atelectasis;effusion,train",
    ]
    index = build_index(tmp_path / "out" / "labels.csv")
    assert index.multi
    assert index.classes == ("atelectasis", "effusion", "mass")
    assert len(index) == sum(COUNTS.values())
    (tmp_path / "out/labels.csv").unlink()
    assert medmnist_plus.build(tmp_path / "out", "chestmnist", size=28, source=tmp_path / "files")


def test_colours_stay_in_order(medmnist_plus: Any, package: Any, tmp_path: Path) -> None:
    save(tmp_path / "files", "retinamnist")
    medmnist_plus.build(tmp_path / "out", "retinamnist", size=28, source=tmp_path / "files")
    written = cv2.imread(str(tmp_path / "out/test/1/00001.png"), cv2.IMREAD_COLOR_RGB)
    assert written is not None
    assert np.array_equal(written, arrays("retinamnist", 28)["test_images"][1])


def test_names_with_commas_become_folders(medmnist_plus: Any, package: Any) -> None:
    assert medmnist_plus.describe("breastmnist", 224).labels == ("0-malignant", "1-normal-benign")


def test_the_downloader_of_the_package_is_asked(medmnist_plus: Any, package: Any, tmp_path: Path) -> None:
    command = ["--name", "pneumoniamnist", "--size", "28", "--out", str(tmp_path / "out")]
    assert medmnist_plus.main(command) == 2
    assert medmnist_plus.main([*command, "--download"]) == 0
    assert package.asked == [("pneumoniamnist", "val", 28)]  # the smallest side
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_a_network_it_says_so(
    medmnist_plus: Any,
    package: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**more: Any) -> None:
        try:
            raise URLError("no route to host")
        except BaseException:
            raise RuntimeError("\n Automatic download failed!\n 1. [Optional] Check")  # noqa: B904  as it does

    monkeypatch.setattr(package, "PneumoniaMNIST", fail)
    assert medmnist_plus.main(["--name", "pneumoniamnist", "--download", "--out", str(tmp_path / "out")]) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "error: pneumoniamnist could not be downloaded (<urlopen error no route to host>)"
    assert not list(tmp_path.iterdir())


def test_without_the_package_it_says_what_to_install(
    medmnist_plus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "medmnist", None)
    monkeypatch.setitem(sys.modules, "medmnist.info", None)
    assert medmnist_plus.main(["--name", "chestmnist", "--download", "--out", str(tmp_path / "out")]) == 2
    assert "hint: python -m pip install medmnist" in capsys.readouterr().err


def test_a_package_that_did_not_load(
    medmnist_plus: Any, package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(package, "ChestMNIST")
    with pytest.raises(medmnist_plus.RecipeError, match="medmnist does not load\nhint: python -m pip install --upgr"):
        medmnist_plus.build(tmp_path / "out", "chestmnist", download=True)


@pytest.mark.parametrize(
    "more, why",
    [
        ({"train_labels": np.zeros((5, 1), int)}, r"labels of train have the shape \(5, 1\), expected \(6, 1\)"),
        ({"val_labels": np.array([[0], [2]])}, "labels of val are not from 0 to 1"),
        ({"val_labels": np.array([["0"], [None]], object)}, "Object arrays cannot be loaded"),
        ({"test_images": np.zeros((4, 27, 28), np.uint8)}, r"uint8 \(4, 27, 28\), expected uint8 \(4, 28, 28\)"),
        ({"test_images": np.zeros((4, 28, 28))}, r"float64 \(4, 28, 28\), expected uint8"),
        ({"test_images": np.zeros((4, 28, 28, 4), np.uint8)}, "grey or colour"),
    ],
)
def test_arrays_that_are_not_what_they_should_be(
    medmnist_plus: Any, package: Any, tmp_path: Path, more: dict[str, Any], why: str
) -> None:
    save(tmp_path / "files", "pneumoniamnist", **more)
    with pytest.raises(medmnist_plus.RecipeError, match=rf"pneumoniamnist\.npz: cannot be read \(.*{why}"):
        medmnist_plus.build(tmp_path / "out", "pneumoniamnist", size=28, source=tmp_path / "files")
    assert not (tmp_path / "out").exists()


def test_a_file_cut_short(medmnist_plus: Any, package: Any, tmp_path: Path) -> None:
    save(tmp_path / "files", "pneumoniamnist")
    file = tmp_path / "files" / "pneumoniamnist.npz"
    for data in (file.read_bytes()[:-30], b""):
        file.write_bytes(data)
        with pytest.raises(medmnist_plus.RecipeError, match="cannot be read"):
            medmnist_plus.build(tmp_path / "out", "pneumoniamnist", size=28, source=tmp_path / "files")


def test_no_script_hides_a_package(repo: Path) -> None:
    from importlib.metadata import packages_distributions

    scripts = {path.stem for path in (repo / "datasets").glob("*.py")}
    assert not scripts & (packages_distributions().keys() | sys.stdlib_module_names | {"medmnist"})
