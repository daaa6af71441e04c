"""The same train, val and test files for every tool: prepared once as train/, val/, test/ above the classes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import CASES, ROOT, own_homes
from cvtune.data.index import read_rows, write_rows
from cvtune.errors import ConfigError, DataError
from cvtune.rundir import read_json, write_json

SIDES = ("train", "val", "test")
COLUMNS = ("path", "label", "group", "side")
MARK = "prepared.json"


@dataclass(frozen=True)
class Source:
    """A labelled folder, and how cvtune fits it.

    Attributes:
        name: short, for files and rows.
        title: for tables and curves.
        folder: where its images are.
        preset: of cvtune.
        group_by: which images belong together, None for none.
        recipe: it is ELPV, whose test side is drawn by the recipe with the split's seed.
    """

    name: str
    title: str
    folder: Path
    preset: str = "auto"
    group_by: str | None = None
    recipe: bool = False


def sources(data: Path, *, preset: str | None = None, group_by: str | None = None) -> tuple[Source, ...]:
    """What `--data` names: the README's sets below it (ELPV is always there), one of them, or a folder of one's own.

    Raises:
        ConfigError: there is no such folder, or presets are asked for the README's sets, which have their own.
    """
    if not data.is_dir():
        raise ConfigError(f"{data}: no such folder", hint="--data FOLDER: of the data sets, or of classes")
    known = _known(data)
    chosen = tuple(one for one in known if one.folder == data.resolve()) or known
    if any(one.folder.is_relative_to(data.resolve()) for one in chosen):
        if preset or group_by:
            raise ConfigError(
                "--preset and --group-by are for a folder of your own; these sets have theirs",
                hint="leave them out, or name a folder with classes in it",
            )
        return chosen
    return (Source(data.resolve().name, data.resolve().name, data.resolve(), preset or "auto", group_by),)


def _known(data: Path) -> tuple[Source, ...]:
    """The README's sets in `data`, beside it, or where the recipe writes them."""
    found = []
    for case in CASES:
        places = (case.folder(data), case.folder(data.parent))
        folder = next((place.resolve() for place in places if place.is_dir()), None)
        if folder is not None or case.name == "elpv":
            flags = dict(zip(case.flags[::2], case.flags[1::2], strict=True))
            title, group_by = case.title.split(",")[0], flags.get("--group-by")
            place = folder or case.folder(data)
            found.append(Source(case.name, title, place, flags["--preset"], group_by, case.name == "elpv"))
    return tuple(found)


@dataclass(frozen=True)
class Prepared:
    """A folder as every tool gets it.

    Attributes:
        root: `images/`, `groups.csv` and `prepared.json` are in it.
        counts: images of train, val and test.
        digest: of paths and contents; rows with different digests are not of the same files.
        grouped: whether `groups.csv` says something.
    """

    root: Path
    counts: dict[str, int]
    digest: str
    grouped: bool

    @property
    def images(self) -> Path:
        """train/, val/ and test/ above the classes."""
        return self.root / "images"

    @property
    def groups(self) -> Path:
        """A table path,group for `--group-by`."""
        return self.root / "groups.csv"

    def record(self) -> dict[str, object]:
        """What a row keeps of it."""
        return {**self.counts, "digest": self.digest}


def prepare(source: Source, work: Path, *, seed: int, images: int | None = None) -> Prepared:
    """The prepared folder; one of an earlier time is used again where the source is what it was.

    Args:
        source: which folder.
        work: folder of prepared folders and weights, ours.
        seed: of the split; of the recipe's test side too where there is a recipe.
        images: about so many, for trying; all when unset.

    Raises:
        DataError: the folder cannot be used.
    """
    folder = _drawn(source, work, seed)
    name = f"{source.name}-{seed}" + (f"-{images}" if images else "")
    root = work / "folders" / name
    wanted = {
        "source": source.name,
        "preset": source.preset,
        "group_by": source.group_by,
        "seed": seed,
        "images": images,
        "listing": listing(folder),
    }
    if not (root / MARK).is_file() or read_json(root / MARK)["wanted"] != wanted:
        print(f"preparing {name}", file=sys.stderr)
        _build(source, folder, root, wanted, weights_file(work))
    kept = read_json(root / MARK)
    return Prepared(root, dict(kept["counts"]), str(kept["digest"]), source.group_by is not None)


