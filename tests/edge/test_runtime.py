from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cvtune_edge import Bundle, BundleError, CvtuneError, ImageError, Prediction, ReadOptions, Unreadable, runtime
from cvtune_edge.decode import read_image
from PIL import Image

from tests.edge.conftest import CLASSES, WIDTH, MakeBundle, tiny_model, weights

PIXELS = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)


def save(path: Path, pixels: Any = PIXELS) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_predicts_what_the_graph_computes(bundle_folder: Path) -> None:
    answer = Bundle(bundle_folder, threads=1).predict(PIXELS, embedding=True)
    embed, head = weights()
    embedding = (PIXELS.reshape(-1, 3) / 255).mean(axis=0) @ embed
    powers = np.exp(embedding @ head)
    np.testing.assert_allclose(answer.probabilities, powers / powers.sum(), atol=1e-5)
    assert answer.embedding is not None
    np.testing.assert_allclose(answer.embedding, embedding, atol=1e-5)
    assert answer.probabilities.dtype == answer.embedding.dtype == np.float32
    assert answer.probabilities.shape == (3,)
    assert answer.embedding.shape == (WIDTH,)
    assert answer.label == CLASSES[int(powers.argmax())]
    assert answer.probability == answer.probabilities.max()
    assert answer.path == ""


def test_pixels_file_and_stream_agree_bit_for_bit(bundle_folder: Path, tmp_path: Path) -> None:
    bundle = Bundle(bundle_folder, threads=1)
    path = save(tmp_path / "1.png")
    (streamed,) = bundle.stream([path])
    assert isinstance(streamed, Prediction)
    assert streamed.path == path.as_posix()
    assert streamed.embedding is None
    for other in (bundle.predict(path), bundle.predict(str(path)), bundle.predict(PIXELS)):
        assert other.probabilities.tobytes() == streamed.probabilities.tobytes()
    (with_embedding,) = bundle.stream([path], embedding=True)
    assert isinstance(with_embedding, Prediction)
    assert with_embedding.embedding is not None


