"""The README's figures: the campaign itself is slow, its kept results and the table made of them are checked always.

The slice of it in `make test` is tests/e2e/test_fit.py, a fit on 120 photographs of steel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NAMES = ("elpv", "neu_steel", "gtsrb", "chest_xray_pneumonia")


@pytest.fixture(scope="module")
def figures(script: Any) -> Any:
    return script("benchmarks/figures.py")


def check(figures: Any, result: dict[str, Any]) -> None:
    case = next(case for case in figures.CASES if case.name == result["name"])
    assert result["test"][case.metric] >= case.bound
    assert result["parity"]["equal"] + result["parity"]["ties"] == result["parity"]["images"]
    assert result["parity"]["worst"] <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_campaign(figures: Any, real_data: Path, name: str, script: Any) -> None:
    if name == "elpv":
        script("datasets/elpv.py").build(figures.ROOT / "datasets" / "elpv")
    case = next(case for case in figures.CASES if case.name == name)
    result = figures.run(case, real_data)
    check(figures, result)
    if name == "elpv":  # on two cores and nothing else running
        assert result["seconds"] < 15 * 60
        assert result["seconds_to_first_model"] < 90


def test_the_kept_results_meet_the_bounds(figures: Any) -> None:
    results = figures.stored()
    assert tuple(result["name"] for result in results) == NAMES
    for result in results:
        check(figures, result)
        assert result["date"]
        assert result["machine"]["cores"]


def test_the_readme_shows_the_kept_results(figures: Any, repo: Path) -> None:
    text = (repo / "README.md").read_text(encoding="utf-8")
    for (begin, end), table in figures.tables(figures.stored()).items():
        assert text.split(begin)[1].split(end)[0].strip() == table


def test_the_tables_are_replaced_between_their_markers(figures: Any, tmp_path: Path) -> None:
    tables = figures.tables(figures.stored())
    readme = tmp_path / "README.md"
    stale = "".join(f"before\n{begin}\nstale\n{end}\nafter\n" for begin, end in tables)
    readme.write_text(stale, encoding="utf-8")
    figures.write_readme(readme)
    fresh = "".join(f"before\n{begin}\n{table}\n{end}\nafter\n" for (begin, end), table in tables.items())
    assert readme.read_text(encoding="utf-8") == fresh
