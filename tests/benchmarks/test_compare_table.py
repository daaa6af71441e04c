"""The README's tables and its curve, from recorded rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.peers import curve, table
from benchmarks.peers.rows import Row, Snapshot
from cvtune.errors import ConfigError

TITLES = {"elpv": "ELPV solar cells", "neu_steel": "NEU steel & strip"}
FACTS = {
    "date": "2026-01-02",
    "threads": 2,
    "machine": {"processor": "CPU", "cores": 2},
    "load": {"start": 0.1, "end": 2.0, "others": 0.3},
}


def row(tool: str, variant: str, *points: tuple[float, int], seed: int = 0, **more: Any) -> Row:
    snapshots = tuple(Snapshot(seconds, "", right, 200) for seconds, right in points)
    seconds = more.pop("seconds", points[-1][0])
    return Row(more.pop("folder", "elpv"), 0, tool, variant, seed, seconds, snapshots, FACTS)


ROWS = [
    row("cvtune", "10s", (12.0, 150)),
    row("cvtune", "10s", (14.0, 152), seed=1),
    row("cvtune", "60s", (20.0, 150), (57.0, 170)),
    row("cvtune", "60s", (22.0, 152), (59.0, 174), seed=1),
    row("cvtune", "end", (20.0, 150), (200.0, 180), seconds=230.0),
    row("cvtune", "end", (22.0, 152), (210.0, 176), seconds=250.0, seed=1),
    row("fastai", "1+5", (40.0, 120), (300.0, 160), seconds=300.0),
    row("fastai", "1+20", (40.0, 118), (900.0, 164), seconds=900.0),
    row("vyntri", "fit", (30.0, 140)),
]


def cells(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_accuracy_at_each_time_and_at_the_end() -> None:
    text = table.tables(ROWS, TITLES)
    own = cells(text, "| ELPV solar cells | cvtune ")
    assert own[2] == "no model yet; 0.755 after 14 s"
    assert own[3] == "172 of 200, 0.860 [0.804, 0.905], 170 to 174"
    assert own[4] == "-"  # nothing was run with five minutes
    assert own[5:] == ["178 of 200, 0.890 [0.838, 0.930], 176 to 180", "4.0 min"]
    fastai = cells(text, "| ELPV solar cells | fastai, 1 + 5 epochs ")
    assert fastai[2:4] == ["no model yet", "120 of 200, 0.600 [0.529, 0.668]"]
    assert fastai[4] == fastai[5] == "160 of 200, 0.800 [0.738, 0.853]"
    assert fastai[6] == "5.0 min"
    assert "plain" not in text


def test_the_ratio_is_to_the_better_fastai_run() -> None:
    found = cells(table.tables(ROWS, TITLES), "| ELPV solar cells | 1 + 20")
    assert found == [
        "ELPV solar cells",
        "1 + 20 epochs: 164 of 200 in 15.0 min",
        "59 s, `--budget 60s`",
        "0.07",
    ]


def test_an_accuracy_that_is_not_reached_has_no_ratio() -> None:
    text = table.tables([*ROWS, row("fastai", "1+5", (500.0, 199))], TITLES)
    assert cells(text, "| ELPV solar cells | 1 + 5 epochs: 199")[2:] == ["not reached", "-"]
    assert table.missed([*ROWS, row("fastai", "1+5", (500.0, 199))]) == [
        "elpv: fastai's accuracy is reached never, at most 0.2",
        "elpv: 0.890 at its end, fastai has 0.995",
    ]
    assert table.missed(ROWS) == []


def test_it_says_how_it_was_measured() -> None:
    text = table.tables(ROWS, TITLES)
    assert "the mean of 2 seeds" in text
    assert text.endswith("Measured 2026-01-02, CPU, 2 threads; other programs used at most 0.3 cores.")


def test_folders_are_in_the_order_of_the_titles() -> None:
    rows = [row("vyntri", "fit", (9, 1), folder=name) for name in ("other", "neu_steel", "elpv")]
    text = table.tables(rows, TITLES)
    assert re.findall(r"^\| (\S+) .*vyntri", text, re.MULTILINE) == ["ELPV", "NEU", "other"]
    assert "fastai run" not in text  # there is none to be compared with


@pytest.mark.parametrize(
    "text", ["nothing", f"{table.BEGIN}\n", f"{table.FINISH}\n{table.BEGIN}", f"{table.BEGIN}{table.FINISH}" * 2]
)
def test_a_readme_without_a_place_for_it_is_told(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="expected the lines <!-- compare --> and <!-- /compare --> once each"):
        table.write_readme(readme, "new")
    assert readme.read_text(encoding="utf-8") == text


def test_the_curve_is_plain_svg() -> None:
    rows = [*ROWS, *(row("plain", "8 epochs", (50, 90), (90, 99), folder=name) for name in ("neu_steel", "third"))]
    text = curve.curve(rows, TITLES)
    root = ElementTree.fromstring(text)
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds == {"svg", "g", "path", "text", "circle", "rect"}  # no script, no style, nothing from elsewhere
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    said = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"ELPV solar cells", "NEU steel & strip", "third", "vyntri", "1 min", "fastai, 1 + 20 epochs"} <= set(said)
    assert "cvtune, mean of 2 seeds" in said
    panels = [element.get("transform", "") for element in root.iter() if element.tag.endswith("}g")]
    assert len(panels) == len(set(panels)) == 3


def test_time_is_logarithmic_and_everything_lies_inside() -> None:
    text = curve.curve(ROWS, TITLES)
    at = {
        name: float(re.search(rf'<text x="([\d.]+)"[^>]*>{name}</text>', text)[1])  # type: ignore[index]
        for name in ("30 s", "1 min", "5 min", "10 min")
    }
    assert at["10 min"] - at["1 min"] == pytest.approx(at["5 min"] - at["30 s"], abs=0.2)
    assert at["1 min"] - at["30 s"] == pytest.approx(at["10 min"] - at["5 min"], abs=0.2)
    for x in re.findall(r'c?x="([-\d.]+)"', text):
        assert 0 <= float(x) <= curve.WIDTH
    for y in re.findall(r'c?y="([-\d.]+)"', text):
        assert 0 <= float(y) <= curve.LEGEND + curve.PANEL


@pytest.mark.parametrize(
    "values, low, high",
    [([0.5, 0.93], 0.5, 1.0), ([0.991, 0.998], 0.99, 1.0), ([1.0, 1.0], 0.99, 1.0), ([0.0, 0.9], 0.0, 1.0)],
)
def test_the_accuracy_axis_is_round_and_around_all_values(values: list[float], low: float, high: float) -> None:
    first, last, step = curve._rungs(values)
    assert (first, last) == pytest.approx((low, high))
    assert (last - first) / step == pytest.approx(round((last - first) / step))
