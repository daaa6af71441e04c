"""A page in headless Chromium: what its scripts make of it, and what the browser complains of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_QUIET: Final = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --enable-logging=stderr --host-resolver-rules=MAP:*:~NOTFOUND"
)
_PATIENCE: Final = 240  # seconds: the machine may be busy


@dataclass(frozen=True)
class Seen:
    """A page after its scripts ran: the document as text, and what the console holds."""

    text: str
    console: tuple[str, ...]


def browser() -> str:
    """The program; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed")
    return found


def seen(page: Path, scratch: Path) -> Seen:
    """Open a page by itself, in a profile of its own below `scratch`, without a network."""
    profile = scratch / "profile"
    profile.mkdir(exist_ok=True)
    command = [browser(), *_QUIET.split(), f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    environment = {**os.environ, "HOME": str(scratch)}
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=_PATIENCE, env=environment, check=True
    )
    return Seen(done.stdout, tuple(line for line in done.stderr.splitlines() if "CONSOLE" in line))


def driven(page: Path, scratch: Path, driver: str) -> Any:
    """What a driver returns, the body of a function, that runs in a copy of the page freed of its policy."""
    text = page.read_text(encoding="utf-8")
    freed, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert count == 1
    ending = f"<script>document.title = JSON.stringify((() => {{ {driver} }})());</script></body>"
    copy = scratch / "driven.html"
    copy.write_text(freed.replace("</body>", ending), encoding="utf-8")
    found = seen(copy, scratch)
    assert found.console == ()
    title = re.search(r"<title>(.*?)</title>", found.text, re.DOTALL)
    assert title is not None
    return json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
