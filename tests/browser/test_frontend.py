"""A frontend of another origin, which CORS allows: the 20 lines in tests/clients/frontend, on a server of their own."""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import Settings
from tests.clients.node import HERE, check_installed, run
from tests.databases import Databases
from tests.graphql.client import set_latency, stalled
from tests.serving import Served, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

OLD = ["snapshot-5 test-new-driver READY", "snapshot-4 test-before-upgrade READY", "snapshot-3 test-base READY"]
LISTEN = """([url, query]) => new Promise((resolve, reject) => {
    const received = [];
    const source = new EventSource(`${url}?${new URLSearchParams({ query })}`);
    source.addEventListener('next', ({ data }) => received.push(JSON.parse(data)));
    source.addEventListener('complete', () => { source.close(); resolve(received); });
    source.addEventListener('error', () => { source.close(); reject(new Error(`after ${JSON.stringify(received)}`)); });
})"""


class Files(SimpleHTTPRequestHandler):
    """Serves the files that Vite has built, without logging requests."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The build directory. Each test has its own build, because it contains the URL of the gateway."""
    return tmp_path / "site"


@pytest.fixture
def origin(site: Path) -> Iterator[str]:
    """The origin of the server of the frontend."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=site)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def gateway(databases: Databases, origin: str) -> Iterator[Served]:
    settings = Settings(database_url=databases.new("sqlite", demo=True), cors_origins=(origin,), drain_timeout=0.1)
    with served(settings) as gateway:
        set_latency(gateway, 0)
        yield gateway


@pytest.fixture
def page(chromium: "Browser", site: Path, origin: str, gateway: Served) -> Iterator["Page"]:
    """The frontend in the browser. After each test: no console errors, and no requests to other hosts."""
    check_installed()
    options = ("--outDir", str(site), "--emptyOutDir")
    run("vite", "build", *options, folder="frontend", VITE_GATEWAY=f"{gateway.url}/graphql")
    page = chromium.new_page(viewport={"width": 640, "height": 320})
    page.set_default_timeout(20_000)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(f"{request.method} {request.url}"))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type in {"error", "warning"} else None)
    page.goto(origin)
    yield page
    print(*requests, sep="\n")
    assert errors == []
    assert {request.split()[1].split("/")[2] for request in requests if " data:" not in request} == {
        origin.removeprefix("http://"),
        gateway.url.removeprefix("http://"),
    }
    page.close()


@pytest.mark.thorough  # builds the frontend
def test_it_lists_snapshots_and_shows_the_progress_of_a_create(
    page: "Page", gateway: Served, playwright: Any, tmp_path: Path
) -> None:
    def expect_list(*expected: str) -> None:
        playwright.expect(page.locator("li"), ", ".join(expected)).to_have_text([*expected], timeout=20_000)

    def expect_state(expected: str) -> None:
        playwright.expect(page.locator("output")).to_have_text(expected, timeout=20_000)

    expect_list(*OLD)
    with stalled(gateway, "vm-11"):
        page.get_by_role("button", name="Create").click()
        expect_state("RUNNING")
        created = newest(gateway)
        expect_list(f"{created} from a browser CREATING", *OLD)
        page.screenshot(path=tmp_path / "running.png")
    expect_state("SUCCEEDED")
    expect_list(f"{created} from a browser READY", *OLD)
    page.screenshot(path=tmp_path / "succeeded.png")


@pytest.mark.thorough  # the other test subscribes too, with fetch
def test_a_page_subscribes_with_event_source(page: "Page", gateway: Served) -> None:
    (last,) = gateway.ask("{ operations(first: 1) { nodes { id state } } }")["operations"]["nodes"]
    query = f'subscription {{ operationUpdated(id: "{last["id"]}") {{ id state }} }}'
    assert page.evaluate(LISTEN, [f"{gateway.url}/graphql", query]) == [{"data": {"operationUpdated": last}}]


def newest(gateway: Served) -> str:
    """The id of the newest snapshot."""
    found = gateway.ask("{ snapshots(sort: [{field: ID, direction: DESC}], first: 1) { nodes { id } } }")
    id_: str = found["snapshots"]["nodes"][0]["id"]
    return id_


def test_it_has_twenty_lines() -> None:
    lines = [line for line in (HERE / "frontend/main.jsx").read_text().splitlines() if line]
    assert len(lines) <= 20
    assert [line for line in lines if len(line) > 120] == []
