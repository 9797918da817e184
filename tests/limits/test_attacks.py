"""Sends the attack list to a running gateway: each attack is rejected as listed, and changes nothing.

With `-s` it prints a table of the responses, their duration, and the CPU time of the gateway. These times depend on the
machine and are not asserted.
"""

import json
import re
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.cli.programs import Program, serving
from tests.databases import Databases
from tests.limits.attacks import ATTACKS, Attack
from tests.process_memory import resident_bytes

MAX_GROWTH = 150 << 20  # bytes of memory during all attacks


@pytest.fixture(scope="module")
def target(databases: Databases) -> Iterator[Program]:
    with serving("--demo", database_url=databases.new("sqlite")) as program:
        before, memory = state(program), resident_bytes(program.process.pid)
        yield program
        assert state(program) == before
        growth = resident_bytes(program.process.pid) - memory
        assert growth < MAX_GROWTH
        print(f"\nmemory: {memory:,} bytes before, {memory + growth:,} bytes after")


def state(program: Program) -> object:
    """The state that an attack could have changed."""
    return program.ask("{ snapshots(first: 1) { totalCount nodes { id } } vms { totalCount } }")


def cpu(program: Program) -> float:
    """CPU seconds of the event loop's thread."""
    return int(Path(f"/proc/{program.process.pid}/schedstat").read_text().split()[0]) / 1e9


def send(program: Program, attack: Attack) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the response."""
    if attack.raw is not None:
        port = int(program.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            return split(exchange(connection, attack.raw))
    content = attack.body if isinstance(attack.body, bytes) else None
    body = None if content is not None or attack.body is None else attack.body
    answer = program.http.request(attack.method, attack.path, headers=attack.headers, content=content, json=body)
    return answer.status_code, dict(answer.headers), answer.content


def exchange(connection: socket.socket, sent: bytes) -> bytes:
    """The bytes received until the connection ends, which may be before all bytes were sent."""
    received = b""
    try:
        connection.sendall(sent)
        while chunk := connection.recv(65_536):
            received += chunk
    except OSError:
        if not received:
            received = connection.recv(65_536)
    return received


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def code(body: bytes) -> str | None:
    """The error code in the response, in GraphQL's or REST's shape; None if it has none."""
    try:
        members = json.loads(body)
    except ValueError:
        return None
    if "errors" in members:
        codes = {error["extensions"]["code"] for error in members["errors"]}
        assert len(codes) == 1
        return str(codes.pop())
    kind: str | None = members["error"]["kind"] if "error" in members else None
    return kind


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attacks_are_rejected(target: Program, attack: Attack) -> None:
    started, worked = time.perf_counter(), cpu(target)
    status, headers, body = send(target, attack)
    duration, worked = time.perf_counter() - started, cpu(target) - worked
    answer = f"{status} {code(body) or '':26}"
    print(f"\n{attack.name:32} {answer} {duration * 1_000:7.1f} ms {worked * 1_000:7.1f} ms", end="")
    assert (status, code(body)) == (attack.status, attack.code), body[:500]
    assert re.fullmatch(r"[A-Za-z0-9._:=+/-]{1,64}", headers.get("x-request-id", "-"))
    for secret in (b"Traceback", b"sqlite", b"SELECT ", str(Path.cwd()).encode()):
        assert secret not in body
    assert target.ask("{ viewer { name } }") == {"viewer": {"name": "local"}}


SUBSCRIBE = {"query": "subscription { snapshotChanged { kind } }"}


def flood(target: Program, messages: Sequence[str | list[str]], *, init: bool = True) -> tuple[int, int]:
    """The number of messages received on one WebSocket, and its close code; 0 if it was not closed.

    A message that is a list is sent as that many frames.
    """
    uri = target.url.replace("http", "ws") + "/graphql"
    with connect(uri, subprotocols=["graphql-transport-ws"], proxy=None, compression=None) as opened:  # type: ignore[list-item]
        if init:
            opened.send('{"type": "connection_init"}')
            assert opened.recv(60) == '{"type":"connection_ack"}'
        count = 0
        try:
            for message in messages:
                opened.send(message)
            for _ in messages:
                opened.recv(60)
                count += 1
        except ConnectionClosed as closed:
            return count, closed.rcvd.code if closed.rcvd else 1006
        return count, 0


def subscribing(number: int) -> list[str]:
    return [json.dumps({"id": str(n), "type": "subscribe", "payload": SUBSCRIBE}) for n in range(number)]


@pytest.mark.parametrize(
    ("name", "messages", "init", "code"),
    [
        ("pings", ['{"type": "ping"}'] * 900, True, 0),
        ("inits", ['{"type": "connection_init"}'] * 100, True, 4429),
        ("subscriptions before an init", subscribing(1), False, 4401),
        ("a repeated id", subscribing(1) * 100, True, 4409),
        ("invalid messages", ["x" * 1_000] * 100, True, 4400),
        # In two frames, the second of one byte: what closes the connection has left nothing unread, with which a close
        # would end as a reset and take the code with it.
        ("a huge message", [["x" * 1_048_576, "x"]], True, 1009),
        ("a long id", [json.dumps({"id": "x" * 1_000, "type": "subscribe", "payload": SUBSCRIBE})], True, 4400),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_message_floods(target: Program, name: str, messages: Sequence[str | list[str]], init: bool, code: int) -> None:
    started, worked = time.perf_counter(), cpu(target)
    count, closed = flood(target, messages, init=init)
    duration, worked = time.perf_counter() - started, cpu(target) - worked
    print(f"\n{name:32} close {closed:<24} {duration * 1_000:7.1f} ms {worked * 1_000:7.1f} ms", end="")
    assert closed == code
    assert count == (len(messages) if code == 0 else 0) or name == "inits"
    assert target.ask("{ viewer { name } }") == {"viewer": {"name": "local"}}


def test_subscription_floods(target: Program) -> None:
    """100 subscriptions run on a connection; each further one is rejected by itself."""
    uri = target.url.replace("http", "ws") + "/graphql"
    with connect(uri, subprotocols=["graphql-transport-ws"], proxy=None) as opened:  # type: ignore[list-item]
        opened.send('{"type": "connection_init"}')
        assert opened.recv(60) == '{"type":"connection_ack"}'
        for message in subscribing(150):
            opened.send(message)
        refused = [json.loads(opened.recv(60)) for _ in range(50)]
    assert {message["type"] for message in refused} == {"error"}
    assert {message["payload"][0]["extensions"]["code"] for message in refused} == {"LIMIT_EXCEEDED"}
    assert [int(message["id"]) for message in refused] == [*range(100, 150)]
    assert target.ask("{ viewer { name } }") == {"viewer": {"name": "local"}}
