"""From a template to one self-contained file: no network, every name escaped and visible, one script at most."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from cvtune.evaluation.rates import Rate
from cvtune.report.names import visible
from cvtune.rundir import write_bytes

_SOURCES: Final = (".j2", ".css")
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_page(path: Path, template: str, *, script: str = "", **values: Any) -> Path:
    """Render a template of this package to `path`, atomically; the same values give the same bytes.

    Args:
        path: of the page.
        template: a file of this package.
        script: of this package, the only one that may run in the page; none when empty.
        **values: what the template speaks of.

    Returns:
        `path`.
    """
    values = {**values, "script": Markup(script), "policy": _policy(script)}
    page = _environment().get_template(template).render(**values)
    write_bytes(path, page.encode("utf-8"))
    return path


def _policy(script: str) -> Markup:
    """What the page may do (Content Security Policy, level 2): a script runs if its hash is named, and no other."""
    if not script:
        return Markup(_POLICY)
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    return Markup("{}; script-src 'sha256-{}'").format(Markup(_POLICY), digest)


def _environment() -> Environment:
    files = [file for file in resources.files("cvtune.report").iterdir() if file.name.endswith(_SOURCES)]
    environment = Environment(
        loader=DictLoader({file.name: file.read_text(encoding="utf-8") for file in files}),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure, interval=_interval, percent=_percent, duration=_duration, size=_size, whole=_whole
    )
    return environment


def _visible(value: Any) -> Any:
    """Every name on its way into the page; what is markup already is the template's own, or text with its lines."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _whole(text: str) -> Markup:
    """A text of several lines, for <pre>: its line ends stay."""
    return Markup("\n").join(visible(line) for line in text.splitlines())


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _interval(limits: Rate | tuple[float, float]) -> str:
    low, high = (limits.low, limits.high) if isinstance(limits, Rate) else limits
    return f"[{low:.3f}, {high:.3f}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
