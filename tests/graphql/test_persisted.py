"""Persisted documents: by every transport, from manifests of Relay's and Apollo's; and nothing else, if so set."""

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
from tests.graphql.following import by_sse, by_websocket
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
    with served(Settings(database_url=databases.new("sqlite"), documents_files=files), demo=True) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def listed(databases: Databases, files: tuple[str, ...]) -> Iterator[Served]:
    """Serves nothing else."""
    settings = Settings(database_url=databases.new("sqlite"), documents_files=files, documents_only=True)
    with served(settings, demo=True) as gateway:
        yield gateway


def post(gateway: Served, **members: Any) -> tuple[int, Any]:
    headers = {"accept": "application/graphql-response+json"}
    answer = gateway.http.post("/graphql", json=members, headers=headers)
    return answer.status_code, answer.json()


def persisted(digest: str) -> dict[str, Any]:
    """As Apollo Client sends it."""
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
def test_a_query_is_found(gateway: Served, listed: Served, members: dict[str, Any]) -> None:
    for server in (gateway, listed):
        assert post(server, variables=VARIABLES, **members) == (200, WEB_01)
        parameters = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in {"variables": VARIABLES, **members}.items()
            if value is not None
        }
        answer = server.http.get("/graphql", params=parameters, headers={"accept": "application/json"})
        assert (answer.status_code, answer.json()) == (200, WEB_01)


def test_a_mutation_comes_by_post_only(listed: Served) -> None:
    id_ = f"sha256:{sha256(MUTATION)}"
    done = {"data": {"cancelOperation": {"errors": [{"code": "NOT_FOUND"}]}}}
    assert post(listed, documentId=id_) == (200, done)
    answer = listed.http.get("/graphql", params={"documentId": id_}, headers={"accept": "application/json"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("following", [by_sse, by_websocket])
@pytest.mark.parametrize(
    "members",
    [{"documentId": f"sha256:{sha256(WATCH)}"}, {"extensions": persisted(sha256(WATCH))}],
    ids=["documentId", "Apollo"],
)
def test_a_subscription_is_found(gateway: Served, listed: Served, following: Any, members: dict[str, Any]) -> None:
    for server in (gateway, listed):
        with following(server, None, members=members, id="operation-1") as bodies:
            (body,) = bodies
        assert body["data"] == {"operationUpdated": {"id": "operation-1", "isDone": True}}


NOT_FOUND = ("PERSISTED_QUERY_NOT_FOUND", "There is no persisted document with this id.")
NOT_SUPPORTED = (
    "PERSISTED_QUERY_NOT_SUPPORTED",
    "No persisted documents are configured: send the document in `query`.",
)
NOT_LISTED = (
    "QUERY_NOT_IN_SAFELIST",
    "Only persisted documents are served: name one of them in `documentId`.",
)
NONE = "is no manifest of persisted documents: neither documents by id nor apollo-persisted-query-manifest, version 1"
END = ("GRAPHQL_PARSE_FAILED", "Syntax Error: Unexpected <EOF>.")
MISSING = ("BAD_USER_INPUT", "`query` is missing: it holds the GraphQL document.")


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"documentId": "sha256:" + "0" * 64}, NOT_FOUND),
        ({"documentId": f"sha256:{sha256(NAME).upper()}"}, NOT_FOUND),
        ({"documentId": f"md5:{md5(NAME)}"}, NOT_FOUND),
        ({"documentId": ""}, NOT_FOUND),
        ({"documentId": "\0" * 1000}, NOT_FOUND),
        ({"extensions": persisted("0" * 64)}, NOT_FOUND),
        ({"documentId": 5}, ("BAD_USER_INPUT", "`documentId` must be a string.")),
        ({"documentId": "x", "query": "{ __typename }"}, (
            "BAD_USER_INPUT", "Send `query` or `documentId`, not both: they could be two documents.")),
        ({"documentId": None}, MISSING),
        ({"extensions": {"other": 1}}, MISSING),
        ({"extensions": {"persistedQuery": {"version": 1}}}, END),
        ({"documentId": md5(INVALID)}, ("GRAPHQL_VALIDATION_FAILED", "Cannot query field 'removed' on type 'Query'.")),
        ({"documentId": md5(NAME), "operationName": "Other"}, (
            "BAD_USER_INPUT", "The document has no operation named 'Other'.")),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_found(gateway: Served, members: dict[str, Any], error: tuple[str, str]) -> None:
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
def test_nothing_else_is_served(listed: Served, members: dict[str, Any]) -> None:
    status, body = post(listed, **members)
    assert (status, list(body)) == (400, ["errors"])
    assert [(one["extensions"]["code"], one["message"]) for one in body["errors"]] == [NOT_LISTED]
    legacy = listed.http.post("/graphql", json=members, headers={"accept": "application/json"})
    assert (legacy.status_code, legacy.json()) == (200, body)


@pytest.mark.parametrize("following", [by_sse, by_websocket])
def test_nothing_else_is_followed(listed: Served, following: Any) -> None:
    with following(listed, "subscription { snapshotChanged { kind } }") as bodies:
        (body,) = bodies
    assert [(one["extensions"]["code"], one["message"]) for one in body["errors"]] == [NOT_LISTED]


def test_without_a_manifest_apollo_is_told_not_to_ask_again(databases: Databases) -> None:
    with served(Settings(database_url=databases.new("sqlite"))) as gateway:
        for members in ({"documentId": "x"}, {"extensions": persisted("0" * 64)}):
            status, body = post(gateway, **members)
            assert status == 400
            assert [(one["extensions"]["code"], one["message"]) for one in body["errors"]] == [NOT_SUPPORTED]


# ---- manifests


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "is not JSON: unexpected end of data: line 1 column 2 (char 1)"),
        ([], NONE),
        ({"format": "apollo-persisted-query-manifest", "version": 2, "operations": []},
         NONE),
        ({**APOLLO, "operations": {}}, "`operations` is not a list of objects"),
        ({**APOLLO, "operations": [{"id": "a"}]}, "every document needs an id and a text"),
        ({"a": 1}, "every document needs an id and a text"),
        ({"": "{ a }"}, "every document needs an id and a text"),
        ({"sha256:" + "0" * 64: "{ a }"}, "sha256:" + "0" * 64 + " is not the hash of its document"),
    ],
)  # fmt: skip
def test_manifests_that_are_none(tmp_path: Path, manifest: Any, message: str) -> None:
    (file,) = written(tmp_path, manifest)
    with pytest.raises(StartupError) as refused:
        PersistedDocuments(Settings(documents_files=(file,)))
    assert str(refused.value).removeprefix(file).removeprefix(":").strip() == message


def test_manifests_that_contradict_each_other(tmp_path: Path) -> None:
    one, other = written(tmp_path, {"a": "{ a }"}, {"a": "{ b }"})
    PersistedDocuments(Settings(documents_files=(one, one)))
    with pytest.raises(StartupError, match="a is the id of two different documents"):
        PersistedDocuments(Settings(documents_files=(one, other)))


def test_a_manifest_that_is_not_there(databases: Databases, tmp_path: Path) -> None:
    settings = Settings(database_url=databases.new("sqlite"), documents_files=(str(tmp_path / "absent.json"),))
    with (
        pytest.raises(StartupError, match=r"cannot read .*absent\.json \(no such file or directory\)"),
        served(settings),
    ):
        pass
