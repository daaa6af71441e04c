from __future__ import annotations

import io
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from cvtune_edge import ImageError
from cvtune_edge.decode import ReadOptions, decode, probe
from cvtune_edge.files import sniff
from cvtune_edge.headers import read_header
from cvtune_edge.notes import NOTE_8_BIT, NOTE_INVERTED, NOTE_PAGES, NOTE_RANGE, NOTE_WINDOW
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.edge.pictures import by_pillow, colours, encoded

pydicom = pytest.importorskip("pydicom")

U16, F32 = ReadOptions(pixels="uint16"), ReadOptions(pixels="float32")
EXPLICIT = "1.2.840.10008.1.2.1"
BASELINE = "1.2.840.10008.1.2.4.50"


def dicom(pixels: NDArray[Any], *, syntax: str = EXPLICIT, frames: list[bytes] | None = None, **tags: Any) -> bytes:
    """A DICOM file of one frame [H, W] or [H, W, 3], or of compressed `frames` of that size."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    colour = pixels.shape[-1] == 3 and pixels.ndim > 2
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    if frames is None:
        data = pixels.tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
    else:
        dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB" if frames or pixels.dtype.itemsize == 1 else "OW"
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def ramp(dtype: type[np.generic] = np.uint16) -> NDArray[Any]:
    """0..4095, [64, 64]."""
    return np.arange(4096).astype(dtype).reshape(64, 64)


def test_the_header() -> None:
    data = dicom(ramp(), BitsStored=12, Manufacturer="Acme", ManufacturerModelName="CT 1\n")
    assert sniff(data) == "DICOM"
    header = read_header(data, "DICOM")
    assert (header.kind, header.width, header.height, header.bits, header.sample) == ("DICOM", 64, 64, 16, "uint")
    assert (header.channels, header.pages, header.camera, header.orientation) == ("grey", 1, "Acme CT 1", 1)
    header = read_header(dicom(colours()), "DICOM")
    assert (header.width, header.height, header.bits, header.channels) == (37, 24, 8, "rgb")
    assert read_header(dicom(ramp(np.int16)), "DICOM").sample == "int"


def test_without_a_window_the_stored_range_is_the_range() -> None:
    data = dicom(ramp(), BitsStored=12)
    deep = decode(data, "x", U16)
    np.testing.assert_array_equal(deep.pixels[..., 1], np.rint(ramp() / 4095 * 65535))
    assert len(np.unique(deep.pixels)) == 4096
    assert deep.notes == (NOTE_RANGE,)
    np.testing.assert_array_equal(decode(data, "x").pixels[..., 1], np.rint(ramp() / 4095 * 255))
    raw = decode(data, "x", F32)
    np.testing.assert_array_equal(raw.pixels[..., 2], ramp())
    assert (raw.pixels.dtype.name, raw.notes) == ("float32", ())


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize("signed", [False, True])
def test_windows_as_pydicom_applies_them(function: str | None, signed: bool) -> None:
    """pydicom's window ends at the rescaled stored range; ours at 0 and 65535."""
    pixels = ramp(np.int16) - 2000 if signed else ramp()
    tags: dict[str, Any] = {"VOILUTFunction": function} if function else {}
    data = dicom(
        pixels, BitsStored=12 if not signed else 16, RescaleSlope="2", RescaleIntercept="-1024",
        WindowCenter="400", WindowWidth="1500", **tags,
    )  # fmt: skip
    dataset = pydicom.dcmread(io.BytesIO(data))
    values = pydicom.pixels.apply_modality_lut(pixels, dataset)
    window = pydicom.pixels.apply_windowing(values, dataset)
    bits = 2.0**dataset.BitsStored
    low, high = (-bits / 2, bits / 2 - 1) if signed else (0.0, bits - 1)
    low, high = low * 2 - 1024, high * 2 - 1024
    share = (window - low) / (high - low)
    frame = decode(data, "x", U16)
    assert np.abs(frame.pixels[..., 0] - share * 65535).max() <= 1
    assert frame.notes == (NOTE_WINDOW,)
    assert np.abs(decode(data, "x").pixels[..., 0] - share * 255).max() <= 0.51
    np.testing.assert_array_equal(decode(data, "x", F32).pixels[..., 0], values)


def test_the_first_of_several_windows() -> None:
    one = decode(dicom(ramp(), WindowCenter="2000", WindowWidth="1000"), "x")
    two = decode(dicom(ramp(), WindowCenter=["2000", "50"], WindowWidth=["1000", "5"]), "x")
    np.testing.assert_array_equal(one.pixels, two.pixels)


@pytest.mark.parametrize("options", [ReadOptions(), U16])
def test_monochrome1_is_inverted(options: ReadOptions) -> None:
    windows: list[dict[str, Any]] = [{}, {"WindowCenter": "2000", "WindowWidth": "1001"}]
    for window in windows:
        plain = decode(dicom(ramp(), BitsStored=12, **window), "x", options)
        turned = decode(dicom(ramp(), BitsStored=12, PhotometricInterpretation="MONOCHROME1", **window), "x", options)
        full = np.iinfo(plain.pixels.dtype).max
        assert np.abs(full - turned.pixels.astype(int) - plain.pixels).max() <= 1  # halves are rounded to even
        assert turned.notes == (NOTE_INVERTED, *plain.notes)


