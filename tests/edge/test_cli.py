from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from cvtune_edge import Bundle, CvtuneError, Prediction
from cvtune_edge.cli import main, predict_command
from PIL import Image

from tests.edge.conftest import CLASSES, MakeBundle, tiny_model


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(2)
    for i in (10, 2, 1):
        Image.fromarray(random.integers(0, 256, (8, 9, 3), np.uint8)).save(folder / f"{i}, naïve.png")
    return folder


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, list[str], list[str]]:
    code = main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def test_plain_lines(bundle_folder: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "predict", bundle_folder, images, "--threads", 1)
    assert (code, err) == (0, [])
    assert [line.split("  ")[0] for line in out] == [f"{images.as_posix()}/{i}, naïve.png" for i in (1, 2, 10)]
    first = Bundle(bundle_folder).predict(images / "1, naïve.png")
    assert out[0] == f"{first.path}  {first.label}  {first.probability:.3f}"


def test_table_holds_the_bits_of_the_bundle(
    bundle_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "answers.csv"
    code, out, _ = run(capsys, "predict", bundle_folder, images, "--csv", table)
    assert (code, len(out)) == (0, 3)
    assert b"\r" not in table.read_bytes()
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["path", "label", "probability", "p:no", "p:1e3", "p:Öse"]
    for cells in rows[1:]:
        answer = Bundle(bundle_folder).predict(cells[0])
        assert cells[1] == answer.label
        assert np.array(cells[3:], np.float32).tobytes() == answer.probabilities.tobytes()
    _, out, _ = run(capsys, "predict", bundle_folder, images, "--csv", "-")
    assert list(csv.reader(out)) == rows


def test_json_lines(bundle_folder: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "predict", bundle_folder, images / "2, naïve.png", "--json")
    answer = Bundle(bundle_folder).predict(images / "2, naïve.png")
    tree = json.loads(out[0])
    assert (code, len(out)) == (0, 1)
    assert list(tree) == ["path", "label", "probability", "probabilities"]
    assert tree["path"] == answer.path
    assert list(tree["probabilities"]) == CLASSES
    assert np.array(list(tree["probabilities"].values()), np.float32).tobytes() == answer.probabilities.tobytes()


def test_several_labels(
    make_bundle: MakeBundle, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def bundle(*thresholds: float) -> Path:
        return make_bundle(model=tiny_model(CLASSES, task="multi"), task="multi", thresholds=thresholds)

    path = images / "1, naïve.png"
    highest = f"{Bundle(bundle(0, 1, 0)).predict(path).probability:.3f}"
    _, out, _ = run(capsys, "predict", bundle(0, 1, 0), path)
    assert out == [f"{path.as_posix()}  no;Öse  {highest}"]
    _, out, _ = run(capsys, "predict", bundle(0, 1, 0), path, "--json")
    tree = json.loads(out[0])
    assert (tree["label"], tree["labels"]) == ("no;Öse", ["no", "Öse"])
    assert tree["probability"] == max(tree["probabilities"].values())
    _, out, _ = run(capsys, "predict", bundle(0, 1, 0), path, "--csv", "-")
    assert next(csv.reader(out[1:]))[1] == "no;Öse"
    _, out, _ = run(capsys, "predict", bundle(1, 1, 1), path)
    assert out == [f"{path.as_posix()}  -  {highest}"]
    _, out, _ = run(capsys, "predict", bundle(1, 1, 1), path, "--json")
    assert (json.loads(out[0])["label"], json.loads(out[0])["labels"]) == ("", [])
    _, out, _ = run(capsys, "predict", bundle(1, 1, 1), path, "--csv", "-")
    assert next(csv.reader(out[1:]))[1] == ""
    _, out, _ = run(capsys, "info", bundle(0, 0.25, 1))
    facts = {line[:15].strip(): line[16:] for line in out}
    assert (facts["task"], facts["thresholds"], facts["window"]) == ("multi", "0, 0.25, 1", "-")
    assert facts["reading"] == "pixels uint8, background 255, 255, 255"


def test_untrusted_images(bundle_folder: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    trusted = run(capsys, "predict", bundle_folder, images)
    assert run(capsys, "predict", bundle_folder, images, "--untrusted") == trusted
    assert (trusted[0], len(trusted[1])) == (4, 3)


def test_unreadable_images_and_notes_are_counted(
    bundle_folder: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "3.ppm").write_bytes(b"")
    (images / "notes.txt").write_text("x", encoding="utf-8")
    cv2.imwrite(str(images / "deep.png"), np.full((4, 4), 60000, np.uint16))
    code, out, err = run(capsys, "predict", bundle_folder, images)
    assert (code, len(out)) == (4, 4)
    assert err == [
        f"unreadable: {images.as_posix()}/3.ppm: empty file (0 bytes)",
        "1 of 5 images: 16-bit, read at 8 bits",
        "passed over, not images: 1",
        "1 of 5 images could not be read",
    ]


def test_bad_input_is_exit_2_with_a_hint(
    bundle_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: list[tuple[list[object], list[str] | None]] = [
        ([bundle_folder, "x", "y"], ["error: x: no such file or folder", "y: no such file or folder"]),
        ([bundle_folder, empty], [f"error: no image in {empty.as_posix()}"]),
        ([images, images], [f"error: {images.as_posix()} is not a cvtune bundle: it has no manifest.json"]),
        ([bundle_folder, images, "--csv", "-", "--json"], ["error: --csv - and --json both write to stdout"]),
        ([bundle_folder, images, "--csv", tmp_path / "no" / "x.csv"], None),
    ]
    for args, expected in cases:
        code, out, err = run(capsys, "predict", *args)
        assert (code, out) == (2, [])
        assert err[-1].startswith("hint: ")
        if expected is not None:
            assert err[:-1] == expected
    assert "x.csv: cannot be written (No such file or directory)" in err[0]


@pytest.mark.parametrize("args", [[], ["predict"], ["predict", "b", "p", "--threads", "0"], ["fit"]])
def test_wrong_usage_is_exit_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert "usage: cvtune-edge" in capsys.readouterr().err


def test_info(make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(roi=[1, 2, 30, 40])
    code, out, _ = run(capsys, "info", folder)
    facts = {line[:15].strip(): line[16:] for line in out}
    assert code == 0
    assert facts["classes"] == "no, 1e3, Öse"
    assert facts["roi"] == "1, 2, 30, 40"
    assert facts["frame_size"] == "-"
    assert facts["parity"] == "images 12, worst 1e-06, ties 0"
    assert facts["verified"] == "1 of 1 files"
    _, out, _ = run(capsys, "info", folder, "--json")
    assert json.loads("\n".join(out))["classes"] == CLASSES


def test_the_function_behind_writes_where_it_is_told(bundle_folder: Path, images: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    assert predict_command(bundle_folder, [images], out=out, err=err) == 0
    assert len(out.getvalue().splitlines()) == 3
    with pytest.raises(CvtuneError, match="gone: no such file or folder"):
        predict_command(bundle_folder, ["gone"], out=out, err=err)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_a_name_that_is_no_utf8(bundle_folder: Path, images: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/w\xfcrfel.png"))
    (images / "1, naïve.png").rename(odd)
    table = tmp_path / "answers.csv"
    for flags in (["--csv", table], ["--json"], ["--csv", "-"]):
        command = [sys.executable, "-m", "cvtune_edge", "predict", bundle_folder, odd, *flags]
        done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"})
        assert done.stdout
        assert not done.stderr
    assert b"/w\xfcrfel.png," in table.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE")
def test_a_closed_pipe_ends_quietly(bundle_folder: Path, images: Path) -> None:
    args = [str(images)] * 400
    command = [sys.executable, "-m", "cvtune_edge", "predict", str(bundle_folder), *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_ctrl_c_is_exit_130(bundle_folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Prediction:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "_answer", interrupted)
    assert main(["predict", str(bundle_folder), str(images)]) == 130
