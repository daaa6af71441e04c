from __future__ import annotations

import io
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cvtune_edge import ImageError, read_image
from cvtune_edge.decode import FORMATS, ReadOptions, decode, probe, read_bytes
from cvtune_edge.notes import (
    NOTE_8_BIT,
    NOTE_12_BIT,
    NOTE_16_BIT,
    NOTE_ALPHA,
    NOTE_CMYK,
    NOTE_ORIENTATION,
    NOTE_PAGES,
    NOTE_WHITE,
    NOTES,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.edge.pictures import bmp, by_opencv, by_pillow, chunk, colours, encoded, png, tiff

U16, F32 = ReadOptions(pixels="uint16"), ReadOptions(pixels="float32")

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


def test_grey_palette_and_one_bit_become_rgb() -> None:
    image = Image.fromarray(colours())
    for mode in ("L", "P", "1"):
        file = io.BytesIO()
        image.convert(mode).save(file, "PNG")
        expected = np.asarray(image.convert(mode).convert("RGB"))
        np.testing.assert_array_equal(decode(file.getvalue(), "x").pixels, expected)


def test_pages_are_noted() -> None:
    second = Image.fromarray(colours()[::-1].copy())
    for kind in ("TIFF", "WebP", "GIF", "PNG"):
        assert decode(encoded(colours(), kind, save_all=True), "x").notes == ()
        data = encoded(colours(), kind, save_all=True, append_images=[second])
        frame = decode(data, "x")
        assert frame.notes == (NOTE_PAGES,)
        assert frame.header.pages == 2
        assert np.abs(frame.pixels.astype(int) - colours()).mean() < 12  # the first one


def transparent() -> Image.Image:
    """Every alpha meets every kind of colour."""
    y, x = np.mgrid[:24, :37]
    return Image.fromarray(np.dstack([colours(), (y * 37 + x) % 256]).astype(np.uint8), "RGBA")


def laid_on(image: Image.Image, background: tuple[int, int, int]) -> NDArray[Any]:
    """float64 [H, W, 3], by the definition."""
    pixels = np.asarray(image.convert("RGBA")).astype(float)
    share = pixels[..., 3:] / 255
    return np.asarray(pixels[..., :3] * share + np.array(background) * (1 - share))


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 90)])
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("P", "PNG", {"transparency": bytes(range(0, 256, 5))}),
        ("L", "PNG", {"transparency": 40}),
        ("RGB", "PNG", {"transparency": (60, 100, 20)}),
        ("RGBA", "WebP", {"lossless": True, "exact": True}),
        ("P", "GIF", {"transparency": 3}),
        ("RGBA", "TIFF", {}),
        ("LA", "TIFF", {}),
    ],
)
def test_transparency_is_laid_on_the_background(
    background: tuple[int, int, int], mode: str, kind: str, options: dict[str, Any]
) -> None:
    image = transparent()
    image = image.convert("RGB").quantize(32) if mode == "P" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    with Image.open(io.BytesIO(file.getvalue())) as again:
        wanted = laid_on(again, background)
    frame = decode(file.getvalue(), "x", ReadOptions(background=background))
    assert frame.header.alpha
    assert frame.notes == (NOTE_ALPHA,)
    assert np.abs(frame.pixels - wanted).max() <= (1.01 if kind == "TIFF" else 0.51)  # libtiff rounds once more


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_transparency_at_16_bits(colour: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 6, {0: 1, 2: 3, 4: 2, 6: 4}[colour]))
    rows = values.astype(">u2").tobytes()
    key = [chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())] if colour in (0, 2) else []
    data = png(6, 5, 16, colour, rows, *key)
    if colour in (0, 2):
        share = np.ones((5, 6, 1))
        share[(values == values[0, 0]).all(axis=2)] = 0
        straight = values
    else:
        straight, share = values[..., :-1], values[..., -1:] / 65535
    wanted = straight * share + np.array([10, 200, 90]) * 257 * (1 - share)
    for pixels in ("uint16", "float32"):
        frame = decode(data, "x", ReadOptions(pixels=pixels, background=(10, 200, 90)))
        assert frame.notes == (NOTE_ALPHA,)
        assert np.abs(frame.pixels - wanted).max() <= 0.51


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("colour", [0, 3])
def test_few_bits(depth: int, colour: int) -> None:
    row = bytes([0b10110001, 0b01110000])  # holds 0 and 1 at every depth
    extra = [chunk(b"PLTE", bytes(range(48)))] if colour == 3 else []
    width = 16 // depth
    for see_through in ([], [chunk(b"tRNS", b"\0\1" if colour == 0 else b"\x80\xff")]):
        data = png(width, 1, depth, colour, row, *extra, *see_through)
        frame = decode(data, "x", ReadOptions(background=(1, 2, 3)))
        with Image.open(io.BytesIO(data)) as image:
            if see_through and colour == 3:
                wanted = laid_on(image, (1, 2, 3))
            else:
                wanted = np.asarray(image.convert("RGB")).astype(float)
        if see_through and colour == 0:
            wanted = np.where(wanted == 255 // (2**depth - 1), [1, 2, 3], wanted)
        assert np.abs(frame.pixels - wanted).max() <= 0.51
        assert frame.notes == ((NOTE_ALPHA,) if see_through else ())


def test_an_alpha_that_is_opaque_everywhere_is_not_noted() -> None:
    frame = decode(encoded(np.dstack([colours(), np.full((24, 37), 255, np.uint8)]), "PNG"), "x")
    assert frame.notes == ()
    np.testing.assert_array_equal(frame.pixels, colours())


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_transparent_pictures_too(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    transparent().save(file, kind, exif=exif, **({"lossless": True, "exact": True} if kind == "WebP" else {}))
    wanted = laid_on(ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))), (255, 255, 255))
    found = decode(file.getvalue(), "x")
    assert np.abs(found.pixels - wanted).max() <= 0.51
    assert found.pixels.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_illegal_orientation_is_none_and_told(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    frame = decode(encoded(colours(), kind, exif=exif), "x")
    assert frame.pixels.shape == (24, 37, 3)
    assert frame.notes == (NOTE_ORIENTATION,)


class TestBmp:
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    pixels = bytes([50, 100, 200, 128, 5, 6, 7, 255])

    @pytest.mark.parametrize("size", [56, 108, 124])
    def test_alpha_where_the_header_says_so(self, size: int) -> None:
        frame = decode(bmp(size, 32, 3, self.masks, self.pixels), "x")
        assert frame.pixels.tolist() == [[[227, 177, 152], [7, 6, 5]]]
        assert frame.notes == (NOTE_ALPHA,)

    @pytest.mark.parametrize(
        "data",
        [
            bmp(40, 32, 0, (), pixels),
            bmp(124, 32, 3, (*masks[:3], 0), pixels),
            bmp(108, 32, 0, masks, pixels),
        ],
    )
    def test_no_alpha_where_it_does_not(self, data: bytes) -> None:
        frame = decode(data, "x")
        assert frame.pixels.tolist() == [[[200, 100, 50], [7, 6, 5]]]
        assert frame.notes == ()
        np.testing.assert_array_equal(frame.pixels, by_pillow(data))

    def test_colours_in_another_order(self) -> None:
        data = bmp(108, 32, 3, (0xFF, 0xFF00, 0xFF0000, 0), self.pixels)
        assert decode(data, "x").pixels.tolist() == [[[50, 100, 200], [5, 6, 7]]]
        data = bmp(40, 32, 3, (0xFF, 0xFF00, 0xFF0000), self.pixels)
        with pytest.raises(ImageError, match="a BMP of 32 bits with its colours in an unusual order"):
            decode(data, "x")


class TestDepth:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)

    def test_a_12_bit_ramp_keeps_every_level(self) -> None:
        for data in (by_opencv(".png", self.ramp), tiff(self.ramp), by_opencv(".pgm", self.ramp)):
            for options in (U16, F32):
                frame = decode(data, "x", options)
                assert len(np.unique(frame.pixels)) == 4096
                np.testing.assert_array_equal(frame.pixels, np.dstack([self.ramp] * 3))
                assert frame.pixels.dtype.name == options.pixels
                assert frame.notes == ()

    @pytest.mark.parametrize(("kind", "options"), LOSSLESS)
    def test_8_bits_in_a_deep_run(self, kind: str, options: dict[str, Any]) -> None:
        data = encoded(colours(), kind, **options)
        frame = decode(data, "x", U16)
        np.testing.assert_array_equal(frame.pixels, colours().astype(np.uint16) * 257)
        assert frame.notes == (NOTE_8_BIT,)
        frame = decode(data, "x", F32)
        np.testing.assert_array_equal(frame.pixels, colours().astype(np.float32))
        assert frame.notes == ()

    @pytest.mark.parametrize("suffix", [".png", ".tiff", ".ppm"])
    def test_colours_keep_their_order_at_16_bits(self, suffix: str) -> None:
        """OpenCV 5.0 gives a 16-bit RGB TIFF in BGR where RGB was asked for."""
        data = by_opencv(suffix, colours()[..., ::-1].astype(np.uint16) * 100)
        np.testing.assert_array_equal(decode(data, "x", U16).pixels, colours().astype(np.uint16) * 100)
        np.testing.assert_array_equal(decode(data, "x").pixels, np.round(colours() * 100.0 / 257))

    def test_a_ppm_with_a_white_of_its_own(self) -> None:
        data = b"P5 3 1 4095\n" + bytes([0x0F, 0xFF, 0x08, 0x00, 0, 0])
        frame = decode(data, "x", U16)
        assert (frame.pixels[0, :, 0].tolist(), frame.notes) == ([4095, 2048, 0], (NOTE_WHITE,))
        for plain in (b"P5 3 1 100\n" + bytes([100, 50, 0]), b"P2 3 1 100\n100 50 0\n"):
            assert decode(plain, "x", U16).pixels[0, :, 0].tolist() == [65535, 32768, 0]
            assert decode(plain, "x", F32).pixels[0, :, 0].tolist() == [100, 50, 0]

    @given(st.integers(1, 255), st.lists(st.integers(0, 255), min_size=1, max_size=20))
    def test_plain_and_binary_ppm_are_read_alike(self, maxval: int, values: list[int]) -> None:
        values = [min(value, maxval) for value in values]
        head = f"{len(values)} 1 {maxval}\n"
        plain = decode(f"P2 {head}{' '.join(map(str, values))}\n".encode(), "x", F32).pixels[0, :, 0]
        binary = decode(f"P5 {head}".encode() + bytes(values), "x", F32).pixels[0, :, 0]
        assert plain.tolist() == binary.tolist() == values


