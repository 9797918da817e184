"""The messages of graphql-transport-ws. Parsing is strict: the protocol closes the connection at an invalid message."""

from dataclasses import dataclass
from typing import Any

import orjson

from gateway.graphql.requests import GraphQLRequest, parse_request
from gateway.http.errors import HttpError

MAX_ID_LENGTH = 256  # characters; the id is repeated in every message of the operation

ACK = b'{"type":"connection_ack"}'
PING = b'{"type":"ping"}'


class InvalidMessage(Exception):
    """The text is not a message of the protocol. The exception's message becomes the reason of the close."""


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
    """Parses a message of the client. Raises InvalidMessage."""
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidMessage("The message is not JSON.") from None
    if not isinstance(members, dict):
        raise InvalidMessage("The message is not a JSON object.")
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
            raise InvalidMessage("The message type is unknown.")


def _payload(members: dict[str, Any]) -> dict[str, Any] | None:
    payload = members.get("payload")
    if payload is None or isinstance(payload, dict):
        return payload
    raise InvalidMessage("`payload` must be an object or null.")


def _id(members: dict[str, Any]) -> str:
    id = members.get("id")
    if not isinstance(id, str) or not id or len(id) > MAX_ID_LENGTH:
        raise InvalidMessage(f"`id` must be a string of 1 to {MAX_ID_LENGTH} characters.")
    return id


def _request(members: dict[str, Any]) -> GraphQLRequest:
    payload = _payload(members)
    if payload is None:
        raise InvalidMessage("`payload` is missing.")
    try:
        return parse_request(payload)
    except HttpError as error:
        raise InvalidMessage(error.message) from None


def pong_message(payload: dict[str, Any] | None) -> bytes:
    """A `pong` message that returns the payload of the ping. Raises InvalidMessage."""
    if payload is None:
        return b'{"type":"pong"}'
    try:
        return b'{"type":"pong","payload":' + orjson.dumps(payload) + b"}"
    except orjson.JSONEncodeError:  # orjson parses deeper lists than it writes
        raise InvalidMessage("`payload` is nested too deeply.") from None


def next_message(id: bytes, body: bytes) -> bytes:
    """A `next` message. `id` is JSON; `body` is a whole GraphQL response."""
    return b'{"id":' + id + b',"type":"next","payload":' + body + b"}"


def error_message(id: bytes, errors: bytes) -> bytes:
    """An `error` message, which ends the operation: no `complete` follows. `errors` is a JSON list."""
    return b'{"id":' + id + b',"type":"error","payload":' + errors + b"}"


def complete_message(id: bytes) -> bytes:
    """A `complete` message, which ends the operation. `id` is JSON."""
    return b'{"id":' + id + b',"type":"complete"}'
