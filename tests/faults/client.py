"""Client helpers of the fault tests: requests on every surface, and the errors in their responses."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import connect

from tests.serving import Served
from tests.waiting import until, within

READ = '{ vm(id: "vm-11") { name } }'
NAME = {"vm": {"name": "web-01"}}
CREATE = (
    "mutation ($input: CreateSnapshotInput!) { createSnapshot(input: $input)"
    " { operation { id } snapshot { id name } errors { code message } } }"
)
COUNTS = '{ operations { totalCount } vm(id: "vm-11") { snapshots { totalCount } } }'
FOLLOW = 'subscription { operationUpdated(id: "operation-1") { state } }'


def create(gateway: Served, name: str = "new", **members: Any) -> dict[str, Any]:
    """Sends a create. Returns the whole response body."""
    return gateway.post(CREATE, {"input": {"machineId": "vm-11", "name": name, **members}})


def retry_until_served(gateway: Served, query: str = READ, variables: Any = None) -> dict[str, Any]:
    """Repeats the query until the gateway serves it, and returns the data. Allows no error but SERVICE_UNAVAILABLE."""

    def served() -> dict[str, Any] | None:
        body = gateway.post(query, variables)
        for error in body.get("errors", []):
            assert error["extensions"] == {"code": "SERVICE_UNAVAILABLE", "retryable": True}, body
        return None if "errors" in body else body

    data: dict[str, Any] = until(served, pause=0.02)["data"]
    return data


def query_error(gateway: Served, query: str, variables: Any = None) -> tuple[str, bool, str]:
    """Code, retryable flag and message of the single error in the response."""
    (error,) = gateway.post(query, variables)["errors"]
    return _error(error)


def _error(error: dict[str, Any]) -> tuple[str, bool, str]:
    return error["extensions"]["code"], error["extensions"].get("retryable", False), error["message"]


def rest_error(gateway: Served) -> tuple[int, str | None, str, str]:
    """Status, Retry-After, kind and message of the REST response to a read."""
    answer = gateway.http.get("/api/vms/11")
    error = answer.json()["error"]
    return answer.status_code, answer.headers.get("retry-after"), error["kind"], error["message"]


def sse_error(gateway: Served) -> tuple[str, bool, str]:
    """The error in the first event of a subscription over server-sent events."""
    body = {"query": FOLLOW}
    with gateway.http.stream("POST", "/graphql", json=body, headers={"accept": "text/event-stream"}) as answer:
        line = next(line for line in within(answer.iter_lines()) if line.startswith("data: {"))
    (error,) = json.loads(line.removeprefix("data: "))["errors"]
    return _error(error)


def websocket_error(gateway: Served) -> tuple[str, bool, str]:
    """The error in the first message of a subscription over WebSocket."""
    url = gateway.url.replace("http://", "ws://") + "/graphql"
    with connect(url, subprotocols=["graphql-transport-ws"], proxy=None) as socket:  # type: ignore[list-item]
        socket.send('{"type": "connection_init"}')
        assert json.loads(socket.recv(60)) == {"type": "connection_ack"}
        socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": FOLLOW}}))
        message = json.loads(socket.recv(60))
        assert (message["id"], message["type"]) == ("1", "error")
        (error,) = message["payload"]
    return _error(error)


@contextmanager
def following(gateway: Served, operation: str) -> Iterator[Iterator[dict[str, Any]]]:
    """Subscribes to an operation and yields its states."""
    query = "subscription ($id: ID!) { operationUpdated(id: $id) { state isDone } }"
    body = {"query": query, "variables": {"id": operation}}
    with gateway.http.stream("POST", "/graphql", json=body, headers={"accept": "text/event-stream"}) as answer:
        lines = (line[6:] for line in within(answer.iter_lines()) if line.startswith("data: {"))
        yield (json.loads(line)["data"]["operationUpdated"] for line in lines)
