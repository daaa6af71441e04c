"""Data one can trust, from the command line: audit, corrections, kept splits, leaks, tables, folds, deep images."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cvtune_edge import Bundle
from cvtune_edge.decode import ReadOptions, read_image

import cvtune as library
from tests.e2e.conftest import STEEL, rows, snapshot, tree

Command = Callable[..., tuple[object, str, str]]
QUICK: dict[str, Any] = {"backbone": "test_efficientnet", "from_scratch": True, "size": 64, "final_fit": "train"}
PROBE_ONLY: dict[str, Any] = {**QUICK, "train.tail.steps": 0, "train.all.steps": 0}


# ---- cvtune check


def test_check_of_a_folder_without_a_fault_to_mend(steel: Path, cvtune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "steel"
    shutil.copytree(steel, folder)
    (folder / "scratches" / "scratches_33.jpg").unlink()  # one faint line: rightly doubted among 120 images
    before = snapshot(folder)
    code, out, _ = cvtune("check", folder)
    assert code == 0, out
    assert "0 warnings" in out
    assert "inclusion/inclusion_1.jpg ~ inclusion/inclusion_5.jpg" in out  # the set's own: two crops of one photograph
    assert snapshot(folder) == before


def test_check_names_what_is_wrong_and_writes_it_down(steel: Path, cvtune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "steel"
    shutil.copytree(steel, folder)
    shutil.copy2(folder / "crazing" / "crazing_3.jpg", folder / "scratches" / "copy.jpg")  # under two labels
    pixels = cv2.imread(str(folder / "inclusion" / "inclusion_5.jpg"))
    assert pixels is not None
    cv2.imwrite(str(folder / "inclusion" / "again.png"), cv2.resize(pixels, (150, 150), interpolation=cv2.INTER_AREA))
    for number in (7, 8):  # two labels that are wrong
        shutil.move(folder / "crazing" / f"crazing_{number}.jpg", folder / "scratches" / f"moved_{number}.jpg")
    (folder / "scratches" / "broken.jpg").write_bytes((folder / "scratches" / "moved_7.jpg").read_bytes()[:3000])
    files = (tmp_path / "check.json", tmp_path / "check.html", tmp_path / "fix.csv")
    code, out, _ = cvtune("check", folder, "--json", files[0], "--html", files[1], "--corrections", files[2])
    assert code == 1, out
    codes = {finding["code"] for finding in tree(files[0])["findings"]}
    assert "label_conflict" in codes
    assert any(
        "again.png" in finding["examples"][0] for finding in tree(files[0])["findings"] if "near" in finding["code"]
    )
    assert {item["path"] for item in tree(files[0])["skipped"]} == {"scratches/broken.jpg"}
    proposed = {row["path"]: row["new_label"] for row in rows(files[2])}
    assert {proposed.get("scratches/moved_7.jpg"), proposed.get("scratches/moved_8.jpg")} == {"crazing"}
    page = files[1].read_text(encoding="utf-8")
    assert "moved_7.jpg" in page
    assert "data:image/jpeg;base64," in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_check_of_nothing_is_exit_code_2(cvtune: Command, tmp_path: Path) -> None:
    code, _, err = cvtune("check", tmp_path / "nowhere")
    assert code == 2
    assert "nowhere: no such" in err


# ---- corrections


def test_corrections_change_the_run_and_not_the_folder(parts: Path, tmp_path: Path) -> None:
    before = snapshot(parts)
    fix = tmp_path / "fix.csv"
    names = sorted(path.name for path in (parts / "dent").iterdir())
    lines = [("path", "label", "new_label"), (f"dent/{names[0]}", "dent", "stain"), (f"dent/{names[1]}", "dent", "-")]
    with fix.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(lines)
    run = library.fit(parts, out=tmp_path / "run", corrections=str(fix), **PROBE_ONLY)
    found = {row["path"]: row["label"] for row in rows(run.path / "index.csv")}
    assert found[f"dent/{names[0]}"] == "stain"
    assert f"dent/{names[1]}" not in found
    assert any(names[1] in item["path"] for item in tree(run.path / "audit.json")["skipped"])
    assert "1 labels changed, 1 images left out" in (run.path / "summary.txt").read_text(encoding="utf-8")
    assert snapshot(parts) == before


# ---- splits that are kept


def test_sides_are_kept_and_new_images_join_them(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(parts, folder)
    late = sorted((folder / "ok").iterdir())[:5]
    held_back = [path.read_bytes() for path in late]
    for path in late:
        path.unlink()

    def sides(name: str, **flags: Any) -> dict[str, str]:
        run = library.fit(folder, out=tmp_path / name, **PROBE_ONLY, **flags)
        return {row["path"]: row["side"] for row in rows(run.path / "split.csv")}

    first = sides("first")
    for path, data in zip(late, held_back, strict=True):
        path.write_bytes(data)
    second = sides("second", seed=5)
    assert {path: side for path, side in second.items() if path in first} == first
    assert len(second) == len(first) + 5
    text = (tmp_path / "second" / "summary.txt").read_text(encoding="utf-8")
    assert "5 new images joined" in text
    assert sides("third", seed=5, new_split=True) != second


# ---- leaks


def test_leaked_test_images_are_told_with_both_figures(steel: Path, cvtune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "steel"
    for label in STEEL:
        for side, numbers in (("train", range(1, 31)), ("test", range(31, 41))):
            (folder / side / label).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                shutil.copy2(steel / label / f"{label}_{number}.jpg", folder / side / label)
        for number in (1, 2, 3):
            shutil.copy2(steel / label / f"{label}_{number}.jpg", folder / "test" / label / f"again_{number}.jpg")
    out = tmp_path / "run"
    code, text, _ = cvtune("fit", folder, "--out", out, "--config", _config(tmp_path))
    assert code == 0
    metrics = tree(out / "metrics.json")
    assert metrics["test"]["n"] == 39
    assert metrics["test_without_leaks"]["n"] == 30
    told = " ".join(text.split())
    assert "LEAK: 9 of these test images" in told
    assert f"without them: {metrics['test_without_leaks']['right']} of 30 right" in told
    assert "LEAK" in (out / "report.html").read_text(encoding="utf-8") or "leak" in (out / "report.html").read_text()


def _config(tmp_path: Path) -> Path:
    file = tmp_path / "probe.toml"
    file.write_text("[train.tail]\nsteps = 0\n[train.all]\nsteps = 0\n", encoding="utf-8")
    return file


# ---- tables, several labels an image


@pytest.fixture(scope="module")
def table(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table over synthetic parts: `defect` and the kind of defect, none for a good part."""
    file: Path = tmp_path_factory.mktemp("table") / "labels.csv"
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "labels"))
        for path in sorted(parts.rglob("*.png")):
            kind = path.parent.name
            writer.writerow((str(path), "" if kind == "ok" else f"defect;{kind}"))
    return file


