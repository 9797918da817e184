"""The list of endpoints at `/`: a page for browsers, plain text for all other clients."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.http.pages import ENDPOINTS
from tests.databases import Databases
from tests.serving import Served, served

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
GRAPHIQL = Path(__file__).parents[2] / "gateway/web/static/index.html"  # `make setup` builds it


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        yield gateway


class Page(HTMLParser):
    """The parsed page: its tags in order, the targets of its links, and its language."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.language: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag == "html":
            self.language = found["lang"]
        if tag == "a":
            self.links.append(found["href"] or "")
        assert not [name for name in found if name.startswith("on") or name == "style"]  # the policy forbids them


@pytest.mark.parametrize("accept", [CHROMIUM, FIREFOX])
def test_a_browser_gets_a_page_with_links(gateway: Served, accept: str) -> None:
    response = gateway.http.get("/", headers={"accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert response.headers["vary"] == "Accept"
    page = Page(response.text)
    assert page.language == "en"
    assert (page.tags.count("title"), page.tags.count("main"), page.tags.count("h1")) == (1, 1, 1)
    assert "script" not in page.tags
    assert [f"/{link}" for link in page.links] == [*ENDPOINTS]  # relative, for proxies that serve it below a path
    expected = dict.fromkeys(page.links, 200) | {"graphql": 303, "graphiql": 200 if GRAPHIQL.is_file() else 503}
    found = {link: gateway.http.get(f"/{link}", headers={"accept": accept}).status_code for link in page.links}
    assert found == expected
    head = gateway.http.head("/", headers={"accept": accept})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == response.headers["content-length"]


def test_the_policy_of_the_page_allows_its_style_and_nothing_else(gateway: Served) -> None:
    response = gateway.http.get("/", headers={"accept": CHROMIUM})
    (style,) = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert response.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def test_the_documents_that_the_page_names_exist(gateway: Served, root: Path) -> None:
    names = re.findall(r"<dt>([^<]*\.md)</dt>", gateway.http.get("/", headers={"accept": "text/html"}).text)
    assert len(names) > 5
    assert [name for name in names if not (root / name).is_file()] == []


@pytest.mark.parametrize(
    "accept", [None, "", "*/*", "text/plain", "application/json", "application/json, text/html;q=0.5"]
)
def test_other_clients_get_plain_text(gateway: Served, accept: str | None) -> None:
    request = gateway.http.build_request("GET", "/")
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    response = gateway.http.send(request)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert response.headers["vary"] == "Accept"
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert response.text.splitlines() == [
        "Snapshot gateway",
        "",
        *(f"{path:<17}{about}" for path, about in ENDPOINTS.items()),
    ]


def test_the_page_has_no_link_to_a_schema_that_is_not_served(databases: Databases) -> None:
    settings = Settings(database_url=databases.new("sqlite", demo=True), introspection=False)
    with served(settings) as gateway:
        page = Page(gateway.http.get("/", headers={"accept": CHROMIUM}).text)
    assert [f"/{link}" for link in page.links] == [path for path in ENDPOINTS if path != "/schema.graphql"]
