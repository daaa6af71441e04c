from __future__ import annotations

from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
from cvtune_edge import ImageError
from cvtune_edge.decode import ReadOptions, decode
from cvtune_edge.headers import read_header
from cvtune_edge.notes import NOTE_8_BIT, NOTE_16_BIT, NOTE_ALPHA, NOTE_CMYK, NOTE_EXTRA, NOTE_ROUNDED, NOTE_WHITE
from numpy.typing import NDArray

from tests.edge.pictures import by_pillow, colours, encoded, tiff

U16, F32 = ReadOptions(pixels="uint16"), ReadOptions(pixels="float32")


def deep(channels: int = 3) -> NDArray[np.uint16]:
    """uint16 [24, 37, C], or [24, 37]."""
    picture = np.dstack([colours(), colours()[::-1, :, :1]]).astype(np.uint16) * 211 + 7
    return picture[..., 0] if channels == 1 else picture[..., :channels]


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """By the drawing in the EXIF specification: where the stored row 0 and column 0 are seen."""
    swapped = np.swapaxes(pixels, 0, 1)
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: swapped,
        6: swapped[:, ::-1],
        7: swapped[::-1, ::-1],
        8: swapped[::-1],
    }[orientation]


@pytest.mark.parametrize(("order", "big"), list(product("<>", [False, True])))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize(("channels", "planar"), [(1, False), (3, False), (3, True)])
def test_every_depth_order_and_layout_comes_back_exactly(
    order: Literal["<", ">"], big: bool, dtype: type[np.generic], channels: int, planar: bool
) -> None:
    pixels = (colours() if channels == 3 else colours()[..., 0]).astype(dtype)
    data = tiff(pixels, order=order, big=big, planar=planar)
    header = read_header(data, "TIFF")
    assert (header.width, header.height, header.bits) == (37, 24, pixels.dtype.itemsize * 8)
    assert header.sample == {"u": "uint", "i": "int", "f": "float"}[pixels.dtype.kind]
    frame = decode(data, "x", F32)
    wanted = np.dstack([pixels] * 3) if channels == 1 else pixels
    np.testing.assert_array_equal(frame.pixels, wanted.astype(np.float32))
    assert frame.pixels.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_orientation_is_applied_whatever_the_pixels(orientation: int, channels: int, dtype: type[np.generic]) -> None:
    pixels = np.dstack([colours(), colours()[..., :1]])[..., :channels].astype(dtype)
    data = tiff(pixels[..., 0] if channels == 1 else pixels, tags={274: (orientation,)})
    wanted = pixels[..., :3] if channels > 2 else np.dstack([pixels[..., 0]] * 3)
    frame = decode(data, "x", F32)
    illegal = not 1 <= orientation <= 8
    np.testing.assert_array_equal(frame.pixels, turned(wanted, 1 if illegal else orientation))
    assert ("illegal EXIF orientation, taken as none" in frame.notes) == illegal
    assert frame.header.orientation == (1 if illegal else orientation)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("width", [37, 40])
def test_packed_grey(bits: int, white_is_zero: bool, width: int) -> None:
    most = 2**bits - 1
    values = np.random.default_rng(bits).integers(0, most + 1, (5, width))
    raw = b"".join(packed(row, bits) for row in values)
    data = tiff(values.astype(np.uint8), bits=bits, raw=raw, tags={262: (0 if white_is_zero else 1,)})
    grey = (most - values if white_is_zero else values) * 255 // most
    np.testing.assert_array_equal(decode(data, "x").pixels, np.dstack([grey] * 3))
    np.testing.assert_array_equal(by_pillow(data), np.dstack([grey] * 3))  # the test's own file is right


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes(bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 37))
    table = np.random.default_rng(1).integers(0, 256, (2**bits, 3))
    raw = b"".join(packed(row, bits) for row in values)
    tags = {262: (3,), 320: tuple((table * 257).T.ravel().tolist())}
    data = tiff(values.astype(np.uint8), bits=bits, raw=raw, tags=tags)
    assert read_header(data, "TIFF").channels == "palette"
    np.testing.assert_array_equal(decode(data, "x").pixels, table[values])


