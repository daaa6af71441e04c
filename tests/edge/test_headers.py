from __future__ import annotations

import io

import pytest
from cvtune_edge.files import sniff
from cvtune_edge.headers import Header, read_header
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "PPM"])
@pytest.mark.parametrize("size", [(1, 1), (300, 2), (17, 1001)])
def test_the_size_without_decoding(kind: str, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    header = read_header(file.getvalue(), kind)
    assert header is not None
    assert (header.width, header.height) == size


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P5 2 1 4095\n....", Header(2, 1, 4095)),
        (b"P6\n# made by\n# hand\n2\t1\n255\n", Header(2, 1, 255)),
        (b"P4 9 1\n..", Header(9, 1)),
        (b"P3 2 1 100\n1 1 1", Header(2, 1, 0)),  # plain 8-bit: OpenCV scales it
        (b"P2 2 1 4095\n1 1", Header(2, 1, 4095)),
        (b"P5 2", None),
    ],
)
def test_ppm(data: bytes, expected: Header | None) -> None:
    assert read_header(data, "PPM") == expected


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"P5 ", b"P6\n"]), st.binary(max_size=60))
def test_damaged_headers_never_raise(magic: bytes, rest: bytes) -> None:
    kind = sniff(magic + rest)
    assert kind is not None
    header = read_header(magic + rest, kind)
    assert header is None or (header.width >= 0 and header.height >= 0)
