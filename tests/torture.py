"""A labelled folder of hostile files, each with what has to become of it.

    folder = build(Path("torture"))

writes about 150 entries of some 100 kinds within seconds, the same bytes each time. What a system or a file system
cannot hold (a pipe on Windows, two names that differ in case on macOS) is named in `Torture.left_out`.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from tests import hostile
from tests.hostile import by_opencv, by_pillow, chunk, good, picture, png, png_rows

CUTS: Final = 16  # places at which one file is cut

Outcome = Literal["read", "refused", "passed over"]
Made = tuple["Entry", bytes]


@dataclass(frozen=True)
class Entry:
    """One hostile thing and its outcome.

    Attributes:
        kind: what is hostile about it.
        path: relative to the folder, as it is listed.
        outcome: "read", "refused" when it is opened, or "passed over" when the folder is walked.
        says: in the reason, where it is not read.
        notes: in the notes of the frame, where it is.
    """

    kind: str
    path: str
    outcome: Outcome
    says: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Torture:
    """The folder, what is in it, and which kinds this system cannot hold, with the reason."""

    root: Path
    entries: tuple[Entry, ...]
    left_out: Mapping[str, str]


def build(root: Path) -> Torture:
    """Write the folder; `root` must not exist."""
    root.mkdir(parents=True)
    entries: list[Entry] = []
    left_out: dict[str, str] = {}
    for make in (_good, _cut, _bombs, _lies, _strange, _foreign, _names, _places):
        for entry, data in make():
            if _write(root, entry, data, left_out):
                entries.append(entry)
    for special in (_links, _specials, _undecodable):
        entries += special(root, left_out)
    return Torture(root, tuple(entries), left_out)


def _write(root: Path, entry: Entry, data: bytes, left_out: dict[str, str]) -> bool:
    """Write one file where the file system can hold it beside the others."""
    path = root / entry.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name not in os.listdir(path.parent):  # noqa: PTH208  A.png may be a.png here
            with path.open("xb") as file:
                file.write(data)
            if path.name in os.listdir(path.parent):  # noqa: PTH208  "a." may have become "a"
                return True
            path.unlink()
    except (OSError, ValueError) as error:
        left_out[entry.kind] = str(error)
        return False
    left_out[entry.kind] = "the file system gives it another name"
    return False


# ---- files that are read


_NOTED: Final = {
    "16_bit.png": "16-bit",
    "16_bit.tif": "16-bit",
    "16_bit.pgm": "16-bit",
    "16_bit_colour.png": "16-bit",
    "12_bit.pgm": "16-bit",
    "12_bit.png": "12 bits",
    "alpha.png": "transparen",
    "grey_alpha.png": "transparen",
    "palette_alpha.png": "transparen",
    "alpha.tif": "transparen",
    "alpha.webp": "transparen",
    "clear.gif": "transparen",
    "pages.tif": "only the first",
    "animated.png": "only the first",
    "animated.gif": "only the first",
    "animated.webp": "only the first",
    "grey.dcm": "DICOM without a window",
}


def _good() -> Iterator[Made]:
    for name, data in good().items():
        yield Entry(f"a good {name}", f"good/{name}", "read", notes=_NOTED.get(name, "")), data


def _strange() -> Iterator[Made]:
    """Odd, but they hold a picture."""
    jpeg, plain = good()["colour.jpg"], good()["colour.png"]
    huge_text = zlib.compress(bytes(100_000_000), 9)
    cases: dict[str, bytes | tuple[bytes, str]] = {
        "EXIF orientation 0.jpg": by_pillow(picture(100), "JPEG", exif=hostile.exif(0)),
        "EXIF orientation 9.jpg": by_pillow(picture(101), "JPEG", exif=hostile.exif(9)),
        "EXIF of noise.jpg": jpeg[:2]
        + b"\xff\xe1"
        + struct.pack(">H", 34)
        + b"Exif\0\0II*\0"
        + bytes(range(22))
        + jpeg[2:],
        "10,000 frames.gif": (hostile.gif(2, 2, 10_000), "only the first"),
        "JPEG with text after its end.jpg": jpeg + b"<html>" * 100,
        "PNG with a ZIP after its end.png": plain + b"PK\x05\x06" + bytes(18),
        "a PNG named.jpg": by_pillow(picture(102), "PNG"),
        "a JPEG named.png": by_pillow(picture(103), "JPEG"),
        "an image named.txt": by_pillow(picture(104), "BMP"),
        "an image without suffix": by_pillow(picture(105), "WebP"),
        "CAPITALS.JPG": by_pillow(picture(106), "JPEG"),
        "one pixel.png": by_pillow(picture(107)[:1, :1], "PNG"),
        "one row of 4000.png": by_pillow(np.resize(picture(108)[:1], (1, 4000, 3)), "PNG"),
        "one column of 4000.png": by_pillow(np.resize(picture(109)[:, :1], (4000, 1, 3)), "PNG"),
        "text of 100 MB, packed.png": png(64, 48, chunk(b"zTXt", b"a\0\0" + huge_text), png_rows(110)),
        "colour profile of 100 MB, packed.png": png(64, 48, chunk(b"iCCP", b"a\0\0" + huge_text), png_rows(111)),
        "pages that go round for ever.tif": (hostile.plain_tiff(8, 8, after=8), ""),
        "thumbnail of another picture.jpg": _with_thumbnail(),
        "a copy.png": plain,
        "the copy of a copy.png": plain,
        "1,000 comments.jpg": jpeg[:2] + b"\xff\xfe\0\x05abc" * 1000 + jpeg[2:],
        "fill bytes.jpg": jpeg[:2] + b"\xff" * 500 + jpeg[2:],
        "all black.png": by_pillow(np.zeros((48, 64, 3), np.uint8), "PNG"),
        "all clear.png": (by_pillow(np.zeros((48, 64, 4), np.uint8), "PNG"), "transparen"),
    }
    for name, case in cases.items():
        data, notes = case if isinstance(case, tuple) else (case, "")
        yield Entry(name.rpartition(".")[0] or name, f"strange/{name}", "read", notes=notes), data


def _with_thumbnail() -> bytes:
    block = hostile.exif(1)
    block.get_ifd(1).update({513: 0, 514: 0})  # says that there is one, and where: nowhere
    return by_pillow(picture(112), "JPEG", exif=block)


# ---- files that are refused


def _cut() -> Iterator[Made]:
    """One JPEG and one PNG, each cut at 16 places, and every other format at one."""
    jpeg, plain = by_pillow(picture(200), "JPEG", quality=97), by_pillow(picture(201), "PNG")
    for n in range(CUTS):
        for suffix, data in (("jpg", jpeg), ("png", plain)):
            length = max(9, len(data) * n // CUTS)
            entry = Entry(f"{suffix} cut at {n} of 16", f"cut/{n}.{suffix}", "refused", "truncated|damaged|header")
            yield entry, data[:length]
    for name in ("lzw.tif", "plain.bmp", "plain.gif", "lossy.webp", "colour.ppm", "big.tif", "jpeg.tif", "bits.pbm"):
        data = good()[name]
        yield Entry(f"{name} cut", f"cut/{name}", "refused", "truncated|damaged|header"), data[: len(data) * 2 // 3]
    yield from _honest("cut", 210)
    yield Entry("a JPEG without its end", "cut/no end.jpg", "refused", "truncated"), jpeg[:-2]
    for name, head in {
        "PNG": b"\x89PNG\r\n\x1a\n",
        "TIFF": b"II*\0",
        "GIF": b"GIF89a",
        "JPEG": b"\xff\xd8\xff",
    }.items():
        yield (
            Entry(f"only the first bytes of a {name}", f"cut/only {name}", "refused", "truncated|damaged|header"),
            head,
        )


def _bombs() -> Iterator[Made]:
    """Headers that claim more than any memory, and files that unpack to it."""
    jpeg = good()["colour.jpg"]
    claims: dict[str, bytes] = {
        "png": png(100_000, 100_000, png_rows()),
        "gif": hostile.gif(65_535, 65_535),
        "tif": hostile.plain_tiff(100_000, 100_000),
        "bmp": hostile.bmp(50_000, 50_000),
        "webp": hostile.webp_extended(16_384, 16_384),
        "ppm": b"P6 20000 20000 255\n",
        "pgm": b"P5 99999999999999999999 1 255\n",
        "jpg": hostile.jpeg_with(jpeg, 0xC0, height=65_500, width=65_500),
    }
    for suffix, data in claims.items():
        says = "expected at most 200,000,000|truncated|damaged|header"
        yield Entry(f"{suffix} that claims billions of pixels", f"bombs/claims.{suffix}", "refused", says), data
    yield from _honest("bombs", 215)
    rows = chunk(b"IDAT", zlib.compress(bytes(100_000_000), 9))
    yield Entry("pixels of 100 MB in a small PNG", "bombs/rows.png", "read"), png(64, 48, rows)
    wide = png(4_000_000, 2_000, chunk(b"IDAT", zlib.compress(bytes(1000))))
    yield Entry("eight billion pixels, long and low", "bombs/wide.png", "refused", "expected at most"), wide


def _lies() -> Iterator[Made]:
    """Headers that contradict themselves or the rest of the file."""
    plain, jpeg = bytearray(good()["colour.png"]), good()["colour.jpg"]
    wrong_sum = plain.copy()
    wrong_sum[wrong_sum.index(b"IDAT") + 40] ^= 0xFF
    cases: dict[str, bytes] = {
        "no width.png": png(0, 48, png_rows()),
        "no height.gif": hostile.gif(64, 0),
        "no size.bmp": hostile.bmp(0, 0),
        "negative width.bmp": hostile.bmp(-8, 8),
        "no size.tif": hostile.plain_tiff(0, 0),
        "no height.jpg": hostile.jpeg_with(jpeg, 0xC0, height=0),
        "checksum.png": bytes(wrong_sum),
        "17 bits.png": png(64, 48, png_rows(), bits=17),
        "colour type 9.png": png(64, 48, png_rows(), colour=9),
        "no pixels.png": png(64, 48),
        "pixels beyond the end.tif": hostile.plain_tiff(8, 8, offset=1_000_000),
        "tags beyond the end.tif": b"II*\0\xff\xff\xff\x7f" + bytes(40),
        "no tags.tif": hostile.tiff(),
        "7 bits.bmp": hostile.bmp(8, 8, bits=7),
        "no largest value.pgm": b"P5 2 2 0\n\0\0\0\0",
        "letters for numbers.ppm": b"P6 wide high 255\n" + bytes(50),
        "noise for a picture.png": png(64, 48, chunk(b"IDAT", bytes(range(200)))),
        "noise for an animated picture.png": hostile.animated_png(
            still=bytes(range(200)), frame=hostile.packed_rows(1)
        ),
        "a RIFF of sound.webp": b"RIFF\x04\0\0\0WEBP",
        "canvas without picture.webp": hostile.webp_extended(64, 48),
        "float.tif": by_opencv(".tiff", picture(220).astype(np.float32)),
        "double.tif": by_opencv(".tiff", picture(221).astype(np.float64)),
        "32 bits signed.tif": by_opencv(".tiff", picture(222).astype(np.int32)),
        "16 bits signed.tif": by_opencv(".tiff", picture(223).astype(np.int16)),
        "a DICOM of noise.dcm": bytes(128) + b"DICM" + bytes(range(200)),
    }
    says = dict.fromkeys(("float.tif", "double.tif"), "float pixels|float32|float64")
    for name, data in cases.items():
        yield Entry(name.replace(".", ", "), f"lies/{name}", "refused", says.get(name, "")), data
    yield from _honest("lies", 230)


def _honest(folder: str, seed: int) -> Iterator[Made]:
    """Two files without fault, so that there is something to learn of each class."""
    for number in (seed, seed + 1):
        yield Entry("an honest file among others", f"{folder}/{number}.png", "read"), by_pillow(picture(number), "PNG")


# ---- files that are no images, or not for us


def _foreign() -> Iterator[Made]:
    cases: dict[str, tuple[bytes, str]] = {
        "nothing.png": (b"", "empty"),
        "zeros.jpg": (bytes(4096), "not an image"),
        "a letter.png": (b"P", "not an image"),
        "text.png": (b"hello", "not an image"),
        "page.jpg": (b"<!DOCTYPE html><html><script>alert(1)</script></html>", "not an image|HTML"),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image|SVG"),
        "paper.png": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
        "drawing.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS|PostScript|not an image"),
        "layers.png": (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(40), "PSD|not an image"),
        "packed.jpg": (b"PK\x03\x04" + bytes(60), "ZIP|not an image"),
        "program.png": (b"MZ\x90\0" + bytes(60), "program|not an image"),
        "phone.jpg": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC|HEIF|not an image"),
        "modern.png": (b"\0\0\0\x1cftypavif" + bytes(40), "AVIF|not an image"),
        "film.jpg": (b"\0\0\0\x18ftypmp42" + bytes(40), "MP4|not an image"),
        "next.jpg": (b"\xff\x0a" + bytes(60), "JPEG XL|not an image"),
        "wavelets.jpg": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000|not an image"),
        "icon.png": (b"\0\0\1\0\1\0" + bytes(40), "icon|ICO|not an image"),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "not an image|Git LFS"),
        "BM is no magic.bmp": (b"BM, a text that begins like a bitmap", "not an image"),
        "labels.csv": (b"path,label\na.png,ok\n", "not an image"),
        ".DS_Store": (b"\0\0\0\1Bud1", "hidden"),
        "Thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "hidden"),
        "desktop.ini": (b"[.ShellClassInfo]", "hidden"),
        "._photo.jpg": (b"\0\5\x16\7\0\2\0\0", "hidden"),
        ".hidden.png": (by_pillow(picture(300), "PNG"), "hidden"),
    }
    for name, (data, says) in cases.items():
        yield Entry(f"foreign: {name}", f"foreign/{name}", "passed over", says), data
    yield from _honest("foreign", 310)


# ---- names and places


_NAMES: Final = {
    "a new line": "new\nline.png",
    "a carriage return": "return\r.png",
    "a tab": "tab\there.png",
    "an escape sequence": "\x1b[31mred\x1b[0m.png",
    "markup": "<script>alert(1)<&>.png",
    "a formula": "=cmd|' C'!A0.png",
    "a formula with @": "@SUM(1+1).png",
    "an emoji": "\U0001f600\U0001f468‍\U0001f469‍\U0001f467.png",
    "255 bytes": "n" * 251 + ".png",
    "255 bytes of two each": "ü" * 125 + "a.png",
    "a space at the end": "space.png ",
    "a space in front": " space.png",
    "a dot at the end": "dot.png.",
    "a dash in front": "-rf.png",
    "only a space": " ",
    "percent signs": "%s%n%00.png",
    "quotes and commas": "a,\"b\",'c';d.png",
    "a backslash": "back\\slash.png",
    "letters from right to left": "‮gnp.png",
    "a device of Windows": "CON.png",
    "a dollar and braces": "${HOME}{0}$(id).png",
    "a composed letter": "\u00fc.png",
    "a letter and its accent": "u\u0308.png",
    "small letters": "case.png",
    "the same in capitals": "CASE.PNG",
    "zeros in front": "007.png",
    "the same number": "7.png",
    "a very long number": "9" * 200 + ".png",
    "a superscript number": "\u00b2.png",
    "a wildcard": "*?[a].png",
    "an address": "http:example.com#x?y=z.png",
    "NFKC would be a slash": "a\uff0fb.png",
}


def _names() -> Iterator[Made]:
    for seed, (kind, name) in enumerate(_NAMES.items(), 400):
        yield Entry(f"a name with {kind}", f"names/{name}", "read"), by_pillow(picture(seed), "PNG")
    for seed, folder in enumerate(("=1+1", "<b>bold", "no"), 450):  # classes
        for view in (0, 10):
            entry = Entry(f"a class named {folder}", f"{folder}/{view}.png", "read")
            yield entry, by_pillow(picture(seed + view), "PNG")


def _places() -> Iterator[Made]:
    deep = "/".join(["deep"] * 40)
    yield Entry("40 folders deep", f"places/{deep}/0.png", "read"), by_pillow(picture(500), "PNG")
    yield Entry("a folder named like an image", "places/folder.png/0.png", "read"), by_pillow(picture(501), "PNG")
    yield Entry("in no class folder", "lonely.png", "passed over", "not in a class folder"), good()["colour.png"]


# ---- what is no file


def _links(root: Path, left_out: dict[str, str]) -> Iterator[Entry]:
    """Symbolic links: good ones, broken ones, and loops."""
    folder = root / "places"
    outside = root.parent / f"{root.name} elsewhere"
    outside.mkdir()
    (outside / "0.png").write_bytes(by_pillow(picture(600), "PNG"))
    cases: dict[str, tuple[str, str, Entry]] = {
        "broken.png": ("nowhere.png", "file", Entry("a broken link", "", "passed over", "broken link")),
        "self.png": ("self.png", "file", Entry("a link to itself", "", "passed over", "cannot be read|link")),
        "round": ("..", "folder", Entry("a loop of folders", "", "passed over", "a link back to a folder above it")),
        "file.png": (str(outside / "0.png"), "file", Entry("a link to a file elsewhere", "", "read")),
        "folder": (str(outside), "folder", Entry("a link to a folder elsewhere", "", "read")),
        "zero.png": ("/dev/zero", "device", Entry("a link to a device", "", "passed over", "not a regular file")),
    }
    for name, (target, what, entry) in cases.items():
        if what == "device" and not Path(target).exists():
            left_out[entry.kind] = f"no {target} here"
            continue
        try:
            (folder / name).symlink_to(target, target_is_directory=what == "folder")
        except OSError as error:  # Windows wants a privilege
            left_out[entry.kind] = str(error)
            continue
        inside = "/0.png" if name == "folder" else ""
        yield Entry(entry.kind, f"places/{name}{inside}", entry.outcome, entry.says)


def _specials(root: Path, left_out: dict[str, str]) -> Iterator[Entry]:
    """A pipe, a socket, a file without permission, folders not to be entered, a file of 3 GB that takes no room."""
    folder = root / "places"
    for name in (".ipynb_checkpoints", "__MACOSX", ".git", "$RECYCLE.BIN"):
        (folder / name).mkdir()
        (folder / name / "0.png").write_bytes(by_pillow(picture(700), "PNG"))
        yield Entry(f"the folder {name}", f"places/{name}", "passed over", "hidden")  # with all that is in it
    for kind, name, make, says in (
        ("a pipe", "pipe.png", _make_pipe, "not a regular file"),
        ("a socket", "socket.png", _make_socket, "not a regular file"),
        ("a file without permission", "forbidden.png", _make_forbidden, "cannot be read: Permission denied"),
        ("an empty folder", "../empty", Path.mkdir, "a class folder without any image"),
    ):
        try:
            make(folder / name)
        except (OSError, AttributeError) as error:
            left_out[kind] = str(error)
            continue
        path = name.removeprefix("../") if name.startswith("../") else f"places/{name}"
        yield Entry(kind, path, "passed over", says)
    if sys.platform == "linux":  # elsewhere a file system may fill up the hole
        with (folder / "3 GB.png").open("wb") as file:
            file.write(good()["colour.png"])
            file.truncate(3 << 30)
        yield Entry("3 GB", "places/3 GB.png", "refused", "bytes, expected at most")
    else:
        left_out["3 GB"] = "files with holes may take their room here"


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)


def _make_socket(path: Path) -> None:
    place = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(place)


def _make_forbidden(path: Path) -> None:
    path.write_bytes(good()["colour.png"])
    path.chmod(0)
    with suppress(PermissionError), path.open("rb"):
        path.unlink()
        raise OSError("this user may read everything")


def _undecodable(root: Path, left_out: dict[str, str]) -> Iterator[Entry]:
    """A name that is no UTF-8, and a folder of such a name."""
    kind = "a name that is no UTF-8"
    try:
        for name, path in ((b"caf\xe9.png", root / "names"), (b"\xff\xfe", root / "places")):
            place = os.fsencode(path) + b"/" + name
            if name.endswith(b".png"):
                with open(place, "wb") as file:  # noqa: PTH123  Path takes no bytes
                    file.write(good()["colour.png"])
            else:
                os.mkdir(place)  # noqa: PTH102
    except OSError as error:
        left_out[kind] = str(error)
        return
    yield Entry(kind, "names/caf\\udce9.png", "passed over", "not valid UTF-8")
    yield Entry("a folder whose name is no UTF-8", "places/\\udcff\\udcfe", "passed over", "not valid UTF-8")
