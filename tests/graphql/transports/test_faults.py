"""The faults of stock servers, as black-box facts: what each of these requests got there, and what it gets here.

On the whole gateway, for some of them are the schema's.
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
    with served(Settings(database_url=databases.new("sqlite")), demo=True) as gateway:
        yield gateway


def ask(gateway: Served, content: bytes, **headers: str) -> httpx2.Response:
    sent = {"content-type": "application/json", "accept": STRICT, **headers}
    return gateway.http.post("/graphql", content=content, headers=sent)


def body(query: str, **members: Any) -> bytes:
    return json.dumps({"query": query, **members}).encode()


# What was sent; what stock Strawberry 0.341 makes of it; status, code and message of what comes here.
REFUSED = [
    (b'"abc"', "500 text/plain", 400, "BAD_USER_INPUT", "The body must be a JSON object"),
    (b"5", "500 text/plain", 400, "BAD_USER_INPUT", "The body must be a JSON object"),
    (b"null", "500 text/plain", 400, "BAD_USER_INPUT", "The body must be a JSON object"),
    (b'{"query": "{ viewer { name } }\xff"}', "500 text/plain", 400, "BAD_USER_INPUT", "The body is not JSON in UTF-8"),
    (body("{ nope }"), "200, data: null", 400, "GRAPHQL_VALIDATION_FAILED", "Cannot query field 'nope'"),
    (body("{"), "200, data: null", 400, "GRAPHQL_PARSE_FAILED", "Syntax Error"),
    (body("query A { viewer { name } } query B { viewer { name } }"), "200, runs A", 400, "BAD_USER_INPUT",
     "The document has several operations: name one in `operationName`."),
    (body(SUBSCRIPTION), "Cannot return null for non-nullable field", 406, "BAD_USER_INPUT",
     "A subscription needs a stream"),
    (body("{" + " ".join(f"a{number}: __typename" for number in range(1000)) + "}"), "runs all", 400, "LIMIT_EXCEEDED",
     "The operation has more than 100 aliases."),
    (b"[" + body("mutation { __typename }") + b"]", "run at once, in any order", 400, "BAD_USER_INPUT",
     "The body is a list: batches are not served."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "stock", "status", "code", "message"), REFUSED, ids=[row[0][:40].decode("latin-1") for row in REFUSED]
)
def test_requests_that_do_not_run(
    gateway: Served, sent: bytes, stock: str, status: int, code: str, message: str
) -> None:
    answer = ask(gateway, sent)
    assert (answer.status_code, answer.headers["content-type"]) == (status, f"{STRICT}; charset=utf-8"), stock
    assert list(answer.json()) == ["errors"]
    (error,) = answer.json()["errors"]
    assert (error["extensions"]["code"], error["message"][: len(message)]) == (code, message)


# The same for what runs, and has a fault in one field: the whole answer.
NO_ID = "'zzz' is not an id: ids read like vm-11, instance-201, snapshot-3 or operation-7"
FIELDS = [
    ('{ node(id: "zzz") { id } }', "Value cannot represent a GlobalID, without a code", {"node": None}, NO_ID),
    ('{ nodes(ids: ["vm-11", "zzz"]) { id } }', "data: null", {"nodes": [{"id": "vm-11"}, None]}, None),
    ('{ vms(after: "zz") { nodes { id } } }', "Incorrect padding", None, "after is not a cursor"),
    ('{ vms(after: "YXJyYXljb25uZWN0aW9uOng=") { nodes { id } } }', "invalid literal for int() with base 10: 'x'", None,
     "after is not a cursor"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "stock", "data", "message"), FIELDS, ids=[row[0] for row in FIELDS])
def test_fields_that_fail(
    gateway: Served, query: str, stock: str, data: dict[str, Any] | None, message: str | None
) -> None:
    answer = ask(gateway, body(query))
    assert answer.status_code == 200, stock
    assert answer.json()["data"] == data
    errors = [(error["message"], error["extensions"]) for error in answer.json().get("errors", ())]
    assert errors == ([] if message is None else [(message, {"code": "BAD_USER_INPUT"})])


def test_what_a_bug_says_stays_in_the_log(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock: the raw message of any exception."""

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("SELECT secret FROM passwords, line 7 of gateway/store/database.py")

    monkeypatch.setattr(Operations, "refresh_machine", broken)
    mutation = 'mutation { refreshMachine(input: {machineId: "vm-11"}) { operation { id } } }'
    answer = ask(gateway, body(mutation), **{"x-request-id": "the-id"})
    assert answer.status_code == 200
    (error,) = answer.json()["errors"]
    assert error["message"] == "Internal error. Report it with the request id the-id."
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
    for secret in ("secret", "gateway/", "line 7", "RuntimeError"):
        assert secret not in answer.text


def test_a_list_on_a_websocket(gateway: Served) -> None:
    """Stock: the connection dies with 1006 and a traceback."""
    url = gateway.url.replace("http://", "ws://") + "/graphql"
    for message in ("[1]", "5", '"ping"', "null", "true"):
        with connect(url, subprotocols=["graphql-transport-ws"], proxy=None) as socket:  # type: ignore[list-item]
            socket.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(10)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4400, "The message is not a JSON object.")


def test_a_mutation_never_runs_by_get(gateway: Served) -> None:
    query = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "by-get"}) { operation { id } } }'
    for accept in (STRICT, "application/json", "text/event-stream"):
        answer = gateway.http.get("/graphql", params={"query": query}, headers={"accept": accept})
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    found = gateway.ask('{ snapshots(filter: {name: {eq: "by-get"}}) { totalCount } }')
    assert found == {"snapshots": {"totalCount": 0}}
