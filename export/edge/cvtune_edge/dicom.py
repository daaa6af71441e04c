"""DICOM, by the extra `cvtune-edge[dicom]`: modality rescale, window, MONOCHROME1, colour; one frame.

Only pydicom's own decoders and OpenCV are used, never a plugin that happens to be installed: lab and line would differ.
The rules are those of DICOM PS3.3, C.7.6.3.1 (photometric interpretation), C.11.1 (modality) and C.11.2 (window).
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from cvtune_edge.convert import in_three_channels, to_depth
from cvtune_edge.formats import jpeg
from cvtune_edge.formats.header import MOST_PAGES, Header
from cvtune_edge.notes import NOTE_INVERTED, NOTE_RANGE, NOTE_WINDOW
from cvtune_edge.opencv import AS_RGB, imdecode

_BASELINE: Final = "1.2.840.10008.1.2.4.50"
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"  # pydicom unpacks it whole before anything can be checked
_READ: Final = {  # implicit and explicit little endian, explicit big endian, run lengths, baseline JPEG
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    _BASELINE,
}
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422")
_WARNINGS = threading.Lock()  # filters of warnings belong to the process, not to a thread

T = TypeVar("T")


class MissingExtra(ValueError):
    """pydicom is not installed; `hint` tells how to get it."""

    hint = "pip install 'cvtune-edge[dicom]' (with cvtune: 'cvtune[dicom]')"


@dataclass(frozen=True)
class _Scale:
    """Grey values after the modality's rescale, and the range that they can take."""

    values: NDArray[Any]
    low: float
    high: float


def read_dicom_header(data: bytes) -> Header:
    """Read what a DICOM file says about its pixels.

    Raises:
        ValueError: damaged, or of a kind that is not read; `MissingExtra` without pydicom.
    """
    return _guarded(lambda: _header(_dataset(data, stop_before_pixels=True)))


