"""Many subscriptions over two gateways during load: each sees every end, and memory comes to rest."""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tests.crash.world import Home
from tests.graphql.asking import CREATE
from tests.soak.asking import Connection, allow_many_connections, request, resident_mib
from tests.soak.fleet import Fleet

_CHANGES = request("subscription { operationChanged { id state } }")
_END = re.compile(rb'"id":"operation-(\d+)","state":"(?:SUCCEEDED|FAILED|CANCELED)"')
_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of it. Memory is that of each gateway, in MiB, at each moment."""

    missing: int  # ends that a subscriber did not see
    memory: dict[str, list[float]]


def follow(home: Home, subscriptions: int, operations: int, say: Callable[[str], None]) -> Seen:
    """Two rounds of so many operations: what the first one adds may stay, what the second adds as well is a leak."""
    allow_many_connections()
    machines = [home.machine() for _ in range(20)]
    fleet = Fleet(home, 2)
    try:
        seen = asyncio.run(_follow(fleet, machines, subscriptions, operations, say))
    finally:
        fleet.close()
    for moment, sizes in seen.memory.items():
        say(f"  memory {moment}: " + ", ".join(f"{size:.0f} MiB" for size in sizes))
    say(f"  ends that somebody missed: {seen.missing}")
    return seen


async def _follow(
    fleet: Fleet, machines: list[int], subscriptions: int, operations: int, say: Callable[[str], None]
) -> Seen:
    memory = {"at rest": _memory(fleet)}
    ends: list[set[int]] = [set() for _ in range(subscriptions)]
    urls = [member.url for member in fleet.members]
    connections = [Connection(urls[number % 2]) for number in range(subscriptions)]
    listening = []
    for connection, end in zip(connections, ends, strict=True):  # one after the other: a caller has a limit
        ready = asyncio.Event()
        listening.append(asyncio.create_task(_listen(connection, end, ready)))
        async with asyncio.timeout(_PATIENCE):
            await ready.wait()
    memory["subscribed"] = _memory(fleet)
    asked: set[int] = set()
    for number in (1, 2):
        begun = time.monotonic()
        asked |= await _load(urls, machines, operations)
        took = await _until_seen(ends, asked, begun)
        memory[f"after round {number}"] = _memory(fleet)
        say(f"{subscriptions:,} subscriptions, {operations:,} operations, round {number}: all told in {took:.1f} s")
    for task, connection in zip(listening, connections, strict=True):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        connection.close()
    await asyncio.sleep(1)
    memory["when they are gone"] = _memory(fleet)
    return Seen(sum(len(asked - end) for end in ends), memory)


async def _listen(connection: Connection, ends: set[int], ready: asyncio.Event) -> None:
    async for line in connection.stream(_CHANGES):
        ready.set()  # by the comment that comes when the source listens
        if (end := _END.search(line)) is not None:
            ends.add(int(end[1]))


async def _load(urls: list[str], machines: list[int], operations: int) -> set[int]:
    """So many creates, over all gateways; the operations' numbers."""
    numbers: set[int] = set()
    waiting = iter(range(operations))

    async def work(connection: Connection) -> None:
        for number in waiting:
            machine = machines[number % len(machines)]
            wish = {"machineId": f"vm-{machine}", "name": f"n{number}", "idempotencyKey": uuid4().hex}
            data = await _insist(connection, wish)
            numbers.add(int(data["createSnapshot"]["operation"]["id"].rpartition("-")[2]))

    connections = [Connection(url) for url in urls * 4]
    await asyncio.gather(*map(work, connections))
    for connection in connections:
        connection.close()
    return numbers


async def _insist(connection: Connection, wish: dict[str, Any]) -> Any:
    """What is refused because there is too much to do is asked for again."""
    while True:
        answer = await connection.send(request(CREATE, input=wish))
        if answer.status != 503 and b"SERVICE_UNAVAILABLE" not in answer.body:
            return answer.data
        await asyncio.sleep(1.0)


async def _until_seen(ends: list[set[int]], asked: set[int], begun: float) -> float:
    while not all(asked <= end for end in ends) and time.monotonic() - begun < _PATIENCE:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return time.monotonic() - begun


def _memory(fleet: Fleet) -> list[float]:
    return [resident_mib(member.pid) for member in fleet.members]
