from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cvtune_edge.errors import CvtuneError

from tests.conftest import load_script
from tests.export.bundles import write_bundle
from tests.export.driving import Driven, drive


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: a bundle of 24 golden frames, whose first class is good."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    return write_bundle(folder / "bundle")


@pytest.fixture(scope="session")
def web() -> None:
    """A browser, and onnxruntime-web beside the page; the test is skipped where they cannot be had."""
    try:
        load_script("export/clients/web/run.py").find_browser()
        builder = load_script("export/clients/web/build.py")
        if not builder.is_built():
            builder.build()
    except CvtuneError as error:
        pytest.skip(f"no page to look at: {error.message}")


@pytest.fixture
def driven(web: None, tmp_path: Path) -> Callable[..., Driven]:
    """`driven("return look()", folders={"bundle": ...})`: the page in a browser."""
    count = 0

    def run(driver: str, **options: Any) -> Driven:
        nonlocal count
        count += 1
        scratch = tmp_path / f"browser-{count}"
        scratch.mkdir()
        return drive(driver, scratch, **options)

    return run
