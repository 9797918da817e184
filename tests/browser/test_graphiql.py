"""GraphiQL in Chromium, with a running gateway and without requests to any other host."""

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import pytest

from gateway.config import Settings
from tests.databases import Databases, required
from tests.graphql.client import set_latency
from tests.serving import Served, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, ViewportSize, WebSocketRoute

# Without Playwright the tests are skipped, except in CI, which requires it.
playwright: Any = (importlib.import_module if required("browser") else pytest.importorskip)("playwright.sync_api")


@pytest.fixture(scope="module")
def server(databases: Databases) -> Iterator[Served]:
    """The demo world."""
    with served(Settings(database_url=databases.new("sqlite", demo=True), drain_timeout=0.1)) as gateway:
        set_latency(gateway, 0)
        yield gateway


PHONE: "ViewportSize" = {"width": 390, "height": 844}


class Visit(NamedTuple):
    """GraphiQL in one tab of the browser: the page, the addresses that it has requested, and its errors."""

    page: "Page"
    addresses: list[str]
    errors: list[str]


@pytest.fixture(scope="module")
def visit(chromium: "Browser", server: Served) -> Iterator[Visit]:
    """GraphiQL on a first visit. The tests share it, because loading takes most of the time. Each opens its own tab."""
    with chromium.new_context(viewport={"width": 1280, "height": 1000}) as context:
        visit = Visit(context.new_page(), [], [])
        page, addresses, errors = visit
        page.on("request", lambda request: addresses.append(request.url))
        page.on("websocket", lambda socket: addresses.append(socket.url))
        page.on("requestfailed", lambda request: errors.append(f"{request.url}: {request.failure}"))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type in {"error", "warning"} else None)
        open_graphiql(page, server)
        yield visit


@pytest.fixture
def page(visit: Visit, server: Served) -> Iterator["Page"]:
    """After each test: no console errors, and no requests to other hosts."""
    socket_url = server.url.replace("http", "ws", 1)
    own = (f"{server.url}/", f"{socket_url}/", "data:", "blob:")
    yield visit.page
    print(*visit.addresses, sep="\n")
    assert visit.errors == []
    assert [address for address in visit.addresses if not address.startswith(own)] == []


def test_first_visit_shows_the_demo_world(page: "Page", server: Served, tmp_path: Path) -> None:
    machine = most_snapshots(server)

    first_tab(page)
    button(page, "Execute query").click()

    for text in (machine["id"], machine["name"], *(node["id"] for node in machine["snapshots"]["nodes"])):
        playwright.expect(result(page)).to_contain_text(f'"{text}"')
    page.screenshot(path=tmp_path / "demo-world.png")


def test_sample_mutation_names_a_machine_that_exists(page: "Page", server: Served) -> None:
    machine = most_snapshots(server)

    page.get_by_role("tab", name="TakeSnapshot").click()
    editor = page.locator(".graphiql-query-editor")
    playwright.expect(editor).to_contain_text(f'machineId: "{machine["id"]}"')
    button(page, "Execute query").click()

    playwright.expect(result(page)).to_contain_text('"name": "from GraphiQL"')
    playwright.expect(result(page)).to_contain_text('"errors": []')
    found = server.ask(
        "query ($id: ID!) { machine(id: $id) { snapshots(first: 1) { nodes { name } } } }", id=machine["id"]
    )
    assert found["machine"]["snapshots"]["nodes"] == [{"name": "from GraphiQL"}]


def test_typed_query_runs_with_every_panel_open(page: "Page", server: Served, tmp_path: Path) -> None:
    vm = server.ask('{ vm(id: "vm-11") { name } }')["vm"]
    panel = page.locator(".graphiql-plugin")

    first_tab(page)
    button(page, "Show Documentation Explorer").click()
    panel.get_by_role("link", name="Query", exact=True).click()
    playwright.expect(panel.get_by_role("link", name="vm", exact=True)).to_be_visible()
    page.screenshot(path=tmp_path / "documentation.png")

    button(page, "Show GraphiQL Explorer").click()
    playwright.expect(panel.get_by_text("instance", exact=True)).to_be_visible()

    run(page, 'query Typed { vm(id: "vm-11") { name powerState } }')
    playwright.expect(result(page)).to_contain_text(f'"name": "{vm["name"]}"')
    page.screenshot(path=tmp_path / "typed-query.png")

    button(page, "Show History").click()
    playwright.expect(panel.get_by_role("listitem").filter(has_text="Typed")).to_be_visible()
    page.screenshot(path=tmp_path / "history.png")


