"""Clients that authenticate with a gateway over GraphQL, REST and WebSocket, and commands that manage tokens."""

import base64
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.cli.programs import Program, run
from tests.serving import Served
from tests.waiting import at_most

VM = '{ vm(id: "vm-11") { name } }'
VM_RESPONSE = {"data": {"vm": {"name": "web-01"}}}


def create_token(url: str, name: str = "ci", *more: str, role: str = "operator") -> str:
    """Creates a token with `gateway token create` and returns it."""
    code, out, err = run("token", "create", name, "--role", role, "--database-url", url, *more)
    assert code == 0, err
    assert out.count("\n") == 1
    return out.removesuffix("\n")


def revoke_token(url: str, name: str = "ci") -> None:
    """Revokes a token with `gateway token revoke`."""
    code, _, err = run("token", "revoke", name, "--database-url", url)
    assert code == 0, err


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def graphql(gateway: Served, headers: dict[str, str] | None = None, query: str = VM) -> Any:
    """Sends a query and returns the HTTP response."""
    return gateway.http.post("/graphql", json={"query": query}, headers=headers)


def error_of(response: Any) -> tuple[int, str, str]:
    """Status, code and message of a response of `/graphql` that has one error and no data."""
    body = response.json()
    assert body.keys() == {"errors"}
    (error,) = body["errors"]
    return response.status_code, error["extensions"]["code"], error["message"]


def identity(gateway: Served, headers: dict[str, str]) -> tuple[str, str, str]:
    """The caller's name, tenant and role as returned by `GET /api`."""
    response = gateway.http.get("/api", headers=headers)
    assert response.status_code == 200, response.text
    found = response.json()["identity"]
    return found["userid"], found["tenant"], found["role"]


class Socket:
    """A WebSocket client of the protocol graphql-transport-ws."""

    def __init__(
        self, gateway: Served | Program, payload: dict[str, Any] | None, headers: dict[str, str] | None = None
    ) -> None:
        url = gateway.url.replace("http://", "ws://") + "/graphql"
        self._connecting = connect(url, subprotocols=["graphql-transport-ws"], additional_headers=headers, proxy=None)  # type: ignore[list-item]
        self._init = {"type": "connection_init", **({} if payload is None else {"payload": payload})}

    def __enter__(self) -> "Socket":
        self._socket = self._connecting.__enter__()
        self.send(self._init)
        return self

    def __exit__(self, *_: object) -> None:
        self._connecting.__exit__(None, None, None)

    def send(self, message: dict[str, Any]) -> None:
        self._socket.send(orjson.dumps(message).decode())

    def receive(self) -> Any:
        return orjson.loads(self._socket.recv(60))

    def subscribe(self, query: str, id: str = "1") -> None:
        self.send({"id": id, "type": "subscribe", "payload": {"query": query}})

    def await_close(self) -> tuple[int, str]:
        """Skips messages until the server closes the connection, and returns the close code and reason."""
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 - messages before the close are skipped
            for _ in at_most(1_000):
                self._socket.recv(60)
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code, closed.value.rcvd.reason
