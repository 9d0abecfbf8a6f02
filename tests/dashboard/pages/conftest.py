"""Pages as elements, and what holds of every page."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

_VOID = {"input", "meta", "link", "br", "wbr"}


@dataclass
class Element:
    """An element, its attributes and what lies in it."""

    name: str
    attributes: dict[str, str | None]
    parent: "Element | None"
    children: list["Element | str"] = field(default_factory=list)

    def all(self, *names: str) -> Iterator["Element"]:
        """The elements within, of these names or of any."""
        for child in self.children:
            if isinstance(child, Element):
                if not names or child.name in names:
                    yield child
                yield from child.all(*names)

    def with_id(self, name: str) -> "Element":
        """The element within of that id."""
        return next(each for each in self.all() if each.get("id") == name)

    @property
    def text(self) -> str:
        """All text within, blanks as a reader sees them."""
        return " ".join("".join(each if isinstance(each, str) else f" {each.text} " for each in self.children).split())

    def get(self, name: str) -> str | None:
        """The value of an attribute."""
        return self.attributes.get(name)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = self.place = Element("", {}, None)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attributes), self.place)
        assert len(element.attributes) == len(attributes), f"<{tag}> has an attribute twice"
        self.place.children.append(element)
        if tag not in _VOID:
            self.place = element

    def handle_endtag(self, tag: str) -> None:
        assert self.place.name == tag, f"</{tag}> ends <{self.place.name}>"
        self.place = self.place.parent

    def handle_data(self, data: str) -> None:
        self.place.children.append(data)


def read(html: str) -> Element:
    """The elements of a page, all of which must be closed in order."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.place is reader.root, f"<{reader.place.name}> is not closed"
    return reader.root


def faults(page: Element) -> list[str]:
    """What is wrong with a page for those who cannot see it, or for the Content-Security-Policy."""
    elements = list(page.all())
    ids = Counter(each.get("id") for each in elements if each.get("id"))
    labels = {each.get("for") for each in page.all("label")}
    found = [f"id {name} is there {count} times" for name, count in ids.items() if count > 1]
    found += [f"{len(list(page.all(name)))} of <{name}>" for name in ("h1", "main") if len(list(page.all(name))) != 1]
    for each in elements:
        told = f"<{each.name} {each.attributes}>"
        is_field = each.name in ("input", "select", "textarea") and each.get("type") != "hidden"
        if "style" in each.attributes or any(name.startswith("on") for name in each.attributes):
            found.append(f"{told} has a style or a script of its own")
        if each.name == "style" or (each.name == "script" and not each.get("src")):
            found.append(f"{told} is inline")
        if is_field and each.get("id") not in labels:
            found.append(f"{told} has no label")
        if each.name in ("a", "button") and not each.text and not each.get("aria-label"):
            found.append(f"{told} has no name")
        if each.name in ("progress", "meter", "nav") and not each.get("aria-label"):
            found.append(f"{told} has no name")
        if each.get("role") == "region" and not (each.get("aria-label") and each.get("tabindex") == "0"):
            found.append(f"{told} has no name, or no key reaches it")
        if each.name == "form" and each.get("method") == "post":
            tokens = [field.get("value") for field in each.all("input") if field.get("name") == "csrf"]
            if len(tokens) != 1 or not tokens[0]:
                found.append(f"{told} has no CSRF token")
        for attribute in ("aria-labelledby", "aria-describedby"):
            if each.get(attribute) and each.get(attribute) not in ids:
                found.append(f"{told}: there is no {each.get(attribute)}")
        if "data-live" in each.attributes and not each.get("id"):
            found.append(f"{told} is live and has no id")
    return found


@pytest.fixture
def opened(browser: TestClient) -> Callable[..., Element]:
    """opened(url, status=200): the page there, in which no fault was found."""

    def get(url: str, status: int = 200) -> Element:
        answer = browser.get(url)
        assert answer.status_code == status, answer.text
        page = read(answer.text)
        assert faults(page) == []
        return page

    return get


@pytest.fixture
def sent(browser: TestClient) -> Callable[..., Element]:
    """sent(url, status, **fields): the page that answers a form, in which no fault was found."""

    def post(url: str, status: int, **fields: str) -> Element:
        token = read(browser.get("/launch").text)
        csrf = next(each.get("value") for each in token.all("input") if each.get("name") == "csrf")
        answer = browser.post(url, data={"csrf": csrf, **fields}, headers={"Origin": str(browser.base_url)})
        assert answer.status_code == status, answer.text
        page = read(answer.text)
        assert faults(page) == []
        return page

    return post
