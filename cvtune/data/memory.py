"""The sides of earlier runs on the same folder, kept in the user's data directory.

    <data directory>/splits/<identity of the folder>/split.csv      sha256, side and path of each image
                                                     split.json     what the sides were dealt by, and split.csv's hash

Images are known by their contents: renamed or moved inside the folder they keep their sides, changed they are new.
Images that are gone for a while keep theirs too. A test side that is dealt anew in each run would sooner or later have
been trained on, and chosen by, all over.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cvtune.config import DataConfig
from cvtune.data.index import DatasetIndex
from cvtune.data.split import Split
from cvtune.data.userdirs import data_dir
from cvtune.errors import DataError
from cvtune.rundir import SIDES, try_lock, write_json, write_text

_SCHEMA: Final = 1
_COLUMNS: Final = ("sha256", "side", "path")
_HASH: Final = re.compile("[0-9a-f]{64}")
_PATIENCE: Final = 10.0  # seconds that another process may take to write a few megabytes
_HINT: Final = "--new-split forgets it and deals the images out anew"


@dataclass(frozen=True)
class Kept:
    """What is remembered of a folder.

    Args:
        sides: side by the sha256 of a file; empty when it cannot be used, and `note` says why.
        path: the file that it comes from.
        note: for the user, empty when there is nothing to say.
    """

    sides: Mapping[str, str]
    path: Path
    note: str = ""


def folder_identity(root: Path | str) -> str:
    """What a folder, or a table of labels, is remembered by: 32 hexadecimal digits of its resolved path's hash.

    A folder that is moved or renamed is another one. Case and Unicode form count only where they do for the system.
    """
    path = os.path.normcase(os.path.realpath(root))
    if sys.platform == "darwin":
        path = unicodedata.normalize("NFC", path).casefold()
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:32]


def recall(root: Path | str, data: DataConfig) -> Kept | None:
    """The sides of earlier runs; None when there are none, or when `data.new_split` asks to forget them.

    Sides that were dealt by another --group-by or by other shares are not used: groups might be torn.

    Raises:
        DataError: what is remembered was changed, or cannot be read.
    """
    folder = _folder(root)
    if data.new_split or not folder.is_dir():
        return None
    try:
        with _locked(folder):
            return _read(folder, data)
    except OSError:  # a data directory that cannot be written to can still be read
        return _read(folder, data)


def remember(root: Path | str, index: DatasetIndex, split: Split, data: DataConfig) -> str:
    """Keep the sides for later runs, beside those of images that are gone for now.

    Args:
        root: as the user named it; see :func:`folder_identity`.
        index: the images; those without a hash are not kept.
        split: of these images.
        data: what the sides were dealt by.

    Returns:
        A sentence for the user when nothing could be kept, else an empty text: a run is no less good for it.

    Raises:
        DataError: what is remembered was changed, or cannot be read.
    """
    folder = _folder(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            before = None if data.new_split else _read(folder, data)
            rows = _rows(before, index, split)
            _write(folder, rows, _dealt_by(root, data), goes_on=bool(before and before.sides))
    except OSError as error:
        return f"the sides cannot be kept for later runs: {folder}: {error.strerror or error} (CVTUNE_DATA moves it)"
    return ""


def _folder(root: Path | str) -> Path:
    return data_dir() / "splits" / folder_identity(root)


def _dealt_by(root: Path | str, data: DataConfig) -> dict[str, Any]:
    shares = {"val": data.val, "calib": data.calib, "test": data.test}
    return {"schema": _SCHEMA, "root": os.path.realpath(root), "group_by": data.group_by, "shares": shares}


def _rows(before: Kept | None, index: DatasetIndex, split: Split) -> dict[str, tuple[str, str]]:
    """Side and path by hash. Of two equal files the one that was dealt out counts, not the one in a given test/."""
    rows: dict[str, tuple[str, str]] = {}
    if before and before.sides:
        rows.update(_table(before.path))
    images = list(zip(index.images, split.sides, strict=True))
    images.sort(key=lambda item: item[0].side not in ("val", "test"))  # the last one is kept
    rows.update({image.sha256: (side, image.path) for image, side in images if image.sha256})
    return dict(sorted(rows.items(), key=lambda item: (item[1][1], item[0])))


def _write(folder: Path, rows: Mapping[str, tuple[str, str]], dealt_by: Mapping[str, Any], *, goes_on: bool) -> None:
    """Write the table between two versions of split.json, so that a kill at any moment is told from a change.

    The first says that a table is being written, and allows for the old one where its sides hold under the new terms.
    """
    out = io.StringIO()
    # all quoted: before Python 3.13 a name with a bare carriage return is not, and cannot be read back
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(_COLUMNS)
    writer.writerows((sha, side, path) for sha, (side, path) in rows.items())
    text = out.getvalue()
    table, new = folder / "split.csv", _hash(text.encode("utf-8", "surrogateescape"))
    valid = [_hash(table.read_bytes()), new] if goes_on else [new]
    write_json(folder / "split.json", {**dealt_by, "images": len(rows), "sha256": valid, "writing": True})
    write_text(table, text)
    write_json(folder / "split.json", {**dealt_by, "images": len(rows), "sha256": [new], "writing": False})


def _read(folder: Path, data: DataConfig) -> Kept | None:
    table, terms = folder / "split.csv", folder / "split.json"
    if not table.exists() and not terms.exists():
        return None
    try:
        about = json.loads(terms.read_bytes())
        reason = _other_terms(about, data)
        valid, writing = list(about["sha256"]), bool(about["writing"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{terms}: missing or damaged ({error!r})", hint=_HINT) from error
    if writing and not (table.is_file() and _hash(_bytes(table)) in valid):
        return None  # stopped before the table was written: nothing was kept yet
    if _hash(_bytes(table)) not in valid:
        raise DataError(f"{table}: was changed, it is not the one that split.json was written for", hint=_HINT)
    if reason:
        return Kept({}, table, f"the sides of earlier runs on this folder do not fit, images are dealt anew: {reason}")
    return Kept({sha: side for sha, (side, _) in _table(table).items()}, table)


def _other_terms(about: Mapping[str, Any], data: DataConfig) -> str:
    """What was different when the sides were dealt; empty when nothing was."""
    if about["schema"] != _SCHEMA:
        return f"they are kept in format {about['schema']}, this version reads {_SCHEMA}"
    if about["group_by"] != data.group_by:
        old, new = (f"'{spec}'" if spec else "not given" for spec in (about["group_by"], data.group_by))
        return f"--group-by was {old} and is {new} now"
    shares = {"val": data.val, "calib": data.calib, "test": data.test}
    other = [f"{side} was {about['shares'][side]:g} and is {share:g} now" for side, share in shares.items()]
    return ", ".join(text for text, side in zip(other, shares, strict=True) if about["shares"][side] != shares[side])


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """Side and path by hash."""
    try:
        rows = list(csv.reader(io.StringIO(_bytes(path).decode("utf-8", "surrogateescape"), newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: damaged ({error})", hint=_HINT) from error
    wrong = [row for row in rows[1:] if len(row) != 3 or not _HASH.fullmatch(row[0]) or row[1] not in SIDES]
    if not rows or tuple(rows[0]) != _COLUMNS or wrong:
        raise DataError(f"{path}: damaged, expected rows of {','.join(_COLUMNS)}", hint=_HINT)
    return {sha: (side, name) for sha, side, name in rows[1:]}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", hint=_HINT) from error


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process reads or writes here; the lock is the operating system's and goes with the process.

    Raises:
        OSError: no lock file can be made, or another process keeps it for too long.
    """
    until = time.monotonic() + _PATIENCE
    with (folder / ".lock").open("ab") as handle:
        while not try_lock(handle.fileno()):
            if time.monotonic() > until:
                raise TimeoutError(f"in use by another process for {_PATIENCE:.0f} s")
            time.sleep(0.05)
        yield