def packed(row: NDArray[Any], bits: int) -> bytes:
    spread = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(spread.astype(np.uint8).ravel()).tobytes()


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_12_bits_in_12_bits_keep_their_values(bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (4, 40))
    values[0, :2] = 0, 2**bits - 1
    data = tiff(values.astype(np.uint16), bits=bits, raw=b"".join(packed(row, bits) for row in values))
    frame = decode(data, "x", U16)
    np.testing.assert_array_equal(frame.pixels[..., 0], values)
    assert frame.notes == (NOTE_WHITE,)
    np.testing.assert_array_equal(decode(data, "x", F32).pixels[..., 0], values)
    small = decode(data, "x")
    np.testing.assert_array_equal(small.pixels[..., 0], np.floor(values * 255 / (2**bits - 1) + 0.5))
    assert small.notes == (NOTE_16_BIT,)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_zero_is_white(dtype: type[np.generic]) -> None:
    pixels = colours()[..., 0].astype(dtype)
    frame = decode(tiff(pixels, tags={262: (0,)}), "x", ReadOptions(pixels=np.dtype(dtype).name))
    np.testing.assert_array_equal(frame.pixels[..., 0], (255 if dtype == np.uint8 else 65535) - pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("planar", [False, True])
def test_alpha_is_laid_on_the_background(dtype: type[np.generic], channels: int, planar: bool) -> None:
    """ExtraSamples: 1 is multiplied already, 2 is not, 0 is no alpha."""
    full = 255.0 if dtype == np.uint8 else 65535.0
    picture = (np.dstack([colours(), colours()[..., 1:2]])[..., -channels:].astype(float) / 255 * full).astype(dtype)
    straight, share = picture[..., :-1].astype(float), picture[..., -1:] / full
    options = ReadOptions(pixels=np.dtype(dtype).name, background=(10, 200, 90))
    ground = np.array(options.background) / 255 * full
    for extra, wanted, note in (
        (2, straight * share + ground * (1 - share), NOTE_ALPHA),
        (0, straight + 0 * ground, NOTE_EXTRA),
    ):
        frame = decode(tiff(picture, planar=planar, tags={338: (extra,)}), "x", options)
        assert np.abs(frame.pixels - wanted).max() <= 1
        assert frame.notes == (note,)
    ready = np.concatenate([np.round(straight * share), picture[..., -1:]], axis=2).astype(dtype)
    frame = decode(tiff(ready, planar=planar, tags={338: (1,)}), "x", options)
    assert np.abs(frame.pixels - (straight * share + ground * (1 - share))).max() <= 1


def test_an_alpha_that_is_opaque_everywhere_changes_nothing() -> None:
    pixels = np.dstack([colours(), np.full((24, 37), 255, np.uint8)])
    frame = decode(tiff(pixels, tags={338: (2,)}), "x")
    np.testing.assert_array_equal(frame.pixels, colours())
    assert frame.notes == ()
    assert frame.header.alpha


def test_cmyk_as_pillow_converts_it() -> None:
    data = tiff(np.dstack([colours(), colours()[::-1, :, :1] // 4]), tags={262: (5,)})
    frame = decode(data, "x")
    assert np.abs(frame.pixels.astype(int) - by_pillow(data)).max() <= 1
    assert frame.notes == (NOTE_CMYK,)
    assert frame.header.channels == "cmyk"


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
def test_compressions_as_pillow_reads_them(compression: str) -> None:
    image = np.ascontiguousarray(colours()[..., 1] > 99) if compression == "group4" else colours()
    data = encoded(image, "TIFF", compression=compression)
    assert np.abs(decode(data, "x").pixels.astype(int) - by_pillow(data)).max() <= (3 if compression == "jpeg" else 0)


@pytest.mark.parametrize(
    ("pixels", "tags", "reason"),
    [
        (deep(4), {262: (5,)}, "a TIFF of 16-bit cmyk pixels, which are not read"),
        (deep(1), {262: (3,)}, "a TIFF of 16-bit palette pixels, which are not read"),
        (deep(), {262: (8,)}, "a TIFF of CIELab pixels, which are not read"),
        (deep(), {262: (6,)}, "a TIFF of 16-bit YCbCr pixels, which are not read"),
        (deep(1), {262: (32803,)}, "a TIFF of raw sensor pixels, which are not read"),
        (deep(1), {50706: (1, 4, 0, 0)}, "a DNG raw file, not an image that is read"),
        (colours()[..., 0], {262: (3,), 320: (1, 2, 3)}, "damaged: a TIFF with a palette of the wrong length"),
        (np.dstack([colours()] * 2), {}, "a TIFF of 6 channels, expected at most 4"),
        (colours()[..., :2], {317: (2,)}, "a grey TIFF with a second channel and a predictor, which is not read"),
        (colours()[..., 0].astype(np.float16), {}, "a TIFF of 16-bit float pixels, which are not read"),
        (colours(), {258: (8, 8, 16)}, "a TIFF whose channels differ in depth, which is not read"),
        (
            colours()[..., 0].astype(np.float32),
            {262: (0,)},
            "a TIFF of 32-bit float pixels where 0 is white, which are",
        ),
        (
            np.dstack([colours(), colours()[..., :1]]).astype(np.float32),
            {338: (2,)},
            "a TIFF of float pixels with trans",
        ),
        (colours(), {277: (1,), 262: (2,)}, "damaged: a TIFF of 1 channels, expected 3"),
        (colours(), {256: (100_000,), 257: (100_000,)}, "100000 x 100000 pixels, expected at most 200,000,000 in all"),
        (colours(), {322: (65_536,), 323: (65_536,)}, "damaged: a TIFF with tiles larger than any image"),
        (colours(), {279: (10**6,)}, "truncated: the end of the TIFF file is missing"),
        (colours(), {256: (0,)}, "damaged: 0 x 24 pixels"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(
    pixels: NDArray[Any], tags: dict[int, tuple[int, ...]], reason: str
) -> None:
    for options in (ReadOptions(), F32):
        with pytest.raises(ImageError) as caught:
            decode(tiff(pixels, tags=tags), "x", options)
        assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (np.float32, "float"),
        (np.float64, "float"),
        (np.int8, "int8"),
        (np.int16, "int16"),
        (np.int32, "int32"),
        (np.uint32, "uint32"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels", ["uint8", "uint16"])
def test_pixels_of_unknown_range_need_float32(dtype: type[np.generic], name: str, channels: int, pixels: str) -> None:
    data = tiff(np.dstack([np.ones((4, 5))] * channels).astype(dtype) if channels > 1 else np.ones((4, 5), dtype))
    with pytest.raises(ImageError) as caught:
        decode(data, "scan.tif", ReadOptions(pixels=pixels))
    assert str(caught.value) == f"scan.tif: {name} pixels; --pixels float32 reads them"


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_float_pixels_that_are_no_numbers_are_refused(bad: float) -> None:
    pixels = np.ones((4, 5))
    pixels[2, 3] = bad
    with pytest.raises(ImageError, match="float pixels that are not finite in float32"):
        decode(tiff(pixels), "x", F32)


def test_rounding_to_float32_is_told() -> None:
    assert decode(tiff(np.full((4, 5), 2**24, np.uint32)), "x", F32).notes == ()
    assert decode(tiff(np.full((4, 5), 2**24 + 1, np.uint32)), "x", F32).notes == (NOTE_ROUNDED,)


def test_8_bits_in_a_16_bit_run() -> None:
    frame = decode(tiff(colours()), "x", U16)
    np.testing.assert_array_equal(frame.pixels, colours().astype(np.uint16) * 257)
    assert frame.notes == (NOTE_8_BIT,)


def test_pages_are_counted_without_following_a_loop() -> None:
    assert [read_header(tiff(colours(), pages=n, big=big), "TIFF").pages for n in (1, 7) for big in (False, True)] == [
        1,
        1,
        7,
        7,
    ]
    data = bytearray(tiff(colours(), pages=2))
    first = int.from_bytes(data[4:8], "little")
    second = int.from_bytes(data[first + 2 + 12 * 11 : first + 6 + 12 * 11], "little")
    data[second + 2 + 12 * 11 : second + 6 + 12 * 11] = first.to_bytes(4, "little")  # back to the first
    assert read_header(bytes(data), "TIFF").pages == 3  # seen again once, then the loop ends
    np.testing.assert_array_equal(decode(bytes(data), "x").pixels, colours())
    assert read_header(tiff(colours()[:1, :1], pages=20_000), "TIFF").pages == 10_000


def test_the_camera() -> None:
    image = encoded(colours(), "TIFF", tiffinfo={271: "Acme", 272: "Acme X1\n"})
    assert read_header(image, "TIFF").camera == "Acme X1"
