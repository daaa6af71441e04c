from __future__ import annotations

import contextlib
import io
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cvtune_edge.decode import decode
from cvtune_edge.files import sniff
from cvtune_edge.formats.exif import NONE, parse_exif
from cvtune_edge.formats.gif import read_header as read_gif
from cvtune_edge.headers import Header, read_header
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.edge.pictures import bmp, by_opencv, chunk, colours, encoded, png, tiff

KINDS = ["PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WebP"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (300, 2), (17, 1001)])
def test_the_size_without_decoding(kind: str, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    header = read_header(file.getvalue(), kind)
    assert (header.kind, header.width, header.height) == (kind, *size)
    assert (header.bits, header.sample, header.alpha, header.pages, header.orientation) == (8, "uint", False, 1, 1)


@pytest.mark.parametrize(
    ("mode", "kind", "channels", "alpha"),
    [
        ("L", "PNG", "grey", False),
        ("LA", "PNG", "grey", True),
        ("P", "PNG", "palette", False),
        ("RGBA", "PNG", "rgb", True),
        ("1", "PNG", "grey", False),
        ("L", "JPEG", "grey", False),
        ("CMYK", "JPEG", "cmyk", False),
        ("P", "BMP", "palette", False),
        ("L", "TIFF", "grey", False),
        ("LA", "TIFF", "grey", True),
        ("RGBA", "TIFF", "rgb", True),
        ("RGBX", "TIFF", "rgb", False),
        ("CMYK", "TIFF", "cmyk", False),
        ("P", "TIFF", "palette", False),
        ("1", "TIFF", "grey", False),
        ("P", "GIF", "palette", False),
        ("RGBA", "WebP", "rgb", True),
        ("L", "PPM", "grey", False),
        ("1", "PPM", "grey", False),
        ("RGB", "PPM", "rgb", False),
    ],
)
def test_channels_and_alpha(mode: str, kind: str, channels: str, alpha: bool) -> None:
    rgba = Image.fromarray(np.dstack([colours(), colours()[..., 0]]))
    image = rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    header = read_header(file.getvalue(), kind)
    assert (header.channels, header.alpha, header.bits) == (channels, alpha, 8)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_16_bits(suffix: str) -> None:
    data = by_opencv(suffix, np.ones((4, 5), np.uint16))
    assert read_header(data, str(sniff(data))).bits == 16


@pytest.mark.parametrize("lossless", [False, True])
def test_webp_of_each_kind(lossless: bool) -> None:
    plain = read_header(encoded(colours(), "WebP", lossless=lossless), "WebP")
    clear = np.dstack([colours(), colours()[..., 0]])
    see_through = read_header(encoded(clear, "WebP", lossless=lossless), "WebP")
    assert (plain.width, plain.height, plain.alpha) == (37, 24, False)
    assert (see_through.width, see_through.height, see_through.alpha) == (37, 24, True)


@pytest.mark.parametrize("quality", [1, 5, 10, 25, 40, 49, 50, 51, 60, 75, 80, 85, 90, 92, 95, 98, 99, 100])
def test_the_quality_of_a_jpeg(quality: int) -> None:
    assert read_header(encoded(colours(), "JPEG", quality=quality), "JPEG").quality == quality
    assert read_header(encoded(colours()[..., 0], "JPEG", quality=quality), "JPEG").quality == quality


def test_the_quality_by_foreign_tables_is_the_nearest() -> None:
    data = encoded(colours(), "JPEG", qtables=[[9] * 64, [12] * 64])
    found = read_header(data, "JPEG").quality
    assert found is not None
    assert 88 <= found <= 94  # 64 * 9 = 576 lies between the sums at 92 and 93


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
def test_orientation_and_camera(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = 6, "Acme", "X1 \x01\n"
    header = read_header(encoded(colours(), kind, exif=exif), kind)
    assert (header.orientation, header.camera, header.notes) == (6, "Acme X1", ())
    exif[0x0110] = "Acme X1"  # the model often begins with the make
    assert read_header(encoded(colours(), kind, exif=exif), kind).camera == "Acme X1"


def test_exif_behind_the_pixels_of_a_png() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(colours(), "PNG")
    late = data[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[-12:]
    assert read_header(late, "PNG").orientation == 8
    assert decode(late, "x").pixels.shape == (37, 24, 3)


@given(st.binary(max_size=80))
def test_a_damaged_exif_block_says_nothing(block: bytes) -> None:
    for start in (b"", b"Exif\0\0II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3"):
        assert parse_exif(start + block) == NONE or 1 <= parse_exif(start + block).orientation <= 8


@pytest.mark.parametrize("kind", ["GIF", "WebP", "PNG", "TIFF"])
def test_pages(kind: str) -> None:
    more = [Image.fromarray(np.roll(colours(), i, axis=1)) for i in range(1, 12)]
    assert read_header(encoded(colours(), kind, save_all=True, append_images=more), kind).pages == 12


def small_gif(frames: int) -> bytes:
    frame = b"\x21\xf9\x04\x01\0\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * frames + b"\x3b"


@pytest.mark.parametrize("frames", [1, 10_000, 99_999, 300_000])
def test_many_frames_are_counted_at_once(frames: int) -> None:
    data = small_gif(frames)
    start = time.perf_counter()
    assert read_header(data, "GIF").pages == min(frames, 100_000)
    assert time.perf_counter() - start < 0.25  # 10 ms with a core to itself
    assert decode(data, "x").pixels.shape == (1, 1, 3)


def test_a_cut_animation_is_truncated() -> None:
    data = small_gif(3)
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"truncated: the end of the GIF file is missing|damaged"):
            read_gif(data[:length])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P5 2 1 4095\n....", Header("PPM", 2, 1, 16, channels="grey", maxval=4095)),
        (b"P6\n# made by\n# hand\n2\t1\n255\n123456", Header("PPM", 2, 1, maxval=255)),
        (b"P4 9 1\n..", Header("PPM", 9, 1, channels="grey")),
        (b"P3 2 1 100\n1 1 1 1 1 1", Header("PPM", 2, 1, maxval=100)),
        (b"P2 2 1 4095\n1 1", Header("PPM", 2, 1, 16, channels="grey", maxval=4095)),
        (b"P5 2", "damaged: no PPM header"),
        (b"P5 2 1 0\n", "damaged: a PPM whose largest value is 0, expected 1 to 65535"),
        (b"P5 2 1 65536\n", "damaged: a PPM whose largest value is 65536, expected 1 to 65535"),
        *(
            (data, "truncated: the end of the PPM file is missing")
            for data in (b"P5 3 1 255\n12", b"P6 1 1 256\n12345")
        ),
        *((data, "truncated: the end of the PPM file is missing") for data in (b"P4 9 1\n.", b"P2 2 1 9\n1 ")),
        (b"P5 0 1 255\n", "damaged: 0 x 1 pixels"),
    ],
)
def test_ppm(data: bytes, expected: Header | str) -> None:
    if isinstance(expected, Header):
        assert read_header(data, "PPM") == expected
    else:
        with pytest.raises(ValueError, match=f"^{expected}$"):
            read_header(data, "PPM")


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (png(2, 1, 3, 0, b"\0"), "PNG", "damaged: a PNG of colour type 0 with 3 bits"),
        (png(2, 1, 8, 5, b"\0"), "PNG", "damaged: a PNG of colour type 5 with 8 bits"),
        (png(2, 1, 8, 0, b"\0\0")[:-4], "PNG", "truncated: the end of the PNG file is missing"),
        (b"\xff\xd8\xff\xd9\0\0", "JPEG", "damaged: a JPEG without a picture"),
        (b"\xff\xd8\xff\xda\0\2", "JPEG", "damaged: a JPEG without a frame"),
        (b"\xff\xd8" + b"\xff\xe0\0\2" * 20_000, "JPEG", "damaged: more than 10,000 JPEG segments before the picture"),
        (b"\xff\xd8" + b"\xff" * 50, "JPEG", "truncated: the end of the JPEG file is missing"),
        (
            encoded(colours(), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
            "JPEG",
            "a JPEG of 12 bits, exp",
        ),
        (bmp(40, 24, 0, (), bytes(7)), "BMP", "truncated: the end of the BMP file is missing"),
        (b"BM" + bytes(20), "BMP", "truncated: the end of the BMP file is missing"),
        (encoded(colours(), "WebP")[:-1], "WebP", "truncated: the end of the WebP file is missing"),
        (b"RIFF\x40\0\0\0WEBPVP9 " + bytes(90), "WebP", "damaged: no WebP picture"),
        (b"GIF89a\1\0\1\0\0\0\0\x3b", "GIF", "damaged: a GIF without a frame"),
        (b"GIF89a\1\0\1\0\0\0\0\x3c", "GIF", "damaged: an unknown block in a GIF"),
        (tiff(colours())[:-4], "TIFF", "truncated: the end of the TIFF file is missing"),
        (b"II*\0\x08\0\0\0\0\0" + bytes(30), "TIFF", "damaged: a TIFF directory of 0 tags"),
        (  # the bits of the channels are said to stand at the end of 64-bit memory
            tiff(np.zeros((4, 5, 6), np.uint8), big=True).replace(
                b"\x02\x01\x03\0\6\0\0\0\0\0\0\0", b"\x02\x01\x03\0\6\0\0\0\0\0\0\x7f"
            ),
            "TIFF",
            "truncated: the end of the TIFF file is missing",
        ),
        (b"II+\0\x08\0\0\0", "TIFF", "truncated: the end of the TIFF file is missing"),
    ],
)
def test_each_damage_in_its_own_words(data: bytes, kind: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        read_header(data, kind)
    assert str(caught.value).startswith(reason)


def samples() -> list[tuple[str, bytes]]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Acme"
    animated: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(colours()[::-1].copy())]}
    return [
        *((kind, encoded(colours(), kind)) for kind in KINDS),
        *((kind, encoded(colours(), kind, exif=exif)) for kind in ("JPEG", "PNG", "WebP", "TIFF")),
        *((kind, encoded(colours(), kind, **animated)) for kind in ("GIF", "WebP", "PNG", "TIFF")),
        ("TIFF", tiff(colours(), big=True, order=">", pages=3)),
        ("TIFF", tiff(colours(), planar=True)),
        ("BMP", bmp(124, 32, 3, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), bytes(8))),
        ("JPEG", encoded(colours(), "JPEG", progressive=True)),
    ]


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(samples()),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 5000),
    st.binary(max_size=20),
)
def test_mutated_headers_give_a_header_or_a_value_error(
    sample: tuple[str, bytes], changes: list[tuple[int, int]], length: int, tail: bytes
) -> None:
    kind, good = sample
    data = bytearray(good)
    for place, value in changes:
        data[place % len(data)] = value
        data[-1 - place % len(data)] = value  # a TIFF has its directory at the end
    start = time.perf_counter()
    try:
        header = read_header(bytes(data[:length]) + tail, kind)
    except ValueError as error:
        reason = str(error)
    else:
        reason = "read"
        assert header.width > 0
        assert header.height > 0
        assert header.pages > 0
        assert 1 <= header.orientation <= 8
        assert header.bits in (8, 16, 32, 64)
        assert header.quality is None or 1 <= header.quality <= 100
        assert header.camera.isprintable()
    assert time.perf_counter() - start < 1
    assert 0 < len(reason) < 120


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_any_bytes_at_all(kind: str, data: bytes) -> None:
    starts = {
        "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "JPEG": b"\xff\xd8\xff",
        "GIF": b"GIF89a",
        "TIFF": b"II*\0\x08\0\0\0",
    }
    with contextlib.suppress(ValueError):
        assert read_header(starts.get(kind, b"") + data, kind).kind == kind


class TestRealFiles:
    @pytest.mark.parametrize("pattern", ["gtsrb/test/*/*.ppm", "neu_steel/*/*", "chest_xray_pneumonia/test/*/*"])
    def test_the_header_says_what_the_decoder_finds(self, real_data: Path, pattern: str) -> None:
        paths = sorted(real_data.glob(pattern))
        for path in paths[:: max(1, len(paths) // 12)]:
            data = path.read_bytes()
            frame = decode(data, "x")
            assert frame.pixels.shape == (frame.header.height, frame.header.width, 3)
            assert (frame.header.quality is None) == (frame.header.kind != "JPEG")

    def test_quirky(self, real_data: Path) -> None:
        found = {path.name: path.read_bytes() for path in (real_data / "quirky").iterdir() if path.stat().st_size}
        headers = {name: read_header(data, str(sniff(data))) for name, data in found.items()}
        assert headers["exif6_n02951585_can_opener.JPEG"].orientation == 6
        assert headers["exif0_n03337140_file.JPEG"].notes == ("illegal EXIF orientation, taken as none",)
        assert headers["png_named_No15.jpg"].kind == "PNG"
        assert headers["imageNotFound.gif"].channels == "palette"
