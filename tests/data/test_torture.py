"""The torture folder through both paths: what training reads and refuses, the line reads and refuses, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cvtune_edge import Bundle, ImageError, Prediction, Unreadable, read_image
from cvtune_edge.child import DecoderPool
from cvtune_edge.decode import ReadOptions
from cvtune_edge.files import find_images
from cvtune_edge.manifest import file_sha256
from cvtune_edge.session import open_session

import cvtune
from cvtune.bundle.export import export_bundle
from cvtune.data.index import build_index
from cvtune.data.pixels import Filled, fill_pixels
from cvtune.data.preprocess import Preprocessing, frame_graph
from tests.conftest import load_script
from tests.edge.conftest import CLASSES, manifest_tree, tiny_model

torture = load_script("tests/torture.py")
SIZE = 32
# What the issue asks for by name; each is (part of) a kind.
ASKED = [
    *("nothing", "zeros", "a PNG named.jpg".rpartition(".")[0], "claims billions", "100 MB", "a good 16_bit.png"),
    *("a good 16_bit.tif", "a good 16_bit.pgm", "float, tif", "a good cmyk.jpg", "EXIF orientation 0", "10,000 frames"),
    *("a good palette_alpha.png", "a good pages.tif", "a new line", "markup", "a formula", "an emoji", "255 bytes"),
    *(
        "a space at the end",
        "a dot at the end",
        "the same in capitals",
        ".DS_Store",
        "Thumbs.db",
        "a folder named like",
    ),
    *(".ipynb_checkpoints", "drawing.jpg", "layers.png", "paper.png", "page.jpg", "packed.jpg", "a broken link"),
    *("a loop of folders", "a pipe", "a name that is no UTF-8", *(f"a good exif_{n}.jpg" for n in range(1, 9))),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Read only: a `torture.Torture`."""
    built = torture.build(tmp_path_factory.mktemp("torture") / "parts")
    yield built
    shutil.rmtree(built.root.parent, ignore_errors=True)  # pytest keeps folders; a file of 3 GB helps nobody


