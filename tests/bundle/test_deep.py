"""Deep images, 16 bits or float, from the file to the network's input: the same bits on both sides, and all levels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from cvtune_edge.decode import read_image
from cvtune_edge.errors import BundleError, ImageError
from cvtune_edge.manifest import load_manifest
from cvtune_edge.runtime import Bundle
from cvtune_edge.session import open_session
from numpy.typing import NDArray

from cvtune.data.preprocess import Preprocessing, frame_graph
from cvtune.models.normalize import Normalize, to_tensor

MakeCase = Callable[..., Any]
WINDOWS = {"uint16": (0, 4095), "float32": (-100, 490.5)}


def watched(model: Path) -> Any:
    """A session of a copy of the model that also gives `pixels` and `input`, what the backbone is handed."""
    copy = onnx.load(model)
    (shift,) = (node for node in copy.graph.node if "net_normalize.shift" in node.input)
    copy.graph.node.add(op_type="Identity", input=[shift.output[0]], output=["input"])
    for name in ("pixels", "input"):
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return open_session(copy.SerializeToString())


def normalize(pre: Preprocessing, pixels: NDArray[Any]) -> NDArray[Any]:
    """What training does with the cache's pixels [N, 3, S, S]."""
    found: NDArray[Any] = Normalize(pre.mean, pre.std, pre.window)(to_tensor(pixels)).numpy()
    return found


@pytest.mark.parametrize(("kind", "resize"), [("uint16", "stretch"), ("uint16", "pad"), ("float32", "crop")])
def test_a_file_is_the_same_to_the_bit_in_training_and_in_predict(
    kind: str, resize: str, make_case: MakeCase, deep_parts: dict[str, Path], tmp_path: Path
) -> None:
    mask = np.ones((64, 64), np.uint8)
    mask[:9, :20] = 0
    region = {} if resize == "stretch" else {"roi": (3, 5, 40, 57), "mask": mask}
    reading = {"pixels": kind, "background": (0, 9, 0)}
    case = make_case(deep_parts[kind], resize=resize, window=WINDOWS[kind], size=48, **reading, **region)
    parity, answers = case.export(tmp_path / "bundle")
    assert (parity.images, parity.equal + parity.ties, parity.worst < 1e-4) == (12, 12, True)
    assert len(set(answers.argmax(1))) > 1
    bundle, session = Bundle(tmp_path / "bundle"), watched(tmp_path / "bundle" / "model.onnx")
    stored = case.cache.batch(range(12))
    assert stored.dtype == kind
    for row, path in enumerate(case.paths):
        frame = read_image(case.root / path, bundle.reading).pixels
        pixels, seen, shares = session.run(["pixels", "input", "probabilities"], {"image": frame[None]})
        assert np.array_equal(pixels[0], stored[row])
        assert np.array_equal(seen, normalize(case.pre, stored[row : row + 1]))
        for answer in (bundle.predict(case.root / path), bundle.predict(frame)):
            assert np.array_equal(answer.probabilities, shares[0])
            assert np.array_equal(answer.probabilities, answers[row])
    manifest = load_manifest(tmp_path / "bundle")
    assert (manifest.reading, manifest.window) == ({"pixels": kind, "background": [0, 9, 0]}, WINDOWS[kind])
    assert (bundle.reading.pixels, bundle.reading.background) == (kind, (0, 9, 0))
    with pytest.raises(ImageError, match=rf"uint8 \[64, 64, 3\], expected {kind} \[H, W, 3\] in RGB"):
        bundle.predict(np.zeros((64, 64, 3), np.uint8))


def test_a_12_bit_ramp_keeps_its_levels_up_to_the_network(
    make_case: MakeCase, deep_parts: dict[str, Path], tmp_path: Path
) -> None:
    case = make_case(deep_parts["uint16"], pixels="uint16", window=(0, 4095))
    case.export(tmp_path / "bundle")
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    (tmp_path / "ramp.png").write_bytes(cv2.imencode(".png", ramp)[1].tobytes())
    frame = read_image(tmp_path / "ramp.png", case.pre.reading).pixels
    line = watched(tmp_path / "bundle" / "model.onnx").run(["pixels", "input"], {"image": frame[None]})
    (pixels,) = open_session(frame_graph(case.pre).SerializeToString()).run(None, {"image": frame[None]})
    for seen in (*line, pixels, normalize(case.pre, pixels)):
        assert [len(np.unique(channel)) for channel in seen[0]] == [4096, 4096, 4096]


def test_large_ramps_keep_4000_levels_through_the_resize() -> None:
    rows, columns = np.indices((512, 512))
    ramp = np.rint(4.5 * rows + 3.5 * columns).astype(np.uint16)  # 0 to 4,088
    frame = np.ascontiguousarray(np.broadcast_to(ramp[None, :, :, None], (1, 512, 512, 3)))
    pre = Preprocessing(448, pixels="uint16", window=(0, 4095))
    (pixels,) = open_session(frame_graph(pre).SerializeToString()).run(None, {"image": frame})
    assert len(np.unique(normalize(pre, pixels)[0, 0])) >= 4000


def test_deep_pixels_without_a_window_are_no_bundle(
    make_case: MakeCase, deep_parts: dict[str, Path], tmp_path: Path
) -> None:
    case = make_case(deep_parts["uint16"], pixels="uint16")
    with pytest.raises(BundleError, match="expected a window for uint16 and float32 pixels"):
        case.export(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_window_decides(make_case: MakeCase, deep_parts: dict[str, Path], tmp_path: Path) -> None:
    """What lies outside the window is clipped; what lies inside counts, also within one level of 8 bits."""
    case = make_case(deep_parts["uint16"], pixels="uint16", window=(1000, 1200))
    case.export(tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")

    def answer(*values: int) -> NDArray[Any]:
        frame = np.array(values, np.uint16).reshape(1, -1, 1).repeat(64, axis=0).repeat(64 // len(values), axis=1)
        return bundle.predict(frame.repeat(3, axis=2)).probabilities

    assert np.array_equal(answer(900, 1300), answer(1000, 1200))
    assert np.array_equal(answer(0, 65535), answer(1000, 1200))
    assert not np.array_equal(answer(1010, 1020), answer(1011, 1020))


def test_several_labels_of_deep_images(make_case: MakeCase, deep_parts: dict[str, Path], tmp_path: Path) -> None:
    case = make_case(
        deep_parts["float32"], pixels="float32", window=WINDOWS["float32"], task="multi", thresholds=(0.5,) * 4
    )
    case.export(tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    frame = read_image(case.root / case.paths[0], bundle.reading).pixels
    expected = torch.sigmoid(torch.from_numpy(case.logits[0]) / 1.5).numpy()
    np.testing.assert_allclose(bundle.predict(frame).probabilities, expected, atol=1e-4)