def test_monochrome1_unwindowed_is_turned_within_its_stored_range() -> None:
    data = dicom(ramp(), BitsStored=12, PhotometricInterpretation="MONOCHROME1", RescaleSlope="2", RescaleIntercept="9")
    frame = decode(data, "x", F32)
    np.testing.assert_array_equal(frame.pixels[..., 0], (4095 - ramp()) * 2 + 9)
    assert frame.notes == (NOTE_INVERTED,)


def test_colours() -> None:
    frame = decode(dicom(colours()), "x")
    np.testing.assert_array_equal(frame.pixels, colours())
    assert frame.notes == ()
    deep = decode(dicom(colours()), "x", U16)
    np.testing.assert_array_equal(deep.pixels, colours().astype(np.uint16) * 257)
    assert deep.notes == (NOTE_8_BIT,)
    planes = np.ascontiguousarray(np.moveaxis(colours(), 2, 0)).reshape(24, 37, 3)  # only the bytes matter
    np.testing.assert_array_equal(decode(dicom(planes, PlanarConfiguration=1), "x").pixels, colours())
    import cv2

    ycc = cv2.cvtColor(colours(), cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    frame = decode(dicom(np.ascontiguousarray(ycc), PhotometricInterpretation="YBR_FULL"), "x")
    assert np.abs(frame.pixels.astype(int) - colours()).max() <= 3


def test_the_first_of_several_frames() -> None:
    data = dicom(np.stack([ramp(), ramp()[::-1], ramp()]), NumberOfFrames=3)
    frame = decode(data, "x", F32)
    np.testing.assert_array_equal(frame.pixels[..., 0], ramp())
    assert frame.header.pages == 3
    assert frame.notes == (NOTE_PAGES,)


def test_run_lengths() -> None:
    from pydicom.dataset import Dataset

    dataset: Dataset = pydicom.dcmread(io.BytesIO(dicom(ramp(), BitsStored=12)))
    dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    file = io.BytesIO()
    dataset.save_as(file)
    np.testing.assert_array_equal(decode(file.getvalue(), "x", F32).pixels[..., 0], ramp())


@pytest.mark.parametrize("mode", ["grey", "rgb"])
def test_baseline_jpeg(mode: str) -> None:
    pixels = colours() if mode == "rgb" else colours()[..., 1]
    inner = encoded(pixels, "JPEG", quality=98)
    tags: dict[str, Any] = {"PhotometricInterpretation": "YBR_FULL_422"} if mode == "rgb" else {}
    data = dicom(pixels, syntax=BASELINE, frames=[inner, inner], NumberOfFrames=2, **tags)
    frame = decode(data, "x")
    assert np.abs(frame.pixels.astype(int) - by_pillow(inner)).max() <= 4
    assert NOTE_PAGES in frame.notes
    if mode == "rgb":
        with pytest.raises(ImageError, match="a JPEG whose colours are RGB by one header and YCbCr by the other"):
            decode(dicom(pixels, syntax=BASELINE, frames=[inner]), "x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            dicom(ramp(), syntax="1.2.840.10008.1.2.4.90", frames=[b"\xff\x4f"]),
            "DICOM stored as JPEG 2000 Image Compression (Lossless Only), expected uncompressed, run lengths or",
        ),
        (dicom(ramp(), syntax="1.2.840.10008.1.2.1.99"), "DICOM stored as deflated, expected uncompressed"),
        (dicom(ramp(), PhotometricInterpretation="PALETTE COLOR"), "DICOM with PALETTE COLOR pixels, expected MONO"),
        (dicom(ramp(), WindowCenter="1", WindowWidth="0"), "damaged: a DICOM window of width 0"),
        (dicom(ramp())[:-100], "damaged: cannot be decoded as DICOM ("),
        (dicom(ramp(), Rows=0), "damaged: 64 x 0 pixels"),
        (dicom(ramp(), Rows=60_000, Columns=60_000), "60000 x 60000 pixels, expected at most 200,000,000 in all"),
        (bytes(128) + b"DICM", "DICOM stored as nothing known, expected uncompressed"),
        (
            bytes(128) + b"DICM" + b"\2\0\x10\0UI\x14\0" + EXPLICIT.encode() + b"\0",
            "DICOM with unnamed pixels, expected",
        ),
    ],
)
def test_each_reason_in_its_own_words(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, "x")
    assert caught.value.reason.startswith(reason)


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError) as caught:
        probe(dicom_bytes, "scan.dcm")
    assert str(caught.value) == (
        "scan.dcm: DICOM, which needs the extra cvtune-edge[dicom]\n"
        "hint: pip install 'cvtune-edge[dicom]' (with cvtune: 'cvtune[dicom]')"
    )


dicom_bytes = dicom(ramp(), BitsStored=12, WindowCenter="2000", WindowWidth="1000")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=5),
    st.integers(100, 9000),
    st.sampled_from([ReadOptions(max_pixels=10**6), ReadOptions(pixels="float32", max_pixels=10**6)]),
)
def test_damaged_files_give_pixels_or_an_image_error(
    changes: list[tuple[int, int]], length: int, options: ReadOptions
) -> None:
    data = bytearray(dicom_bytes)
    for place, value in changes:
        data[128 + place] = value
    try:
        pixels = decode(bytes(data[:length]), "x", options).pixels
    except ImageError:
        return
    assert pixels.dtype.name == options.pixels
    assert pixels.shape[2] == 3