@pytest.fixture(scope="module")
def filled(folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """What training sees."""
    return fill(folder, tmp_path_factory.mktemp("pixels"))


def fill(folder: Any, scratch: Path, pixels: Any = "uint8", **options: Any) -> Filled:
    pre = Preprocessing(SIZE, pixels=pixels)
    return fill_pixels(build_index(folder.root), pre, pre.reading, scratch=scratch, cache_gb=0, **options)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What the line sees: a network that looks at the mean colour."""
    path: Path = tmp_path_factory.mktemp("line") / "bundle"
    path.mkdir()
    (path / "model.onnx").write_bytes(tiny_model(CLASSES).SerializeToString())
    files = {"model.onnx": file_sha256(path / "model.onnx")}
    (path / "manifest.json").write_text(json.dumps(manifest_tree(files=files)), encoding="utf-8")
    return Bundle(path, threads=1)


def reasons(filled: Filled) -> dict[str, str]:
    return {item.path: item.reason for item in filled.index.skipped}


def wanted(folder: Any, *outcomes: str) -> list[str]:
    return sorted(entry.path for entry in folder.entries if entry.outcome in outcomes)


# ---- the folder itself


def test_it_holds_what_was_asked_for(folder: Any) -> None:
    kinds = {entry.kind for entry in folder.entries} | set(folder.left_out)
    assert len(kinds) - len(folder.left_out) >= 60
    assert not [asked for asked in ASKED if not any(asked in kind for kind in kinds)]
    for suffix in ("jpg", "png"):
        assert len([kind for kind in kinds if kind.startswith(f"{suffix} cut at")]) == 16
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert set(folder.left_out) <= {"a file without permission"}, folder.left_out


def test_it_is_the_same_each_time(folder: Any, tmp_path: Path) -> None:
    again = torture.build(tmp_path / "parts")
    assert again.entries == folder.entries
    for entry in folder.entries:
        one, two = (built.root / entry.path for built in (folder, again))
        if entry.outcome == "read":
            assert one.read_bytes() == two.read_bytes()


# ---- training


def test_every_entry_has_its_outcome(folder: Any, filled: Filled) -> None:
    images, skipped = {image.path for image in filled.index.images}, reasons(filled)
    wrong = []
    for entry in folder.entries:
        found = "read" if entry.path in images else skipped.get(entry.path, "nowhere")
        expected = "read" if entry.outcome == "read" else entry.says
        if found == "nowhere" or (found == "read") != (expected == "read") or not re.search(expected, found):
            wrong.append(f"{entry.path!r} ({entry.kind}): {found}, expected {expected}")
    assert not wrong, "\n".join(wrong)


def test_nothing_is_there_that_was_not_put_there(folder: Any, filled: Filled) -> None:
    found = [image.path for image in filled.index.images] + list(reasons(filled))
    assert sorted(found) == sorted(entry.path for entry in folder.entries)
    assert max(Counter(found).values()) == 1


def test_every_reason_can_be_printed(filled: Filled) -> None:
    for item in filled.index.skipped:
        assert item.reason
        assert "\n" not in item.reason
        assert item.reason.isprintable(), item.reason
        (item.path + item.reason).encode("utf-8")


def test_what_was_changed_in_reading_is_noted_and_counted(folder: Any, filled: Filled) -> None:
    notes = {image.path: facts.notes for image, facts in zip(filled.index.images, filled.facts, strict=True)}
    wrong = [
        f"{entry.path}: {notes[entry.path]}, expected {entry.notes!r}"
        for entry in folder.entries
        if entry.outcome == "read" and not any(entry.notes in note for note in (*notes[entry.path], ""))
    ]
    assert not wrong, "\n".join(wrong)
    assert dict(filled.index.notes) == dict(Counter(note for some in notes.values() for note in some))


def test_each_picture_was_read_for_what_it_is(folder: Any, filled: Filled) -> None:
    """Sizes after the EXIF orientation, and the first page alone."""
    sizes = {image.path: (image.width, image.height) for image in filled.index.images}
    for orientation in range(1, 9):
        assert sizes[f"good/exif_{orientation}.jpg"] == ((64, 48) if orientation < 5 else (48, 64))
    assert sizes["strange/EXIF orientation 0.jpg"] == (64, 48)
    assert sizes["strange/10,000 frames.gif"] == (2, 2)
    assert sizes["strange/one row of 4000.png"] == (4000, 1)
    pages = {image.path: facts.pages for image, facts in zip(filled.index.images, filled.facts, strict=True)}
    assert pages["good/pages.tif"] == 2
    assert pages["strange/10,000 frames.gif"] >= 2
    first = read_image(folder.root / "good/pages.tif").pixels
    np.testing.assert_array_equal(first, torture.picture(38))


# ---- the line


def test_the_line_refuses_what_training_refuses(folder: Any, filled: Filled, bundle: Bundle) -> None:
    paths = wanted(folder, "read", "refused")
    answers = list(bundle.stream([folder.root / path for path in paths]))
    refused = {p: answer.reason for p, answer in zip(paths, answers, strict=True) if isinstance(answer, Unreadable)}
    assert refused == {path: reason for path, reason in reasons(filled).items() if path in paths}
    assert [p for p, answer in zip(paths, answers, strict=True) if isinstance(answer, Prediction)] == sorted(
        image.path for image in filled.index.images
    )


def test_a_folder_given_to_the_line_gives_the_images_of_training(folder: Any, filled: Filled, bundle: Bundle) -> None:
    passed_over: list[Path] = []
    found = {}
    for answer in bundle.stream(find_images([folder.root], passed_over=passed_over.append)):
        path = Path(answer.path).relative_to(folder.root).as_posix()
        found[path.encode("utf-8", "backslashreplace").decode("utf-8")] = answer
    read = {path for path, answer in found.items() if isinstance(answer, Prediction)}
    # The line has no classes and no tables: an image outside of a class folder, or one whose name cannot be written to
    # a CSV, is classified all the same.
    more = {"lonely.png", "names/caf\\udce9.png"} & {entry.path for entry in folder.entries}
    assert read == {image.path for image in filled.index.images} | more


def test_whatever_is_given_by_name_is_answered(folder: Any, bundle: Bundle) -> None:
    """Also pipes, devices, links that loop and junk: an answer, never a wait and never a crash."""
    paths = [folder.root / path for path in wanted(folder, "passed over")]
    answers = list(bundle.stream(paths))
    assert len(answers) == len(paths)
    for answer in answers:
        if isinstance(answer, Prediction):
            assert Path(answer.path).name in ("lonely.png", ".hidden.png")
        else:
            assert answer.reason


@pytest.mark.parametrize("pixels", ["uint8", "uint16", "float32"])
def test_training_and_the_line_see_the_same_pixels(folder: Any, pixels: Any, tmp_path: Path) -> None:
    filled = fill(folder, tmp_path, pixels)
    pre = Preprocessing(SIZE, pixels=pixels)
    session = open_session(frame_graph(pre).SerializeToString(), threads=1)
    assert len(filled.index) > 100
    for row, image in enumerate(filled.index.images):
        frame = read_image(folder.root / image.path, pre.reading).pixels
        assert frame.dtype == pre.pixels
        assert frame.shape == (image.height, image.width, 3)
        (line,) = session.run(None, {"image": frame[None]})
        np.testing.assert_array_equal(filled.pixels.batch([row]), line, err_msg=image.path)


def test_float_pixels_are_read_where_they_are_asked_for(folder: Any, tmp_path: Path) -> None:
    filled = fill(folder, tmp_path, "float32")
    assert {"lies/float.tif", "lies/double.tif"} <= {image.path for image in filled.index.images}


def test_children_read_and_refuse_the_same(folder: Any, filled: Filled, bundle: Bundle, tmp_path: Path) -> None:
    with DecoderPool(ReadOptions()) as pool:
        apart = fill(folder, tmp_path, decoder=pool)
    assert apart.index == filled.index
    assert apart.facts == filled.facts
    rows = range(len(filled.index))
    np.testing.assert_array_equal(apart.pixels.batch(rows), filled.pixels.batch(rows))
    paths = [folder.root / path for path in wanted(folder, "read", "refused")]
    with Bundle(bundle.path, threads=1, untrusted=True) as untrusted:
        for one, two in zip(untrusted.stream(paths), bundle.stream(paths), strict=True):
            assert str(one) == str(two)


# ---- what changes while it is read


def test_files_that_vanish_or_change_between_listing_and_reading(folder: Any, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for label in ("a", "b"):
        for number in range(5):
            target = root / label / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder.root / "good/colour.png", target)
    index = build_index(root)
    (root / "a/0.png").unlink()
    (root / "a/1.png").write_bytes(b"")
    (root / "a/2.png").write_bytes((root / "b/0.png").read_bytes()[:100])
    (root / "b/1.png").unlink()
    (root / "b/1.png").mkdir()
    pre = Preprocessing(SIZE)
    found = reasons(fill_pixels(index, pre, pre.reading, scratch=tmp_path / "s", cache_gb=0))
    assert sorted(found) == ["a/0.png", "a/1.png", "a/2.png", "b/1.png"]
    assert found["a/0.png"] == "vanished since the folder was listed"
    assert found["a/1.png"] == "empty file (0 bytes)"
    assert re.search("truncated|damaged", found["a/2.png"])
    assert found["b/1.png"] == "not a regular file"


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions do not bind root: go on as another user."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="permissions of this kind are POSIX")
def test_files_and_folders_without_permission(folder: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="cvtune-permission-") as place:  # tmp_path is closed to other users
        root = Path(place) / "parts"
        for name in ("a/1.png", "a/2.png", "a/forbidden.png", "b/1.png", "b/2.png", "b/closed/1.png"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder.root / "good/colour.png", root / name)
        for path in (Path(place), root, root / "a", root / "b"):
            path.chmod(0o755)
        (root / "a/forbidden.png").chmod(0)
        (root / "b/closed").chmod(0)
        with as_nobody() if os.geteuid() == 0 else contextlib.nullcontext():
            index = build_index(root)
            with pytest.raises(ImageError) as caught:
                read_image(root / "a/forbidden.png")
        (root / "b/closed").chmod(0o755)
    assert {item.path: item.reason for item in index.skipped} == {
        "a/forbidden.png": "cannot be read: Permission denied",
        "b/closed": "cannot be listed: Permission denied",
    }
    assert caught.value.reason == "cannot be opened: Permission denied"


# ---- the whole way


@pytest.fixture(scope="module")
def run(folder: Any, quick_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`cvtune fit` on the torture folder, from which twenty images vanish between reading and export."""
    root = tmp_path_factory.mktemp("fit") / "parts"
    shutil.copytree(
        folder.root, root, symlinks=True, ignore=lambda place, names: [n for n in names if special(place, n)]
    )
    vanishing = [root / f"{label}/vanishes {number}.png" for label in ("good", "strange") for number in range(10)]
    for seed, path in enumerate(vanishing, 800):
        path.write_bytes(torture.by_pillow(torture.picture(seed), "PNG"))

    def export(*arguments: Any, **more: Any) -> Any:
        for path in vanishing:
            path.unlink(missing_ok=True)  # there is an export for each stage
        return export_bundle(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvtune.book.export_bundle", export)
        return cvtune.fit(root, out=tmp_path_factory.mktemp("fit") / "run", config=quick_config)


def special(place: str, name: str) -> bool:
    """What copytree would read without end, or for too long."""
    path = Path(place) / name
    return name == "3 GB.png" or not (path.is_symlink() or path.is_file() or path.is_dir())


def test_fit_lists_every_bad_file(folder: Any, run: Any) -> None:
    assert run.exit_code == 0
    audit = json.loads((run.path / "audit.json").read_text(encoding="utf-8"))
    listed = {item["path"]: item["reason"] for item in audit["skipped"]}
    bad = [entry for entry in folder.entries if entry.outcome != "read"]
    gone = {"places/3 GB.png", "places/pipe.png", "places/socket.png"}
    assert set(listed) == {entry.path for entry in bad} - gone
    for entry in bad:
        assert entry.path in gone or re.search(entry.says, listed[entry.path]), entry


def test_a_file_that_vanished_during_the_run_is_counted(run: Any) -> None:
    parity = run.bundle.manifest.parity
    sides = {row["path"] for side in ("val", "calib", "test") for row in predictions(run.path, side)}
    gone = [path for path in sides if "/vanishes " in path]
    assert parity["vanished"] == len(gone) >= 3
    assert parity["images"] == len(sides) - len(gone)


def predictions(path: Path, side: str) -> list[dict[str, str]]:
    import csv

    with (path / f"predictions-{side}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_no_name_becomes_markup_in_the_report(run: Any) -> None:
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "<b>bold" not in page
    assert "\x1b" not in page


def test_the_bundle_refuses_the_same_files(folder: Any, run: Any) -> None:
    paths = wanted(folder, "read", "refused")
    answers = zip(paths, run.bundle.stream([folder.root / path for path in paths]), strict=True)
    assert {path for path, answer in answers if isinstance(answer, Unreadable)} == set(wanted(folder, "refused"))
