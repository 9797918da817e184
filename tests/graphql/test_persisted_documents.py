"""Persisted documents over every transport, from Relay and Apollo manifests, and the setting that requires them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from gateway.errors import StartupError
from gateway.graphql.execution.persisted_documents import PersistedDocuments
from tests.databases import Databases
from tests.graphql.subscription_clients import subscribe_by_sse, subscribe_by_websocket
from tests.serving import Served, served

NAME = "query Name($id: ID!) {\n  vm(id: $id) {\n    name\n  }\n}\n"
MUTATION = 'mutation Cancel { cancelOperation(input: {operationId: "operation-0"}) { errors { code } } }'
WATCH = "subscription Watch($id: ID!) { operationUpdated(id: $id) { id isDone } }"
INVALID = "query Old { removed }"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


RELAY = {md5(NAME): NAME, md5(INVALID): INVALID}
APOLLO = {
    "format": "apollo-persisted-query-manifest",
    "version": 1,
    "operations": [
        {"id": sha256(text), "name": name, "type": kind, "body": text}
        for text, name, kind in (
            (MUTATION, "Cancel", "mutation"),
            (NAME, "Name", "query"),
            (WATCH, "Watch", "subscription"),
        )
    ],
}
WEB_01 = {"data": {"vm": {"name": "web-01"}}}
VARIABLES = {"id": "vm-11"}


def written(directory: Path, *manifests: Any) -> tuple[str, ...]:
    files = []
    for number, manifest in enumerate(manifests):
        file = directory / f"{number}.json"
        file.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
        files.append(str(file))
    return tuple(files)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return written(tmp_path_factory.mktemp("manifests"), RELAY, APOLLO)


@pytest.fixture(scope="module")
def gateway(databases: Databases, files: tuple[str, ...]) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True), documents_files=files)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def listed(databases: Databases, files: tuple[str, ...]) -> Iterator[Served]:
    """Serves persisted documents only."""
    settings = Settings(database_url=databases.new("sqlite", demo=True), documents_files=files, documents_only=True)
    with served(settings) as gateway:
        yield gateway


def post(gateway: Served, **members: Any) -> tuple[int, Any]:
    headers = {"accept": "application/graphql-response+json"}
    answer = gateway.http.post("/graphql", json=members, headers=headers)
    return answer.status_code, answer.json()


def persisted(digest: str) -> dict[str, Any]:
    """The extension that Apollo Client sends."""
    return {"persistedQuery": {"version": 1, "sha256Hash": digest}}


@pytest.mark.parametrize(
    "members",
    [
        {"documentId": f"sha256:{sha256(NAME)}"},
        {"documentId": f"sha256:{sha256(NAME)}", "query": None, "operationName": "Name"},
        {"documentId": md5(NAME)},
        {"documentId": md5(NAME), "query": ""},
        {"documentId": sha256(NAME)},
        {"extensions": persisted(sha256(NAME))},
        {"extensions": persisted(sha256(NAME)), "operationName": "Name", "query": None},
        {"extensions": persisted("0" * 64), "query": NAME},
        {"extensions": persisted(sha256(NAME)), "query": NAME},
    ],
    ids=str,
)
def test_persisted_query(gateway: Served, listed: Served, members: dict[str, Any]) -> None:
    for server in (gateway, listed):
        assert post(server, variables=VARIABLES, **members) == (200, WEB_01)
        parameters = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in {"variables": VARIABLES, **members}.items()
            if value is not None
        }
        answer = server.http.get("/graphql", params=parameters, headers={"accept": "application/json"})
        assert (answer.status_code, answer.json()) == (200, WEB_01)


def test_persisted_mutation_requires_post(listed: Served) -> None:
    id_ = f"sha256:{sha256(MUTATION)}"
    done = {"data": {"cancelOperation": {"errors": [{"code": "NOT_FOUND"}]}}}
    assert post(listed, documentId=id_) == (200, done)
    answer = listed.http.get("/graphql", params={"documentId": id_}, headers={"accept": "application/json"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
@pytest.mark.parametrize(
    "members",
    [{"documentId": f"sha256:{sha256(WATCH)}"}, {"extensions": persisted(sha256(WATCH))}],
    ids=["documentId", "Apollo"],
)
def test_persisted_subscription(gateway: Served, listed: Served, subscribe: Any, members: dict[str, Any]) -> None:
    for server in (gateway, listed):
        with subscribe(server, None, members=members, id="operation-1") as bodies:
            (body,) = bodies
        assert body["data"] == {"operationUpdated": {"id": "operation-1", "isDone": True}}


NOT_FOUND = ("PERSISTED_QUERY_NOT_FOUND", "There is no persisted document with this id.")
NOT_SUPPORTED = (
    "PERSISTED_QUERY_NOT_SUPPORTED",
    "No persisted documents are configured. Send the document in `query`.",
)
NOT_LISTED = (
    "QUERY_NOT_IN_SAFELIST",
    "Only persisted documents are accepted. Send the id of one in `documentId`.",
)
NONE = (
    "FILE is not a manifest of persisted documents. It must be an object of documents by id, or an"
    " apollo-persisted-query-manifest of version 1."
)
END = ("GRAPHQL_PARSE_FAILED", "Syntax Error: Unexpected <EOF>.")
MISSING = ("BAD_USER_INPUT", "The parameter `query` is required: it contains the GraphQL document.")


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"documentId": "sha256:" + "0" * 64}, NOT_FOUND),
        ({"documentId": f"sha256:{sha256(NAME).upper()}"}, NOT_FOUND),
        ({"documentId": f"md5:{md5(NAME)}"}, NOT_FOUND),
        ({"documentId": ""}, NOT_FOUND),
        ({"documentId": "\0" * 1000}, NOT_FOUND),
        ({"extensions": persisted("0" * 64)}, NOT_FOUND),
        ({"documentId": 5}, ("BAD_USER_INPUT", "The parameter `documentId` must be a string.")),
        ({"documentId": "x", "query": "{ __typename }"}, (
            "BAD_USER_INPUT", "Send either `query` or `documentId`, not both.")),
        ({"documentId": None}, MISSING),
        ({"extensions": {"other": 1}}, MISSING),
        ({"extensions": {"persistedQuery": {"version": 1}}}, END),
        ({"documentId": md5(INVALID)}, ("GRAPHQL_VALIDATION_FAILED", "Cannot query field 'removed' on type 'Query'.")),
        ({"documentId": md5(NAME), "operationName": "Other"}, (
            "BAD_USER_INPUT", "The document has no operation named 'Other'.")),
    ],
    ids=str,
)  # fmt: skip
def test_invalid_document_ids(gateway: Served, members: dict[str, Any], error: tuple[str, str]) -> None:
    status, body = post(gateway, **members)
    assert (status, list(body)) == (400, ["errors"])
    assert [(one["extensions"]["code"], one["message"]) for one in body["errors"]] == [error]


@pytest.mark.parametrize(
    "members",
    [
        {"query": "{ viewer { name } }"},
        {"query": NAME + " "},
        {"query": "{ __schema { types { name } } }"},
        {"query": ""},
        {"extensions": persisted(sha256("{ viewer { name } }")), "query": "{ viewer { name } }"},
        {"extensions": {"persistedQuery": None}},
    ],
    ids=str,
)
def test_other_documents_are_refused(listed: Served, members: dict[str, Any]) -> None:
    status, body = post(listed, **members)
    assert (status, list(body)) == (400, ["errors"])
    assert [(one["extensions"]["code"], one["message"]) for one in body["errors"]] == [NOT_LISTED]
    legacy = listed.http.post("/graphql", json=members, headers={"accept": "application/json"})
    assert (legacy.status_code, legacy.json()) == (200, body)


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
def test_other_subscriptions_are_refused(listed: Served, subscribe: Any) -> None:
    with subscribe(listed, "subscription { snapshotChanged { kind } }") as bodies:
        (body,) = bodies
    assert [(one["extensions"]["code"], one["message"]) for one in body["errors"]] == [NOT_LISTED]


def test_without_manifest_the_error_stops_apollo_from_retrying(databases: Databases) -> None:
    with served(Settings(database_url=databases.new("sqlite"))) as gateway:
        for members in ({"documentId": "x"}, {"extensions": persisted("0" * 64)}):
            status, body = post(gateway, **members)
            assert status == 400
            assert [(one["extensions"]["code"], one["message"]) for one in body["errors"]] == [NOT_SUPPORTED]


# ---- manifests


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "FILE is not JSON (unexpected end of data: line 1 column 2 (char 1))."),
        ([], NONE),
        ({"format": "apollo-persisted-query-manifest", "version": 2, "operations": []},
         NONE),
        ({**APOLLO, "operations": {}}, "`operations` in FILE must be a list of objects."),
        ({**APOLLO, "operations": [{"id": "a"}]}, "a document in FILE has no id or no text."),
        ({"a": 1}, "a document in FILE has no id or no text."),
        ({"": "{ a }"}, "a document in FILE has no id or no text."),
        ({"sha256:" + "0" * 64: "{ a }"}, f"the id 'sha256:{'0' * 64}' in FILE is not the hash of its document."),
    ],
)  # fmt: skip
def test_invalid_manifests(tmp_path: Path, manifest: Any, message: str) -> None:
    (file,) = written(tmp_path, manifest)
    with pytest.raises(StartupError) as refused:
        PersistedDocuments(Settings(documents_files=(file,)))
    assert str(refused.value).replace(file, "FILE") == f"GATEWAY_DOCUMENTS_FILES: {message}"


def test_contradicting_manifests(tmp_path: Path) -> None:
    one, other = written(tmp_path, {"a": "{ a }"}, {"a": "{ b }"})
    PersistedDocuments(Settings(documents_files=(one, one)))
    with pytest.raises(StartupError, match=r"the id 'a' in .* is used for two different documents"):
        PersistedDocuments(Settings(documents_files=(one, other)))


def test_missing_manifest(databases: Databases, tmp_path: Path) -> None:
    settings = Settings(database_url=databases.new("sqlite"), documents_files=(str(tmp_path / "absent.json"),))
    with (
        pytest.raises(StartupError, match=r"absent\.json cannot be read \(no such file or directory\)"),
        served(settings),
    ):
        pass
