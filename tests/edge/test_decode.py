from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cvtune_edge import ImageError, read_image
from cvtune_edge.decode import NOTE_12_BIT, NOTE_16_BIT, NOTE_ALPHA, NOTE_PAGES, decode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps


def encoded(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def by_opencv(suffix: str, pixels: NDArray[Any]) -> bytes:
    ok, data = cv2.imencode(suffix, pixels)
    assert ok
    return bytes(data)


def colours(height: int = 24, width: int = 37) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.dstack([x * 6, y * 10, x + y]).astype(np.uint8)


LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WebP", {"lossless": True}),
    ("PPM", {}),
]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_formats_come_back_in_rgb(kind: str, options: dict[str, Any]) -> None:
    frame = decode(encoded(colours(), kind, **options), "x")
    assert frame.notes == ()
    np.testing.assert_array_equal(frame.pixels, colours())


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WebP"])
def test_lossy_formats_are_near(kind: str) -> None:
    difference = np.abs(decode(encoded(colours(), kind), "x").pixels.astype(int) - colours())
    assert difference.mean() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(colours(), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    found = decode(data, "x").pixels
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_16_bits_are_scaled_over_the_full_range_and_noted(suffix: str) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    frame = decode(by_opencv(suffix, ramp), "x")
    assert frame.notes == (NOTE_16_BIT,)
    assert frame.pixels.dtype == np.uint8
    np.testing.assert_array_equal(frame.pixels[..., 1], np.round(ramp / 257).astype(np.uint8))


def test_12_bits_in_a_16_bit_file_are_told() -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    frame = decode(by_opencv(".png", ramp), "x")
    assert frame.notes == (NOTE_16_BIT, NOTE_12_BIT)
    assert len(np.unique(frame.pixels)) == 17  # 0..16: round(4095 / 257) is 16


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P5 3 1 4095\n" + bytes([0x0F, 0xFF, 0x08, 0x00, 0, 0]), [255, 128, 0]),
        (b"P2 3 1 4095\n4095 2048 0\n", [255, 128, 0]),
        (b"P5 3 1 100\n" + bytes([100, 50, 0]), [255, 128, 0]),
        (b"P5 3 1 1\n" + bytes([1, 1, 0]), [255, 255, 0]),
        (b"P2 3 1 100\n100 100 0\n", [255, 255, 0]),
        (b"P4 3 1\n\x20", [255, 255, 0]),
        (b"P1 3 1\n0 0 1\n", [255, 255, 0]),
    ],
)
def test_a_ppm_is_scaled_by_the_white_it_declares(data: bytes, expected: list[int]) -> None:
    assert decode(data, "x").pixels[0, :, 0].tolist() == expected


def test_grey_palette_cmyk_and_one_bit_become_rgb() -> None:
    image = Image.fromarray(colours())
    for mode in ("L", "P", "1"):
        file = io.BytesIO()
        image.convert(mode).save(file, "PNG")
        expected = np.asarray(image.convert(mode).convert("RGB"))
        np.testing.assert_array_equal(decode(file.getvalue(), "x").pixels, expected)
    file = io.BytesIO()
    image.convert("CMYK").save(file, "JPEG")
    assert decode(file.getvalue(), "x").pixels.shape == colours().shape


def test_transparency_and_pages_are_noted() -> None:
    alpha = np.dstack([colours(), np.full((24, 37), 9, np.uint8)])
    frame = decode(encoded(alpha, "PNG"), "x")
    assert frame.notes == (NOTE_ALPHA,)
    np.testing.assert_array_equal(frame.pixels, colours())
    second = Image.fromarray(colours()[::-1].copy())
    for kind in ("TIFF", "WebP", "GIF"):
        assert decode(encoded(colours(), kind, save_all=True), "x").notes == ()
        data = encoded(colours(), kind, save_all=True, append_images=[second])
        assert decode(data, "x").notes == (NOTE_PAGES,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int16])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_unknown_range_are_refused(dtype: type[np.generic], channels: int) -> None:
    data = by_opencv(".tiff", np.dstack([np.ones((4, 5))] * channels).astype(dtype))
    with pytest.raises(ImageError) as caught:
        decode(data, "scan.tif")
    assert str(caught.value) == (
        f"scan.tif: {np.dtype(dtype).name} pixels, expected 8 or 16 bit unsigned: their range is unknown"
    )