class TestInks:
    def test_cmyk_as_pillow_converts_it(self) -> None:
        file = io.BytesIO()
        Image.fromarray(colours()).convert("CMYK").save(file, "JPEG", quality=98)
        data = file.getvalue()
        frame = decode(data, "x")
        assert frame.notes == (NOTE_CMYK,)
        assert frame.header.channels == "cmyk"
        assert np.abs(frame.pixels.astype(int) - by_pillow(data)).max() <= 3
        assert np.abs(frame.pixels.astype(int) - colours()).mean() < 4

    def test_ycck_as_pillow_converts_it(self) -> None:
        """The same four channels, told to be YCCK by the last byte of Adobe's segment."""
        file = io.BytesIO()
        Image.fromarray(colours()).convert("CMYK").save(file, "JPEG", quality=98)
        data = bytearray(file.getvalue())
        data[data.index(b"Adobe") + 11] = 2
        found = decode(bytes(data), "x").pixels.astype(int)
        assert np.abs(found - by_pillow(bytes(data))).max() <= 3
        assert np.abs(found - colours()).mean() > 20  # the change did something

    def test_inks_of_unknown_direction_are_refused(self) -> None:
        file = io.BytesIO()
        Image.fromarray(colours()).convert("CMYK").save(file, "JPEG")
        with pytest.raises(ImageError, match="a CMYK JPEG without an Adobe mark"):
            decode(file.getvalue().replace(b"Adobe", b"Adieu"), "x")


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
        (b"hello", "a text file, not an image that is read"),
        (b"\x01\x02\x03", "not an image (expected JPEG, PNG, BMP, TIFF, WebP, GIF, PPM or DICOM)"),
        (bytes(99), "nothing but zero bytes"),
        (b"8BPS\0\1" + bytes(30), "a PSD file, not an image that is read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript file, not an image that is read"),
        (b"\x89PNG\r\n\x1a\nIEND and nothing else", "damaged: no PNG header"),
        (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", (100_000).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0")
            + chunk(b"IDAT", zlib.compress(bytes(10**6)))
            + chunk(b"IEND", b""),
            "100000 x 100000 pixels, expected at most 200,000,000 in all",
        ),
        (b"P6 20000 20000 255\n", "truncated: the end of the PPM file is missing"),
        (
            encoded(colours(), "JPEG").replace(b"\0\x18\0\x25\3", b"\xff\xdc\x0b\xb8\3"),
            "damaged: too few bytes for a JPEG of 3000 x 65500 pixels",
        ),
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
    st.sampled_from(
        [
            ("PNG", {}),
            ("BMP", {}),
            ("GIF", {}),
            ("PPM", {}),
            ("TIFF", {}),
            ("WebP", {}),
            ("TIFF", {"compression": "packbits"}),
        ]
    ),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(0, 3000),
    st.sampled_from(["uint8", "uint16", "float32"]),
)
def test_damaged_files_give_pixels_or_an_image_error(
    kind: tuple[str, dict[str, Any]], changes: list[tuple[int, int]], length: int, pixels_as: str
) -> None:
    options = ReadOptions(pixels=pixels_as, max_pixels=1_000_000)
    data = bytearray(encoded(colours(12, 16), kind[0], **kind[1]))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        pixels = decode(bytes(data[:length]), "x", options).pixels
    except ImageError:
        return
    assert pixels.dtype.name == pixels_as
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


