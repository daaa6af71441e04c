from __future__ import annotations

from pathlib import Path

import pytest
from cvtune_edge.files import HEAD_BYTES, find_images, foreign_kind, natural_key, not_an_image, sniff
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x89PNG\r\n\x1a\n....", "PNG"),
        (b"GIF89a", "GIF"),
        (b"II*\x00", "TIFF"),
        (b"MM\x00*", "TIFF"),
        (b"MM\x00+", "TIFF"),  # BigTIFF
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "WebP"),
        (b"P6\n3 2\n255\n", "PPM"),
        (b"P2# comment", "PPM"),
        (b"BM" + bytes(12) + b"\x28\x00\x00\x00" + bytes(14), "BMP"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"II*\0" + bytes(124) + b"DICM", "TIFF"),  # a file may be both; the image is the surer reading
        (bytes(127) + b"DICM.", None),
        (b"BMW, the car maker of Munich, and more text", None),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", None),
        (b"P7\n", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_sniff_by_the_first_bytes(head: bytes, expected: str | None) -> None:
    assert sniff(head) == expected


@given(st.binary(max_size=40))
def test_sniff_takes_any_bytes(head: bytes) -> None:
    assert sniff(head) in {None, "JPEG", "PNG", "GIF", "TIFF", "WebP", "PPM", "BMP", "DICOM"}


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"8BPS\0\1", "PSD"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(28), "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "MP4"),
        (b"\0\0\0\x14ftypqt  ", "QuickTime"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"PK\3\4\x14\0", "ZIP"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG"),
        (b"\xef\xbb\xbf  <SVG>", "SVG"),
        (b'<?xml version="1.0"?><note/>', "XML"),
        (b"\n<!DOCTYPE html><title>404</title>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI video"),
        (b"\0\0\0\1Bud1\0\0", ".DS_Store"),
        (b"path;label\nW\xc3\xbcrfel.png;ok\n", "text"),
        (b"Wurfel " * 50 + "W\u00fc".encode()[:-1], "text"),  # cut inside a letter
        ("\ufeffpath".encode("utf-16-le"), "text"),
        (bytes(257) + b"ustar\0", "tar"),
        (bytes(64), None),
        (b"\x01\x02\x03\x04", None),
        (b"\xfftext that is none", None),
        (b"", None),
    ],
)
def test_foreign_files_are_called_by_their_names(head: bytes, kind: str | None) -> None:
    assert sniff(head) is None
    assert foreign_kind(head) == kind


@given(st.binary(max_size=HEAD_BYTES))
def test_any_bytes_have_a_reason(head: bytes) -> None:
    kind = foreign_kind(head)
    assert kind is None or kind in not_an_image(head)
    assert len(not_an_image(head)) < 100


@given(st.text(min_size=4, max_size=2 * HEAD_BYTES).filter(lambda text: text.isprintable() and text.strip()))
def test_any_prose_is_text_wherever_it_is_cut(text: str) -> None:
    head = text.encode()[:HEAD_BYTES]
    assert foreign_kind(head) is not None


def test_an_article_goes_with_each_name() -> None:
    assert not_an_image(b"8BPS") == "a PSD file, not an image that is read"
    assert not_an_image(b"\0\0\0\x20ftypisom") == "an MP4 file, not an image that is read"
    assert not_an_image(bytes(9)) == "nothing but zero bytes"
    assert not_an_image(b"\1").startswith("not an image (expected JPEG,")


def test_class_2_comes_before_class_10() -> None:
    names = ["class 10", "Class 2", "class 1", "1e3", "no", "007", "7"]
    assert sorted(names, key=natural_key) == ["1e3", "007", "7", "class 1", "Class 2", "class 10", "no"]


@given(st.lists(st.text(max_size=12), unique=True, max_size=8))
def test_natural_order_is_total(names: list[str]) -> None:
    ordered = sorted(names, key=natural_key)
    names.reverse()
    assert sorted(names, key=natural_key) == ordered


def touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_walks_in_natural_order_and_reports_what_it_passes_over(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "a/1.JPG", ".hidden.png", ".git/1.png", "__MACOSX/1.png", "Thumbs.db", "1/x.ppm"):
        touch(tmp_path / name)
    no_suffix = touch(tmp_path / "frame", b"\xff\xd8\xff\xe0")
    notes = touch(tmp_path / "notes.txt", b"hello")
    passed: list[Path] = []
    found = list(find_images([tmp_path], passed_over=passed.append))
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["1/x.ppm", "2.png", "10.png", "a/1.JPG", "frame"]
    assert no_suffix in found
    assert passed == [notes]


def test_files_come_as_given_even_when_missing(tmp_path: Path) -> None:
    given_paths = [tmp_path / "b.txt", tmp_path / "a.png"]
    assert list(find_images(given_paths)) == given_paths


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    touch(tmp_path / "parts" / "1.png")
    try:
        (tmp_path / "parts" / "up").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "again").symlink_to(tmp_path / "parts", target_is_directory=True)
    except OSError:
        pytest.skip("this system does not let us make links")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images([tmp_path])]
    assert names == ["again/1.png", "parts/1.png"]


def test_streams_folder_by_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.png")
    later = touch(tmp_path / "b" / "1.png")
    walk = find_images([tmp_path])
    next(walk)
    later.rename(later.with_name("2.png"))  # not listed yet
    assert next(walk).name == "2.png"
