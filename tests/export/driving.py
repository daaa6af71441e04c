"""The page in headless Chromium, driven as a person would; its policy stays as it is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any, Final

from tests.conftest import REPO, load_script

WEB: Final = REPO / "export/clients/web"
_PATIENCE: Final = 240  # seconds: the machine may be busy
_LOGS: Final = ("--enable-logging", "--log-file={}/log")

# What a driver has at hand. It is the body of a function, and what it returns is given back.
_DRIVER: Final = """
const one = (id) => document.getElementById(id);
const text = (id) => one(id).textContent;
const sleep = (ms) => new Promise((resume) => setTimeout(resume, ms));
async function until(holds) {
  for (let i = 0; i < 4000; i++, await sleep(25)) if (holds()) return;
  throw new Error(`never: ${holds}; ${text("bundle-state")} ${text("refused")} ${text("said")} ${text("reason")}`);
}
const state = (wanted) => until(() => document.documentElement.dataset.state === wanted);
async function fetched(path, name) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return new File([await response.blob()], name);
}
function put(input, files) {
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  one(input).files = transfer.files;
  one(input).dispatchEvent(new Event("change"));
}
async function give(path) {  // choose a picture, and wait until something is said of it
  put("picture-file", [await fetched(path, path.split("/").at(-1))]);
  await until(() => !["Looking", "No picture yet"].includes(text("said")));
  return look();
}
async function pick(folder, names) {  // choose a bundle's folder
  put("bundle-files", await Promise.all(names.map((name) => fetched(`${folder}/${name}`, `${folder}/${name}`))));
  await until(() => document.documentElement.dataset.state);
}
function look() {
  const shown = (id) => !one(id).closest("[hidden]");
  const values = [...document.querySelectorAll("#shares .value")].map((value) => value.textContent);
  return {
    said: text("said"), reason: text("reason"), spoken: text("spoken"), kind: one("decision").classList[1],
    took: text("took"), values: shown("numbers") ? values : null, picture: shown("picture"), work: shown("work"),
    heat: shown("heat"), state: text("bundle-state"), refused: shown("refused") ? text("refused") : "",
  };
}
async function drive() { DRIVEN }
performance.setResourceTimingBufferSize(10000);
function send(what) {
  const asked = performance.getEntriesByType("resource").map((entry) => entry.name);
  return fetch("/answers", { method: "POST", body: JSON.stringify({ ...what, asked }) });
}
await drive().then((result) => send({ result: result ?? null }), (error) => send({ error: String(error.stack) }));
"""


@dataclass(frozen=True)
class Driven:
    """What a driver returned, what the console holds, and the addresses that the page asked for."""

    result: Any
    console: tuple[str, ...]
    asked: tuple[str, ...]
    site: str

    def assert_quiet(self) -> None:
        """No error, no breach of the policy, and no request to anybody but the server that the page came from."""
        assert self.console == ()
        assert self.asked
        assert all(url.startswith(self.site) for url in self.asked), self.asked


def drive(
    driver: str,
    scratch: Path,
    *,
    query: str = "?bundle=bundle",
    folders: Mapping[str, Path] | None = None,
    flags: Sequence[str] = (),
) -> Driven:
    """Open the page and let a driver work it.

    Args:
        driver: JavaScript, the body of an async function.
        scratch: an empty folder.
        query: of the page's address.
        folders: what is served beside the page, by name: "bundle".
        flags: further ones of the browser.
    """
    run = load_script("export/clients/web/run.py")
    site_folder = _driven_site(scratch / "site", driver)
    served = {f"/{name}/": folder for name, folder in (folders or {}).items()}
    logs = [flag.format(scratch) for flag in _LOGS]
    with run.served({"/": site_folder, "/vendor/": WEB / "vendor", **served}) as site:
        url = f"{site.url}driven.html{query}"
        with run.browsing(url, browser=run.find_browser(), flags=[*logs, *flags]):
            try:
                said = site.answers.get(timeout=_PATIENCE)
            except Empty:
                raise AssertionError(f"the page is silent: {_console(scratch)}") from None
    assert "result" in said, said
    return Driven(said["result"], _console(scratch), tuple(said["asked"]), site.url)


def _driven_site(folder: Path, driver: str) -> Path:
    folder.mkdir()
    for file in [*WEB.glob("*.js"), *WEB.glob("*.css"), *WEB.glob("*.html")]:
        shutil.copy(file, folder)
    page, count = re.subn("</head>", '<script type="module" src="driver.js"></script></head>', _page(folder))
    assert count == 1
    (folder / "driven.html").write_text(page, encoding="utf-8")
    (folder / "driver.js").write_text(_DRIVER.replace("DRIVEN", driver), encoding="utf-8")
    return folder


def _page(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def _console(scratch: Path) -> tuple[str, ...]:
    log = scratch / "log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return tuple(line for line in lines if "CONSOLE" in line)
