from __future__ import annotations

from pathlib import Path

import pytest

from cvtune.audit.files import files
from cvtune.audit.finding import Finding
from cvtune.data.folder import Skipped
from cvtune.data.index import DatasetIndex


def found(*skipped: tuple[str, str], notes: tuple[tuple[str, int], ...] = ()) -> list[Finding]:
    return list(files(DatasetIndex(Path(), ("a", "b"), (), tuple(Skipped(*item) for item in skipped), notes)))


@pytest.mark.parametrize(
    ("path", "reason", "code", "severity", "title"),
    [
        (
            "a/.x",
            "hidden, or left there by the operating system",
            "hidden",
            "note",
            "1 hidden file or what an operating",
        ),
        ("a/1.png", "truncated: the end of the PNG file is missing", "truncated", "warning", "1 truncated image whose"),
        ("a/1.tif", "truncated or damaged: cannot be decoded as TIFF", "truncated", "warning", "1 truncated image"),
        ("a/1.png", "damaged: no PNG header", "damaged", "warning", "1 damaged image that cannot be decoded"),
        ("a/1.png", "the decoder crashed", "damaged", "warning", "1 damaged image"),
        ("a/1.png", "took longer than 5 s", "damaged", "warning", "1 damaged image"),
        ("a/1.png", "needed more than 512 MB", "damaged", "warning", "1 damaged image"),
        ("a/1.png", "empty file", "empty", "warning", "1 file of 0 bytes"),
        ("a/1.png", "empty file (0 bytes)", "empty", "warning", "1 file of 0 bytes"),
        ("a/1.png", "9 x 9 pixels, expected at most 80 in all", "too_large", "warning", "1 image larger than allowed"),
        ("a/1.png", "3,000 bytes, expected at most 2,000", "too_large", "warning", "1 image larger than allowed"),
        ("a/1.png", "needs more memory than there is", "too_large", "warning", "1 image larger than allowed"),
        (
            "a/1.gif",
            "GIF, a format that is not allowed here (allowed: PNG)",
            "not_allowed",
            "warning",
            "1 image not read",
        ),
        ("a/1.tif", "float pixels; --pixels float32 reads them", "not_allowed", "warning", "1 image not read by these"),
        ("a/1.JPG", "a PSD file, not an image that is read", "disguised", "warning", "1 file named like an image"),
        ("a/1.png", "not an image", "disguised", "warning", "1 file named like an image but none"),
        ("a/notes.txt", "not an image", "foreign", "note", "1 file among the images that is none"),
        ("a/x.pdf", "a PDF file, not an image that is read", "foreign", "note", "1 file among the images"),
        ("1.png", "not in a class folder", "misplaced", "warning", "1 image outside of class folders"),
        ("README", "not in a class folder", "beside", "note", "1 entry beside the images"),
        ("extra", "beside train/, val/ or test/, not in one of them", "beside", "note", "1 entry beside the images"),
        ("c", "a class folder without any image", "beside", "note", "1 entry beside the images"),
        ("a/1.png", "broken link", "unreachable", "warning", "1 file or folder that cannot be opened"),
        ("a/1.png", "cannot be read: Permission denied", "unreachable", "warning", "1 file or folder"),
        ("a/1.png", "no such file", "unreachable", "warning", "1 file or folder"),
        ("a/loop", "a link back to a folder above it", "special", "note", "1 link or device instead of a file"),
        ("a/pipe", "not a regular file", "special", "note", "1 link or device instead of a file"),
        ("a/x.png", "the name is not valid UTF-8", "names", "warning", "1 name that cannot be written as UTF-8"),
        ("misc", "ignored by --ignore: 12 images", "asked", "note", "1 entry left out as asked"),
        ("a/1.png", "left out by corrections fix.csv", "asked", "note", "1 entry left out as asked"),
        ("a/1.png", "something new", "other", "warning", "1 file that cannot be used"),
    ],
)
def test_each_reason_has_its_finding(path: str, reason: str, code: str, severity: str, title: str) -> None:
    (finding,) = found((path, reason))
    assert (finding.code, finding.severity, finding.count) == (f"skipped_{code}", severity, 1)
    assert finding.title.startswith(title)
    assert finding.examples == (f"{path}: {reason}",)
    assert finding.action.endswith("; left out, not touched, all of them are in audit.json")


def test_several_of_a_kind_are_one_finding() -> None:
    empty, foreign, closed = found(
        *((f"a/{i}.png", "empty file") for i in range(9)),
        *((f"a/{i}.txt", "not an image") for i in range(2)),
        *((f"a/{i}", "broken link") for i in range(1200)),
    )
    assert (empty.title, empty.count, len(empty.examples)) == ("9 files of 0 bytes", 9, 5)
    assert foreign.title == "2 files among the images that are none"
    assert closed.title == "1,200 files or folders that cannot be opened"


def test_what_was_done_to_images() -> None:
    (finding,) = found(notes=(("16-bit, read at 8 bits", 4),))
    assert (finding.code, finding.severity, finding.count) == ("read_with_note", "note", 4)
    assert finding.title == "4 of 0 images: 16-bit, read at 8 bits"
