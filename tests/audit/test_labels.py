from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cvtune.audit.labels import Suspect, judge_labels, suspects
from cvtune.data.index import DatasetIndex, Image

Floats = NDArray[np.float32]


def table(
    sizes: tuple[int, ...], *, width: int = 16, spread: float = 0.3, seed: int = 0
) -> tuple[DatasetIndex, Floats]:
    """Classes a, b, c... as clouds around different axes."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    cloud = np.random.default_rng(seed).normal(size=(len(labels), width)) * spread
    cloud[np.arange(len(labels)), labels] += 1
    images = tuple(Image(f"{'abcdefgh'[k]}/{i:04d}", int(k), None, f"{i:04d}") for i, k in enumerate(labels))
    return DatasetIndex(Path("parts"), tuple("abcdefgh"[: len(sizes)]), images), cloud.astype(np.float32)


def relabelled(index: DatasetIndex, changes: dict[int, int]) -> DatasetIndex:
    images = [replace(image, label=changes.get(i, image.label)) for i, image in enumerate(index.images)]
    return replace(index, images=tuple(images))


def test_wrong_labels_are_found_with_the_right_one() -> None:
    index, embeddings = table((60, 60, 60), spread=0.2)
    found = suspects(relabelled(index, {3: 1, 70: 2, 130: 0}), embeddings, seed=0)
    assert {(one.position, one.label, one.proposed) for one in found} == {
        (3, "b", "a"),
        (70, "c", "b"),
        (130, "a", "c"),
    }
    assert all(one.p_label < 0.2 < 0.7 < one.p_proposed for one in found)
    assert found[0].path == index.images[found[0].position].path
    margins = [one.p_label - one.p_proposed for one in found]
    assert margins == sorted(margins), "the worst first"


def test_right_labels_are_left_alone() -> None:
    index, embeddings = table((60, 60))
    assert judge_labels(index, embeddings, seed=0).suspects == ()
    assert judge_labels(index, embeddings, seed=0).note == ""


def test_the_same_seed_gives_the_same_suspects() -> None:
    index, embeddings = table((40, 40, 40), spread=0.6)
    wrong = relabelled(index, {1: 2, 50: 0})
    assert suspects(wrong, embeddings, seed=3) == suspects(wrong, embeddings, seed=3)


def test_a_twin_does_not_vouch_for_a_wrong_label() -> None:
    """A wrong label given to all pictures of a part: with one of them to learn from, the others would look right."""
    index, embeddings = table((60, 60), spread=0.1)
    lonely = np.zeros(16, np.float32)
    lonely[0], lonely[9] = 1.0, 8.0  # of class a by the axes that tell, and like nothing else by another
    embeddings[60:64] = lonely
    wrong = set(range(60, 64))

    def found(index: DatasetIndex, near: tuple[tuple[int, ...], ...] = ()) -> set[int]:
        return {one.position for one in suspects(index, embeddings, seed=0, near=near)} & wrong

    assert found(index) == set()
    group = [replace(image, group="g") if i in wrong else image for i, image in enumerate(index.images)]
    copies = [replace(image, sha256="x") if i in wrong else image for i, image in enumerate(index.images)]
    assert found(replace(index, images=tuple(group))) == wrong
    assert found(replace(index, images=tuple(copies))) == wrong
    assert found(index, near=((60, 61, 62, 63),)) == wrong


def test_classes_too_small_to_judge_are_named_and_not_suspected() -> None:
    index, embeddings = table((40, 40, 4))
    judged = judge_labels(relabelled(index, {0: 1}), embeddings, seed=0)
    assert [one.position for one in judged.suspects] == [0]
    assert judged.note == "labels of 'c' were not judged: fewer than 5 images (or groups)"


def test_groups_count_once() -> None:
    index, embeddings = table((40, 40, 40))
    images = [replace(image, group="one") if image.label == 2 else image for image in index.images]
    assert "'c' were not judged" in judge_labels(replace(index, images=tuple(images)), embeddings, seed=0).note


def test_nothing_to_compare() -> None:
    index, embeddings = table((40, 3))
    judged = judge_labels(index, embeddings, seed=0)
    assert judged.suspects == ()
    assert judged.note == "labels were not judged: no two classes have 5 images (or groups) to compare"


def test_a_network_that_cannot_tell_the_classes_proposes_nothing() -> None:
    index, embeddings = table((100, 100, 100))
    noise = np.random.default_rng(0).normal(size=embeddings.shape).astype(np.float32)
    judged = judge_labels(index, noise, seed=0)
    assert judged.suspects == ()
    assert judged.note.startswith("labels were not judged: the network contradicts ")
    assert judged.note.endswith(" of 300 of them")


def test_embeddings_that_do_not_fit() -> None:
    index, embeddings = table((10, 10))
    with pytest.raises(ValueError, match=r"embeddings \(19, 16\), expected \[20, D\]"):
        suspects(index, embeddings[:19], seed=0)
    embeddings[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        suspects(index, embeddings, seed=0)


def test_equal_and_narrow_embeddings() -> None:
    """One dimension, and all images the same: no division by zero, nothing to say."""
    index, embeddings = table((30, 30))
    assert suspects(index, embeddings[:, :1], seed=0) == suspects(index, embeddings[:, :1], seed=0)
    assert judge_labels(index, np.ones_like(embeddings), seed=0).suspects == ()


def test_progress_tells_the_folds() -> None:
    index, embeddings = table((20, 20))
    seen: list[tuple[int, int]] = []
    suspects(index, embeddings, seed=0, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


# ---- several labels an image


def several(sets: list[tuple[int, ...]]) -> DatasetIndex:
    images = [
        Image(f"{i:04d}", labels[0] if labels else -1, None, f"{i:04d}", labels=labels) for i, labels in enumerate(sets)
    ]
    return DatasetIndex(Path("parts"), ("dent", "scratch", "stain"), tuple(images), multi=True)


def mixed(count: int = 240, spread: float = 0.15) -> tuple[list[tuple[int, ...]], Floats]:
    generator = np.random.default_rng(0)
    present = generator.random((count, 3)) < 0.4
    embeddings = generator.normal(size=(count, 12)) * spread
    embeddings[:, :3] += present
    return [tuple(np.flatnonzero(row).tolist()) for row in present], embeddings.astype(np.float32)


def test_labels_that_are_missing_and_too_many() -> None:
    sets, embeddings = mixed(600)
    assert suspects(several(sets), embeddings, seed=0) == ()
    right = dict(enumerate(sets))
    planted = {(0, 1, 2): (0, 2), (): (1,), (0,): ()}  # one is missing, one too many, the only one is gone
    wrong = [i for labels in planted for i in [i for i, one in enumerate(sets) if one == labels][:8]]
    for i in wrong:
        sets[i] = planted[right[i]]
    index = several(sets)
    found = {one.position: one for one in suspects(index, embeddings, seed=0)}
    assert set(found) <= set(wrong)
    assert len(found) >= 14  # of 24: so few among 600 are hard to tell from rare but right sets
    assert {(one.label, one.proposed) for one in found.values()} == {
        ("dent;stain", "dent;scratch;stain"),
        ("scratch", ""),
        ("", "dent"),
    }
    assert all(one.p_label + one.p_proposed == pytest.approx(1) and one.p_label < 0.3 for one in found.values())


def test_a_label_on_nearly_all_images_is_not_judged() -> None:
    sets, embeddings = mixed()
    judged = judge_labels(several([tuple(sorted({*one, 2})) for one in sets]), embeddings, seed=0)
    assert judged.note == "labels of 'stain' were not judged: fewer than 5 images (or groups) with or without"
    assert not any("stain" not in one.proposed for one in judged.suspects)


def test_no_label_can_be_judged() -> None:
    index = several([(0,)] * 3 + [()] * 20)
    judged = judge_labels(index, np.ones((23, 4), np.float32), seed=0)
    assert judged.suspects == ()
    assert judged.note == "labels were not judged: no class has 5 images (or groups) with it and 5 without"


# ---- the library behind it


def test_cleanlab_comes_late_and_is_silent(tmp_path: Path) -> None:
    """It takes more than a second to import, and must not print, warn, look for anything on the network, or import a
    file of the user's: its Datalab imports `datasets`."""
    (tmp_path / "datasets.py").write_text("print('imported')", encoding="utf-8")
    code = """
import socket, sys
def refuse(*args): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
import cvtune.audit
assert "cleanlab" not in sys.modules
import numpy as np
from pathlib import Path
from cvtune.audit import suspects
from cvtune.data.index import DatasetIndex, Image
images = tuple(Image(f"{i:03d}", i % 2, None, f"{i:03d}") for i in range(40))
suspects(DatasetIndex(Path(), ("a", "b"), images), np.eye(40, 8, dtype=np.float32), seed=0)
assert "cleanlab" in sys.modules and "datasets" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_warning_reaches_the_user() -> None:
    index, embeddings = table((5, 200, 6), spread=1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        suspects(index, embeddings, seed=0)
    assert not caught


def test_a_suspect_is_plain_values() -> None:
    index, embeddings = table((60, 60))
    (one,) = suspects(relabelled(index, {3: 1}), embeddings, seed=0)
    assert one == Suspect(3, "a/0003", "b", "a", one.p_label, one.p_proposed)
    assert [type(value) for value in vars(one).values()] == [int, str, str, str, float, float]