def read_dicom(data: bytes, header: Header, pixels: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Decode the first frame.

    Args:
        data: the whole file.
        header: what `read_dicom_header` says.
        pixels: "uint8" and "uint16" give the windowed values over their full range, "float32" the rescaled ones
            without a window.

    Returns:
        [H, W, 3] of that type, and notes.

    Raises:
        ValueError: as for the header, or the pixels cannot be decoded.
    """
    return _guarded(lambda: _pixels(_dataset(data, stop_before_pixels=False), header, pixels))


def _guarded(work: Callable[[], T]) -> T:
    """Run pydicom on bytes that may be anything: it raises what it likes, and warns."""
    try:
        import_module("pydicom")
    except ImportError:
        raise MissingExtra("DICOM, which needs the extra cvtune-edge[dicom]") from None
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return work()
        except (MemoryError, _Refused):
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:120]
            raise ValueError(f"damaged: cannot be decoded as DICOM ({text or type(error).__name__})") from None


class _Refused(ValueError):
    """A reason of ours, to be handed on as it is."""


def _dataset(data: bytes, *, stop_before_pixels: bool) -> Any:
    from pydicom import dcmread
    from pydicom.uid import UID

    mark = data.find(b"\x02\x00\x10\x00UI", 132, 132 + 8192)  # transfer syntax, always explicit little endian
    syntax = data[mark + 8 : mark + 8 + data[mark + 6]].rstrip(b"\0 ").decode("latin-1") if mark >= 0 else ""
    if syntax not in _READ:
        name = "deflated" if syntax == _DEFLATED else _short(UID(syntax).name) or "nothing known"
        raise _Refused(f"DICOM stored as {name}, expected uncompressed, run lengths or baseline JPEG")
    return dcmread(io.BytesIO(data), stop_before_pixels=stop_before_pixels)


def _header(dataset: Any) -> Header:
    colours = str(dataset.get("PhotometricInterpretation", ""))
    if colours not in (*_GREY, *_COLOUR):
        raise _Refused(f"DICOM with {_short(colours) or 'unnamed'} pixels, expected {', '.join((*_GREY, *_COLOUR))}")
    bits = int(dataset.get("BitsAllocated", 0))
    sample = "int" if int(dataset.get("PixelRepresentation", 0)) else "uint"
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        sample = "float"
    if bits not in (1, 8, 16, 32, 64) or (colours in _COLOUR and (sample != "uint" or bits not in (8, 16))):
        raise _Refused(f"DICOM of {bits}-bit {sample} {colours} pixels, which are not read")
    camera = f"{dataset.get('Manufacturer', '') or ''} {dataset.get('ManufacturerModelName', '') or ''}"
    return Header(
        "DICOM",
        int(dataset.Columns),
        int(dataset.Rows),
        max(8, bits),
        sample,
        "grey" if colours in _GREY else "rgb",
        pages=min(max(1, int(dataset.get("NumberOfFrames", 1) or 1)), MOST_PAGES),
        camera=_short(camera),
    )


def _short(text: str) -> str:
    """A text out of a file that may hold anything."""
    return "".join(c for c in text[:200] if c.isprintable()).strip()[:64]


def _pixels(dataset: Any, header: Header, pixels: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    stored = _stored(dataset, header)
    if stored.shape[:2] != (header.height, header.width):
        raise _Refused(f"damaged: {stored.shape[1]} x {stored.shape[0]} pixels come out of the DICOM")
    if header.channels == "rgb":
        values, notes = to_depth(stored, header, pixels)
        return np.ascontiguousarray(values), notes
    scale = _rescaled(dataset, stored, header)
    inverted = str(dataset.PhotometricInterpretation) == "MONOCHROME1"
    notes = (NOTE_INVERTED,) if inverted else ()
    if pixels == "float32":
        values = scale.low + scale.high - scale.values if inverted else scale.values
        grey, rounded = to_depth(values, header, pixels)
        return in_three_channels(grey), (*notes, *rounded)
    share, note = _windowed(dataset, scale, header)  # 0..1
    full = 255 if pixels == "uint8" else 65535
    grey = np.rint((1 - share if inverted else share) * full).astype(pixels)
    return in_three_channels(grey), (*notes, note)


def _stored(dataset: Any, header: Header) -> NDArray[Any]:
    """The first frame, [H, W] or [H, W, 3] in RGB."""
    from pydicom.pixels.utils import pixel_array

    if dataset.file_meta.TransferSyntaxUID == _BASELINE:
        return _baseline(dataset, header)
    return np.asarray(pixel_array(dataset, index=0, decoding_plugin=_plugin(dataset)))


def _plugin(dataset: Any) -> str:
    return "pydicom" if dataset.file_meta.TransferSyntaxUID.is_compressed else ""


def _baseline(dataset: Any, header: Header) -> NDArray[Any]:
    from pydicom.encaps import get_frame

    frame = get_frame(dataset.PixelData, 0, number_of_frames=header.pages)
    inner = jpeg.read_header(frame)
    if (inner.width, inner.height) != (header.width, header.height):
        raise _Refused("damaged: the JPEG inside the DICOM has another size")
    if str(dataset.PhotometricInterpretation) == "RGB" and not jpeg.scan_segments(frame, up_to_scan=True).adobe:
        raise _Refused("DICOM with a JPEG whose colours are RGB by one header and YCbCr by the other")
    pixels = imdecode(frame, AS_RGB)
    if pixels is None:
        raise _Refused("damaged: the JPEG inside the DICOM cannot be decoded")
    return pixels if header.channels == "rgb" else pixels[..., 0]


def _rescaled(dataset: Any, stored: NDArray[Any], header: Header) -> _Scale:
    """Apply the modality's slope and intercept or its table."""
    from pydicom.pixels.processing import apply_modality_lut

    values = np.asarray(apply_modality_lut(stored, dataset))
    if dataset.get("ModalityLUTSequence"):
        return _Scale(values, 0, np.iinfo(values.dtype).max)
    if header.sample == "float":
        return _Scale(values, float(values.min()), float(values.max()))
    bits = int(dataset.get("BitsStored", header.bits))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.sample == "int" else (0, 2**bits - 1)
    ends = apply_modality_lut(np.array([low, high], np.float64), dataset)
    return _Scale(values, float(ends.min()), float(ends.max()))


def _windowed(dataset: Any, scale: _Scale, header: Header) -> tuple[NDArray[np.float64], str]:
    """Shares of white, float64 [H, W] in 0..1, by the first window or by the full range."""
    values = scale.values.astype(np.float64)
    if not np.isfinite(values).all():
        raise _Refused("float pixels that are not finite (NaN or infinite)")
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is None or width is None:
        if header.sample == "float":
            raise _Refused("float pixels without a window; --pixels float32 reads them")
        return np.clip((values - scale.low) / max(scale.high - scale.low, 1e-12), 0, 1), NOTE_RANGE
    how = str(dataset.get("VOILUTFunction", "LINEAR") or "LINEAR")
    if not width > 0:
        raise _Refused(f"damaged: a DICOM window of width {width:g}")
    if how == "SIGMOID":  # C.11.2.1.3.1
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))), NOTE_WINDOW
    if how == "LINEAR_EXACT":  # C.11.2.1.3.2
        return np.clip((values - centre) / width + 0.5, 0, 1), NOTE_WINDOW
    # C.11.2.1.2.1: the range reaches from c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2
    return np.clip((values - (centre - 0.5)) / max(width - 1, 1e-12) + 0.5, 0, 1), NOTE_WINDOW


def _first(value: Any) -> float | None:
    """The first of one or several values; None where there is none."""
    if value is None or value == "":
        return None
    several = not isinstance(value, str) and hasattr(value, "__len__")
    if several and not len(value):
        return None
    number = float(value[0] if several else value)
    return number if np.isfinite(number) else None
