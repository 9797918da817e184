"""Known bugs of stock GraphQL servers: for each request, what stock Strawberry returns, and what the gateway returns.

Tested on the whole gateway, because some of the bugs are in the schema.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gateway.config import Settings
from gateway.operations.service import Operations
from tests.databases import Databases
from tests.serving import Served, served

STRICT = "application/graphql-response+json"
SUBSCRIPTION = 'subscription { operationUpdated(id: "operation-1") { id } }'


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        yield gateway


def post(gateway: Served, content: bytes, **headers: str) -> httpx2.Response:
    sent = {"content-type": "application/json", "accept": STRICT, **headers}
    return gateway.http.post("/graphql", content=content, headers=sent)


def body(query: str, **members: Any) -> bytes:
    return json.dumps({"query": query, **members}).encode()


# The body; what stock Strawberry 0.341 returns; status, code and beginning of the message that the gateway returns.
REQUEST_ERRORS = [
    (b'"abc"', "500 text/plain", 400, "BAD_USER_INPUT", "The request body must be a JSON object"),
    (b"5", "500 text/plain", 400, "BAD_USER_INPUT", "The request body must be a JSON object"),
    (b"null", "500 text/plain", 400, "BAD_USER_INPUT", "The request body must be a JSON object"),
    (b'{"query": "{ viewer { name } }\xff"}', "500 text/plain", 400, "BAD_USER_INPUT",
     "The request body is not valid UTF-8 JSON"),
    (body("{ nope }"), "200, data: null", 400, "GRAPHQL_VALIDATION_FAILED", "Cannot query field 'nope'"),
    (body("{"), "200, data: null", 400, "GRAPHQL_PARSE_FAILED", "Syntax Error"),
    (body("query A { viewer { name } } query B { viewer { name } }"), "200, runs A", 400, "BAD_USER_INPUT",
     "The document has several operations. Name one of them in `operationName`."),
    (body(SUBSCRIPTION), "Cannot return null for non-nullable field", 406, "BAD_USER_INPUT",
     "A subscription requires a streaming transport"),
    (body("{" + " ".join(f"a{number}: __typename" for number in range(1000)) + "}"), "runs all", 400, "LIMIT_EXCEEDED",
     "The operation has more than 100 aliases."),
    (b"[" + body("mutation { __typename }") + b"]", "run at once, in any order", 400, "BAD_USER_INPUT",
     "The request body is a list. Batching is not supported:"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "stock", "status", "code", "message"),
    REQUEST_ERRORS,
    ids=[row[0][:40].decode("latin-1") for row in REQUEST_ERRORS],
)
def test_request_errors(gateway: Served, sent: bytes, stock: str, status: int, code: str, message: str) -> None:
    response = post(gateway, sent)
    assert (response.status_code, response.headers["content-type"]) == (status, f"{STRICT}; charset=utf-8"), stock
    assert list(response.json()) == ["errors"]
    (error,) = response.json()["errors"]
    assert (error["extensions"]["code"], error["message"][: len(message)]) == (code, message)


# The query; what stock Strawberry returns; the data and the message that the gateway returns.
NO_ID = "'zzz' is not an id. Ids look like vm-11, instance-201, snapshot-3 or operation-7."
FIELD_ERRORS = [
    ('{ node(id: "zzz") { id } }', "Value cannot represent a GlobalID, without a code", {"node": None}, NO_ID),
    ('{ nodes(ids: ["vm-11", "zzz"]) { id } }', "data: null", {"nodes": [{"id": "vm-11"}, None]}, None),
    ('{ vms(after: "zz") { nodes { id } } }', "Incorrect padding", None, "`after` is not a valid cursor."),
    ('{ vms(after: "YXJyYXljb25uZWN0aW9uOng=") { nodes { id } } }', "invalid literal for int() with base 10: 'x'", None,
     "`after` is not a valid cursor."),
]  # fmt: skip


@pytest.mark.parametrize(("query", "stock", "data", "message"), FIELD_ERRORS, ids=[row[0] for row in FIELD_ERRORS])
def test_field_errors(
    gateway: Served, query: str, stock: str, data: dict[str, Any] | None, message: str | None
) -> None:
    response = post(gateway, body(query))
    assert response.status_code == 200, stock
    assert response.json()["data"] == data
    errors = [(error["message"], error["extensions"]) for error in response.json().get("errors", ())]
    assert errors == ([] if message is None else [(message, {"code": "BAD_USER_INPUT"})])


def test_the_message_of_an_unexpected_exception_is_only_logged(
    gateway: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock Strawberry returns the message of any exception."""

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("SELECT secret FROM passwords, line 7 of gateway/store/database.py")

    monkeypatch.setattr(Operations, "execute", broken)
    mutation = 'mutation { refreshMachine(input: {machineId: "vm-11"}) { operation { id } } }'
    response = post(gateway, body(mutation), **{"x-request-id": "the-id"})
    assert response.status_code == 200
    (error,) = response.json()["errors"]
    assert error["message"] == "Internal error. Report it with the request id the-id."
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
    for secret in ("secret", "gateway/", "line 7", "RuntimeError"):
        assert secret not in response.text


def test_json_that_is_no_object_on_a_websocket(gateway: Served) -> None:
    """Stock Strawberry logs a traceback, and the connection ends with 1006."""
    url = gateway.url.replace("http://", "ws://") + "/graphql"
    for message in ("[1]", "5", '"ping"', "null", "true"):
        with connect(url, subprotocols=["graphql-transport-ws"], proxy=None) as socket:  # type: ignore[list-item]
            socket.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(60)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4400, "The message is not a JSON object.")


def test_a_mutation_never_runs_by_get(gateway: Served) -> None:
    query = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "by-get"}) { operation { id } } }'
    for accept in (STRICT, "application/json", "text/event-stream"):
        response = gateway.http.get("/graphql", params={"query": query}, headers={"accept": accept})
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
    found = gateway.ask('{ snapshots(filter: {name: {eq: "by-get"}}) { totalCount } }')
    assert found == {"snapshots": {"totalCount": 0}}