@pytest.mark.parametrize(("kind", "options"), [*LOSSLESS, ("JPEG", {}), ("JPEG", {"progressive": True}), ("GIF", {})])
@pytest.mark.parametrize("share", [0.99, 0.6, 0.1])
def test_truncated_files_are_refused(kind: str, options: dict[str, Any], share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    data = encoded(noise, kind, **options)
    with pytest.raises(ImageError, match=r"^cut: truncated"):
        decode(data[: int(len(data) * share)], "cut")


def test_a_jpeg_without_its_last_two_bytes_is_refused() -> None:
    with pytest.raises(ImageError, match=r"^x: truncated: the end of the JPEG file is missing$"):
        decode(encoded(colours(), "JPEG")[:-2], "x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file (0 bytes)"),
        (b"hello", "not an image (expected JPEG, PNG, BMP, TIFF, WebP, GIF or PPM)"),
        (b"\x89PNG\r\n\x1a\nIEND and nothing else", "truncated or damaged: cannot be decoded as PNG"),
        (
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0",
            "100000 x 100000 pixels, expected at most 200,000,000 in all",
        ),
        (b"P6 20000 20000 255\n", "20000 x 20000 pixels, expected at most 200,000,000 in all"),
    ],
)
def test_each_reason_in_its_own_words(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, "a/b.png")
    assert caught.value.reason == reason
    assert caught.value.path == "a/b.png"
    assert str(caught.value) == f"a/b.png: {reason}"


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([("PNG", {}), ("BMP", {}), ("GIF", {}), ("PPM", {}), ("TIFF", {}), ("WebP", {})]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(0, 3000),
)
def test_damaged_files_give_pixels_or_an_image_error(
    kind: tuple[str, dict[str, Any]], changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(encoded(colours(12, 16), kind[0], **kind[1]))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        pixels = decode(bytes(data[:length]), "x", max_pixels=1_000_000).pixels
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


def test_reading_files(tmp_path: Path) -> None:
    path = tmp_path / "Prüfling 検査 №1.png"
    path.write_bytes(encoded(colours(), "PNG"))
    np.testing.assert_array_equal(read_image(path).pixels, colours())
    np.testing.assert_array_equal(read_image(str(path)).pixels, colours())
    for bad, reason in [(tmp_path / "gone.png", "no such file"), (tmp_path, "a folder")]:
        with pytest.raises(ImageError) as caught:
            read_image(bad)
        assert caught.value.reason == reason
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image("nul\0byte.png")


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_bad_files_leave_no_lines_of_opencv_on_stderr() -> None:
    code = (
        "from cvtune_edge.decode import decode\nfrom cvtune_edge import ImageError\n"
        "for d in (b'P6 9 9 255\\nxx', b'II*\\0' + bytes(40), b'GIF89a' + bytes(30)):\n"
        "    try: decode(d, 'x')\n    except ImageError: pass"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


class TestRealFiles:
    def test_quirky(self, real_data: Path) -> None:
        expected = {
            "exif0_n01728572_thunder_snake.JPEG": (333, 500, 3),  # an illegal orientation is none
            "exif0_n03337140_file.JPEG": (1200, 1600, 3),
            "exif6_n02951585_can_opener.JPEG": (392, 294, 3),  # stored 392 wide
            "imageNotFound.gif": (300, 300, 3),
            "png_named_No15.jpg": (400, 393, 3),
            "png_named_no_96.jpg": (664, 550, 3),
        }
        for name, shape in expected.items():
            assert read_image(real_data / "quirky" / name).pixels.shape == shape
        with pytest.raises(ImageError, match=r"zero_byte.ppm: empty file \(0 bytes\)$"):
            read_image(real_data / "quirky" / "zero_byte.ppm")

    @pytest.mark.parametrize("pattern", ["gtsrb/test/*/*.ppm", "neu_steel/*/*", "chest_xray_pneumonia/test/*/*"])
    def test_photographs_read_as_pillow_reads_them(self, real_data: Path, pattern: str) -> None:
        paths = sorted(real_data.glob(pattern))
        assert paths
        for path in paths[:: max(1, len(paths) // 12)]:
            frame = read_image(path)
            with Image.open(path) as image:
                expected = np.asarray(image.convert("RGB")).astype(int)
            assert frame.notes == ()
            assert np.abs(frame.pixels - expected).max() <= 4  # two JPEG decoders differ by rounding
