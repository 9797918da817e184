"""The messages of graphql-transport-ws: read strictly, because its rule is that anything else closes the connection."""

from dataclasses import dataclass
from typing import Any

import orjson

from gateway.graphql.requests import GraphQLRequest, request_from
from gateway.http.errors import HttpError

ID_LENGTH = 256  # an id comes back with every message

ACK = b'{"type":"connection_ack"}'
PING = b'{"type":"ping"}'


class Malformed(Exception):
    """Not a message of the protocol. The message is written for the reason of a close."""


@dataclass(frozen=True, slots=True)
class Init:
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ping:
    payload: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class Subscribe:
    id: str
    request: GraphQLRequest


@dataclass(frozen=True, slots=True)
class Complete:
    id: str


ClientMessage = Init | Ping | Pong | Subscribe | Complete


def parse(text: str) -> ClientMessage:
    """The message in `text`. Raises Malformed."""
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Malformed("The message is not JSON.") from None
    if not isinstance(members, dict):
        raise Malformed("The message is not a JSON object.")
    match members.get("type"):
        case "connection_init":
            return Init(_payload(members) or {})
        case "ping":
            return Ping(_payload(members))
        case "pong":
            _payload(members)
            return Pong()
        case "subscribe":
            return Subscribe(_id(members), _request(members))
        case "complete":
            return Complete(_id(members))
        case _:
            raise Malformed("The type of the message is unknown.")


def _payload(members: dict[str, Any]) -> dict[str, Any] | None:
    payload = members.get("payload")
    if payload is None or isinstance(payload, dict):
        return payload
    raise Malformed("`payload` is not an object.")


def _id(members: dict[str, Any]) -> str:
    id = members.get("id")
    if not isinstance(id, str) or not id or len(id) > ID_LENGTH:
        raise Malformed(f"`id` is not a string of 1 to {ID_LENGTH} characters.")
    return id


def _request(members: dict[str, Any]) -> GraphQLRequest:
    payload = _payload(members)
    if payload is None:
        raise Malformed("`payload` is missing.")
    try:
        return request_from(payload)
    except HttpError as fault:
        raise Malformed(fault.message) from None


def pong(payload: dict[str, Any] | None) -> bytes:
    return b'{"type":"pong"}' if payload is None else b'{"type":"pong","payload":' + orjson.dumps(payload) + b"}"


def next_message(id: bytes, body: bytes) -> bytes:
    """`id` as JSON; `body` is a whole GraphQL response."""
    return b'{"id":' + id + b',"type":"next","payload":' + body + b"}"


def error_message(id: bytes, errors: bytes) -> bytes:
    """`errors` is a JSON list. Ends the operation: no `complete` follows."""
    return b'{"id":' + id + b',"type":"error","payload":' + errors + b"}"


def complete_message(id: bytes) -> bytes:
    return b'{"id":' + id + b',"type":"complete"}'
