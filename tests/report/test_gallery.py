"""The pictures of a side: which are shown, what stands beside them, and how they are filtered without a script."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cvtune.audit import Suspect
from cvtune.config import ObjectiveConfig
from cvtune.evaluation.notable import doubt
from cvtune.evaluation.objective import build_objective
from cvtune.evaluation.operating import ChosenPoint, choose_point
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.studies import RANDOMISED, Explained
from cvtune.report import build_report
from cvtune.report.facts import read_facts
from cvtune.report.gallery import Gallery, gallery_of, pictures_of
from cvtune.report.thumbnails import Thumbnails
from cvtune.rundir import RunDir, read_json, write_json
from tests.report.conftest import add_folds, add_studies, add_suspects, several, write_multi_run, write_run
from tests.report.pages import Page, assert_inert

NEAR = ("crazing/crazing_1.jpg", "patches/patches_1.jpg", "scratches/scratches_1.jpg", "scratches/scratches_10.jpg")


def read(run: RunDir) -> Page:
    return assert_inert(build_report(run).read_text(encoding="utf-8"))


def gallery(run: RunDir) -> Gallery:
    facts = read_facts(run)
    with Thumbnails(facts.folder) as thumbnails:
        return gallery_of(facts.scored[0], facts.point, pictures_of(facts, thumbnails))


def point(run: RunDir, novelty: float | None = None) -> ChosenPoint:
    answers = Predictions.load(run.predictions("test"))
    config = ObjectiveConfig.model_validate({"review_rate": 0.1})
    found = choose_point(build_objective(config, answers.classes), answers.probabilities, answers.truth, config.words)
    return replace(found, limits=replace(found.limits, novelty=novelty))


def pixels(picture: dict[str, str | None]) -> NDArray[np.uint8]:
    data = base64.b64decode((picture["src"] or "").removeprefix("data:image/jpeg;base64,"))
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


# ---- which images


def test_each_image_is_shown_once(steel_copy: RunDir) -> None:
    add_studies(steel_copy)
    found = gallery(steel_copy)
    assert [wall.kind for wall in found.walls] == ["mistakes", "unsure", "strange"]
    paths = [card.path for wall in found.walls for card in wall.cards]
    assert len(paths) == len(set(paths))
    mistakes, unsure, strange = found.walls
    assert (len(mistakes.cards), mistakes.of, mistakes.above) == (17, 17, 0)
    assert len(unsure.cards) + unsure.above == len(strange.cards) + strange.above == 8
    assert unsure.above > 0
    assert f"{unsure.above} more are shown above." in read(steel_copy).text


def test_the_mistakes_are_the_surest_first(steel_copy: RunDir) -> None:
    answers = Predictions.load(steel_copy.predictions("test"))
    cards = gallery(steel_copy).walls[0].cards
    wrong = np.flatnonzero(~answers.right)
    surest = wrong[answers.probabilities[wrong].max(axis=1).argmax()]
    assert cards[0].path == answers.paths[surest]
    assert cards[0].detail == f"probability {answers.probabilities[surest].max():.3f}"
    assert (cards[0].truth, cards[0].right) == (answers.classes[answers.truth[surest]], False)


def test_the_least_sure_name_both_classes(steel_copy: RunDir) -> None:
    answers = Predictions.load(steel_copy.predictions("test"))
    card = gallery(steel_copy).walls[1].cards[0]
    row = answers.paths.index(card.path)
    assert doubt(answers)[row] == min(doubt(answers)[answers.right])
    first, second = np.argsort(-answers.probabilities[row])[:2]
    p = answers.probabilities[row]
    assert card.detail == f"{answers.classes[first]} {p[first]:.3f}, {answers.classes[second]} {p[second]:.3f}"


def test_the_strangest_tell_their_distance_and_their_decision(steel_copy: RunDir) -> None:
    add_studies(steel_copy)
    distances = read_facts(steel_copy).scored[0].novelty
    assert distances is not None
    assert gallery(steel_copy).walls[2].cards[0].detail == f"distance {distances.max():.3g}"
    point(steel_copy, float(np.sort(distances)[-4])).save(steel_copy.point)
    cards = gallery(steel_copy).walls[2].cards
    beyond = [card for card in cards if ", beyond the limit of " in card.detail]
    assert 1 <= len(beyond) <= 3
    assert {card.decided for card in beyond} == {"REVIEW"}
    assert ", within the limit of " in cards[-1].detail
    assert "Decision: REVIEW" in read(steel_copy).text


def test_labels_are_cards_too(tmp_path: Path) -> None:
    run = write_multi_run(tmp_path / "multi", tmp_path, [f"{i}.png" for i in range(50)])
    answers = several([f"{i}.png" for i in range(50)])
    found = gallery(run)
    assert (len(found.walls[0].cards), found.walls[0].of) == (10, 10)
    card = found.walls[0].cards[0]
    row = answers.paths.index(card.path)
    assert card.detail.startswith(("scratch missed at 0.", "scratch wrongly given at 0."))
    assert card.groups == tuple(np.flatnonzero(answers.truth[row] | answers.said[row]))
    closest = np.abs(answers.probabilities - 0.5).min(axis=1)[answers.right].min()
    shown = float(found.walls[1].cards[0].detail.split()[-1])
    assert abs(abs(shown - 0.5) - closest) < 1e-3


# ---- what stands beside them


def test_every_card_has_its_heat_map_and_three_training_images(steel_copy: RunDir) -> None:
    add_studies(steel_copy, near=NEAR)
    page = read(steel_copy)
    pictures = page.all("img")
    cards = sum(len(wall.cards) for wall in gallery(steel_copy).walls)
    warm = [one for one in pictures if (one["alt"] or "").startswith("Heat map of ")]
    near = [one for one in pictures if (one["alt"] or "").startswith("Training image ")]
    assert (len(warm), len(near)) == (cards, 3 * cards)
    assert near[0]["alt"] == "Training image crazing/crazing_1.jpg: crazing"
    assert pixels(near[0]).shape[:2] == (64, 64)
    picture = pixels(warm[0])  # BGR
    assert picture.shape[:2] == (128, 128)
    red = picture[..., 2].astype(int) - picture[..., 0]
    assert red[56:72, 56:72].mean() > 80, "warm in the middle"
    assert abs(red[:8, :8].mean()) < 8, "grey in the corner"
    assert re.fullmatch(r"Heat map of \S+\.jpg: what speaks for \S+", warm[0]["alt"] or "")
    assert page.text.count("Beside a picture the same one under its heat map") == 1
    assert "crazing 0.900" in " ".join(page.text.split())


def test_an_image_that_nobody_explained_is_just_a_card(steel_copy: RunDir) -> None:
    studies = add_studies(steel_copy, near=NEAR)
    first = gallery(steel_copy).walls[0].cards[0].path
    some = {first: studies.explained[first]}
    replace(studies, explained=some).save(steel_copy.studies)
    found = gallery(steel_copy)
    assert [card.path for wall in found.walls for card in wall.cards if card.why] == [first]
    assert (found.warm, found.near) == (True, True)


def test_without_maps_the_training_images_stay(steel_copy: RunDir) -> None:
    studies = add_studies(steel_copy, near=NEAR)
    bare = {path: Explained(path, one.label, None, one.alike) for path, one in studies.explained.items()}
    replace(studies, explained=bare, head_rank=None).save(steel_copy.studies)
    page = read(steel_copy)
    assert not [one for one in page.all("img") if "Heat map" in (one["alt"] or "")]
    assert "Below each picture the nearest training images" in page.text
    assert "Beside a picture" not in page.text


@pytest.mark.parametrize("heat", [np.zeros((0, 7), np.uint8), np.zeros((2, 2, 2), np.uint8)])
def test_a_map_of_no_shape_is_left_out(steel_copy: RunDir, heat: NDArray[np.uint8]) -> None:
    studies = add_studies(steel_copy)
    odd = {path: Explained(path, one.label, heat, ()) for path, one in studies.explained.items()}
    replace(studies, explained=odd).save(steel_copy.studies)
    assert not gallery(steel_copy).warm


def test_a_mask_leaves_maps_out_and_a_crop_is_told(steel_copy: RunDir) -> None:
    add_studies(steel_copy)
    path = steel_copy.bundle / "manifest.json"
    write_json(path, {**read_json(path), "resize": "crop"})
    assert "What the model was not shown is dark." in read(steel_copy).text
    write_json(path, {**read_json(path), "frame_size": [200, 200]})
    assert not gallery(steel_copy).warm


def test_maps_that_show_nothing_of_the_model_are_not_to_be_trusted(steel_copy: RunDir) -> None:
    assert RANDOMISED < 0.87
    add_studies(steel_copy, head_rank=0.87)
    page = read(steel_copy)
    assert "Do not trust these heat maps" in page.text
    assert "rank correlation 0.870" in page.text
    add_studies(steel_copy, head_rank=0.5)
    assert "Do not trust" not in read(steel_copy).text


def test_answers_of_other_models_are_not_explained(steel_copy: RunDir) -> None:
    """The folds' answers come from models of their own; the bundle's maps would speak for other answers."""
    answers = Predictions.load(steel_copy.predictions("test"))
    add_folds(steel_copy, answers)
    write_json(steel_copy.metrics, {"model": "final", "task": "single"})
    add_studies(steel_copy, near=NEAR)
    page = read(steel_copy)
    cards = sum(len(wall.cards) for wall in gallery(steel_copy).walls)
    assert len([one for one in page.all("img") if (one["alt"] or "").startswith("Heat map")]) == cards
    assert len([one for one in page.all("img") if "true class" in (one["alt"] or "")]) == 2 * cards
    steel_copy.predictions("test").unlink()
    add_studies(steel_copy, side="folds")
    assert "The maps are of the model in the bundle, which was trained on these images too." in read(steel_copy).text


def test_suspected_labels_are_explained(steel_copy: RunDir) -> None:
    studies = add_studies(steel_copy, near=NEAR)
    path = next(iter(studies.explained))
    add_suspects(steel_copy, [Suspect(0, path, "crazing", "inclusion", 0.01, 0.95)])
    page = read(steel_copy)
    alts = [one["alt"] or "" for one in page.all("img")]
    at = next(number for number, alt in enumerate(alts) if "looks like inclusion" in alt)
    assert alts[at + 1] == f"Heat map of {path}: what speaks for {studies.explained[path].label}"
    assert [alt.split(":")[0] for alt in alts[at + 2 : at + 5]] == [f"Training image {one}" for one in NEAR[:3]]
    assert f"the map: what speaks for {studies.explained[path].label}" in page.text


# ---- the filter


def test_a_radio_button_for_each_class_hides_the_others(steel_copy: RunDir) -> None:
    page = read(steel_copy)
    text = steel_copy.report.read_text(encoding="utf-8")
    found = gallery(steel_copy)
    radios = [one for one in page.all("input") if one.get("type") == "radio"]
    assert [one["id"] for one in radios] == ["pictures-pick-all", *(f"pictures-pick-{k}" for k in range(6))]
    assert ["checked" in one for one in radios] == [True, *[False] * 6]
    for pick in found.picks:
        rule = f"#pictures:has(#pictures-pick-{pick.group}:checked) .card:not(.g{pick.group}) {{ display: none; }}"
        assert rule in text
        cards = [one for one in page.all("figure") if f"g{pick.group}" in (one.get("class") or "").split()]
        assert len(cards) == pick.cards > 0
        assert f"{pick.name} {pick.cards}" in " ".join(page.text.split())
    assert text.index("@media screen {\n#pictures:has") > 0, "paper shows them all"


def test_of_too_many_classes_the_most_frequent_are_offered(tmp_path: Path) -> None:
    classes = tuple(f"class {i}" for i in range(60))
    run = write_run(tmp_path / "many", tmp_path, classes, [[f"{i}.png"] * 5 for i in range(60)])
    found = gallery(run)
    assert len(found.picks) == 24
    assert found.classes > 24
    assert f"(the 24 most frequent of {found.classes} classes)" in read(run).text


# ---- size and time


def test_a_page_of_noise_stays_under_five_megabytes(tmp_path: Path) -> None:
    classes = ("a", "b", "c")
    paths = [[f"{name}/{i}.png" for i in range(40)] for name in classes]
    near = tuple(f"near {i}.png" for i in range(3))
    noise = np.random.default_rng(0)
    for path in (*(one for group in paths for one in group), *near):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / path), noise.integers(0, 256, (130, 130, 3)).astype(np.uint8))
    run = write_run(tmp_path / "run", tmp_path, classes, paths)
    answers = Predictions.load(run.predictions("test"))
    upset = replace(answers, truth=(answers.truth + 1) % 3)
    upset.save(run.predictions("test"))
    add_folds(run, upset)
    write_json(run.metrics, {"model": "final", "task": "single"})
    add_studies(run, near=near)
    add_suspects(run, [Suspect(i, paths[2][i], "c", "a", 0.1, 0.9) for i in range(24)])
    point(run).save(run.point)
    page = read(run)
    assert len([one for one in page.all("img") if "Heat map" in (one["alt"] or "")]) > 60
    assert len(page.all("img")) > 300
    assert run.report.stat().st_size < 5_000_000, "with the pictures of the slider's wall"


def test_a_report_of_2600_images_takes_seconds(steel_copy: RunDir) -> None:
    answers = Predictions.load(steel_copy.predictions("test"))
    rows = np.arange(2600) % len(answers.paths)
    paths = tuple(answers.paths[row] if i < 120 else f"more/{i}.jpg" for i, row in enumerate(rows))
    many = Predictions(paths, answers.truth[rows], answers.probabilities[rows], answers.classes)
    for side in ("test", "calib"):
        many.save(steel_copy.predictions(side))
    add_studies(steel_copy, near=NEAR)
    point(steel_copy, 1.25).save(steel_copy.point)
    began = time.monotonic()
    page = read(steel_copy)
    assert time.monotonic() - began < 20, "issue 5"
    assert "2600" in page.text
