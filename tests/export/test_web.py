"""The page in a browser: it answers as the lab does, refuses what it must, and leaves no old answer on the screen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from cvtune_edge.decision import OperatingPoint
from cvtune_edge.decode import read_image
from cvtune_edge.runtime import Bundle
from numpy.typing import NDArray

from tests.bundle.conftest import Case
from tests.conftest import REPO, load_script
from tests.export.bundles import FRAMES, GOOD, PLAIN, SEVERAL, golden_tree, seal, write_bundle
from tests.export.driving import Driven

Drive = Callable[..., Driven]
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


def names(bundle: Path) -> str:
    """The files of a bundle, for a driver that chooses its folder."""
    return json.dumps([path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()])


def write_png(path: Path, frame: NDArray[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    order = [2, 1, 0, 3][: frame.shape[2]]
    path.write_bytes(cv2.imencode(".png", frame[..., order])[1].tobytes())
    return path


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + orientation.to_bytes(2, "big") + bytes(6)
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


# ---- golden frames


GRAPHS: dict[str, dict[str, Any]] = {
    "test_resnet": {"strange": 0.8},
    "test_vit": {"resize": "pad", "strange": 0.8},
    "test_efficientnet": {"resize": "crop", "roi": (3, 5, 50, 40), "task": "multi", "thresholds": (0.5, 0.4, 0.6, 0.5)},
}


@pytest.mark.parametrize("backbone", GRAPHS)
def test_the_browser_keeps_the_contract(web: None, backbone: str, parts: Path, tmp_path: Path) -> None:
    """Every golden frame of a bundle of cvtune's, with its resize and network, as any client is checked."""
    bundle = tmp_path / "bundle"
    Case(parts, tmp_path / "scratch", backbone=backbone, **GRAPHS[backbone]).export(bundle)
    command = [sys.executable, str(REPO / "export/conformance.py"), "--bundle", str(bundle), "--"]
    client = [sys.executable, str(REPO / "export/clients/web/run.py")]
    done = subprocess.run([*command, *client], capture_output=True, encoding="utf-8", timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    n = len(golden_tree(bundle)["frames"])
    assert n >= 12
    assert f"decisions      {n} of {n} as in the lab" in done.stdout
    assert f"probabilities  {n} of {n} within 0.001" in done.stdout


@pytest.mark.parametrize(
    "options",
    [{"point": PLAIN, "far": None}, {"point": SEVERAL}, {"pixels": "uint16"}, {"pixels": "float32"}],
    ids=["no distance", "several labels", "uint16", "float32"],
)
def test_every_kind_of_bundle_keeps_the_contract(web: None, options: dict[str, Any], tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", **options)
    run, conformance = load_script("export/clients/web/run.py"), load_script("export/conformance.py")
    lines = run.answers(bundle, browser=run.find_browser(), patience=240)
    answers = [conformance.Answer.from_json(line) for line in lines]
    verdict = conformance.judge(Bundle(bundle).manifest.point, conformance.read_golden(bundle), answers, 1e-3)
    assert not verdict.wrong, str(verdict)
    assert len(verdict.frames) == 24


def test_a_runner_says_why_the_page_refuses(
    web: None, tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = Path(shutil.copytree(tiny, tmp_path / "changed"))
    (changed / "golden/05.bin").write_bytes(b"x")
    run = load_script("export/clients/web/run.py")
    assert run.main([str(changed)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: the page refuses the bundle: " in err
    assert "golden/05.bin: changed after the export" in err
    assert run.main([str(tiny), "--browser", "no-such-browser"]) == 2
    assert "no browser: none of no-such-browser is installed" in capsys.readouterr().err


def test_golden_frames_that_are_answered_otherwise_are_refused(driven: Drive, tiny: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(tiny, tmp_path / "changed"))
    tree = golden_tree(changed)
    tree["frames"][2]["decision"] = 1 if tree["frames"][2]["decision"] != 1 else 0
    tree["frames"][4]["probabilities"][0] += 0.021
    (changed / "golden/golden.json").write_text(json.dumps(tree), encoding="utf-8")
    seal(changed)
    (seen,) = driven('await state("refused"); return [look()]', folders={"bundle": changed}).result
    assert (
        "this browser answers otherwise than the lab: 23 of 24 golden frames decided as in the lab" in seen["refused"]
    )
    assert (
        "largest difference of a probability 2.1e-2 (at most 0.02 is allowed); for example golden/02.bin"
        in (seen["refused"])
    )
    assert not seen["work"]


# ---- pictures


def test_a_person_reads_what_the_line_says(driven: Drive, tiny: Path, tmp_path: Path) -> None:
    pictures = [write_png(tmp_path / f"pictures/{i}.png", frame) for i, frame in enumerate(FRAMES)]
    bundle = Bundle(tiny, threads=1)
    expected = bundle.decide(pictures)
    assert {one.said for one in expected} >= {"OK", "REVIEW", "NG (Öse)"}
    driver = f"""
    await state("ready");
    const seen = [look()];
    for (let i = 0; i < {len(pictures)}; i++) seen.push(await give(`pictures/${{i}}.png`));
    return [text("heat-note"), ...seen];
    """
    done = driven(driver, folders={"bundle": tiny, "pictures": tmp_path / "pictures"})
    done.assert_quiet()
    note, start, *seen = done.result
    assert note == "This bundle gives no heat map."
    assert start["said"] == "No picture yet"
    assert start["state"].startswith(
        "26 of 26 files as exported; 24 of 24 golden frames decided as in the lab, largest"
    )
    for one, wanted in zip(seen, expected, strict=True):
        assert (one["said"], one["reason"]) == (wanted.said, wanted.reason)
        kind = {"OK": "good", "REVIEW": "review"}.get(wanted.said, "bad")
        assert one["kind"] == kind
        assert one["spoken"].startswith(f"Decision: {wanted.said}.")
        shares = [float(text.replace("< 0.001", "0")) for text in one["values"]]
        score = 1 - wanted.prediction.probabilities[0]
        assert shares == pytest.approx([score, *wanted.prediction.probabilities], abs=0.0011)
        assert re.fullmatch(r"answered in \d+ ms", one["took"])


def test_files_become_the_frames_that_the_lab_sees(driven: Drive, tiny: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    colours = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    smooth = cv2.resize(random.integers(0, 256, (3, 4, 3), dtype=np.uint8), (48, 32), interpolation=cv2.INTER_CUBIC)
    alpha = random.integers(0, 256, (5, 7, 1), dtype=np.uint8)
    write_png(folder / "plain.png", colours)
    write_png(folder / "grey.png", np.repeat(colours[:, :, :1], 3, axis=2))
    write_png(folder / "alpha.png", np.dstack([colours, alpha]))
    write_png(folder / "deep.png", colours.astype(np.uint16) * 257)
    (folder / "plain.bmp").write_bytes(cv2.imencode(".bmp", colours)[1].tobytes())
    jpeg = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    for orientation in (1, 3, 6, 8):
        (folder / f"turned-{orientation}.jpg").write_bytes(with_orientation(jpeg, orientation))
    files = sorted(path.name for path in folder.iterdir())
    driver = f"""
    const {{ readPicture, isFaithful }} = await import("./pixels.js");
    const found = {{ faithful: await isFaithful() }};
    for (const name of {json.dumps(files)}) {{
      const file = await fetched(`pictures/${{name}}`, name);
      const {{ width, height, pixels, notes }} = await readPicture(file, [10, 200, 90]);
      found[name] = {{ width, height, notes, pixels: [...pixels] }};
    }}
    return found;
    """
    done = driven(driver, query="", folders={"pictures": folder})
    done.assert_quiet()
    assert done.result.pop("faithful") is True
    options = Bundle(tiny).reading.__class__(background=(10, 200, 90))
    for name, found in done.result.items():
        wanted = read_image(folder / name, options).pixels
        ours = np.array(found["pixels"]).reshape(found["height"], found["width"], 3)
        assert ours.shape == wanted.shape, name
        room = 3 if name.endswith(".jpg") else 1 if name in ("alpha.png", "deep.png") else 0
        assert np.abs(ours - wanted.astype(int)).max() <= room, name
    assert done.result["turned-6.jpg"]["width"] == 32
    assert done.result["alpha.png"]["notes"] == ["transparent pixels laid over the colour 10, 200, 90"]
    assert done.result["deep.png"]["notes"] == ["16 bits, read at 8 bits"]
    assert done.result["plain.png"]["notes"] == []


def test_what_is_not_known_is_never_ok_and_wipes_the_answer_before(driven: Drive, tmp_path: Path) -> None:
    """One picture is OK; whatever comes after it must not leave that on the screen."""
    bundle = write_bundle(tmp_path / "bundle", far=None, vanishing=True, roi=[0, 0, 8, 6])
    folder = tmp_path / "pictures"
    everything_ok = OperatingPoint(GOOD.ok, (0.9,) * 3, (1.0,) * 3)
    bundle = write_bundle(tmp_path / "lenient", everything_ok, far=None, vanishing=True, roi=[0, 0, 8, 6])
    decisions = [frame["decision"] for frame in golden_tree(bundle)["frames"]]
    write_png(folder / "fine.png", FRAMES[decisions.index(0)])
    write_png(folder / "black.png", np.zeros((6, 8, 3), np.uint8))
    write_png(folder / "small.png", np.full((5, 8, 3), 90, np.uint8))
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    (folder / "cut.jpg").write_bytes(whole[:-400])
    (folder / "cut.png").write_bytes((folder / "fine.png").read_bytes()[:-6])
    (folder / "bent.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"nonsense IEND")
    (folder / "text.png").write_bytes(b"no picture at all")
    (folder / "scan.tif").write_bytes(b"II*\0rest")
    wanted = {
        "black.png": ("REVIEW", "the model answers with numbers that are not finite"),
        "small.png": ("REVIEW", "frame of 8 x 5 pixels, the region of interest ends at 8 x 6"),
        "cut.jpg": ("No answer", "cut.jpg: truncated: the end of the JPEG file is missing"),
        "cut.png": ("No answer", "cut.png: truncated: the end of the PNG file is missing"),
        "bent.png": ("No answer", "bent.png: truncated or damaged: cannot be decoded as PNG"),
        "text.png": ("No answer", "text.png: not an image (expected JPEG, PNG, BMP, WebP or GIF)"),
        "scan.tif": ("No answer", "scan.tif: a TIFF file, which browsers do not read; cvtune-edge does"),
    }
    driver = f"""
    await state("ready");
    const seen = {{}};
    for (const name of {json.dumps(list(wanted))}) {{
      const fine = await give("pictures/fine.png");
      seen[name] = [fine.said, await give(`pictures/${{name}}`)];
    }}
    return seen;
    """
    done = driven(driver, folders={"bundle": bundle, "pictures": folder})
    done.assert_quiet()
    for name, (said, reason) in wanted.items():
        before, seen = done.result[name]
        assert before == "OK", "the test shows nothing"
        assert seen["said"] == said, name
        assert seen["reason"].startswith(reason), name
        assert seen["kind"] == ("review" if said == "REVIEW" else "failed")
        assert "OK" not in seen["spoken"]
        assert seen["picture"] is (said == "REVIEW")
        assert seen["values"] is None or name == "black.png"


def test_a_mask_belongs_to_frames_of_one_size(driven: Drive, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", far=None, frame_size=[6, 8])
    write_png(tmp_path / "pictures/turned.png", np.full((8, 6, 3), 90, np.uint8))
    driver = 'await state("ready"); return give("pictures/turned.png")'
    seen = driven(driver, folders={"bundle": bundle, "pictures": tmp_path / "pictures"}).result
    assert (seen["said"], seen["values"]) == ("REVIEW", None)
    assert seen["reason"] == "frame of 6 x 8 pixels, the bundle's mask expects 8 x 6"


def test_a_model_that_contradicts_itself_is_not_believed(driven: Drive) -> None:
    """Answers that no sound graph gives, at the last door before the screen."""
    limits = OperatingPoint((0,), (0.4,) * 3, (0.6,) * 3, novelty=1.0).to_json()
    sound = {"decision": 0, "probabilities": [0.9, 0.05, 0.05], "novelty": 0.5, "ok": True}
    wrong = [
        {"novelty": 2.0},
        {"ok": False},
        {"ok": None},
        {"decision": 1},
        {"decision": 3},
        {"decision": [0, 1, 0]},
        {"decision": 0.5},
        {"probabilities": [0.9, 0.1]},
        {"probabilities": [0.9, "NaN", 0.1]},
        {"novelty": "NaN"},
    ]
    driver = f"""
    const {{ guarded, said, reason }} = await import("./decision.js");
    const alive = (key, value) => (value === "NaN" ? NaN : value);
    const limits = {json.dumps(limits)}, sound = {json.dumps(sound)};
    return JSON.parse({json.dumps(json.dumps(wrong))}, alive).concat([{{}}]).map((change) => {{
      const answer = guarded({{ ...sound, ...change }}, limits);
      return [said(answer.decision, limits, ["a", "b", "c"]), answer.ok, reason(answer, limits, ["a", "b", "c"])];
    }});
    """
    *found, last = driven(driver, query="").result
    assert last == ["OK", True, ""]
    for (said, ok, reason), change in zip(found, wrong, strict=True):
        assert (said, ok) == ("REVIEW", False), change
        assert reason.startswith("the model "), change


def test_the_words_are_those_of_the_line(driven: Drive) -> None:
    """Any decision of any limits, in both languages."""
    random = np.random.default_rng(3)
    classes = ["dent", "ok", "Öse", "1e3"]
    several = OperatingPoint((), (0.2, 0.3, 0.4, 0.1), (0.7, 0.5, 0.6, 0.9), novelty=3.0, several=True)
    points = [
        OperatingPoint((1,), (0.3,) * 4, (0.7,) * 4, novelty=2.5),
        OperatingPoint((1, 2), (0.2, 0.1, 0.1, 0.3), (0.7, 0.9, 0.9, 0.5)),
        OperatingPoint((), (0.0,) * 4, (0.5, 0.4, 0.9, 0.45), novelty=2.0),
        several,
    ]
    cases = []
    for point in points:
        for _ in range(60):
            shares = random.dirichlet([0.6] * 4).astype(np.float32)
            novelty = np.float32(random.choice([0.01, 1.5, 2.25, 123.456, 1e-5, 98765.4]))
            decision = point.decide(shares[None], np.array([novelty]))[0]
            words = (point.said(decision, classes), point.reason(decision, shares, float(novelty), classes))
            numbers = {"decision": decision.tolist(), "probabilities": shares.tolist(), "novelty": float(novelty)}
            cases.append((point.to_json(), numbers, words))
    assert len({words for *_, words in cases}) > 60
    driver = f"""
    const {{ said, reason }} = await import("./decision.js");
    const classes = {json.dumps(classes)};
    return {json.dumps([case[:2] for case in cases])}.map(([limits, answer]) =>
      [said(answer.decision, limits, classes), reason({{ ...answer, trouble: "" }}, limits, classes)]);
    """
    found = driven(driver, query="").result
    for (limits, numbers, words), ours in zip(cases, found, strict=True):
        assert tuple(ours) == words, (limits, numbers)


# ---- bundles


def test_what_is_no_bundle_is_refused_with_its_name(driven: Drive, tiny: Path, tmp_path: Path) -> None:
    """Folders that a person chooses, one after the other, after a bundle whose answer is on the screen."""
    bundles: dict[str, tuple[Path, str]] = {}

    def add(name: str, sentence: str, change: Callable[[Path], object]) -> None:
        folder = Path(shutil.copytree(tiny, tmp_path / name))
        change(folder)
        bundles[name] = (folder, sentence)

    def manifest(**changes: Any) -> Callable[[Path], object]:
        def change(folder: Path) -> None:
            path = folder / "manifest.json"
            tree = {**json.loads(path.read_text(encoding="utf-8")), **changes}
            path.write_text(json.dumps(tree), encoding="utf-8")

        return change

    def model(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], object]:
        def changed(folder: Path) -> None:
            loaded = onnx.load(folder / "model.onnx")
            change(loaded)
            (folder / "model.onnx").write_bytes(loaded.SerializeToString())
            seal(folder)

        return changed

    def file(name: str, data: bytes, *, sealed: bool = False) -> Callable[[Path], object]:
        def change(folder: Path) -> None:
            (folder / name).write_bytes(data)
            if sealed:
                seal(folder)

        return change

    limits = json.loads((tiny / "manifest.json").read_text(encoding="utf-8"))["limits"]
    tampered = "golden/07.bin: changed after the export (sha256 2d711642b726..., expected"
    add("tampered", tampered, file("golden/07.bin", b"x"))
    add("missing", "model.onnx: missing", lambda folder: (folder / "model.onnx").unlink())
    add(
        "bare",
        "bare is not a cvtune bundle: it has no manifest.json",
        lambda folder: (folder / "manifest.json").unlink(),
    )
    add("older", "schema 2, this page reads schema 3, bundles that decide", manifest(schema=2))
    add("words", "manifest.json: cannot be read as JSON", file("manifest.json", b"no"))
    add("list", "not a cvtune manifest, it has no 'schema'", file("manifest.json", b"[]"))
    add("outside", "files = ", manifest(files={"../model.onnx": "0" * 64, "model.onnx": "0" * 64}))
    add("twice", "classes = ", manifest(classes=["a", "a", "b"]))
    add("limits", "limits in the model: ", manifest(limits={**limits, "accept": [0.0] * 3}))
    add("names", "classes in the model: ", manifest(classes=["a", "b", "c"]))
    add("unlimited", "novelty = null: expected a distance where there is a limit of it", manifest(novelty=None))
    add("garbage", "model.onnx: not an ONNX file", file("model.onnx", b"\x3a\xff\xff\xff\xff\x0f", sealed=True))
    add("other", "ok is missing, expected bool [N]", model(lambda one: one.graph.output.remove(one.graph.output[-1])))
    add("operator", "onnxruntime-web cannot load it", model(lambda one: setattr(one.graph.node[0], "op_type", "Evil")))
    add("index", "golden/golden.json: no list of golden frames", file("golden/golden.json", b"{}", sealed=True))
    add("length", "golden/03.bin: 5 bytes, expected 6 x 8 x 3 uint8", file("golden/03.bin", b"12345", sealed=True))
    write_png(tmp_path / "pictures/1.png", FRAMES[0])
    chosen = {name: json.loads(names(folder)) for name, (folder, _) in bundles.items()}
    driver = f"""
    await pick("tiny", {names(tiny)});
    const seen = {{ tiny: await give("pictures/1.png") }};
    for (const [name, files] of Object.entries({json.dumps(chosen)})) {{
      await pick(name, files);
      seen[name] = look();
    }}
    await pick("tiny", {names(tiny)});
    return {{ ...seen, again: look() }};
    """
    folders = {name: folder for name, (folder, _) in bundles.items()}
    done = driven(driver, query="", folders={**folders, "tiny": tiny, "pictures": tmp_path / "pictures"})
    assert all(url.startswith(done.site) for url in done.asked)
    assert done.result["tiny"]["values"], "no answer was on the screen"
    for name, (_, sentence) in bundles.items():
        seen = done.result[name]
        assert sentence in seen["refused"], (name, seen)
        assert "hint: " in seen["refused"]
        assert seen["state"] == "Nothing is decided by it."
        assert (seen["work"], seen["values"], seen["said"]) == (False, None, "No picture yet")
    assert done.result["again"]["work"]
    assert done.result["again"]["refused"] == ""


def test_a_run_is_taken_for_its_bundle_and_other_servers_are_not_asked(
    driven: Drive, tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny, tmp_path / "run/bundle")
    (tmp_path / "run/DONE").write_text("complete\n", encoding="utf-8")
    driver = f"""
    const seen = [look()];
    await pick("run", {names(tmp_path / "run")});
    return [...seen, look()];
    """
    query = "?bundle=" + "http://example.invalid/bundle/".replace(":", "%3A").replace("/", "%2F")
    done = driven(f'await state("refused"); {driver}', query=query, folders={"run": tmp_path / "run"})
    done.assert_quiet()
    refused, taken = done.result
    assert "http://example.invalid/bundle/ is on another server" in refused["refused"]
    assert taken["work"]


def test_hostile_names_are_text(driven: Drive, tmp_path: Path) -> None:
    hostile = ["<img src=x onerror=alert(1)>", "</bdi><script>window.hacked = 1</script>", "javascript:alert(1)\u202e"]
    bundle = write_bundle(tmp_path / "bundle", OperatingPoint((), (0.0,) * 3, (0.0,) * 3), classes=hostile, far=None)
    tree = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    (bundle / "manifest.json").write_text(json.dumps({**tree, "name": hostile[0]}), encoding="utf-8")
    for i, frame in enumerate(FRAMES):
        write_png(tmp_path / f"pictures/{i}<b>.png", frame)
    driver = f"""
    await state("ready");
    const said = [];
    for (let i = 0; i < {len(FRAMES)}; i++) said.push((await give(`pictures/${{i}}<b>.png`)).said);
    const parts = document.querySelectorAll("main img, main script, main b:not(.verdict):not(.bar b), main a").length;
    return {{ said, parts, hacked: window.hacked ?? null, name: text("bundle-name"), about: text("about"),
             file: text("picture-facts") }};
    """
    done = driven(driver, folders={"bundle": bundle, "pictures": tmp_path / "pictures"})
    done.assert_quiet()
    found = done.result
    assert (found["parts"], found["hacked"]) == (0, None)
    assert found["name"] == hostile[0]
    assert set(found["said"]) <= set(hostile)
    assert len(set(found["said"])) > 1
    assert all(name in found["about"] for name in hostile)
    assert found["file"] == "23<b>.png, 8 x 6 pixels"


def test_deep_bundles_are_checked_and_take_no_pictures(driven: Drive, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", pixels="uint16")
    write_png(tmp_path / "pictures/1.png", FRAMES[0])
    driver = """
    await state("ready");
    put("picture-file", [await fetched("pictures/1.png", "1.png")]);
    await sleep(300);
    return { ...look(), closed: ["choose-picture", "camera"].every((id) => one(id).disabled) };
    """
    done = driven(driver, folders={"bundle": bundle, "pictures": tmp_path / "pictures"})
    done.assert_quiet()
    assert "24 of 24 golden frames decided as in the lab" in done.result["state"]
    assert done.result["closed"]
    assert done.result["said"] == "No picture yet"
    assert done.result["reason"].startswith("This bundle takes uint16 frames. Pictures in a browser have 8 bits")


def test_several_labels_are_shown_one_by_one(driven: Drive, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", SEVERAL, far=None)
    pictures = [write_png(tmp_path / f"pictures/{i}.png", frame) for i, frame in enumerate(FRAMES)]
    expected = Bundle(bundle, threads=1).decide(pictures)
    driver = f"""
    await state("ready");
    const seen = [];
    for (let i = 0; i < {len(pictures)}; i++) {{
      const one = await give(`pictures/${{i}}.png`);
      const verdicts = [...document.querySelectorAll("#shares .verdict")].map((part) => part.textContent);
      seen.push({{ ...one, verdicts }});
    }}
    return seen;
    """
    done = driven(driver, folders={"bundle": bundle, "pictures": tmp_path / "pictures"})
    done.assert_quiet()
    for seen, wanted in zip(done.result, expected, strict=True):
        assert isinstance(wanted.decision, tuple)
        assert seen["said"] == (wanted.said.replace(";", ", ") or "No label")
        assert seen["reason"] == wanted.reason
        assert seen["verdicts"] == [{1: "yes", 0: "no", -1: "look"}[one] for one in wanted.decision]
        assert seen["kind"] == ("review" if -1 in wanted.decision else "plain")
    assert len({one.said for one in expected}) > 2


def test_a_heat_map_lies_over_what_the_network_saw(driven: Drive, tmp_path: Path) -> None:
    """The small bundle's map is how bright a pixel is; its network sees the region of interest."""
    bundle = write_bundle(tmp_path / "bundle", far=None, heat=True, roi=[2, 0, 4, 6], region=[2, 0, 4, 6])
    frame = np.zeros((6, 8, 3), np.uint8)
    frame[4, 6] = 255
    write_png(tmp_path / "pictures/spot.png", frame)
    driver = """
    await state("ready");
    const seen = await give("pictures/spot.png");
    const heat = one("heat"), data = heat.getContext("2d").getImageData(0, 0, heat.width, heat.height).data;
    const box = (id) => one(id).getBoundingClientRect();
    const [sheet, hole] = [box("sheet"), box("heat-window")];
    const place = [(hole.left - sheet.left) / sheet.width, hole.width / sheet.width, hole.height / sheet.height];
    one("show-heat").click();
    return { seen, place, size: [heat.width, heat.height], alphas: [...data].filter((_, i) => i % 4 === 3),
             without: look().heat, note: text("heat-note") };
    """
    done = driven(driver, folders={"bundle": bundle, "pictures": tmp_path / "pictures"})
    done.assert_quiet()
    found = done.result
    assert found["seen"]["heat"]
    assert not found["without"]
    likeliest = Bundle(bundle).predict(frame).label
    assert found["note"] == f"Warm: what speaks for {likeliest}."
    assert found["size"] == [8, 6]
    assert [i for i, alpha in enumerate(found["alphas"]) if alpha] == [4 * 8 + 6]
    assert found["place"] == pytest.approx([2 / 8, 4 / 8, 1.0], abs=0.01)


# ---- the camera


def test_the_camera_is_asked_about_until_it_is_stopped(driven: Drive, tiny: Path) -> None:
    driver = """
    await state("ready");
    one("camera").click();
    await until(() => text("took").startsWith("answered"));
    const first = { ...look(), facts: text("picture-facts"), button: text("camera") };
    const before = one("picture").toDataURL();
    await until(() => one("picture").toDataURL() !== before);
    one("camera").click();
    await sleep(300);
    const stopped = { ...look(), button: text("camera"), video: one("video").srcObject };
    one("camera").click();
    await until(() => text("took").startsWith("answered"));
    one("video").pause();  // a camera that hangs
    await until(() => text("said") === "No answer");
    return { first, stopped, hung: look() };
    """
    done = driven(driver, folders={"bundle": tiny}, flags=CAMERA)
    done.assert_quiet()
    first, stopped, hung = (done.result[name] for name in ("first", "stopped", "hung"))
    assert re.fullmatch(r"camera, \d+ x \d+ pixels", first["facts"])
    assert first["values"]
    assert first["button"] == "Stop camera"
    assert (stopped["said"], stopped["values"], stopped["picture"]) == ("No picture yet", None, False)
    assert (stopped["button"], stopped["video"]) == ("Start camera", None)
    assert (hung["reason"], hung["values"], hung["picture"]) == ("the camera gave no picture for 2 s", None, False)


def test_a_computer_without_a_camera(driven: Drive, tiny: Path) -> None:
    driver = (
        'await state("ready"); one("camera").click(); await until(() => text("said") === "No answer"); return look()'
    )
    done = driven(driver, folders={"bundle": tiny})
    done.assert_quiet()
    assert done.result["reason"] in ("no camera was found", "the camera may not be used: allow it for this page")


# ---- the page itself


def test_nothing_but_its_own_server_is_allowed(driven: Drive, tiny: Path) -> None:
    """The policy holds in the page as it is: other addresses, code in strings and markup from strings are stopped."""
    driver = """
    await state("ready");
    const stopped = async (act) => { try { await act(); return "went through"; } catch (error) { return error.name; } };
    const breaches = [];
    document.addEventListener("securitypolicyviolation", (event) => breaches.push(event.effectiveDirective));
    const found = [
      await stopped(() => fetch("http://127.0.0.2:9/")),
      await stopped(() => new Function("return 1")()),
      await stopped(() => { document.body.innerHTML += "<b>x</b>"; }),
    ];
    await sleep(200);
    return { found, breaches: [...new Set(breaches)].sort() };
    """
    done = driven(driver, folders={"bundle": tiny})
    assert done.result["found"] == ["TypeError", "EvalError", "TypeError"]
    assert {"connect-src", "require-trusted-types-for"} <= set(done.result["breaches"])
    assert all(url.startswith(done.site) for url in done.asked)


def test_the_page_can_be_used_by_keyboard_and_by_ear(driven: Drive, tiny: Path) -> None:
    driver = """
    await state("ready");
    const named = (part) => part.textContent.trim() || part.getAttribute("aria-label") || part.labels?.[0]?.textContent;
    const parts = [...document.querySelectorAll("button, select, input:not([hidden]), summary")];
    return {
      names: parts.map(named), live: one("spoken").ariaLive, alert: one("refused").getAttribute("role"),
      tabbed: parts.filter((part) => part.tabIndex < 0).length, lang: document.documentElement.lang,
      wide: document.documentElement.scrollWidth <= innerWidth,
    };
    """
    for width in (1280, 390):
        found = driven(driver, folders={"bundle": tiny}, flags=[f"--window-size={width},900"]).result
        assert all(found["names"])
        assert (found["live"], found["alert"], found["tabbed"], found["lang"]) == ("polite", "alert", 0, "en")
        assert found["wide"], f"at {width} pixels the page is wider than the window"
