"""The page as a client for export/conformance.py: `python export/clients/web/run.py BUNDLE`.

Starts a browser without a window, serves it the page and the bundle from this computer alone, and prints what the page
answers for each golden frame: one JSON object a line, as export/CONTRACT.md has them. The page gives its answers back
by a POST to the same server: the document of a page would have to be asked for at the right moment.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from queue import Empty, SimpleQueue
from socketserver import ThreadingTCPServer
from typing import Any, Final

from cvtune_edge.errors import CvtuneError

HERE: Final = Path(__file__).resolve().parent
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
QUIET: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# Systems differ in what they call a script, and a browser takes no module that is called plain text.
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
    "": "application/octet-stream",
}
_MOST: Final = 1 << 26  # bytes of a POST


class Site(ThreadingTCPServer):
    """Folders on a free port of this computer, and what pages POST.

    Args:
        folders: by the beginning of their paths, "/bundle/"; the longest that fits is taken.

    Attributes:
        answers: bodies of POSTs, as they come.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folders: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folders = dict(sorted(folders.items(), key=lambda one: -len(one[0])))
        self.answers: SimpleQueue[Any] = SimpleQueue()

    @property
    def url(self) -> str:
        """Its address, with a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes its connections early is no news."""


class _Handler(SimpleHTTPRequestHandler):
    server: Site
    extensions_map = TYPES

    def translate_path(self, path: str) -> str:
        prefix = next(prefix for prefix in self.server.folders if path.startswith(prefix))
        self.directory = str(self.server.folders[prefix])
        return super().translate_path("/" + path[len(prefix) :])

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if length > _MOST:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(length)
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()
        self.server.answers.put(json.loads(body))

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads a line for every request."""


@contextmanager
def served(folders: Mapping[str, Path]) -> Iterator[Site]:
    """A site that answers until the end of the block."""
    with Site(folders) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        try:
            yield site
        finally:
            site.shutdown()


def find_browser(named: str | None = None) -> str:
    """The program.

    Raises:
        CvtuneError: there is none.
    """
    found = next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)
    if found is None:
        raise CvtuneError(
            f"no browser: none of {', '.join([named] if named else BROWSERS)} is installed",
            hint="install chromium, or name one with --browser",
        )
    return found


@contextmanager
def browsing(url: str, *, browser: str, flags: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A browser without a window, in an empty profile of its own, on a page; its stderr is a pipe."""
    with tempfile.TemporaryDirectory(prefix="cvtune-web-", ignore_cleanup_errors=True) as profile:
        command = [browser, *QUIET, f"--user-data-dir={profile}", *flags, url]
        environment = {**os.environ, "HOME": profile}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(bundle: Path, *, browser: str, patience: float) -> list[Any]:
    """What the page answers for each golden frame, in their order.

    Raises:
        CvtuneError: it refuses the bundle, or says nothing.
    """
    with served({"/": HERE, "/bundle/": bundle}) as site:
        url = f"{site.url}?bundle=bundle/&conformance=1"
        with browsing(url, browser=browser) as process:
            said = _heard(site, process, patience)
    if "lines" not in said:
        raise CvtuneError(f"the page refuses the bundle: {said.get('error', said)}")
    lines: list[Any] = said["lines"]
    return lines


def _heard(site: Site, process: subprocess.Popen[bytes], patience: float) -> Any:
    for _ in range(max(1, round(patience))):
        try:
            return site.answers.get(timeout=1)
        except Empty:
            if process.poll() is not None:
                raise CvtuneError(f"the browser ended by itself, with exit code {process.returncode}") from None
    raise CvtuneError(f"the page gave no answers within {patience:g} s", hint="raise --timeout on a busy machine")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answers; returns the exit code."""
    parser = argparse.ArgumentParser(prog="run.py", description="The web page's answers for a bundle's golden frames.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder with model.onnx and manifest.json")
    parser.add_argument("--browser", metavar="NAME", help="chromium or another of its family")
    parser.add_argument("--timeout", type=float, default=240, metavar="S", help="seconds for all frames; 240")
    args = parser.parse_args(argv)
    try:
        for line in answers(args.bundle, browser=find_browser(args.browser), patience=args.timeout):
            print(json.dumps(line))
    except CvtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
