"""Clients as their users have them, each against a gateway of its own. What a client prints is what a failure shows.

`GATEWAY_TEST_REQUIRE=clients` makes what is not installed a failure; `make clients` installs it.
"""

import re

import pytest

from gateway.config import Settings
from tests.clients.node import HERE, check_installed, passed, run
from tests.databases import Databases
from tests.graphql.asking import latency
from tests.serving import Served, served


@pytest.fixture(autouse=True)
def _installed() -> None:
    check_installed()


@pytest.fixture
def endpoint(gateway: Served) -> str:
    return f"{gateway.url}/graphql"


def test_graphql_http_finds_nothing_to_complain_about(endpoint: str) -> None:
    *audits, last = run("graphql-http.js", endpoint).splitlines()
    assert [line for line in audits if not re.fullmatch(r"ok \w{4} (MUST|SHOULD|MAY) .*", line)] == []
    assert (len(audits), last) == (61, "61 of 61")


@pytest.mark.parametrize("client", ["apollo", "graphql-sse", "graphql-ws", "urql"])
def test_client(endpoint: str, client: str) -> None:
    assert passed(run(f"{client}.js", endpoint))


def test_relay(endpoint: str, databases: Databases) -> None:
    """Compiled against the schema, built, and used in a document without a browser; then with its documents alone."""
    manifest = HERE / "relay/documents.json"
    manifest.write_text("{}")  # the compiler adds to it
    run("relay-compiler", "--repersist", folder="relay")
    run("vite", "build", folder="relay")
    assert passed(run("built/story.js", endpoint, folder="relay"))

    settings = Settings(database_url=databases.new("sqlite"), documents_files=(str(manifest),), documents_only=True)
    with served(settings, demo=True) as strict:
        latency(strict, 0)
        assert strict.errors("{ viewer { name } }")[0][0] == "QUERY_NOT_IN_SAFELIST"
        assert passed(run("built/story.js", f"{strict.url}/graphql", "by-id", folder="relay"))


def test_graphql_codegen(endpoint: str) -> None:
    """The types of every document and of the whole schema compile, and hide nothing behind `any`."""
    run("graphql-codegen", "--config", "codegen.js", folder="codegen")
    run("tsc", folder="codegen")
    types = {file: without_comments(f"codegen/generated/{file}") for file in ("graphql.ts", "schema.ts")}
    assert {file: re.findall(r".*\bany\b.*", text) for file, text in types.items()} == {
        "graphql.ts": [],
        "schema.ts": [],
    }
    assert re.findall(r"^  (BigInt|DateTime): (.*)$", types["schema.ts"], re.MULTILINE) == [
        ("BigInt", "{ input: string | number; output: string; }"),
        ("DateTime", "{ input: string; output: string; }"),
    ]
    run("vite", "build", folder="codegen")
    assert passed(run("built/story.js", endpoint, folder="codegen"))


def without_comments(path: str) -> str:
    return re.sub(r"/\*.*?\*/", "", (HERE / path).read_text(), flags=re.DOTALL)
