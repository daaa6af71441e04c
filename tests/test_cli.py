from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from cvtune import __version__, cli
from tests.test_rundir import held

VERBS = ("fit", "predict", "evaluate", "report", "show", "doctor")


class Result(NamedTuple):
    code: object
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def cvtune(capsys: pytest.CaptureFixture[str]) -> Command:
    """`cvtune("fit", folder)` runs the command line in this process."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return Result(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """`folder(ok=3, dent=2)`: so many small pictures in these class folders."""

    def make(**counts: int) -> Path:
        for label, count in counts.items():
            (tmp_path / "parts" / label).mkdir(parents=True)
            for number in range(count):
                write_picture(
                    tmp_path / "parts" / label / f"{number}.png", seed=zlib.crc32(f"{label} {number}".encode())
                )
        return tmp_path / "parts"

    return make


def write_picture(path: Path, *, seed: int = 0, height: int = 24, width: int = 24) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def first_picture(parts: Path) -> Path:
    return min(parts.rglob("*.png"))


# ---- help and version


def test_help_names_every_verb(cvtune: Command) -> None:
    code, out, err = cvtune("--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: cvtune [OPTIONS] COMMAND [ARGS]...")
    assert [verb for verb in VERBS if f"\n  {verb} " not in out] == []


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str, cvtune: Command) -> None:
    code, out, err = cvtune(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: cvtune {verb} ")
    options = [line for line in out.splitlines() if line.startswith("  -")]
    assert [line for line in options if len(line.split()) < 3] == [], "an option without a word of explanation"


def test_the_options_that_scripts_rely_on(cvtune: Command) -> None:
    promised = ("--out", "--preset", "--backbone", "--weights", "--budget", "--seed", "--config")
    assert [option for option in promised if option not in cvtune("fit", "--help").out] == []
    assert "--csv" in cvtune("predict", "--help").out
    assert "--json" in cvtune("predict", "--help").out
    assert "--json" in cvtune("evaluate", "--help").out


def test_version(cvtune: Command) -> None:
    assert cvtune("--version") == (0, f"cvtune {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["fitt"], "No such command 'fitt'."),
        (["fit"], "a fit needs a folder, or a run to resume, and not both"),
        (["fit", "parts", "--sed", "1"], "No such option: --sed"),
        (["fit", "parts", "--seed", "one"], "Invalid value for '--seed'"),
        (["predict", "bundle"], "Missing argument 'PATH'."),
    ],
)
def test_wrong_usage(arguments: list[str], sentence: str, cvtune: Command) -> None:
    code, out, err = cvtune(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err


# ---- errors of a fit: the sentence, the hint, exit code 2, nothing written


def refused(result: Result, *lines: str) -> None:
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: " + "\n".join(lines) + "\n"


CLASS_FOLDERS = "hint: put the images of each class into its own folder: parts/ok, parts/scratch"
EXPECTED_FOLDER = (
    "hint: expected a folder with one folder a class: parts/ok, parts/scratch, or a table: labels.csv, labels.parquet"
)


def test_folder_missing(cvtune: Command, tmp_path: Path) -> None:
    refused(cvtune("fit", tmp_path / "prats"), f"{tmp_path / 'prats'}: no such folder", EXPECTED_FOLDER)


def test_folder_is_a_file(cvtune: Command, tmp_path: Path) -> None:
    file = write_picture(tmp_path / "ok.png")
    refused(cvtune("fit", file), f"{file}: is a file, not a folder", EXPECTED_FOLDER)


def test_folder_empty(cvtune: Command, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    refused(cvtune("fit", tmp_path / "parts"), f"{tmp_path / 'parts'}: the folder is empty", EXPECTED_FOLDER)


def test_one_class_only(cvtune: Command, folder: Callable[..., Path]) -> None:
    parts = folder(ok=3)
    refused(
        cvtune("fit", parts),
        f"{parts}: only one class, 'ok' (3 images); expected at least two",
        CLASS_FOLDERS,
    )


def test_fewer_than_two_images_in_classes(cvtune: Command, folder: Callable[..., Path]) -> None:
    parts = folder(ok=3, dent=1, stain=1)
    refused(
        cvtune("fit", parts),
        f"{parts}: every class needs at least 2 images, one to learn from and one to check: "
        "'dent' has 1, 'stain' has 1",
        "hint: add images of these classes, or leave them out: --ignore",
    )


def test_no_image(cvtune: Command, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    for label in ("dent", "ok"):
        (parts / label).mkdir(parents=True)
    (parts / "dent" / "1.png").write_text("no picture", encoding="utf-8")
    (parts / "ok" / "1.png").touch()
    refused(
        cvtune("fit", parts),
        f"{parts}: no readable image in class folders or a table of labels",
        "4 left out:",
        "  dent: a class folder without any image",
        "  dent/1.png: a text file, not an image that is read",
        "  ok: a class folder without any image",
        "  ok/1.png: empty file",
        CLASS_FOLDERS,
    )


def test_no_readable_image(cvtune: Command, folder: Callable[..., Path], tmp_path: Path) -> None:
    parts = folder(ok=2, dent=2)
    for file in parts.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:60])  # the signature and the header only: seen when it is decoded
    code, out, err = cvtune("fit", parts, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    first, second, *rest = err.splitlines()
    assert first == f"error: {parts}: no readable image in class folders or a table of labels"
    assert second == "4 left out:"
    assert [line.split(":")[0] for line in rest] == ["  dent/0.png", "  dent/1.png", "  ok/0.png", "  ok/1.png", "hint"]
    assert not (tmp_path / "run").exists()


def test_unknown_backbone(cvtune: Command, folder: Callable[..., Path]) -> None:
    code, _, err = cvtune("fit", folder(ok=2, dent=2), "--backbone", "resnet81")
    assert code == 2
    assert err.splitlines()[0] == "error: unknown backbone 'resnet81'"
    assert err.splitlines()[1].startswith("hint: did you mean 'resnet18'")


def test_weights_out_of_reach(cvtune: Command, folder: Callable[..., Path]) -> None:
    code, _, err = cvtune("fit", folder(ok=2, dent=2), "--backbone", "resnet18")
    assert code == 2
    assert err.startswith("error: no pretrained weights of resnet18 within reach; looked in:\n")
    assert "--weights FILE" in err.splitlines()[-1]
    assert "--from-scratch" in err.splitlines()[-1]


def test_every_problem_of_a_config_file_at_once(cvtune: Command, folder: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("sed = 1\n[train]\nbatchsize = 8\nwarmup = 2\n[train.tail]\nstep = 3\n", encoding="utf-8")
    code, out, err = cvtune("fit", folder(ok=2, dent=2), "--config", file)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == f"error: 4 problems in the settings from {file}:"
    assert sorted(lines[1:-1]) == [
        "  sed: unknown key, did you mean 'seed'?",
        "  train.batchsize: unknown key, did you mean 'train.batch_size'?",
        "  train.tail.step: unknown key, did you mean 'train.tail.steps'?",
        "  train.warmup = 2: input should be less than 1",
    ]
    assert lines[-1] == "hint: configs/default.toml lists every key with what it does"


def test_config_file_missing(cvtune: Command, folder: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    refused(
        cvtune("fit", folder(ok=2, dent=2), "--config", file),
        f"{file}: no such config file",
        "hint: check the path given to --config",
    )


def test_unknown_preset(cvtune: Command, folder: Callable[..., Path]) -> None:
    refused(
        cvtune("fit", folder(ok=2, dent=2), "--preset", "defect"),
        "unknown preset 'defect'; there are: auto, default, defects, traffic-signs, xray",
        "hint: did you mean 'defects'?",
    )


@pytest.mark.parametrize("roi", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4"])
def test_roi_that_is_no_box(roi: str, cvtune: Command, folder: Callable[..., Path]) -> None:
    refused(
        cvtune("fit", folder(ok=2, dent=2), "--roi", roi),
        f"--roi '{roi}': expected x,y,width,height in pixels",
        "hint: for example --roi 100,80,640,480",
    )


def test_roi_that_makes_no_sense(cvtune: Command, folder: Callable[..., Path]) -> None:
    refused(
        cvtune("fit", folder(ok=2, dent=2), "--roi", "-1,0,8,0"),
        "roi (-1, 0, 8, 0): expected x,y,width,height with x, y at least 0 and width, height at least 1",
        "hint: see [image] in configs/default.toml",
    )


def test_roi_outside_the_images(cvtune: Command, folder: Callable[..., Path], tmp_path: Path) -> None:
    parts = folder(ok=2, dent=1)
    write_picture(parts / "dent" / "wide.png", width=90)
    refused(
        cvtune("fit", parts, "--roi", "10,0,30,20", "--out", tmp_path / "run"),
        "3 of 4 images do not fit the region to look at:",
        *(
            f"  {path}: 24 x 24 pixels, too small for the roi 10,0,30,20"
            for path in ("dent/0.png", "ok/0.png", "ok/1.png")
        ),
        "hint: use frames of one size, or change --roi or the mask",
    )
    assert not (tmp_path / "run").exists()


def test_mask_missing(cvtune: Command, folder: Callable[..., Path], tmp_path: Path) -> None:
    code, _, err = cvtune("fit", folder(ok=2, dent=2), "--mask", tmp_path / "mask.png")
    assert code == 2
    assert err.startswith(f"error: mask {(tmp_path / 'mask.png').as_posix()}: ")
    assert err.endswith("hint: expected an image of the frame's size, white where to look\n")


@pytest.mark.parametrize("budget", ["5 days", "-1m", "abc", "nan", "0"])
def test_budget_that_is_no_duration(budget: str, cvtune: Command, folder: Callable[..., Path]) -> None:
    refused(
        cvtune("fit", folder(ok=2, dent=2), "--budget", budget),
        f"--budget '{budget}' is no duration; expected 30s, 5m or 2h",
    )


GROUP_HINT = r"hint: for files like ok/part12_view3.png: --group-by '(part\d+)_'; for ok/part12/view3.png: level:1"


@pytest.mark.parametrize(
    "pattern, sentence",
    [
        ("(part", "--group-by '(part' is no regular expression: missing ), unterminated subpattern at position 0"),
        (r"part\d", r"--group-by 'part\d' has no group in parentheses to take the name from"),
        (r"(part\d+)_", r"--group-by '(part\d+)_' matches none of the 4 paths, for example 'dent/0.png'"),
    ],
)
def test_group_by(pattern: str, sentence: str, cvtune: Command, folder: Callable[..., Path]) -> None:
    refused(cvtune("fit", folder(ok=2, dent=2), "--group-by", pattern), sentence, GROUP_HINT)


def test_run_directory_in_use(cvtune: Command, folder: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held(run):
        refused(
            cvtune("fit", folder(ok=2, dent=2), "--out", run),
            f"{run} is in use by another cvtune process",
            "hint: wait until it ends, or choose another folder with --out",
        )


def test_run_directory_not_empty(cvtune: Command, parts: Path, quick_run: Path) -> None:
    before = sorted(quick_run.rglob("*"))
    refused(
        cvtune("fit", parts, "--out", quick_run),
        f"{quick_run} is not empty; a run never writes over anything",
        "hint: choose another folder with --out, or delete this one yourself",
    )
    assert sorted(quick_run.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt", reason="a file in the way is another error there")
def test_run_directory_that_cannot_be_made(cvtune: Command, folder: Callable[..., Path], tmp_path: Path) -> None:
    file = write_picture(tmp_path / "file.png")
    code, _, err = cvtune("fit", folder(ok=2, dent=2), "--out", file / "run")
    assert code == 2
    assert err.startswith("error: ")
    assert str(file / "run") in err


# ---- a fit that works


def test_few_images_are_a_warning(cvtune: Command, parts: Path, quick_config: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "parts", ignore=lambda _, names: [n for n in names if n in ("scratch", "stain")])
    for surplus in sorted((tmp_path / "parts" / "dent").iterdir())[5:]:
        surplus.unlink()
    code, out, _ = cvtune("fit", tmp_path / "parts", "--config", quick_config, "--out", tmp_path / "run")
    assert code == 0
    words = " ".join(out.split())
    assert "fewer than 8 images, so figures for the class say next to nothing: 'dent' (5)" in words
    assert "calib is val: class 'dent' has 5 images to train from, 6 are needed" in words
    findings = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))["findings"]
    assert ("few_images", "warning") in {(one["code"], one["severity"]) for one in findings}
    assert out == (tmp_path / "run" / "summary.txt").read_text(encoding="utf-8")


def test_quiet_prints_nothing(parts: Path, quick_config: Path, tmp_path: Path) -> None:
    """In a process of its own, with every warning on: libraries must be silent too."""
    done = subprocess.run(
        [sys.executable, "-m", "cvtune", "fit", str(parts), "--config", str(quick_config), "--quiet"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")
    assert (tmp_path / "runs" / "parts-1" / "DONE").is_file(), "the place without --out"


# ---- the other verbs


def test_predict_plain_and_table(cvtune: Command, parts: Path, quick_run: Path, tmp_path: Path) -> None:
    table = tmp_path / "answers.csv"
    code, out, err = cvtune("predict", quick_run, parts / "ok", "--csv", table, "--threads", 1)
    assert code == 0
    assert len(out.splitlines()) == 24
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.reader(handle))
    first, last = ["path", "label", "probability"], ["decision", "novelty", "reason"]
    assert rows[0] == [*first, "p:dent", "p:ok", "p:scratch", "p:stain", *last]
    for (path, label, share, *_, said, _, reason), line in zip(rows[1:], out.splitlines(), strict=True):
        assert line == f"{path}  {said}  {label}  {float(share):.3f}" + (f"  ({reason})" if reason else "")
    counts = Counter(row[-3] for row in rows[1:])
    assert err.splitlines() == [f"{said}: {n} of 24 images" for said, n in sorted(counts.items())]


def test_predict_json(cvtune: Command, parts: Path, quick_run: Path) -> None:
    code, out, _ = cvtune("predict", quick_run / "bundle", first_picture(parts), "--json")
    answer = json.loads(out)
    assert code == 0
    decided = ["said", "decision", "ok", "reason", "novelty"]
    assert list(answer) == ["path", *decided, "label", "probability", "probabilities"]
    assert list(answer["probabilities"]) == ["dent", "ok", "scratch", "stain"]


def test_predict_goes_on_after_an_unreadable_file(
    cvtune: Command, parts: Path, quick_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").touch()
    shutil.copy(first_picture(parts), tmp_path / "b.png")
    code, out, err = cvtune("predict", quick_run, tmp_path)
    assert code == 4
    assert out.startswith(f"{(tmp_path / 'b.png').as_posix()}  ")
    said = out.split("  ")[1]
    assert err.splitlines() == [
        f"unreadable: {(tmp_path / 'a.png').as_posix()}: empty file (0 bytes)",
        f"{said}: 1 of 2 images",
        "1 of 2 images could not be read",
    ]


def test_verify_says_whether_this_machine_answers_as_the_lab_did(
    cvtune: Command, quick_run: Path, tmp_path: Path
) -> None:
    code, out, err = cvtune("verify", quick_run)
    assert (code, err) == (0, "")
    assert re.fullmatch(
        r"(\d+) of \1 files are as exported; (\d+) of \2 golden frames decided as in the lab, .*\n", out
    )
    bundle = shutil.copytree(quick_run / "bundle", tmp_path / "bundle")
    (bundle / "golden" / "00.bin").unlink()
    refused(
        cvtune("verify", bundle),
        f"{bundle.as_posix()}: 1 problem",
        "  golden/00.bin: missing",
        "hint: export the bundle again with cvtune, or copy the whole folder again",
    )


def test_bench_prints_a_table(cvtune: Command, quick_run: Path, tmp_path: Path) -> None:
    flags = ("--threads", "1", "--batch", "1,2", "--seconds", "0.3", "--size", "64x48")
    code, out, err = cvtune("bench", quick_run / "bundle", *flags, "--json", tmp_path / "found.json")
    assert code == 0
    assert err.startswith("measuring: memory and start\n")
    assert "one frame of 64 x 48 takes " in out
    assert len(json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]) == 2
    assert cvtune("bench", quick_run / "bundle", *flags, "--quiet")[1:] == ("", "")
    for flag, value, message in (
        ("--threads", "two", "--threads two: expected whole numbers with ',' between them"),
        ("--size", "640", "--size 640: expected width and height, 640x480"),
        ("--batch", "0", "threads None, batches (0,), 20.0 seconds, size None: expected numbers of at least 1"),
    ):
        code, _, err = cvtune("bench", quick_run, flag, value)
        assert (code, err.splitlines()[0]) == (2, f"error: {message}")


@pytest.mark.parametrize("verb", ["predict", "verify", "bench"])
def test_a_provider_that_there_is_not_is_refused(
    verb: str, cvtune: Command, parts: Path, quick_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cvtune_edge.session.ort.get_available_providers", lambda: ["CPUExecutionProvider"])
    pictures = [parts] if verb == "predict" else []
    code, out, err = cvtune(verb, quick_run, *pictures, "--provider", "TensorRT")
    assert (code, out) == (2, "")
    assert "has no provider tensorrt, it has cpu\nhint: install the package onnxruntime-gpu" in err


def test_bundle_that_is_not_ours(cvtune: Command, parts: Path) -> None:
    refused(
        cvtune("predict", parts, first_picture(parts)),
        f"{parts.as_posix()} is not a cvtune bundle: it has no manifest.json",
        "hint: name a folder that `cvtune fit` wrote, for example runs/parts-1/bundle",
    )


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_bundle_that_was_changed(verb: str, cvtune: Command, parts: Path, quick_run: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(quick_run / "bundle", tmp_path / "bundle")
    model = bundle / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    code, out, err = cvtune(verb, bundle, parts)
    assert (code, out) == (2, "")
    said, hint = err.splitlines()
    assert said.startswith(f"error: {bundle.as_posix()}: model.onnx: changed after the export (sha256 ")
    assert hint == "hint: export the bundle again with cvtune, or copy the whole folder again"


def test_evaluate(cvtune: Command, parts: Path, quick_run: Path, tmp_path: Path) -> None:
    code, out, err = cvtune("evaluate", quick_run, parts, "--json", tmp_path / "figures.json")
    assert (code, err) == (0, "")
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert {"side": "all", "n": 96, "skipped": []}.items() <= figures.items()
    assert out.startswith(f"{figures['right']} of 96 images right: {figures['accuracy']:.3f} [")
    assert "(all of it)" in out
    escapes, overkill = (figures["decisions"][name] for name in ("escapes", "overkill"))
    assert (escapes["n"], overkill["n"]) == (72, 24)
    assert f"by its limits: escape {escapes['k']} of 72 (at most " in out
    start = out.splitlines().index("") + 1
    assert [line.split()[0] for line in out.splitlines()[start:]] == ["class", "dent", "ok", "scratch", "stain"]


def test_evaluate_quietly(cvtune: Command, parts: Path, quick_run: Path) -> None:
    assert cvtune("evaluate", quick_run, parts, "--quiet") == (0, "", "")


def test_evaluate_counts_what_it_cannot_read(cvtune: Command, parts: Path, quick_run: Path, tmp_path: Path) -> None:
    (tmp_path / "ok").mkdir()
    shutil.copy(first_picture(parts), tmp_path / "ok" / "1.png")
    (tmp_path / "ok" / ".DS_Store").write_bytes(b"junk")
    (tmp_path / "ok" / "notes.txt").write_text("not an image", encoding="utf-8")
    code, out, _ = cvtune("evaluate", quick_run, tmp_path)
    assert code == 0, "no image was unreadable"
    assert "2 files not scored:" in out
    (tmp_path / "ok" / "2.png").write_bytes((tmp_path / "ok" / "1.png").read_bytes()[:60])
    code, out, _ = cvtune("evaluate", quick_run, tmp_path)
    assert code == 4
    assert "3 files not scored:" in out
    (tmp_path / "ok" / "1.png").unlink()
    code, out, err = cvtune("evaluate", quick_run, tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path}: none of the 1 images can be read, for example:\n")
    assert "  ok/2.png: " in err


def test_evaluate_refuses_other_classes(cvtune: Command, folder: Callable[..., Path], quick_run: Path) -> None:
    parts = folder(ok=1, rust=1, hole=1)
    refused(
        cvtune("evaluate", quick_run, parts),
        f"{parts}: classes that the model does not know: hole, rust; it knows dent, ok, scratch, stain",
        "hint: rename the folders to the model's classes, merge them (--merge), or leave them out (--ignore)",
    )


def test_report_is_built_again(
    cvtune: Command, quick_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(quick_run, tmp_path / "run")
    (run / "report.html").unlink()
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert cvtune("report", run) == (0, f"{run / 'report.html'}\n", "")
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert opened == []
    cvtune("report", run, "--open")
    assert opened == [(run / "report.html").resolve().as_uri()]


def test_report_of_what_is_no_run(cvtune: Command, parts: Path) -> None:
    refused(
        cvtune("report", parts),
        f"{parts} is not a run: it has no config.toml",
        "hint: name a folder that `cvtune fit` wrote, for example runs/parts-1",
    )


def test_show_prints_the_summary_again(cvtune: Command, quick_run: Path) -> None:
    code, out, err = cvtune("show", quick_run)
    assert (code, err) == (0, "")
    assert out == (quick_run / "summary.txt").read_text(encoding="utf-8")
    names = {line.split()[0] for line in out.splitlines() if not line.startswith("   ")}
    assert {"indexed", "preset", "split", "weights", "probe", "tail", "test", "bundle", "report"} <= names


def test_doctor(cvtune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(write: Callable[[str], object]) -> int:
        write("bad  cv2")
        return 2

    monkeypatch.setattr("cvtune.doctor.doctor", look)
    assert cvtune("doctor") == (2, "bad  cv2\n", "")


def test_a_gate_that_fails_is_exit_code_3(
    cvtune: Command, parts: Path, quick_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cvtune.bundle.gate.WORST", -1.0)
    code, _, err = cvtune("fit", parts, "--config", quick_config, "--out", tmp_path / "run")
    assert code == 3
    assert err.startswith("error: the exported model answers otherwise than the trained one: 0 of 40 decisions differ")
    assert not (tmp_path / "run").exists(), "no model, no run"