@pytest.fixture(scope="module")
def multi(table: Path, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    few: dict[str, Any] = {"train.tail.steps": 4, "train.all.steps": 2, "train.workers": 0}
    return library.fit(table, out=tmp_path_factory.mktemp("runs") / "multi", **QUICK, **few)


def test_several_labels_an_image_end_to_end(multi: library.Run, parts: Path) -> None:
    assert multi.classes == ("defect", "dent", "scratch", "stain")
    metrics = multi.metrics
    assert metrics["task"] == "multi"
    assert 0 <= metrics["test"]["mean_average_precision"] <= 1
    assert set(metrics["test"]["per_class"]) == set(multi.classes)
    manifest = multi.bundle.manifest
    assert manifest.task == "multi"
    assert len(manifest.thresholds) == 4
    answer = next(iter(multi.predict(sorted(parts.rglob("*.png"))[0])))
    assert not isinstance(answer, library.Bundle)
    said = tuple(
        name
        for name, p, threshold in zip(multi.classes, answer.probabilities, manifest.thresholds, strict=True)  # type: ignore[union-attr]
        if p >= threshold
    )
    assert answer.labels == said  # type: ignore[union-attr]


def test_predictions_of_the_line_are_those_of_the_run(
    multi: library.Run, table: Path, cvtune: Command, tmp_path: Path
) -> None:
    wanted = rows(multi.path / "predictions-test.csv")
    paths = [row["path"] if Path(row["path"]).is_absolute() else table.parent / row["path"] for row in wanted]
    code, _, _ = cvtune("predict", multi.path, *paths, "--csv", tmp_path / "p.csv")
    assert code == 0
    for got, row in zip(rows(tmp_path / "p.csv"), wanted, strict=True):
        same = row.keys() - {"path", "truth"}
        assert {key: got[key] for key in same} == {key: row[key] for key in same}
        assert got.keys() - same == {"path", "decision", "novelty", "reason"}


def test_evaluate_a_table(multi: library.Run, table: Path, cvtune: Command) -> None:
    code, out, _ = cvtune("evaluate", multi.path, table)
    assert code == 0
    assert "images with every label right" in out
    assert "average precision" in out


def test_one_label_from_a_table_equals_the_folder(parts: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "label"))
        writer.writerows((str(path), path.parent.name) for path in sorted(parts.rglob("*.png")))
    run = library.fit(file, out=tmp_path / "run", **PROBE_ONLY)
    assert run.classes == ("dent", "ok", "scratch", "stain")
    assert run.metrics["task"] == "single"


