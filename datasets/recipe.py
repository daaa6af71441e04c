"""What the recipes have in common: a labelled folder with a card, built beside its place and renamed when it is whole.

A recipe says which files go where (`write`), what it was asked for (`settings`) and what the card says. Found again
with the same settings and all its images, a folder is left alone; one that no recipe wrote is never touched.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import shutil
import sys
import tarfile
import tempfile
import textwrap
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CARD = "README.md"
MARK = ".recipe.json"
HERE = Path(__file__).resolve().parent
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff"})
HINT = "remove the folder and add --download, or name another one with --source"  # where upstream files are damaged
_MANY = 8  # folders that the last line names one by one

# What a downloader raises without a network, with a server that is gone, or with an archive cut short on its way.
_DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException, zipfile.BadZipFile, tarfile.TarError)


class RecipeError(Exception):
    """The folder cannot be built; the message says why and what mends it."""


@dataclass(frozen=True)
class Recipe:
    """Whose folder it is.

    Attributes:
        name: of the script, `gtsrb`; kept in the mark, so that no recipe replaces the folder of another.
        settings: what the folder depends on besides its source; another value builds it anew.
    """

    name: str
    settings: Mapping[str, Any]

    def build(self, out: Path, write: Callable[[Path], Counter[str]]) -> bool:
        """Write the folder; False when it is there already, whole and with these settings.

        Args:
            out: the folder.
            write: fills an empty folder, card included; returns the images in each subfolder.

        Raises:
            RecipeError: `out` holds something else; and what `write` raises.
        """
        if self._is_built(out):
            return False
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            counts = write(made)
            write_text(made / MARK, json.dumps(self._mark(made, counts), indent=2) + "\n")
            if out.exists():
                out.rename(Path(temporary) / "old")
            made.rename(out)
        return True

    def _mark(self, made: Path, counts: Counter[str]) -> dict[str, Any]:
        whole = {"images": counts.total(), "counts": dict(sorted(counts.items()))}
        beside = sorted(path.name for path in made.iterdir() if path.is_file())  # the card, a table of labels
        return {"recipe": self.name, **self.settings, **whole, "beside": beside}

    def _is_built(self, out: Path) -> bool:
        mark = _read_mark(out)
        if mark is not None and mark.get("recipe", self.name) == self.name:
            same = all(mark.get(key) == value for key, value in self.settings.items())
            whole = mark.get("images") == _count_images(out)
            return same and whole and all((out / name).is_file() for name in mark.get("beside", ()))
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RecipeError(f"{out} holds something that this recipe did not write\nhint: choose another --out")
        return False


def _read_mark(out: Path) -> dict[str, Any] | None:
    try:
        mark = json.loads((out / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) else None


def _count_images(out: Path) -> int:
    return sum(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in out.rglob("*"))


@dataclass(frozen=True)
class Card:
    """The README.md of a folder: what it shows and what may be done with it.

    Attributes:
        title: of the data set.
        about: a sentence on the pictures.
        task: what the classes are.
        sides: who divided it, and what is known to be together.
        source: where the files came from and what was done to them.
        licence: what may be done with them.
        cite: whom to name.
        published: figures of others, each with its source; left out where none is known for certain.
    """

    title: str
    about: str
    task: str
    sides: str
    source: str
    licence: str
    cite: str
    published: str = ""

    def write(self, folder: Path, counts: Mapping[str, int]) -> None:
        """Put the card into the folder."""
        rows = "\n".join(f"| `{place}` | {count:,} |" for place, count in sorted(counts.items()))
        points = ("task", "sides", "source", "licence", "published", "cite")
        lines = "\n".join(_point(name, getattr(self, name)) for name in points if getattr(self, name))
        text = f"# {self.title}\n\n{_wrap(self.about)}\n\n| folder | images |\n| --- | --- |\n{rows}\n\n{lines}\n"
        write_text(folder / CARD, text)


def _point(name: str, text: str) -> str:
    return _wrap(f"- **{name.capitalize()}**: {text}", indent="  ")


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def copy_all(files: Sequence[tuple[Path, str]], folder: Path, *, hint: str) -> Counter[str]:
    """Copy files byte for byte, each (file, place in `folder`); returns the images in each subfolder.

    Raises:
        RecipeError: some of the files are missing; nothing has been copied then.
    """
    missing = [file.name for file, _ in files if not file.is_file()]
    if missing:
        raise RecipeError(f"{len(missing)} of {len(files)} images are missing, the first is {missing[0]}\nhint: {hint}")
    counts: Counter[str] = Counter()
    for file, place in files:
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        counts[place.rpartition("/")[0]] += 1
    return counts


@contextmanager
def fetched(
    title: str, fetch: Callable[[Path], object], *, out: Path, source: Path | None, download: bool
) -> Iterator[Path]:
    """The folder of the upstream files: the user's, or one that is downloaded now.

    Downloads go beside their place and are renamed when they are whole: into `source` where one is named, else they are
    gone when the recipe is done.

    Args:
        title: of the data set.
        fetch: downloads into an empty folder.
        out: the folder that the recipe writes; downloads that are not kept go beside it.
        source: a folder with the files, or where they are to be kept.
        download: whether the network may be asked.

    Raises:
        RecipeError: there are no files and none may be downloaded, or the download failed.
    """
    if source is not None and source.is_dir() and any(source.iterdir()):
        yield source
        return
    if not download:
        where = "nothing is downloaded unless asked" if source is None else f"there are no files in {source}"
        raise RecipeError(
            f"{title} is not here, and {where}\n"
            "hint: add --download, or name a folder of files downloaded elsewhere with --source FOLDER"
        )
    parent = (source or out).parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{(source or out).name}-", dir=parent) as temporary:
        files = Path(temporary) / "files"
        files.mkdir()
        _download(title, fetch, files)
        if source is None:
            yield files
            return
        if source.exists():
            source.rmdir()  # empty, as seen above
        files.rename(source)
    yield source


def _download(title: str, fetch: Callable[[Path], object], folder: Path) -> None:
    try:
        fetch(folder)
    except _DOWNLOAD_ERRORS as error:
        chain = list(_chain(error))
        if any(isinstance(one, KeyboardInterrupt) for one in chain):  # medmnist's bare `except:` takes it for a failure
            raise KeyboardInterrupt from None
        raise RecipeError(
            f"{title} could not be downloaded ({reason_of(chain[-1])})\n"
            "hint: check the network, or download it elsewhere and name that folder with --source FOLDER"
        ) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the first cause last."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def slug(name: str) -> str:
    """A class name that is a folder name on every system: `colt's foot` becomes `colt-s-foot`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_text(path: Path, text: str) -> None:
    """UTF-8 with the same line ends on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")


def parser(description: str, out: str | None = None) -> argparse.ArgumentParser:
    """The arguments that the downloading recipes share; `out` is the default folder, below this one."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--out", type=Path, default=HERE / out if out else None, help="folder to write")
    made.add_argument("--source", type=Path, help="folder of the files as the downloader leaves them")
    made.add_argument("--download", action="store_true", help="ask the network; kept in --source where that is named")
    return made


def run(build: Callable[[], bool], out: Path) -> int:
    """Build and say so; 0 when the folder is there in the end, 2 when it cannot be built, 130 after Ctrl-C."""
    try:
        built = build()
        counts: dict[str, int] = json.loads((out / MARK).read_text(encoding="utf-8"))["counts"]
    except (RecipeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{'wrote' if built else 'found'} {out}: {_listing(counts)}")
    return 0


def _listing(counts: Mapping[str, int]) -> str:
    if len(counts) <= _MANY:
        return ", ".join(f"{place} {count:,}" for place, count in counts.items())
    classes = len({place.rpartition("/")[2] for place in counts})
    if not any("/" in place for place in counts):
        return f"{sum(counts.values()):,} images of {classes} classes"
    sides: Counter[str] = Counter()
    for place, count in counts.items():
        sides[place.partition("/")[0]] += count
    return ", ".join(f"{side} {count:,}" for side, count in sides.items()) + f", {classes} classes"