def test_stream_keeps_the_order_and_passes_bad_files(bundle_folder: Path, tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png") for i in range(9)]
    paths[4].write_bytes(b"")
    paths.insert(7, tmp_path / "gone.png")
    answers = list(Bundle(bundle_folder, threads=1).stream(paths, workers=3))
    assert [answer.path for answer in answers] == [path.as_posix() for path in paths]
    assert [i for i, answer in enumerate(answers) if isinstance(answer, Unreadable)] == [4, 7]
    assert answers[4] == Unreadable(paths[4].as_posix(), "empty file (0 bytes)")
    assert answers[7] == Unreadable(paths[7].as_posix(), "no such file")


def test_stream_reads_only_a_few_paths_ahead_and_ends_its_threads(bundle_folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "1.png")
    drawn = itertools.count()

    def endless() -> Iterator[Path]:
        for _ in drawn:
            yield path

    stream = Bundle(bundle_folder, threads=1).stream(endless(), workers=2)
    for _ in itertools.islice(stream, 500):
        pass
    assert next(drawn) <= 500 + 3
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cvtune-decode")]


@pytest.mark.parametrize(
    "pixels",
    [PIXELS.astype(np.float32), PIXELS[..., 0], PIXELS[None], np.dstack([PIXELS, PIXELS[..., 0]]), PIXELS[:0]],
)
def test_other_pixels_are_refused(bundle_folder: Path, pixels: Any) -> None:
    with pytest.raises(ImageError) as caught:
        Bundle(bundle_folder, threads=1).predict(pixels)
    shape = f"{pixels.dtype.name} {list(pixels.shape)}"
    assert caught.value.message == f"image: {shape}, expected uint8 [H, W, 3] in RGB"


DEEP = {"uint16": [0, 4095], "float32": [-1.5, 1.5]}


def deep_bundle(make_bundle: MakeBundle, kind: str) -> Bundle:
    reading = {"pixels": kind, "background": [255, 255, 255]}
    model = tiny_model(CLASSES, pixels=kind, reading=json.dumps(reading), window=json.dumps(DEEP[kind]))
    return Bundle(make_bundle(model=model, reading=reading, window=DEEP[kind]), threads=1)


@pytest.mark.parametrize("kind", list(DEEP))
def test_deep_bundles_take_their_own_pixels_alone(make_bundle: MakeBundle, kind: str, tmp_path: Path) -> None:
    bundle = deep_bundle(make_bundle, kind)
    suffix = {"uint16": ".png", "float32": ".tif"}[kind]
    raw = (np.random.default_rng(0).integers(0, 4096, (20, 30, 3)) * (1 if kind == "uint16" else 0.3)).astype(kind)
    path = tmp_path / f"deep{suffix}"
    path.write_bytes(cv2.imencode(suffix, raw[..., ::-1])[1].tobytes())
    frame = read_image(path, bundle.reading).pixels
    assert np.array_equal(frame, raw)
    (streamed,) = bundle.stream([path])
    assert isinstance(streamed, Prediction)
    for answer in (bundle.predict(frame), bundle.predict(path)):
        assert np.array_equal(answer.probabilities, streamed.probabilities)
    for other in (PIXELS, raw.astype(np.float64), raw.astype({"uint16": np.float32, "float32": np.uint16}[kind])):
        with pytest.raises(ImageError) as caught:
            bundle.predict(other)
        shape = f"{other.dtype.name} {list(other.shape)}"
        assert caught.value.message == f"image: {shape}, expected {kind} [H, W, 3] in RGB"
        assert caught.value.hint.startswith("cvtune_edge.read_image(path, bundle.reading)")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_frames_must_be_finite(make_bundle: MakeBundle, value: float) -> None:
    frame = np.zeros((20, 30, 3), np.float32)
    frame[7, 8, 1] = value
    with pytest.raises(ImageError, match=r"^image: holds values that are not finite \(NaN or infinity\)$"):
        deep_bundle(make_bundle, "float32").predict(frame)


def test_16_bits_are_not_8_bits(make_bundle: MakeBundle, bundle_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(cv2.imencode(".png", np.arange(600, dtype=np.uint16).reshape(20, 30) * 109)[1].tobytes())
    assert "16-bit, read at 8 bits" in Bundle(bundle_folder).predict(path).notes
    assert deep_bundle(make_bundle, "uint16").predict(path).notes == ()


def test_limits_are_the_callers_and_the_reading_is_the_bundles(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = make_bundle(reading={"pixels": "uint8", "background": [0, 0, 0]})
    path = save(tmp_path / "clear.png", np.zeros((20, 30, 4), np.uint8))
    options = ReadOptions(pixels="float32", background=(9, 9, 9), max_pixels=599)
    bundle = Bundle(folder, options=options)
    assert bundle.reading == ReadOptions(background=(0, 0, 0), max_pixels=599)
    with pytest.raises(ImageError, match="30 x 20 pixels, expected at most 599"):
        bundle.predict(path)
    answer = Bundle(folder).predict(path).probabilities
    assert np.array_equal(answer, Bundle(folder).predict(np.zeros((20, 30, 3), np.uint8)).probabilities)
    white = make_bundle(reading={"pixels": "uint8", "background": [255, 255, 255]})
    assert not np.array_equal(answer, Bundle(white).predict(path).probabilities)


def test_untrusted_files_are_decoded_elsewhere_and_give_the_same_answers(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(tmp_path / f"{i}.png") for i in range(5)]
    paths[3].write_bytes(paths[3].read_bytes()[:300])
    trusted = list(Bundle(bundle_folder, threads=1).stream([*paths, tmp_path / "gone.png"]))
    monkeypatch.setattr(runtime, "read_image", None)  # must not be asked here
    with Bundle(bundle_folder, threads=1, untrusted=True) as bundle:
        answers = list(bundle.stream([*paths, tmp_path / "gone.png"]))
        again = bundle.predict(paths[0])
        bundle.close()  # children come back when they are needed
        assert np.array_equal(bundle.predict(paths[0]).probabilities, again.probabilities)
    for answer, expected in zip(answers, trusted, strict=True):
        assert answer.path == expected.path
        if isinstance(expected, Unreadable):
            assert answer == expected
        else:
            assert isinstance(answer, Prediction)
            assert np.array_equal(answer.probabilities, expected.probabilities)
    assert np.array_equal(again.probabilities, answers[0].probabilities)  # type: ignore[union-attr]


def multi_bundle(make_bundle: MakeBundle, thresholds: list[float]) -> Bundle:
    model = tiny_model(CLASSES, task="multi")
    model.metadata_props.add(key="task", value="multi")
    model.metadata_props.add(key="thresholds", value=json.dumps(thresholds))
    return Bundle(make_bundle(model=model, task="multi", thresholds=thresholds), threads=1)


def test_several_labels(make_bundle: MakeBundle) -> None:
    shares = multi_bundle(make_bundle, [1.0, 1.0, 1.0]).predict(PIXELS).probabilities
    embed, head = weights()
    logits = (PIXELS.reshape(-1, 3) / 255).mean(axis=0) @ embed @ head
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-logits)), atol=1e-5)
    exact = [float(p) for p in shares]
    above = [float(np.nextafter(p, 2)) for p in exact]
    for thresholds, wanted in (
        (exact, CLASSES),  # what reaches its threshold counts
        (above, []),
        ([exact[0], above[1], exact[2]], ["no", "Öse"]),
        ([above[0], exact[1], above[2]], ["1e3"]),
    ):
        answer = multi_bundle(make_bundle, thresholds).predict(PIXELS)
        assert answer.labels == tuple(wanted)
        assert answer.label == ";".join(wanted)
        assert answer.probability == shares.max()
        assert np.array_equal(answer.probabilities, shares)


