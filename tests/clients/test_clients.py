"""Unmodified JavaScript clients, each against its own gateway. A failure shows the output of the client.

Tests are skipped if the clients are not installed (`make clients`), and fail with `GATEWAY_TEST_REQUIRE=clients`.
"""

import re

import pytest

from gateway.config import Settings
from tests.clients.node import HERE, check_installed, passed_tests, run
from tests.databases import Databases
from tests.graphql.client import set_latency
from tests.serving import Served, served


@pytest.fixture(autouse=True)
def _installed() -> None:
    check_installed()


@pytest.fixture
def endpoint(gateway: Served) -> str:
    return f"{gateway.url}/graphql"


def test_graphql_http_audit_passes(endpoint: str) -> None:
    *audits, last = run("graphql-http.js", endpoint).splitlines()
    assert [line for line in audits if not re.fullmatch(r"ok \w{4} (MUST|SHOULD|MAY) .*", line)] == []
    assert (len(audits), last) == (61, "61 of 61")


@pytest.mark.parametrize("client", ["apollo", "graphql-sse", "graphql-ws", "urql"])
def test_client(endpoint: str, client: str) -> None:
    assert passed_tests(run(f"{client}.js", endpoint))


@pytest.mark.thorough  # two compilers; the other clients run by default
def test_relay(endpoint: str, databases: Databases) -> None:
    """Compiles the app against the schema and runs it without a browser, then with persisted documents only."""
    manifest = HERE / "relay/documents.json"
    manifest.write_text("{}")  # the compiler only adds to the file
    run("relay-compiler", "--repersist", folder="relay")
    run("vite", "build", folder="relay")
    assert passed_tests(run("built/scenario.js", endpoint, folder="relay"))

    settings = Settings(
        database_url=databases.new("sqlite", demo=True), documents_files=(str(manifest),), documents_only=True
    )
    with served(settings) as strict:
        set_latency(strict, 0)
        assert strict.errors("{ viewer { name } }")[0][0] == "QUERY_NOT_IN_SAFELIST"
        assert passed_tests(run("built/scenario.js", f"{strict.url}/graphql", "by-id", folder="relay"))


@pytest.mark.thorough  # two compilers; the other clients run by default
def test_graphql_codegen(endpoint: str) -> None:
    """The generated types of all documents and of the whole schema compile, and do not use `any`."""
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
    assert passed_tests(run("built/scenario.js", endpoint, folder="codegen"))


def without_comments(path: str) -> str:
    return re.sub(r"/\*.*?\*/", "", (HERE / path).read_text(), flags=re.DOTALL)
