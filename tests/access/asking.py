"""Asks a gateway who one is, by every way there is to come in."""

import base64
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.cli.programs import Program, run
from tests.serving import Served

VM = '{ vm(id: "vm-11") { name } }'
SEEN = {"data": {"vm": {"name": "web-01"}}}


def make_token(url: str, name: str = "ci", *more: str, role: str = "operator") -> str:
    """As an administrator makes it, with the command."""
    code, out, err = run("token", "create", name, "--role", role, "--database-url", url, *more)
    assert code == 0, err
    assert out.count("\n") == 1
    return out.removesuffix("\n")


def revoke(url: str, name: str = "ci") -> None:
    code, _, err = run("token", "revoke", name, "--database-url", url)
    assert code == 0, err


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def graphql(gateway: Served, headers: dict[str, str] | None = None, query: str = VM) -> Any:
    """The response to a query."""
    return gateway.http.post("/graphql", json={"query": query}, headers=headers)


def refusal(response: Any) -> tuple[int, str, str]:
    """Status, code and message of what `/graphql` refuses; nothing of data comes with it."""
    body = response.json()
    assert body.keys() == {"errors"}
    (error,) = body["errors"]
    return response.status_code, error["extensions"]["code"], error["message"]


def who(gateway: Served, headers: dict[str, str]) -> tuple[str, str, str]:
    """The name, tenant and role that `/api` tells."""
    response = gateway.http.get("/api", headers=headers)
    assert response.status_code == 200, response.text
    identity = response.json()["identity"]
    return identity["userid"], identity["tenant"], identity["role"]


class Socket:
    """A WebSocket that speaks graphql-transport-ws."""

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
        return orjson.loads(self._socket.recv(10))

    def subscribe(self, query: str, id: str = "1") -> None:
        self.send({"id": id, "type": "subscribe", "payload": {"query": query}})

    def closed(self) -> tuple[int, str]:
        """Code and reason of the close that comes next."""
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 - whatever comes before it is read
            while True:
                self._socket.recv(10)
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code, closed.value.rcvd.reason