class TestDamageInside:
    """JPEG pictures that end, but not where they should: libjpeg fills up with grey and only prints a line."""

    def noise(self) -> bytes:
        return encoded(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8), "JPEG")

    def test_data_cut_out_of_the_middle_is_noticed(self) -> None:
        data = self.noise()
        middle = len(data) // 2
        for cut in (data[:middle] + b"\xff\xd9", data[:middle] + data[middle + 700 :]):
            with pytest.raises(ImageError, match="damaged: data is missing inside the JPEG picture"):
                decode(cut, "x")

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_a_picture_that_ends_in_even_grey_is_not_damaged(self, mode: str) -> None:
        pixels = colours(64, 96)
        pixels[32:] = 128
        data = encoded(np.asarray(Image.fromarray(pixels).convert(mode)), "JPEG", quality=95)
        assert (decode(data, "x").pixels[-4:, -4:] == 128).all()


class TestLimits:
    def test_options_say_all_that_is_wrong(self) -> None:
        with pytest.raises(ValueError, match="pixels is 'int8'") as caught:
            ReadOptions(pixels="int8", background=(1, 2, 256), max_pixels=0, max_bytes=2**31, formats=("PSD",))
        for word in ("background", "max_pixels", "max_bytes", "formats are \\['PSD'\\]".replace("\\", "")):
            assert word in str(caught.value)

    def test_options_travel_as_json(self) -> None:
        options = ReadOptions(pixels="uint16", background=(1, 2, 3), max_pixels=5)
        assert options.to_json() == {"pixels": "uint16", "background": [1, 2, 3]}
        assert ReadOptions.from_json(options.to_json()) == ReadOptions(pixels="uint16", background=(1, 2, 3))
        for bad in (
            {},
            {"pixels": "uint8"},
            {"pixels": "uint8", "background": 3},
            {"pixels": 1, "background": [1, 2, 3]},
        ):
            with pytest.raises(ValueError, match="pixels"):
                ReadOptions.from_json(bad)

    def test_caps_and_formats(self, tmp_path: Path) -> None:
        data = encoded(colours(), "PNG")
        path = tmp_path / "a.png"
        path.write_bytes(data)
        small = ReadOptions(max_bytes=len(data) - 1)
        for read in (
            lambda: read_image(path, small),
            lambda: decode(data, "a", small),
            lambda: read_bytes(path, small),
        ):
            with pytest.raises(ImageError, match=f"{len(data):,} bytes, expected at most {len(data) - 1:,}"):
                read()
        with pytest.raises(ImageError, match="37 x 24 pixels, expected at most 887 in all"):
            decode(data, "a", ReadOptions(max_pixels=37 * 24 - 1))
        assert decode(data, "a", ReadOptions(max_pixels=37 * 24, max_bytes=len(data))).header.width == 37
        with pytest.raises(ImageError, match=r"PNG, a format that is not allowed here \(allowed: JPEG, BMP\)"):
            decode(data, "a", ReadOptions(formats=("JPEG", "BMP")))
        assert set(FORMATS) > {"PNG", "DICOM"}

    def test_a_probe_refuses_without_decoding(self) -> None:
        huge = encoded(np.zeros((3000, 3000), np.uint8), "PNG")
        start = time.perf_counter()
        with pytest.raises(ImageError, match="3000 x 3000 pixels"):
            probe(huge, "x", ReadOptions(max_pixels=1000))
        assert time.perf_counter() - start < 0.05
        assert probe(huge, "x").channels == "grey"

    def test_notes_are_sentences_of_their_own(self) -> None:
        assert len(set(NOTES)) == len(NOTES) >= 10
        assert not [note for note in NOTES if len(note) > 90 or "\n" in note or ";" in note]


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
            frame = read_image(real_data / "quirky" / name)
            assert frame.pixels.shape == shape
            assert (NOTE_ORIENTATION in frame.notes) == name.startswith("exif0")
            with Image.open(real_data / "quirky" / name) as image:
                by_other = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
            assert np.abs(frame.pixels - by_other).mean() < 1
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
