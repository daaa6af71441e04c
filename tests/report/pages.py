"""A page as a browser's parser sees it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, the text, the scripts, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.cells: list[str] = []  # of all tables
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":  # no text that a person sees
            attributes, before = self.scripts[-1]
            self.scripts[-1] = attributes, before + data
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def links(self) -> list[str]:
        """Everything that could be loaded or followed."""
        names = ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background")
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name in names]


def assert_inert(text: str) -> Page:
    """No script but the page's own, no handler, nothing from outside: as strict as the page's own policy."""
    page = Page(text)
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    _assert_one_script(page, policy)
    assert {name for name, _ in page.tags}.isdisjoint({"link", "iframe", "object", "embed", "form", "base"})
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "url(http" not in text
    assert "@import" not in text
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(ids)
    return page


def _assert_one_script(page: Page, policy: str) -> None:
    """At most one script runs, in every byte the one whose hash the policy names; what else is there is data."""
    data = [body for attributes, body in page.scripts if attributes.get("type") == "application/json"]
    run = [(attributes, body) for attributes, body in page.scripts if attributes.get("type") != "application/json"]
    for body in data:
        assert not set("<>&\u2028\u2029") & set(body)
        json.loads(body)
    assert len(run) <= 1
    named = re.findall(r"script-src ([^;]*)", policy)
    if not run:
        assert not named
        return
    attributes, body = run[0]
    assert attributes == {}
    assert "<!--" not in body
    assert named == [f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"]