@pytest.mark.thorough  # a query and a subscription run by default
def test_mutation_returns_the_new_snapshot_and_operation(page: "Page", server: Served, tmp_path: Path) -> None:
    run(
        page,
        'mutation Take { createSnapshot(input: {machineId: "vm-11", name: "typed by hand"})'
        " { snapshot { id name } operation { kind } errors { code message path } } }",
    )

    playwright.expect(result(page)).to_contain_text('"typed by hand"')
    playwright.expect(result(page)).to_contain_text('"CREATE_SNAPSHOT"')
    playwright.expect(result(page)).to_contain_text('"errors": []')
    found = server.ask('{ vm(id: "vm-11") { snapshots(first: 1) { nodes { id name } } } }')
    (newest,) = found["vm"]["snapshots"]["nodes"]
    assert newest["name"] == "typed by hand"
    playwright.expect(result(page)).to_contain_text(f'"{newest["id"]}"')
    page.screenshot(path=tmp_path / "mutation.png")


def test_subscription_receives_an_operation_up_to_its_end(page: "Page", server: Served, tmp_path: Path) -> None:
    create = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "seen live"}) { errors { message } } }'

    run(page, "subscription Live { operationChanged { kind state progressPercent snapshotName } }")
    button(page, "Stop query").wait_for()
    # Subscriptions are not acknowledged, so this one may start after the first of these mutations.
    for _ in range(20):
        assert server.ask(create)["createSnapshot"]["errors"] == []
        if appears(result(page), "seen live"):
            break

    playwright.expect(result(page)).to_contain_text('"SUCCEEDED"')
    playwright.expect(result(page)).to_contain_text('"seen live"')
    playwright.expect(result(page)).to_contain_text('"eventCount":')
    page.screenshot(path=tmp_path / "subscription.png")
    button(page, "Stop query").click()
    button(page, "Execute query").wait_for()


@pytest.mark.thorough  # loads GraphiQL again
def test_subscription_keeps_its_latest_events_listed(chromium: "Browser", server: Served, tmp_path: Path) -> None:
    """The gateway is replaced by one that sends 150 events at once and closes the socket with an error."""

    def serve(socket: "WebSocketRoute") -> None:
        def answer(text: str | bytes) -> None:
            message = json.loads(text)
            if message["type"] == "connection_init":
                socket.send(json.dumps({"type": "connection_ack"}))
            if message["type"] == "subscribe":
                for number in range(1, 151):
                    payload = {"data": {"operationChanged": {"id": f"operation-{number}"}}}
                    socket.send(json.dumps({"id": message["id"], "type": "next", "payload": payload}))
                socket.close(code=4403, reason="The token has expired.")

        socket.on_message(answer)

    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    page.route_web_socket(server.url.replace("http", "ws", 1) + "/graphql", serve)
    open_graphiql(page, server)
    run(page, "subscription Many { operationChanged { id } }")

    playwright.expect(result(page)).to_contain_text('"eventCount": 151')
    playwright.expect(result(page)).to_contain_text("Socket closed with event 4403 The token has expired.")
    for number in (150, 149, 148):
        playwright.expect(result(page)).to_contain_text(f'"operation-{number}"')
    page.screenshot(path=tmp_path / "events.png")
    result(page).locator(".monaco-editor").click()
    page.keyboard.press("Control+End")
    # The error and events 52 to 150 are 100 in all.
    playwright.expect(result(page)).to_contain_text('"operation-52"')
    playwright.expect(result(page)).not_to_contain_text('"operation-51"')
    page.close()


@pytest.mark.thorough  # loads GraphiQL again
def test_a_link_to_a_query_shows_it_without_running_it(chromium: "Browser", server: Served) -> None:
    query = 'query Linked { vm(id: "vm-11") { name } }'
    with chromium.new_context() as context:
        for _ in range(2):  # the second visit has stored tabs
            page = context.new_page()
            sent: list[str] = []
            page.on("request", lambda request, sent=sent: sent.append(request.post_data or ""))
            open_graphiql(page, server, f"/graphql?query={quote(query)}")
            playwright.expect(page.locator(".graphiql-query-editor")).to_contain_text("query Linked {")
            playwright.expect(page.get_by_role("tab", name="Linked")).to_have_count(1)
            page.wait_for_function("() => localStorage['graphiql:tabState']?.includes('query Linked')")
            assert [body for body in sent if "query Linked" in body] == []
            button(page, "Execute query").click()
            playwright.expect(result(page)).to_contain_text('"name": "web-01"')


