"""The data of the sliders: enough to count again what was counted, inert whatever the names, and small."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cvtune_edge.decision import REVIEW, OperatingPoint
from numpy.typing import NDArray

from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.verdict import Inspection, LabelCounts, Sorting
from cvtune.report import build_report, explore
from cvtune.report.explore import MOST_PICTURES, Explorer, explorer_of, safe_json, script
from cvtune.report.facts import Scored
from cvtune.report.thumbnails import Thumbnails
from cvtune.rundir import RunDir
from tests.report import sides
from tests.report.conftest import add_folds, answers, write_multi_run, write_run
from tests.report.pages import Page, assert_inert

HOSTILE = ("</script><script>alert(1)</script>", "<!--", "\"'&\\", "line\u2028end\u2029", "\u202egnp.exe", "ok")


def explorer(scored: Scored, point: ChosenPoint, sharing: int = 1) -> Explorer:
    with Thumbnails(None) as thumbnails:
        return explorer_of(scored, point, thumbnails, sides=sharing)


def data_of(scored: Scored, point: ChosenPoint, sharing: int = 1) -> Any:
    return json.loads(explorer(scored, point, sharing).data)


def numbers(text: str, kind: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), kind)


def flags(text: str, n: int) -> NDArray[np.bool_]:
    return np.unpackbits(numbers(text, "u1"), count=n).astype(bool)


def decisions_of(data: Any, question: Any) -> NDArray[np.int64]:
    """0 passed, 1 stopped, -1 to a person: from nothing but the data in the page."""
    (kind, text), n = next(iter(question["scores"].items())), data["images"]
    scores, own = numbers(text, f"<{kind}").astype(np.float64), question["own"]
    low, high = question["low"], question["high"]
    if own:
        likely = numbers(question["likely"], "<u2")
        low, high = np.array(own["low"])[likely], np.array(own["high"])[likely]
    decisions = np.where(scores >= high, 1, np.where(scores < low, 0, REVIEW))
    return np.where(flags(data["far"], n), REVIEW, decisions)


def rate(hit: NDArray[np.bool_], of: NDArray[np.bool_]) -> Rate:
    return Rate(int((hit & of).sum()), int(of.sum()))


@pytest.mark.parametrize("name", sides.SINGLE_POINTS)
def test_the_page_can_count_what_was_counted(name: str) -> None:
    point, scored = sides.SINGLE_POINTS[name], sides.scored_of(sides.single(), novelty=True)
    data = data_of(scored, point)
    (question,) = data["questions"]
    decisions, truth = decisions_of(data, question), numbers(data["truth"], "<u2")
    miss, alarm = (flags(question[key], 120) for key in ("miss", "alarm"))
    assert isinstance(scored.answers.truth, np.ndarray)
    found = point.counted(scored.answers.probabilities, scored.answers.truth, scored.novelty)
    everything = np.ones(120, bool)
    assert found.review == rate(decisions == REVIEW, everything)
    if isinstance(found, Inspection):
        assert found.escapes == rate(decisions == 0, miss)
        assert found.overkill == rate(decisions == 1, alarm)
        likely = numbers(question["likely"], "<u2")
        assert found.mixed_up == rate(likely != truth, miss & (decisions == 1))
    else:
        assert isinstance(found, Sorting)
        assert found.errors == rate(alarm, decisions == 1)
        assert not (decisions == 0).any()


@pytest.mark.parametrize("novelty", [None, 2.0])
def test_labels_can_be_counted(novelty: float | None) -> None:
    answers = sides.several()
    point, scored = sides.labels(answers, novelty), sides.scored_of(answers, novelty=True)
    data = data_of(scored, point)
    assert data["truth"] is None
    found = point.counted(answers.probabilities, answers.truth, scored.novelty)
    assert isinstance(found, LabelCounts)
    for question in data["questions"]:
        decisions, own = decisions_of(data, question), found.by_label[question["name"]]
        miss, alarm = (flags(question[key], 90) for key in ("miss", "alarm"))
        assert own.escapes == rate(decisions == 0, miss)
        assert own.overkill == rate(decisions == 1, alarm)
        assert own.review == rate(decisions == REVIEW, np.ones(90, bool))
        assert own.review_defects == rate(decisions == REVIEW, miss)


def test_scores_travel_as_they_are() -> None:
    """The sum of two probabilities needs double precision, one alone does not."""
    scored = sides.scored_of(sides.single())
    summed = data_of(scored, sides.good())["questions"][0]["scores"]
    expected = scored.answers.probabilities[:, [0, 2]].astype(np.float64).sum(axis=1)
    assert (numbers(summed["f8"], "<f8") == expected).all()
    sure = data_of(scored, sides.sort())["questions"][0]["scores"]
    assert (numbers(sure["f4"], "<f4") == scored.answers.probabilities.max(axis=1)).all()


def test_limits_of_their_own_are_said_to_be() -> None:
    scored = sides.scored_of(sides.single())
    assert not explorer(scored, sides.good()).own
    own = sides.SINGLE_POINTS["limits of their own"]
    assert explorer(scored, own).own
    (question,) = data_of(scored, own)["questions"]
    assert (question["low"], question["high"]) == (0.2, 0.7)
    assert question["own"] == {"low": [0.2, 0.5, 0.6, 0.5], "high": [0.7, 0.5, 0.6, 0.5]}


# ---- words


def test_rows_are_those_of_the_kind() -> None:
    scored = sides.scored_of(sides.single())
    good = explorer(scored, sides.good())
    assert [line.key for line in good.lines] == ["escapes", "overkill", "mixed_up", "review", "review_defects"]
    assert [(line.key, line.name) for line in good.by_class] == [("class-0", "dent"), ("class-2", "scratch")]
    assert [line.usual for line in good.study] == ["at least 90 %", "at most 2 %", "at most 5 %", "at least 0.75"]
    one = explorer(scored, sides.SINGLE_POINTS["one defect"])
    assert [line.key for line in one.lines] == ["escapes", "overkill", "review", "review_defects"]
    assert one.by_class == ()
    plain = explorer(scored, sides.sort())
    assert [line.key for line in plain.lines] == ["errors", "review"]
    assert [line.name for line in plain.by_class] == list(sides.CLASSES)
    assert (plain.study, plain.limits, plain.labels) == ((), (("high", "Decided from"),), ())


def test_a_clinic_reads_sensitivity() -> None:
    point = sides.point_of(OperatingPoint(sides.OK, (0.4,) * 4, (0.8,) * 4), sides.CLASSES, "clinic")
    found = explorer(sides.scored_of(sides.single()), point)
    assert [(line.short, line.rest) for line in found.lines[:2]] == [("sensitivity", True), ("specificity", True)]
    assert (found.by, found.by_class[0].rest) == ("Sensitivity", True)
    assert found.walls == (("miss", "Missed"), ("alarm", "False alarms"))
    assert explorer(sides.scored_of(sides.single()), sides.good()).walls == (("miss", "Escapes"), ("alarm", "Overkill"))


def test_a_class_without_images_is_counted_where_it_could_escape() -> None:
    answered = sides.single()
    answered.truth[answered.truth == 2] = 0
    found = explorer(sides.scored_of(answered), sides.good())
    assert [line.name for line in found.by_class] == ["dent", "scratch"]
    assert [name for _, name in found.classes] == ["dent", "ok", "fine"]
    assert [line.name for line in explorer(sides.scored_of(answered), sides.sort()).by_class] == ["dent", "ok", "fine"]


# ---- pictures and size


def test_pictures_are_at_most_so_many_over_all_sides() -> None:
    scored = sides.scored_of(sides.single(400))
    assert len(data_of(scored, sides.good())["cards"]) == MOST_PICTURES == 96
    cards = data_of(scored, sides.good(), 2)["cards"]
    assert len(cards) == 48
    assert cards[0] == {**cards[0], "path": f"{cards[0]['row']}.png", "picture": "", "missing": "file not found"}


def test_too_many_images_leave_out_the_sliders_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "_MOST_LETTERS", 4000)
    scored = sides.scored_of(sides.single(4000))
    assert explorer(scored, sides.good()).data == ""
    assert explorer(sides.scored_of(sides.single()), sides.good()).data != ""
    assert explorer(sides.scored_of(sides.single()), sides.good(), 2).data == ""
    run = hostile_run(tmp_path, sides.CLASSES, sides.good(), n=4000)
    page = page_of(run)
    assert "For sliders 4,000 images are too many to travel in this page." in page.text
    assert not page.scripts
    assert "escapes, of" in page.text, "the curve is there"


def test_of_many_labels_some_have_a_curve() -> None:
    answered = sides.several(labels=tuple(f"label {i}" for i in range(23)))
    point = sides.point_of(OperatingPoint((), (0.3,) * 23, (0.5,) * 23, several=True), answered.classes)
    found = explorer(sides.scored_of(answered), point)
    assert len(found.curves) == 20
    assert len(json.loads(found.data)["questions"]) == 23


# ---- the page


def hostile_run(root: Path, classes: tuple[str, ...], point: ChosenPoint, n: int = 60) -> RunDir:
    paths = [[f"{k}/{name}{i}.png" for i in range(n // len(classes))] for k, name in enumerate(classes)]
    run = write_run(root / "run", root, classes, paths)
    point.save(run.point)
    return run


def page_of(run: RunDir) -> Page:
    return assert_inert(build_report(run).read_text(encoding="utf-8"))


def test_names_cannot_end_the_script(tmp_path: Path) -> None:
    k = len(HOSTILE)
    point = sides.point_of(OperatingPoint((k - 1,), (0.3,) * k, (0.6,) * k), HOSTILE)
    page = page_of(hostile_run(tmp_path, HOSTILE, point))
    (_, body), (attributes, _) = page.scripts
    assert attributes == {}
    assert not {"<", ">", "&", "\u2028", "\u2029", "\u202e"} & set(body)
    data = json.loads(body)
    assert data["classes"][:3] == list(HOSTILE[:3])
    assert data["classes"][3:5] == [r"line\u2028end\u2029", r"\u202egnp.exe"], "what cannot be seen is spelt out"
    assert any(HOSTILE[0] in card["path"] for card in data["cards"])
    assert HOSTILE[0] in [line for line in page.cells if "alert" in line]


def test_any_value_is_safe_as_json() -> None:
    value = {"a<b": ["</script>", "<!--", "]]>", "&amp;", "\u2028\u2029", "\ud800", '"\\']}
    text = safe_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()
    assert json.loads(text) == value


def test_sliders_are_hidden_until_the_script_runs(tmp_path: Path) -> None:
    page = page_of(hostile_run(tmp_path, sides.CLASSES, sides.good()))
    parts = [attributes for _, attributes in page.tags if "data-controls" in attributes]
    assert len(parts) == 2
    assert all("hidden" in attributes for attributes in parts)
    assert [item["data-limit"] for item in page.all("input") if item["type"] == "range"] == ["low", "high"]
    named = {item["for"] for item in page.all("label") if "for" in item}
    assert {item["id"] for item in page.all("input") if item["type"] == "range"} <= named
    assert [attributes["aria-live"] for attributes in page.all("p") if "aria-live" in attributes] == ["polite"]


def test_a_run_without_limits_has_no_script(tmp_path: Path) -> None:
    run = hostile_run(tmp_path, sides.CLASSES, sides.good())
    run.point.unlink()
    page = page_of(run)
    assert not page.scripts
    assert "What other limits would do" not in page.text


def test_two_sides_have_sliders_of_their_own_and_one_script(tmp_path: Path) -> None:
    run = hostile_run(tmp_path, sides.CLASSES, sides.good())
    paths = [f"{i}.png" for i in range(40)]
    add_folds(run, answers(sides.CLASSES, paths, [i % 4 for i in range(40)]))
    page = page_of(run)
    assert [attributes.get("id") for attributes, _ in page.scripts] == ["explore-folds", "explore-test", None]
    assert page.scripts[-1][1] == script()


def test_labels_are_chosen_from(tmp_path: Path) -> None:
    run = write_multi_run(tmp_path / "run", tmp_path, [f"{i}.png" for i in range(40)])
    classes = ("dent", "scratch", "stain")
    sides.point_of(OperatingPoint((), (0.3,) * 3, (0.6,) * 3, several=True), classes).save(run.point)
    page = page_of(run)
    assert [item["value"] for item in page.all("option")] == ["0", "1", "2"]
    (whole,) = [attributes for _, attributes in page.tags if "data-explore" in attributes]
    assert "hidden" in whole, "without the script there is nothing to choose with"


def test_the_page_of_noisy_images_stays_small(tmp_path: Path) -> None:
    """Noise does not compress: 150 such images, of which every one may have a picture."""
    generator = np.random.default_rng(0)
    for k in range(4):
        (tmp_path / str(k)).mkdir()
        for i in range(38):
            pixels = generator.integers(0, 256, (140, 140, 3), np.uint8)
            cv2.imwrite(str(tmp_path / str(k) / f"{sides.CLASSES[k]}{i}.png"), pixels)
    run = hostile_run(tmp_path, sides.CLASSES, sides.good(), n=152)
    page = page_of(run)
    cards = json.loads(page.scripts[0][1])["cards"]
    assert sum(card["picture"].startswith("data:image/jpeg;base64,") for card in cards) == 96
    assert run.report.stat().st_size < 5_000_000