def test_one_label_is_the_only_one(bundle_folder: Path) -> None:
    answer = Bundle(bundle_folder).predict(PIXELS)
    assert answer.labels == (answer.label,)


def test_frames_must_hold_the_region(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = Bundle(make_bundle(roi=[10, 5, 20, 15]), threads=1)
    assert bundle.predict(PIXELS).label in CLASSES  # exactly 30 x 20
    path = save(tmp_path / "small.png", PIXELS[:, :29])
    reason = "frame of 29 x 20 pixels, the region of interest ends at 30 x 20"
    with pytest.raises(ImageError, match=reason):
        bundle.predict(path)
    assert list(bundle.stream([path])) == [Unreadable(path.as_posix(), reason)]


def test_frames_must_have_the_masks_size(make_bundle: MakeBundle) -> None:
    bundle = Bundle(make_bundle(frame_size=[20, 30]), threads=1)
    assert bundle.predict(PIXELS).label in CLASSES
    with pytest.raises(ImageError, match="image: frame of 20 x 30 pixels, the bundle's mask expects 30 x 20"):
        bundle.predict(PIXELS.transpose(1, 0, 2))


def test_answers_that_are_not_finite_are_an_error(make_bundle: MakeBundle) -> None:
    bundle = Bundle(make_bundle(model=tiny_model(CLASSES, divide_by=0.0)), threads=1)
    with pytest.raises(CvtuneError, match="answers with numbers that are not finite"):
        bundle.predict(np.zeros((2, 2, 3), np.uint8))


def test_a_changed_model_is_refused(bundle_folder: Path) -> None:
    data = (bundle_folder / "model.onnx").read_bytes()
    (bundle_folder / "model.onnx").write_bytes(data[:-1] + b"\0")
    with pytest.raises(BundleError, match=r"model\.onnx: changed after the export"):
        Bundle(bundle_folder)


def test_a_model_that_is_no_onnx(make_bundle: MakeBundle) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx: .*: a model with a field of form 6"):
        Bundle(make_bundle(model=b"not a protobuf"))


def test_a_model_against_the_contract_is_refused_with_all_problems(make_bundle: MakeBundle) -> None:
    folder = make_bundle(model=tiny_model(["a", "b", "c"], image="input"), embedding=WIDTH + 1)
    with pytest.raises(BundleError) as caught:
        Bundle(folder)
    lines = caught.value.message.splitlines()[1:]
    assert lines == [
        "  inputs ['input'], expected ['image']",
        "  embedding is tensor(float) ['N', 4], expected float32 [N, 5]",
        f'  classes in the model: ["a", "b", "c"], in the manifest: {CLASSES}',
    ]


def test_a_model_that_says_otherwise_than_the_manifest_is_refused(make_bundle: MakeBundle) -> None:
    reading = json.dumps({"pixels": "uint16", "background": [0, 0, 0]})
    told: dict[str, Any] = {"reading": reading, "window": "[0, 9]", "thresholds": "["}
    model = tiny_model(CLASSES, pixels="uint16", **told)
    model.metadata_props.add(key="task", value="multi")
    with pytest.raises(BundleError) as caught:
        Bundle(make_bundle(model=model))
    assert caught.value.message.splitlines()[1:] == [
        "  image is tensor(uint16) ['N', 'H', 'W', 3], expected uint8 [N, H, W, 3]",
        f"  reading in the model: {reading}, in the manifest: {{'pixels': 'uint8', 'background': [255, 255, 255]}}",
        "  window in the model: [0, 9], in the manifest: None",
        "  task in the model: multi, in the manifest: single",
        "  thresholds in the model: [, in the manifest: []",
    ]


def test_real_photographs(bundle_folder: Path, real_data: Path) -> None:
    bundle = Bundle(bundle_folder, threads=1)
    paths = sorted((real_data / "gtsrb" / "test").glob("*/*.ppm"))[:40]
    answers = [*bundle.stream(paths), *bundle.stream(sorted((real_data / "quirky").iterdir()))]
    bad = [answer for answer in answers if isinstance(answer, Unreadable)]
    assert [Path(answer.path).name for answer in bad] == ["zero_byte.ppm"]
    for answer in answers:
        if isinstance(answer, Prediction):
            np.testing.assert_allclose(answer.probabilities.sum(), 1, atol=1e-5)
