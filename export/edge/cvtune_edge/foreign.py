"""What a file is that is no image, by its first bytes: a disguised one should be called by its name."""

from __future__ import annotations

import re
from typing import Final

_MAGIC: Final = (
    (b"8BPS", "PSD"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),  # with a preview, for DOS
    (b"%PDF-", "PDF"),
    (b"PK\x03\x04", "ZIP"),  # also Office documents
    (b"PK\x05\x06", "ZIP"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x01\x00", "icon"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIRS", "camera raw"),
    (b"IIU\x00", "camera raw"),
    (b"SIMPLE  =", "FITS"),
    (b"\x89HDF", "HDF5"),
    (b"\x93NUMPY", "NumPy"),
    (b"\x1aE\xdf\xa3", "Matroska video"),
    (b"ID3", "MP3"),
    (b"OggS", "Ogg"),
    (b"SQLite format 3", "SQLite"),
    (b"\x7fELF", "program"),
    (b"MZ", "program"),
    (b"\x00\x00\x00\x01Bud1", ".DS_Store"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Office or Thumbs.db"),
    (b"version https://git-lfs", "Git LFS pointer"),  # the image itself was never fetched
    (b"gimp xcf", "GIMP"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
)
_BRANDS: Final = {"heic": "HEIC", "heix": "HEIC", "hevc": "HEIC", "mif1": "HEIC", "msf1": "HEIC", "heif": "HEIC"} | {
    "avif": "AVIF",
    "avis": "AVIF",
    "qt  ": "QuickTime",
    "crx ": "camera raw",
}
_RIFF: Final = {b"AVI ": "AVI video", b"WAVE": "WAV"}
_AN: Final = frozenset({"EPS", "HDF5", "AVI video", "AVIF", "SVG", "HTML", "XML", "MP3", "MP4", "SQLite", "icon"}) | {
    "old Office or Thumbs.db",
    "OpenEXR",
    "xz",
    "Ogg",
}
_EXPECTED: Final = "not an image (expected JPEG, PNG, BMP, TIFF, WebP, GIF, PPM or DICOM)"


def foreign_kind(head: bytes) -> str | None:
    """Name what a file is that is no image that is read.

    Args:
        head: the first `cvtune_edge.files.HEAD_BYTES` bytes of the file, or all of it.

    Returns:
        "PSD", "PDF", "HEIC", "ZIP", "text" and the like, or None where nothing is known about it.
    """
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12].decode("latin-1").lower(), "MP4")
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[257:262] == b"ustar":
        return "tar"
    return _text_kind(head)


def _text_kind(head: bytes) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "SVG"
    if start.startswith(b"<?xml"):
        return "XML"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and len(head) > 2:
        return "text"
    if not start or re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head):
        return None
    try:
        head[:-3].decode("utf-8") if len(head) > 3 else head.decode("utf-8")  # the last letter may be cut
    except UnicodeDecodeError as error:
        return "text" if error.reason == "unexpected end of data" and error.end == len(head[:-3]) else None
    return "text"


def not_an_image(head: bytes) -> str:
    """The reason why a file that is no image is not read, in a few words."""
    kind = foreign_kind(head[:512])
    if kind is None:
        return "nothing but zero bytes" if head and not any(head[:512]) and not head.strip(b"\0") else _EXPECTED
    return f"{'an' if kind in _AN else 'a'} {kind} file, not an image that is read"
