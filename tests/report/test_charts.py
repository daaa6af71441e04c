"""What the charts say to those who cannot see them, and that nothing of a name gets out of them."""

from __future__ import annotations

import numpy as np
import pytest
from markupsafe import Markup

from cvtune.evaluation.conformal import risk_coverage
from cvtune.evaluation.rates import Rate
from cvtune.evaluation.reliability import Bin, Reliability
from cvtune.report.charts import (
    Strip,
    coverage_chart,
    coverage_words,
    distance_chart,
    reliability_chart,
    score_chart,
)
from tests.report.pages import Page

HOSTILE = "</svg><script>alert(1)</script>"


def label(chart: Markup) -> str:
    page = Page(str(chart))
    assert page.tags[0][0] == "svg"
    assert "script" not in {name for name, _ in page.tags}
    return page.tags[0][1]["aria-label"] or ""


def test_reliability_in_words_and_as_a_point_a_bin() -> None:
    bins = tuple(Bin(0.5 + 0.05 * i, Rate(10 + i, 20)) for i in range(8))
    chart = reliability_chart(Reliability(bins, 0.0412, 0.0613, 0.2, 0.3), "after", "r")
    said = label(chart)
    assert said.startswith("Reliability after calibration: expected calibration error 0.041, 0.061 is within chance")
    assert "0.50 10 of 20, 0.85 17 of 20 right" in said
    assert chart.count("<use ") >= 8


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_reliability_of_one_bin(share: float) -> None:
    found = Reliability((Bin(share, Rate(int(3 * share), 3)),), 0.0, 0.1, 0.0, 0.0)
    assert "of 3 right" in label(reliability_chart(found, "before", "r"))


def test_scores_are_counted_and_limits_named() -> None:
    strips = (
        Strip("ok", (("good", "", np.linspace(0, 0.3, 40)),), (0.2, 0.7)),
        Strip(HOSTILE, (("bad", "", np.ones(3)),)),
        Strip("none", (("bad", "", np.zeros(0)),)),
    )
    chart = score_chart(strips, "probability of a defect", "s")
    said = label(chart)
    assert said.startswith("Probability of a defect: ok: 40 images, limits 0.200 and 0.700; ")
    assert said.endswith("none: 0 images")
    assert "&lt;/svg&gt;&lt;script&gt;" in chart
    assert "var(--good)" in chart
    assert "#0000" not in chart, "every colour is the page's"


def test_the_colours_of_parts_are_explained() -> None:
    parts = (("good", "right", np.array([0.9, 0.8])), ("bad", "wrong", np.array([0.6])))
    chart = score_chart((Strip("dent", parts),), "probability of the answer", "s")
    assert "dent: 2 right, 1 wrong" in label(chart)
    assert ">right</text>" in chart
    assert ">wrong</text>" in chart


def test_coverage_in_words() -> None:
    right = np.ones(100, np.bool_)
    right[[99, 98, 97, 60]] = False
    curve = risk_coverage(np.linspace(1, 0.5, 100), right)
    assert coverage_words(curve) == "4 of 100 wrong, 1 of 90 of the surest, 0 of 50 of the surest"
    chart = coverage_chart(curve, (Rate(20, 100), Rate(1, 80)), "c")
    assert label(chart) == f"Mistakes against coverage: {coverage_words(curve)}"
    assert chart.count("var(--bad)") > 0, "the dot of the limits"
    assert "var(--bad)" not in coverage_chart(curve, None, "c")


def test_coverage_of_one_image() -> None:
    curve = risk_coverage(np.array([0.7]), np.array([False]))
    assert coverage_words(curve) == "1 of 1 wrong"
    assert label(coverage_chart(curve, (Rate(1, 1), Rate(0, 0)), "c"))


def test_what_is_beyond_the_limit_stands_out() -> None:
    distances = np.array([0.1, 0.2, 0.2, 0.9], np.float32)
    chart = distance_chart(distances, 0.5, "d")
    assert label(chart) == "Distances of 4 known images: 1 beyond the limit of 0.5"
    assert ">limit</text>" in chart
    unlimited = distance_chart(distances, np.inf, "d")
    assert label(unlimited) == "Distances of 4 known images: no limit"
    assert ">limit</text>" not in unlimited
    assert label(distance_chart(np.zeros(3, np.float32), 0.0, "d"))
