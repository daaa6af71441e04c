"""The sliders in a browser: they count what Python counts, at any limit, and nothing but them runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from cvtune_edge.decision import NEVER, OperatingPoint

from cvtune.evaluation.multilabel import MultiPredictions
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.predictions import Predictions
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.verdict import Inspection, LabelCounts, Sorting
from cvtune.report import build_report
from cvtune.report.facts import Scored
from cvtune.report.questions import far_of, questions_of
from cvtune.rundir import RunDir
from tests.report import sides
from tests.report.browser import driven, seen
from tests.report.conftest import write_run
from tests.report.pages import Page, assert_inert

# What a person would see after each step; a step sets inputs as a person does.
DRIVER: Final = """
const text = (root, part) => root.querySelector(part).textContent;
const one = (selector) => document.querySelector(selector);
function set(selector, value, event) {
  one(selector).value = value;
  one(selector).dispatchEvent(new Event(event));
}
function look() {
  const cards = (kind) => [...document.querySelectorAll(`[data-wall="${kind}"] .path`)].map((path) => path.textContent);
  const rows = [...document.querySelectorAll("[data-rate]")].map((row) =>
    [row.dataset.rate, [text(row, "[data-k]"), Number(row.querySelector("[data-bound]").value)]]);
  const study = [...document.querySelectorAll("[data-study]")].map((row) =>
    [row.dataset.study, [text(row, "[data-k]"), text(row, "[data-share]"), text(row, "[data-kept]")]]);
  const covers = [...document.querySelectorAll("[data-count]")].map((cell) => [cell.dataset.count, cell.textContent]);
  const limits = [...document.querySelectorAll("[data-limit]")].map((slider) =>
    [slider.dataset.limit, [Number(slider.value), Number(slider.max), slider.getAttribute("aria-valuetext")]]);
  return {
    rates: Object.fromEntries(rows), study: Object.fromEntries(study), covers: Object.fromEntries(covers),
    limits: Object.fromEntries(limits), said: text(document, "[data-said]"), miss: cards("miss"), alarm: cards("alarm"),
    shown: [...document.querySelectorAll("[data-shown]")].map((part) => part.textContent),
    own: one("[data-own]") ? !one("[data-own]").hidden : null, none: !one("[data-none]").hidden,
    marks: [...document.querySelectorAll("figure:not([hidden]) .mark")].map((line) => Number(line.getAttribute("x1"))),
    images: document.querySelectorAll("[data-cards] img").length, found: text(document, "[data-found=high]"),
  };
}
const steps = {
  slide: ([which, position]) => set(`[data-limit="${which}"]`, position, "input"),
  type: ([which, limit]) => set(`[data-number="${which}"]`, limit, "change"),
  question: (number) => set("[data-question]", number, "change"),
  pick: (number) => set("[data-class]", number, "change"),
  tie: (checked) => {
    one("[data-together]").checked = checked;
    one("[data-together]").dispatchEvent(new Event("change"));
  },
  back: () => one("[data-back]").click(),
};
const seen = [look()];
for (const step of STEPS) {
  for (const [name, value] of Object.entries(step)) steps[name](value);
  seen.push(look());
}
return { seen, limits: RATES.map(([k, n]) => limitsOf(k, n)) };
"""
RATES: Final = [(k, n) for n in (1, 2, 7, 62, 450, 5_000, 100_000) for k in sorted({0, 1, n // 3, n - 1, n})]


def write(root: Path, answers: Predictions | MultiPredictions, point: ChosenPoint) -> RunDir:
    run = write_run(root / "run", root, point.classes, [[f"{k}.png"] for k in range(len(point.classes))])
    answers.save(run.predictions("test"))
    point.save(run.point)
    if point.limits.novelty is not None:
        rows = [f"{path},{d}" for path, d in zip(answers.paths, sides.distances(len(answers.paths)), strict=True)]
        run.distances.write_text("\n".join(["path,distance", *rows]) + "\n", encoding="utf-8")
    return run


def drive(root: Path, answers: Predictions | MultiPredictions, point: ChosenPoint, steps: list[Any]) -> Any:
    run = write(root, answers, point)
    driver = f"const STEPS = {json.dumps(steps)}, RATES = {json.dumps(RATES)};{DRIVER}"
    return driven(build_report(run), root, driver)


def with_limits(point: ChosenPoint, low: float, high: float) -> ChosenPoint:
    k = len(point.classes)
    return replace(point, limits=replace(point.limits, accept=(low,) * k, reject=(high,) * k))


def limit_at(scored: Scored, point: ChosenPoint, position: int, question: int = 0) -> float:
    """The limit at a position of the slider: between two scores of images that are not too far."""
    scores = np.unique(questions_of(scored, point)[question].scores[~far_of(scored, point)])
    if position in (0, len(scores)):
        return NEVER if position else 0.0
    return float(scores[position - 1 : position + 1].mean())


def counted(scored: Scored, point: ChosenPoint) -> Any:
    return point.counted(scored.answers.probabilities, scored.answers.truth, scored.novelty)


def rates_of(found: Inspection | Sorting | LabelCounts, classes: tuple[str, ...]) -> Iterator[tuple[str, Rate]]:
    yield "review", found.review
    if isinstance(found, Sorting):
        yield "errors", found.errors
    else:
        yield from (("escapes", found.escapes), ("overkill", found.overkill), ("review_defects", found.review_defects))
    if isinstance(found, Inspection):
        yield "mixed_up", found.mixed_up
    if not isinstance(found, LabelCounts):
        yield from ((f"class-{classes.index(name)}", one) for name, one in found.by_class.items())


def assert_same(shown: Any, found: Inspection | Sorting | LabelCounts, classes: tuple[str, ...]) -> None:
    expected = dict(rates_of(found, classes))
    assert {key: count for key, (count, _) in shown["rates"].items()} == {k: str(one) for k, one in expected.items()}
    for key, (_, bound) in shown["rates"].items():
        assert bound == pytest.approx(expected[key].at_most if expected[key].n else 0.0, abs=1e-6)


def assert_same_study(shown: Any, found: Inspection) -> None:
    study, kept = found.study, {key: "yes" if good else "no" for key, good in found.study.acceptable.items()}
    for key in ("effectiveness", "miss", "false_alarm"):
        one: Rate = getattr(study, key)
        assert shown["study"][key] == [str(one), "n/a" if one.value is None else f"{one.value:.3f}", kept[key]]
    kappa = "n/a" if study.kappa is None else f"{study.kappa:.3f}"
    assert shown["study"]["kappa"] == ["", kappa, kept["kappa"]]


# ---- some classes are good


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scored, ChosenPoint, Any]:
    point, scored = sides.good(novelty=2.0), sides.scored_of(sides.single(), novelty=True)
    steps = [
        {"slide": ("low", 12)},
        {"slide": ("high", 60)},
        {"slide": ("low", 80)},  # takes the other with it
        {"slide": ("high", 5)},
        {"slide": ("low", 0)},
        {"slide": ("high", 1000)},  # beyond its end
        {"type": ("high", "0.7"), "slide": ("low", 20)},
        {"type": ("low", "0.95")},
        {"type": ("high", "7")},
        {"type": ("high", "")},  # no number
        {"back": None},
        {"tie": True, "slide": ("high", 50)},
        {"tie": False, "slide": ("low", 1000)},
        {"back": None, "pick": "2"},
    ]
    found = drive(tmp_path_factory.mktemp("good"), scored.answers, point, steps)
    return scored, point, found


GOOD_LIMITS: Final[list[tuple[int | float | None, int | float | None]]] = [
    (None, None),
    (12, None),
    (12, 60),
    (80, 80),
    (5, 5),
    (0, 5),
    (0, 10_000),
    (20, 0.7),
    (0.95, 0.95),
    (0.95, 10_000),
    (0.95, 10_000),
    (None, None),
    (50, 50),
    (10_000, 10_000),
    (None, None),
]


@pytest.mark.parametrize("step", range(len(GOOD_LIMITS)))
def test_decisions_are_counted_as_python_does(good: tuple[Scored, ChosenPoint, Any], step: int) -> None:
    scored, point, found = good
    shown = found["seen"][step]

    def limit(asked: float | None, chosen: float) -> float:
        if asked is None or isinstance(asked, float):
            return chosen if asked is None else asked
        return limit_at(scored, point, min(int(asked), shown["limits"]["low"][1]))

    low, high = (limit(asked, chosen) for asked, chosen in zip(GOOD_LIMITS[step], (0.4, 0.8), strict=True))
    expected = counted(scored, with_limits(point, low, high))
    assert isinstance(expected, Inspection)
    assert_same(shown, expected, point.classes)
    assert_same_study(shown, expected)
    assert shown["said"].endswith(f"REVIEW {expected.review}.")
    assert shown["said"].startswith("At the chosen limits: escapes") == (GOOD_LIMITS[step] == (None, None))


def test_the_limits_of_rates_are_those_of_scipy(good: tuple[Scored, ChosenPoint, Any]) -> None:
    for (k, n), limits in zip(RATES, good[2]["limits"], strict=True):
        rate = Rate(k, n)
        expected = {"low": rate.low, "high": rate.high, "most": rate.at_most}
        assert limits == pytest.approx(expected, abs=1e-6), (k, n)


def test_the_wall_shows_the_wrong_ones_worst_first(good: tuple[Scored, ChosenPoint, Any]) -> None:
    scored, point, found = good
    (question,) = questions_of(scored, point)
    limit = limit_at(scored, point, 80)
    near = sides.distances(120) < 2
    shown = found["seen"][3]
    escapes = np.flatnonzero(question.miss & near & (question.scores < limit))
    worst = escapes[np.argsort(question.scores[escapes], kind="stable")].tolist()
    overkill = np.flatnonzero(question.alarm & near & (question.scores >= limit))
    pictured = [int(path.removesuffix(".png")) for path in shown["miss"]]
    assert len(pictured) > 10
    assert pictured == [row for row in worst if row in pictured]
    assert shown["shown"][0] == f"{len(pictured)} of {len(escapes)} shown"
    assert shown["shown"][1] == f"{len(shown['alarm'])} of {len(overkill)} shown"
    first, filtered = found["seen"][0], found["seen"][-1]
    assert isinstance(scored.answers, Predictions)
    of_class = [path for path in first["miss"] if scored.answers.truth[int(path.removesuffix(".png"))] == 2]
    assert 0 < len(of_class) < len(first["miss"])
    assert filtered["miss"] == of_class
    assert filtered["alarm"] == [], "no good image is of that class"


def test_the_slider_says_where_it_stands(good: tuple[Scored, ChosenPoint, Any]) -> None:
    seen_ = good[2]["seen"]
    assert seen_[0]["limits"]["low"][2] == "0.400"
    assert seen_[6]["limits"]["high"] == [seen_[6]["limits"]["high"][1]] * 2 + ["the end of the scale"]
    assert seen_[6]["found"] == "0 images"
    assert "OK below 0.9500, NG from the end of the scale: " in seen_[9]["said"]
    assert len({mark for shown in seen_ for mark in shown["marks"]}) > 6, "the lines move with the sliders"
    assert seen_[3]["marks"][0] == seen_[3]["marks"][1]
    assert seen_[11]["limits"] == seen_[0]["limits"]


def test_a_clinic_reads_what_was_found_and_at_least_so_much(tmp_path: Path) -> None:
    point = replace(sides.good(), words="clinic")
    scored = sides.scored_of(sides.single())
    (shown,) = drive(tmp_path, scored.answers, point, [])["seen"]
    missed = counted(scored, point).escapes
    assert shown["rates"]["escapes"] == [f"{missed.n - missed.k} of {missed.n}", pytest.approx(1 - missed.at_most)]
    least = f"{100 * (1 - missed.at_most):.1f} %"
    assert f"sensitivity {missed.n - missed.k} of {missed.n} (at least {least})" in shown["said"]
    assert shown["rates"]["review"][0] == str(counted(scored, point).review)


# ---- no class is good


def test_sorting_is_counted_as_python_does(tmp_path: Path) -> None:
    point, scored = sides.sort(0.3, 0.5, 0.7, NEVER), sides.scored_of(sides.single())
    steps = [
        {"slide": ("high", 40)},
        {"slide": ("high", 0)},
        {"slide": ("high", 9999)},
        {"type": ("high", "0.8")},
        {"back": 0},
    ]
    shown = drive(tmp_path, scored.answers, point, steps)["seen"]
    limits = [None, limit_at(scored, point, 40), 0.0, NEVER, 0.8, None]
    for one, limit in zip(shown, limits, strict=True):
        expected = counted(scored, point if limit is None else with_limits(point, 0.0, limit))
        assert_same(one, expected, point.classes)
        covers = {f"cover-{point.classes.index(name)}": str(rate) for name, rate in expected.coverage.items()}
        assert one["covers"] == covers
        assert one["own"] is (limit is None)
        assert one["shown"][0].endswith(f" of {expected.errors.k} shown")
    assert [one["none"] for one in shown] == [False, False, False, True, False, False]
    assert shown[0]["limits"]["high"][2] == "0.300"


# ---- several labels an image


def test_labels_are_counted_as_python_does(tmp_path: Path) -> None:
    answers = sides.several()
    point, scored = sides.labels(answers, novelty=2.0), sides.scored_of(answers, novelty=True)
    run_steps = [{"slide": ("low", 60)}, {"question": 2}, {"slide": ("high", 30)}, {"question": 0}]
    root = tmp_path
    run = write(root, sides.single(4, point.classes), point)
    run.predictions("test").unlink()
    answers.save(run.predictions("test"))
    run.metrics.write_text('{"task": "multi"}', encoding="utf-8")
    rows = [f"{path},{d}" for path, d in zip(answers.paths, sides.distances(90), strict=True)]
    run.distances.write_text("\n".join(["path,distance", *rows]) + "\n", encoding="utf-8")
    shown = driven(build_report(run), root, f"const STEPS = {json.dumps(run_steps)}, RATES = [];{DRIVER}")["seen"]
    lower, upper = limit_at(scored, point, 60, 0), limit_at(scored, point, 30, 2)
    limits = [
        ("dent", None),
        ("dent", (lower, lower)),
        ("stain", None),
        ("stain", (min(0.4, upper), upper)),
        ("dent", None),
    ]
    assert lower > 0.5, "the other limit follows"
    for one, (name, pair) in zip(shown, limits, strict=True):
        found = counted(scored, point if pair is None else with_limits(point, *pair))
        assert isinstance(found, LabelCounts)
        assert_same(one, found.by_label[name], point.classes)
        assert len(one["marks"]) == 2


# ---- the page as it is


HOSTILE: Final = (
    "</script><script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    "ok",
)


def test_the_page_runs_its_script_and_no_other(tmp_path: Path) -> None:
    point = sides.point_of(OperatingPoint((2,), (0.4,) * 3, (0.6,) * 3), HOSTILE)
    answers = sides.single(60, HOSTILE)
    named = Predictions(
        tuple(f"{HOSTILE[i % 2]}{i}.png" for i in range(60)), answers.truth, answers.probabilities, HOSTILE
    )
    report = build_report(write(tmp_path, named, point))
    before = assert_inert(report.read_text(encoding="utf-8"))
    found = seen(report, tmp_path)
    assert found.console == ()
    page = Page(found.text)
    parts = [attributes for _, attributes in page.tags if "data-controls" in attributes]
    assert len(parts) == 2
    assert not any("hidden" in attributes for attributes in parts)
    assert "<title>run \u2013 cvtune report</title>" in found.text
    assert len(page.scripts) == len(before.scripts) == 2
    assert not [image for image in page.all("img") if not (image["src"] or "").startswith("data:")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    said = next(line for line in page.text.splitlines() if line.startswith("At the chosen limits: escapes"))
    assert str(counted(sides.scored_of(named), point).review) in said
    assert HOSTILE[0] in page.text
    freed = driven(report, tmp_path, "return [document.scripts.length, document.querySelectorAll('[onerror]').length];")
    assert freed == [3, 0], "without the policy's help: the data, the page's own script and this test's"


def test_a_changed_script_does_not_run(tmp_path: Path) -> None:
    """The policy, not good manners, is what keeps others out."""
    report = build_report(write(tmp_path, sides.single(60), sides.good()))
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace('"use strict";', '"use strict"; '), encoding="utf-8")
    found = seen(report, tmp_path)
    assert any("Content Security Policy" in line for line in found.console)
    parts = [attributes for _, attributes in Page(found.text).tags if "data-controls" in attributes]
    assert all("hidden" in attributes for attributes in parts)
