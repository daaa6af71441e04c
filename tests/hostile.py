"""Image files of every kind, made by code and the same each time; the torture folder and the mutations start here."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT: Final = 48
WIDTH: Final = 64


def picture(seed: int = 0) -> NDArray[np.uint8]:
    """A gradient with a bright spot, uint8 [48, 64, 3]: compresses a little, and each seed has a picture of its own."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    random = np.random.default_rng(seed)
    centre = random.uniform(8, 40, 2)
    spot = 90 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 60)
    planes = [60 + x, 40 + 2 * y, 30 + x + y]
    noise = random.normal(0, 2, (HEIGHT, WIDTH, 3))
    return np.clip(np.dstack([plane + spot for plane in planes]) + noise, 0, 255).astype(np.uint8)


def by_pillow(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def by_opencv(suffix: str, pixels: NDArray[Any]) -> bytes:
    """The file that OpenCV writes."""
    ok, data = cv2.imencode(suffix, pixels)
    assert ok
    return bytes(data)


def in_mode(mode: str, seed: int = 0) -> Image.Image:
    """The picture in one of Pillow's modes."""
    return Image.fromarray(picture(seed)).convert(mode)


def with_alpha(mode: str, seed: int = 0) -> Image.Image:
    """The picture with a left half that is clear and a right half that is not."""
    image = in_mode(mode, seed)
    image.putalpha(
        Image.fromarray(np.where(np.arange(WIDTH) < WIDTH // 2, 0, 255)[None].repeat(HEIGHT, 0).astype("u1"))
    )
    return image


def exif(orientation: int) -> Image.Exif:
    """An EXIF block with this orientation and a camera."""
    block = Image.Exif()
    block[0x010F], block[0x0110], block[0x0112] = "Maker", "Model 1", orientation
    return block


def ramp(bits: int) -> NDArray[np.uint16]:
    """Each grey value of so many bits once, uint16 [H, W], square."""
    side = 1 << (bits // 2)
    return np.arange(1 << bits, dtype=np.uint16).reshape(side, -1)


# ---- parts of formats, for headers that tell lies


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG (PNG specification, 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG of these chunks after its header."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def png_rows(seed: int = 0) -> bytes:
    """The picture as the IDAT chunk of a PNG of its size, RGB."""
    return chunk(b"IDAT", packed_rows(seed))


def animated_png(*, still: bytes, frame: bytes, counts: bool = True) -> bytes:
    """An animated PNG of the picture's size from packed rows; `counts`: whether the still picture is its first frame.

    (PNG specification, third edition, 4.9)
    """
    control = struct.pack(">5IHHBB", 0, WIDTH, HEIGHT, 0, 0, 0, 1, 0, 0)
    second = control if not counts else struct.pack(">I", 1) + control[4:]
    return png(
        WIDTH,
        HEIGHT,
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        *[chunk(b"fcTL", control)] * counts,
        chunk(b"IDAT", still),
        chunk(b"fcTL", second),
        chunk(b"fdAT", struct.pack(">I", 1 + counts) + frame),
    )


def packed_rows(seed: int = 0, *, filter_of_row_10: int = 0) -> bytes:
    """The picture as packed rows of an RGB PNG; a filter above 4 does not exist."""
    rows = np.zeros((HEIGHT, 1 + 3 * WIDTH), np.uint8)  # a filter before each row
    rows[:, 1:] = picture(seed).reshape(HEIGHT, -1)
    rows[10, 0] = filter_of_row_10
    return zlib.compress(rows.tobytes())


def tiff(*tags: tuple[int, int, int, int], after: int = 0, data: bytes = b"") -> bytes:
    """A little-endian TIFF of one page: tags (number, type, count, value), where the next page is, then data."""
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8) + page + struct.pack("<I", after) + data


def plain_tiff(width: int, height: int, *, bits: int = 8, after: int = 0, offset: int | None = None) -> bytes:
    """A grey TIFF whose header says this size, and which has 64 bytes of pixels."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1)]
    start = 8 + 2 + 12 * (len(tags) + 4) + 4 if offset is None else offset
    tags += [(273, 4, 1, start), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64)]
    return tiff(*tags, after=after, data=bytes(range(64)))


def bmp(width: int, height: int, *, bits: int = 24, data: bytes = bytes(192)) -> bytes:
    """A BMP whose header says this size."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def gif(width: int, height: int, frames: int = 1, *, frame: tuple[int, int] = (2, 2)) -> bytes:
    """A GIF of two colours with frames of 2 x 2 pixels; its screen may say anything."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([200, 60, 20, 10, 90, 180])
    block = b"\x21\xf9\x04\0\x05\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0)
    pixels = b"\x02\x02\x84\x51\0"  # LZW of 0, 0, 0, 0 with 2 bits
    return b"GIF89a" + screen + (block + pixels) * frames + b"\x3b"


def webp_extended(width: int, height: int) -> bytes:
    """A WebP of the extended kind whose canvas says this size, without a picture."""
    canvas = b"VP8X" + struct.pack("<IB3x", 10, 0)
    canvas += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas


def jpeg_with(data: bytes, marker: int, *, height: int | None = None, width: int | None = None) -> bytes:
    """A JPEG with another height or width in its start of frame."""
    at = data.index(bytes([0xFF, marker]))
    new = bytearray(data)
    if height is not None:
        new[at + 5 : at + 7] = struct.pack(">H", height)
    if width is not None:
        new[at + 7 : at + 9] = struct.pack(">H", width)
    return bytes(new)


def dicom(pixels: NDArray[Any], **more: str) -> bytes:
    """A grey DICOM, explicit little-endian; `more` are texts by "group,element" and representation (PS3.5, 7.1.2)."""
    bits = 8 * pixels.itemsize
    numbers = {(0x28, 2): 1, (0x28, 0x10): pixels.shape[0], (0x28, 0x11): pixels.shape[1]}
    numbers |= {(0x28, 0x100): bits, (0x28, 0x101): bits, (0x28, 0x102): bits - 1, (0x28, 0x103): 0}
    parts = {tag: _element(tag, b"US", struct.pack("<H", value)) for tag, value in numbers.items()}
    texts = {"8,16 UI": "1.2.840.10008.5.1.4.1.1.7", "8,18 UI": "1.2.3", "28,4 CS": "MONOCHROME2", **more}
    for key, text in texts.items():
        place, _, representation = key.partition(" ")
        group, element = (int(number, 16) for number in place.split(","))
        data = text.encode("ascii") + (b"\0" if representation == "UI" else b" ") * (len(text) % 2)
        parts[group, element] = _element((group, element), representation.encode("ascii"), data)
    parts[0x7FE0, 0x10] = _element((0x7FE0, 0x10), b"OW", pixels.tobytes())
    syntax = _element((2, 0x10), b"UI", b"1.2.840.10008.1.2.1\0")
    syntax = _element((2, 1), b"OB", b"\0\1") + _element((2, 2), b"UI", b"1.2.840.10008.5.1.4.1.1.7\0") + syntax
    meta = _element((2, 0), b"UL", struct.pack("<I", len(syntax))) + syntax
    return bytes(128) + b"DICM" + meta + b"".join(parts[tag] for tag in sorted(parts))


def _element(tag: tuple[int, int], representation: bytes, data: bytes) -> bytes:
    long = representation in (b"OB", b"OW")
    return (
        struct.pack("<HH", *tag) + representation + struct.pack("<HI" if long else "<H", *[0] * long, len(data)) + data
    )


# ---- good files


@cache
def good() -> dict[str, bytes]:
    """Files that are read as 8 bits, by name."""
    return {**_jpegs(), **_pngs(), **_tiffs(), **_others(), **_dicoms()}


def _jpegs() -> dict[str, bytes]:
    turned = {f"exif_{n}.jpg": by_pillow(picture(n), "JPEG", exif=exif(n)) for n in range(1, 9)}
    return {
        **turned,
        "colour.jpg": by_pillow(picture(10), "JPEG"),
        "grey.jpg": by_pillow(in_mode("L", 11), "JPEG"),
        "progressive.jpg": by_pillow(picture(12), "JPEG", progressive=True),
        "cmyk.jpg": by_pillow(in_mode("CMYK", 13), "JPEG"),
        "full_chroma.jpg": by_pillow(picture(14), "JPEG", subsampling=0, quality=97),
        "restarts.jpg": by_pillow(picture(15), "JPEG", restart_marker_rows=1),
    }


def _pngs() -> dict[str, bytes]:
    second = Image.fromarray(picture(21))
    return {
        "colour.png": by_pillow(picture(20), "PNG"),
        "grey.png": by_pillow(in_mode("L", 22), "PNG"),
        "palette.png": by_pillow(in_mode("P", 23), "PNG"),
        "palette_alpha.png": by_pillow(in_mode("P", 24), "PNG", transparency=bytes([0, 128, 255] * 20)),
        "alpha.png": by_pillow(with_alpha("RGB", 25), "PNG"),
        "grey_alpha.png": by_pillow(with_alpha("L", 26), "PNG"),
        "one_bit.png": by_pillow(in_mode("1", 27), "PNG"),
        "16_bit.png": by_opencv(".png", ramp(16)),
        "16_bit_colour.png": by_opencv(".png", picture(28).astype(np.uint16) * 257),
        "12_bit.png": by_opencv(".png", ramp(12)),
        "animated.png": by_pillow(picture(29), "PNG", save_all=True, append_images=[second]),
    }


def _tiffs() -> dict[str, bytes]:
    second = Image.fromarray(picture(31))
    return {
        "plain.tif": by_pillow(picture(30), "TIFF"),
        "lzw.tif": by_pillow(picture(32), "TIFF", compression="tiff_lzw"),
        "deflate.tif": by_pillow(picture(33), "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": by_pillow(picture(34), "TIFF", compression="jpeg"),
        "fax.tif": by_pillow(in_mode("1", 35), "TIFF", compression="group4"),
        "cmyk.tif": by_pillow(in_mode("CMYK", 36), "TIFF"),
        "alpha.tif": by_pillow(with_alpha("RGB", 37), "TIFF"),
        "pages.tif": by_pillow(picture(38), "TIFF", save_all=True, append_images=[second]),
        "big.tif": by_pillow(picture(39), "TIFF", big_tiff=True),
        "16_bit.tif": by_opencv(".tiff", ramp(16)),
    }


def _others() -> dict[str, bytes]:
    second = Image.fromarray(picture(41))
    grey = picture(42)[..., 1]
    half_clear = in_mode("P", 45)
    half_clear.paste(0, (0, 0, WIDTH // 2, HEIGHT))
    return {
        "plain.bmp": by_pillow(picture(40), "BMP"),
        "grey.bmp": by_pillow(in_mode("L", 43), "BMP"),
        "top_down.bmp": bmp(8, -8),
        "plain.gif": by_pillow(picture(44), "GIF"),
        "clear.gif": by_pillow(half_clear, "GIF", transparency=0),
        "animated.gif": by_pillow(picture(46), "GIF", save_all=True, append_images=[second]),
        "lossy.webp": by_pillow(picture(47), "WebP"),
        "lossless.webp": by_pillow(picture(48), "WebP", lossless=True),
        "alpha.webp": by_pillow(with_alpha("RGB", 49), "WebP"),
        "animated.webp": by_pillow(picture(50), "WebP", save_all=True, append_images=[second]),
        "colour.ppm": by_pillow(picture(51), "PPM"),
        "text.pgm": b"P2\n# a comment\n64 48\n255\n"
        + b"\n".join(b" ".join(b"%d" % v for v in row) for row in grey)
        + b"\n",
        "bits.pbm": b"P4 64 48\n" + np.packbits(grey > 100, axis=1).tobytes(),
        "12_bit.pgm": b"P5 64 64 4095\n" + ramp(12).astype(">u2").tobytes(),
        "16_bit.pgm": b"P5 256 256 65535\n" + ramp(16).astype(">u2").tobytes(),
    }


def _dicoms() -> dict[str, bytes]:
    slope = {"28,1050 DS": "2000", "28,1051 DS": "4000", "28,1052 DS": "-10", "28,1053 DS": "2"}
    return {
        "grey.dcm": dicom(picture(60)[..., 1]),
        "inverted.dcm": dicom(picture(61)[..., 1], **{"28,4 CS": "MONOCHROME1"}),
        "window.dcm": dicom(ramp(12), **slope),
    }
