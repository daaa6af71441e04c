from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cvtune_edge import Bundle, BundleError, CvtuneError, ImageError, Prediction, Unreadable
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
    with pytest.raises(BundleError, match=r"model\.onnx: onnxruntime cannot load it"):
        Bundle(make_bundle(model=b"not a protobuf"))


def test_a_model_against_the_contract_is_refused_with_all_problems(make_bundle: MakeBundle) -> None:
    folder = make_bundle(model=tiny_model(["a", "b", "c"], image="input"), embedding=WIDTH + 1)
    with pytest.raises(BundleError) as caught:
        Bundle(folder)
    lines = caught.value.message.splitlines()[1:]
    assert lines == [
        "  inputs ['input'], expected ['image']",
        "  embedding is tensor(float) ['N', 4], expected float32 [N, 5]",
        f'  classes in the model are ["a", "b", "c"], in the manifest {CLASSES}',
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
