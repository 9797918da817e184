"""GraphiQL with a token: the headers editor applies to queries and subscriptions."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.access.roles import Roles
from gateway.access.tokens import NewToken, create_token
from gateway.config import Settings
from tests.browser.test_graphiql import button, open_graphiql, playwright, result, run
from tests.databases import Databases
from tests.serving import Served, served

pytestmark = pytest.mark.thorough  # slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def token_and_gateway(databases: Databases) -> Iterator[tuple[str, Served]]:
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        # Playwright runs an event loop in this thread, so the token is created in the gateway's loop.
        database = gateway.gateway.database
        token = gateway.run(create_token(database, Roles({}), NewToken("ann", ["admin"], "default")))
        yield token, gateway


def test_a_token_in_the_headers(chromium: "Browser", token_and_gateway: tuple[str, Served]) -> None:
    token, gateway = token_and_gateway
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    playwright.expect.set_options(timeout=20_000)
    page.set_default_timeout(20_000)
    page.goto(f"{gateway.url}/graphiql")  # the page itself needs no token
    page.locator(".graphiql-query-editor .monaco-editor").wait_for()

    button(page, "Execute query").click()
    playwright.expect(result(page)).to_contain_text("UNAUTHENTICATED")

    run(page, "subscription { operationChanged { id } }")
    playwright.expect(result(page)).to_contain_text("Socket closed with event 4403 Authentication is required")

    button(page, "New tab").click()
    button(page, "Headers").click()
    page.locator(".graphiql-editor-tool .monaco-editor").last.click()
    page.keyboard.type(f'{{"authorization": "Bearer {token}"}}')
    page.locator(".graphiql-query-editor .monaco-editor").click()
    page.keyboard.type('query Mine { vm(id: "vm-11") { name } }')
    page.wait_for_function("() => localStorage['graphiql:tabState']?.includes('query Mine')")
    page.keyboard.press("Control+Enter")
    playwright.expect(result(page)).to_contain_text('"web-01"')

    button(page, "Re-fetch GraphQL schema").click()
    button(page, "Show Documentation Explorer").click()
    panel = page.locator(".graphiql-plugin")
    playwright.expect(panel.get_by_role("link", name="Query", exact=True)).to_be_visible()

    page.locator(".graphiql-query-editor .monaco-editor").click()
    page.keyboard.press("Control+A")
    create = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "n"}) { operation { id } } }'
    operation = gateway.http.post("/graphql", json={"query": create}, headers={"authorization": f"Bearer {token}"})
    id_ = operation.json()["data"]["createSnapshot"]["operation"]["id"]
    page.keyboard.type(f'subscription Live {{ operationUpdated(id: "{id_}") {{ state snapshotName }} }}')
    page.wait_for_function("() => localStorage['graphiql:tabState']?.includes('subscription Live')")
    page.keyboard.press("Control+Enter")
    playwright.expect(result(page)).to_contain_text('"SUCCEEDED"')
    page.close()


def test_a_hint_shows_where_the_token_goes(
    chromium: "Browser", token_and_gateway: tuple[str, Served], tmp_path: Path
) -> None:
    token, gateway = token_and_gateway
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    open_graphiql(page, gateway)
    hint = page.get_by_role("status").filter(has_text="requires a valid token")
    headers = page.get_by_role("region", name="Headers")
    editor = page.locator(".graphiql-query-editor")

    playwright.expect(hint).to_contain_text('{"Authorization": "Bearer TOKEN"}')  # without running anything
    page.screenshot(path=tmp_path / "hint.png")
    page.get_by_role("tab", name="TakeSnapshot").click()
    playwright.expect(editor).to_contain_text("MACHINE_ID")
    hint.get_by_role("button", name="Enter a token").click()
    playwright.expect(headers).to_contain_text('"Authorization": "Bearer TOKEN"')
    page.keyboard.insert_text(token)  # TOKEN is selected
    playwright.expect(headers).to_contain_text(token[:30])  # the line wraps
    button(page, "Execute query").click()
    playwright.expect(hint).to_have_count(0)

    # The sample's machine and the schema are loaded with the token.
    playwright.expect(editor).not_to_contain_text("MACHINE_ID")
    button(page, "Execute query").click()
    playwright.expect(result(page)).to_contain_text('"name": "from GraphiQL"')
    page.screenshot(path=tmp_path / "accepted.png")
    button(page, "Show Documentation Explorer").click()
    panel = page.locator(".graphiql-plugin")
    playwright.expect(panel.get_by_role("link", name="Query", exact=True)).to_be_visible()

    # Each tab has its own headers. The hint offers those that were accepted.
    page.get_by_role("tab", name="Machines").click()
    button(page, "Execute query").click()
    hint.get_by_role("button", name="Enter a token").click()
    playwright.expect(headers).to_contain_text(token[:30])
    button(page, "Execute query").click()
    playwright.expect(result(page)).to_contain_text('"totalCount"')
    playwright.expect(hint).to_have_count(0)
    page.close()