@pytest.mark.thorough  # loads GraphiQL again
def test_one_column_on_a_phone(chromium: "Browser", server: Served, tmp_path: Path) -> None:
    with chromium.new_context(viewport=PHONE, has_touch=True) as context:
        page = context.new_page()
        open_graphiql(page, server)

        button(page, "Execute query").tap()
        playwright.expect(result(page)).to_contain_text('"machines"')
        page.get_by_role("button", name="Headers", exact=True).tap()
        page.screenshot(path=tmp_path / "phone.png")
        parts = [
            button(page, "New tab"),
            page.get_by_role("region", name="Operation Editor"),
            page.get_by_role("button", name="Variables", exact=True),
            page.get_by_role("region", name="Headers"),
            result(page),
        ]
        assert_stacked(parts)
        for part in (parts[1], parts[3], parts[4]):  # the editors have room for several lines
            box = part.bounding_box()
            assert box is not None
            assert box["height"] >= 80
            assert box["width"] >= 330

        button(page, "Show Documentation Explorer").tap()
        page.locator(".graphiql-plugin").get_by_role("link", name="Query", exact=True).wait_for()
        page.screenshot(path=tmp_path / "phone-documentation.png")
        page.mouse.wheel(0, 2_000)
        for part in (page.locator(".graphiql-plugin"), *parts):
            part.scroll_into_view_if_needed()
            box = part.bounding_box()
            assert box is not None
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= PHONE["height"] + 1
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def assert_stacked(parts: Sequence["Locator"]) -> None:
    """Asserts that the parts are below each other and within the screen."""
    bottom = 0.0
    for part in parts:
        box = part.bounding_box()
        assert box is not None
        assert box["y"] >= bottom
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        bottom = box["y"] + box["height"]
    assert bottom <= PHONE["height"]


def most_snapshots(server: Served) -> dict[str, Any]:
    """The machine with the most snapshots, which the samples show first."""
    found = server.ask(
        "{ machines(sort: [{field: SNAPSHOT_COUNT, direction: DESC}], first: 1)"
        " { nodes { id name snapshots(first: 3) { nodes { id } } } } }"
    )
    machine: dict[str, Any] = found["machines"]["nodes"][0]
    return machine


def open_graphiql(page: "Page", server: Served, path: str = "/graphiql") -> None:
    """Opens GraphiQL, and waits until both editors are loaded: a click before that is lost."""
    playwright.expect.set_options(timeout=20_000)
    page.set_default_timeout(20_000)
    page.goto(f"{server.url}{path}")
    page.locator(".graphiql-query-editor .monaco-editor").wait_for()
    result(page).locator(".monaco-editor").wait_for()


def run(page: "Page", operation: str) -> None:
    """Types `operation` into a new tab, as one key, and runs it."""
    button(page, "New tab").click()
    page.locator(".graphiql-query-editor .monaco-editor").click()
    page.keyboard.insert_text(operation)
    # GraphiQL parses and stores the text when typing pauses. Before that, it would run the text that it parsed last.
    page.wait_for_function("typed => localStorage['graphiql:tabState']?.includes(JSON.stringify(typed))", arg=operation)
    page.keyboard.press("Control+Enter")


def first_tab(page: "Page") -> None:
    """Shows the tab of the first visit. While it is the only one, it has no button."""
    tabs = page.get_by_role("tab")
    if tabs.count():
        tabs.first.click()


def button(page: "Page", name: str) -> "Locator":
    return page.get_by_role("button", name=name)


def result(page: "Page") -> "Locator":
    return page.get_by_role("region", name="Result Window")


def appears(locator: "Locator", text: str) -> bool:
    """Whether `text` appears within a second."""
    try:
        playwright.expect(locator).to_contain_text(text, timeout=1_000)
    except AssertionError:
        return False
    return True