def weights_file(work: Path) -> Path:
    """The backbone's weights under timm's names, for the peers."""
    return work / "tf_efficientnet_lite0.safetensors"


def listing(folder: Path) -> str:
    """A digest of the paths and sizes below a folder: another one means that something has changed."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    text = "\n".join(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}" for file in files)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _drawn(source: Source, work: Path, seed: int) -> Path:
    """The source's folder; of ELPV the one that the recipe draws with this seed."""
    if not source.recipe or (seed == 0 and source.folder.is_dir()):
        return source.folder
    out = work / "recipes" / f"elpv-{seed}"
    command = [sys.executable, str(ROOT / "datasets" / "elpv.py"), "--out", str(out), "--split-seed", str(seed)]
    _run(command, source)
    return out


def _build(source: Source, folder: Path, root: Path, wanted: Mapping[str, object], weights: Path) -> None:
    part = root.with_name(f"{root.name}.part")
    for old in (part, root):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.peers.deal", str(folder), "--preset", source.preset]
    command += ["--seed", str(wanted["seed"]), "--out", str(part / "split.csv"), "--weights", str(weights)]
    command += ["--group-by", source.group_by] if source.group_by else []
    command += ["--images", str(wanted["images"])] if wanted["images"] else []
    _run(command, source)
    rows = read_rows(part / "split.csv", COLUMNS)
    dealt = [(row["path"], row["label"], row["group"], row["side"]) for row in rows]
    digest = lay_out(folder, dealt, part)
    counts = Counter(side for *_, side in dealt)
    marked = {"wanted": wanted, "counts": {side: counts[side] for side in SIDES}, "digest": digest}
    write_json(part / MARK, marked)  # last: it says that all of it is there
    part.rename(root)


def lay_out(folder: Path, dealt: Sequence[tuple[str, str, str, str]], root: Path) -> str:
    """Put the images under `images/side/class/`, and their groups into `groups.csv`.

    fastai and vyntri look one level deep, so folders below a class become part of the file's name.

    Args:
        folder: that the paths start from.
        dealt: path, class, group and side of each image.
        root: of the prepared folder.

    Returns:
        A digest of all paths and contents.

    Raises:
        DataError: two images would have the same name.
    """
    groups, digest = [], hashlib.sha256()
    for path, label, group, side in sorted(dealt):
        place = root / "images" / side / label / _flat(path, label)
        if place.exists():
            raise DataError(f"{folder}: two images would be {place.name} of class '{label}'", hint="rename one of them")
        place.parent.mkdir(parents=True, exist_ok=True)
        link(folder / path, place)
        relative = place.relative_to(root / "images").as_posix()
        groups.append((f"images/{relative}", group))
        digest.update(f"{relative} {hashlib.sha256(place.read_bytes()).hexdigest()}\n".encode())
    write_rows(root / "groups.csv", ("path", "group"), groups)
    return digest.hexdigest()[:16]


def _flat(path: str, label: str) -> str:
    """`train/crack/side/a.png` of class crack becomes `side__a.png`."""
    parts = path.split("/")
    below = parts.index(label) + 1 if label in parts[:-1] else 0
    return "__".join(parts[below:])


def link(file: Path, place: Path) -> None:
    """A second name for a file; a copy where the file system has none, or it is another one."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copy2(file, place)


def _run(command: Iterable[str], source: Source) -> None:
    """Run a step in a process of its own, with empty caches."""
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        env = os.environ | own_homes(Path(scratch))
        done = subprocess.run([*command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        text = done.stderr.strip().removeprefix("error: ") or f"exit code {done.returncode}"
        raise DataError(f"{source.name}: it could not be prepared: {text}")
