"""Sort the NEU photographs of steel strip into class folders: `python datasets/neu.py --archive NEU-DET.zip`.

    datasets/neu/{crazing,inclusion,patches,pitted_surface,rolled-in_scale,scratches}/crazing_1.jpg

The photographs are not downloaded: name the archive (zip or tar) or the folder you have. All the layouts they go round
in are understood, since the file name says the class: `crazing_1.jpg` and `Cr_1.bmp`; and where it does not, the PASCAL
VOC annotation of the same name does. Files are copied byte for byte; nothing else of the archive is unpacked.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import re
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO
from xml.etree import ElementTree

sys.path.append(str(Path(__file__).resolve().parent))  # where this script is imported by its path
from recipe import HERE, SUFFIXES, Card, Recipe, RecipeError, reason_of, run

CLASSES = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
PLAIN_NAME = re.compile(r"[\w .()-]+")  # a file of that name is one on every system
PREFIXES = dict(zip(("cr", "in", "pa", "ps", "rs", "sc"), CLASSES, strict=True))  # of NEU-CLS
MOST_BYTES = 16 << 20  # of one file; the photographs have 40 kB
MOST_FILES = 100_000
# NotImplementedError: a compression that Python lacks; RuntimeError: a password.
READ_ERRORS = (
    *(OSError, EOFError, NotImplementedError, RuntimeError, ValueError),
    *(lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error),
)
PACKED = {b"Rar!": "RAR", b"7z\xbc\xaf": "7-Zip"}  # first bytes of archives that Python does not open

CARD = Card(
    title="NEU, surface defects of hot-rolled steel strip",
    about="Photographs of six kinds of defect, 200 x 200 pixels, grey; 300 of each kind when the archive is whole.",
    task="the kind of defect, 6 classes. There are no pictures of good steel.",
    sides="none; which photographs come from one strip is not known.",
    source="the archive given to `datasets/neu.py --archive`, sorted by file name, byte for byte.",
    licence="none comes with the files; the authors give them for research and ask to be cited. Not to be passed on.",
    cite="Song, Yan, A noise robust method based on completed local binary patterns for hot-rolled steel strip surface "
    "defects, Applied Surface Science 285 (2013), doi 10.1016/j.apsusc.2013.09.002; "
    "He, Song, Meng, Yan, An end-to-end steel surface defect detection approach via fusing multiple hierarchical "
    "features, IEEE Transactions on Instrumentation and Measurement 69 (2020), doi 10.1109/TIM.2019.2915404.",
)


@dataclass(frozen=True)
class Member:
    """A file of the archive or folder.

    Attributes:
        path: inside of it, with `/`.
        size: in bytes, as the archive says.
        open: its bytes.
    """

    path: str
    size: int
    open: Callable[[], IO[bytes]]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.name.rpartition(".")[0]

    @property
    def suffix(self) -> str:
        """`.jpg`; empty where there is none."""
        return PurePosixPath(self.name).suffix.lower()

    def read(self) -> bytes:
        """All of it.

        Raises:
            RecipeError: it is damaged or, whatever the archive says, larger than a photograph can be.
        """
        try:
            with self.open() as stream:
                data = stream.read(MOST_BYTES + 1)
        except READ_ERRORS as error:
            raise RecipeError(f"{self.path}: cannot be read ({reason_of(error)})\nhint: get it again") from error
        if max(len(data), self.size) > MOST_BYTES:
            raise RecipeError(f"{self.path}: more than {MOST_BYTES >> 20} MB\nhint: this is not an archive of NEU")
        return data


def build(out: Path, archive: Path | None = None) -> bool:
    """Write the folder; False when it is there already, from an archive of this name.

    Args:
        out: the folder.
        archive: a zip, a tar or a folder; may be left out where `out` is there.

    Raises:
        RecipeError: the archive cannot be read, has dangerous paths or no photographs of NEU, or `out` holds
            something else.
    """

    def write(folder: Path) -> Counter[str]:
        if archive is None:
            raise RecipeError("NEU is not downloaded\nhint: name the archive, or the folder, with --archive FILE")
        with _opened(archive) as members:
            counts, unknown = _sort(archive, members, folder)
        _card(unknown).write(folder, counts)
        return counts

    return Recipe("neu", {"archive": archive.name} if archive else {}).build(out, write)


def class_of(stem: str) -> str | None:
    """The class that a file name tells: `crazing_12`, `Cr_12`; None for another name."""
    match = re.fullmatch(r"(.+?)[_-]?\d+", stem.strip())
    return _class_named(match[1]) if match else None


def _class_named(name: str) -> str | None:
    """`Rolled-in_Scale`, `rolled in scale`, `RS`."""
    word = _letters(name)
    return {_letters(label): label for label in CLASSES}.get(word) or PREFIXES.get(word)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _sort(archive: Path, members: Sequence[Member], folder: Path) -> tuple[Counter[str], list[str]]:
    """Write the photographs; returns how many of each class, and those whose class nothing tells."""
    notes = {member.stem: member for member in members if member.suffix == ".xml"}
    counts: Counter[str] = Counter()
    unknown: list[str] = []
    seen: dict[str, str] = {}
    for member in members:
        if member.suffix not in SUFFIXES:
            continue
        label = class_of(member.stem) or _annotated(notes.get(member.stem))
        if label is None or not PLAIN_NAME.fullmatch(member.name):
            unknown.append(member.path)
            continue
        data = member.read()
        place, digest = f"{label}/{member.name}", hashlib.sha256(data).hexdigest()
        if place.lower() not in seen:  # lower: one file on Windows and macOS
            (folder / label).mkdir(exist_ok=True)
            (folder / place).write_bytes(data)
            counts[label] += 1
        elif seen[place.lower()] != digest:
            raise RecipeError(
                f"{archive}: two different photographs are called {member.name}\nhint: give one at a time"
            )
        seen[place.lower()] = digest
    _check(archive, counts, unknown)
    return counts, unknown


def _check(archive: Path, counts: Counter[str], unknown: Sequence[str]) -> None:
    missing = [label for label in CLASSES if not counts[label]]
    if missing:
        raise RecipeError(
            f"{archive}: no photographs of {', '.join(missing)}"
            + (f"; {len(unknown)} images tell no class, the first is {unknown[0]}" if unknown else "")
            + "\nhint: expected files like crazing_1.jpg or Cr_1.bmp of all six classes, in any folders"
        )
    if unknown:
        print(f"left out {len(unknown)} images that tell no class, the first is {unknown[0]}", file=sys.stderr)


def _annotated(note: Member | None) -> str | None:
    """The class of a PASCAL VOC annotation, None where there is none or it names several."""
    if note is None:
        return None
    text = note.read()
    if b"<!" in text:  # entities: annotations have none, and they are how XML becomes a bomb
        return None
    try:
        found = {_class_named(name.text or "") for name in ElementTree.fromstring(text).iterfind("object/name")}
    except ElementTree.ParseError:
        return None
    return found.pop() if len(found) == 1 else None


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """The files of an archive or folder, hidden ones left out; nothing is unpacked by its own path."""
    with ExitStack() as stack:
        try:
            members = _checked(archive, _listed(archive, stack))
        except READ_ERRORS as error:
            hint = "unpack it and name the folder"
            raise RecipeError(f"{archive}: cannot be read ({reason_of(error)})\nhint: {hint}") from error
        yield members


def _listed(archive: Path, stack: ExitStack) -> Iterator[Member]:
    if archive.is_dir():
        return _of_folder(archive)
    if zipfile.is_zipfile(archive):
        return _of_zip(stack.enter_context(zipfile.ZipFile(archive)))
    _refuse(archive)
    return _of_tar(archive, stack.enter_context(tarfile.open(archive)))


def _refuse(archive: Path) -> None:
    with archive.open("rb") as stream:
        head = stream.read(4)
    if head in PACKED:
        raise RecipeError(f"{archive}: is a {PACKED[head]} archive\nhint: unpack it and name the folder with --archive")
    if not tarfile.is_tarfile(archive):
        raise RecipeError(f"{archive}: is neither zip nor tar\nhint: unpack it and name the folder with --archive")


def _of_folder(root: Path) -> Iterator[Member]:
    for path in sorted(root.rglob("*")):
        if path.is_file():
            yield Member(path.relative_to(root).as_posix(), path.stat().st_size, partial(_file_stream, path))


def _of_zip(zipped: zipfile.ZipFile) -> Iterator[Member]:
    for info in zipped.infolist():
        if not info.is_dir():
            yield Member(info.filename, info.file_size, partial(zipped.open, info))


def _of_tar(archive: Path, tarred: tarfile.TarFile) -> Iterator[Member]:
    for info in tarred:
        if info.isdir():
            continue
        if not info.isreg():
            raise RecipeError(f"{archive}: holds {info.name}, a link or device\nhint: this is not an archive of NEU")
        yield Member(info.name, info.size, partial(_tar_stream, tarred, info))


def _file_stream(path: Path) -> IO[bytes]:
    return path.open("rb")


def _tar_stream(tarred: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = tarred.extractfile(info)
    assert stream is not None  # a regular file
    return stream


def _checked(archive: Path, members: Iterator[Member]) -> list[Member]:
    """Those that are no leftovers of a system; none may point outside."""
    kept: list[Member] = []
    for count, member in enumerate(members, 1):
        path = PureWindowsPath(member.path)  # knows both slashes and drives
        if ".." in path.parts or path.anchor or "\0" in member.path:
            raise RecipeError(f"{archive}: holds the path {member.path!r}\nhint: this is not an archive of NEU")
        if count > MOST_FILES:
            raise RecipeError(f"{archive}: more than {MOST_FILES:,} files\nhint: this is not an archive of NEU")
        if not any(part.startswith((".", "__MACOSX")) for part in path.parts):
            kept.append(replace(member, path=path.as_posix()))
    return kept


def _card(unknown: Sequence[str]) -> Card:
    if not unknown:
        return CARD
    return replace(CARD, source=f"{CARD.source} Left out, since nothing tells their class: {', '.join(unknown)}.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the folder is there in the end, 2 when it cannot be built."""
    arguments = argparse.ArgumentParser(description="Sort the NEU photographs of steel strip into class folders.")
    arguments.add_argument("--archive", type=Path, help="zip, tar or folder with the photographs")
    arguments.add_argument("--out", type=Path, default=HERE / "neu", help="folder to write")
    args = arguments.parse_args(argv)
    return run(lambda: build(args.out, args.archive), args.out)


if __name__ == "__main__":
    sys.exit(main())