# ---- merging and ignoring


def test_merged_and_ignored_classes(parts: Path, cvtune: Command, tmp_path: Path) -> None:
    run = library.fit(
        parts, out=tmp_path / "run", merge={"defect": ["dent", "scratch"]}, ignore=["stain"], **PROBE_ONLY
    )
    assert run.classes == ("defect", "ok")
    code, out, _ = cvtune("evaluate", run.path, parts)  # the run knows what it merged
    assert code == 0
    assert "72 images right" in out


# ---- folds


def test_folds_give_every_image_an_answer(parts: Path, tmp_path: Path) -> None:
    flags = {**QUICK, "train.tail.steps": 4, "train.all.steps": 0, "train.workers": 0}
    run = library.fit(parts, out=tmp_path / "run", folds=3, group_by=r"(p\d+)-", **flags)
    answers = rows(run.path / "predictions-folds.csv")
    assert len(answers) == 96
    assert run.metrics["folds"]["n"] == 96
    assert "test" not in run.metrics
    folds = rows(run.path / "folds.csv")
    assert {row["fold"] for row in folds} == {"1", "2", "3"}
    assert len(tree(run.path / "folds.json")) == 3
    assert {row["side"] for row in rows(run.path / "split.csv")} == {"train"}
    parity = run.bundle.manifest.parity
    assert parity["images"] == 96  # the bundle is compared on all images
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "3 folds" in page
    assert "cross-validat" in page


# ---- deep images


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12-bit pictures in 16-bit PNGs: a bright bar is left or right; at 8 bits nothing of it would be left."""
    folder: Path = tmp_path_factory.mktemp("deep")
    rng = np.random.default_rng(0)
    for label, place in (("left", 8), ("right", 40)):
        (folder / label).mkdir()
        for number in range(24):
            pixels = rng.normal(300, 20, (64, 64))
            pixels[:, place : place + 16] += 100  # 400 of 65535: less than two of 256 grey levels
            data = cv2.imencode(".png", np.clip(pixels, 0, 4095).astype(np.uint16))[1]
            (folder / label / f"{number}.png").write_bytes(data.tobytes())
    return folder


def test_deep_images_keep_their_depth_to_the_line(deep: Path, cvtune: Command, tmp_path: Path) -> None:
    run = library.fit(deep, out=tmp_path / "run", **PROBE_ONLY)
    manifest = Bundle(run.path / "bundle").manifest
    assert manifest.reading["pixels"] == "uint16"
    assert manifest.window is not None
    low, high = manifest.window
    assert 100 < low < 300 < 400 < high < 600
    assert run.metrics["test"]["accuracy"] == 1.0
    frame = read_image(deep / "left" / "0.png", ReadOptions(pixels="uint16"))
    assert run.bundle.predict(frame.pixels).label == "left"
    given = library.fit(deep, out=tmp_path / "given", window=(0, 4095), **PROBE_ONLY)
    assert Bundle(given.path / "bundle").manifest.window == (0, 4095)
    assert "0 is black, 4095 is white: as asked" in (given.path / "summary.txt").read_text(encoding="utf-8")


# ---- files in unknown hands


def test_untrusted_files_are_decoded_in_a_child_with_the_same_result(
    parts: Path, cvtune: Command, tmp_path: Path
) -> None:
    plain = library.fit(parts, out=tmp_path / "plain", settings={"data.cache_gb": 0}, **PROBE_ONLY)
    guarded = library.fit(parts, out=tmp_path / "guarded", untrusted=True, settings={"data.cache_gb": 0}, **PROBE_ONLY)
    assert (plain.path / "weights.safetensors").read_bytes() == (guarded.path / "weights.safetensors").read_bytes()
    code, out, _ = cvtune("predict", guarded.path, parts / "ok", "--untrusted")
    assert code == 0
    assert len(out.splitlines()) == 24
