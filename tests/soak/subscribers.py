"""Many subscriptions on two gateways under load: each receives the end of every operation, and memory stops growing."""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tests.crash.world import Home
from tests.graphql.client import CREATE
from tests.process_memory import resident_bytes
from tests.soak.fleet import Fleet
from tests.soak.raw_client import RawConnection, raise_open_file_limit, request
from tests.waiting import attempts

_CHANGES = request("subscription { operationChanged { id state } }")
_END = re.compile(rb'"id":"operation-(\d+)","state":"(?:SUCCEEDED|FAILED|CANCELED)"')
_TIMEOUT = 300.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SubscriberResult:
    """The result. `memory` is the memory of each gateway in MiB, by moment."""

    missing: int  # ends of operations that a subscriber did not receive
    memory: dict[str, list[float]]


def run_subscribers(
    home: Home, subscriptions: int, operations: int, print_line: Callable[[str], None]
) -> SubscriberResult:
    """Runs two rounds of `operations` operations. Memory may grow in the first; growth in the second is a leak."""
    raise_open_file_limit()
    machines = [home.machine() for _ in range(20)]
    fleet = Fleet(home, 2)
    try:
        result = asyncio.run(_run(fleet, machines, subscriptions, operations, print_line))
    finally:
        fleet.close()
    for moment, sizes in result.memory.items():
        print_line(f"  memory {moment}: " + ", ".join(f"{size:.0f} MiB" for size in sizes))
    print_line(f"  missed ends: {result.missing}")
    return result


async def _run(
    fleet: Fleet, machines: list[int], subscriptions: int, operations: int, print_line: Callable[[str], None]
) -> SubscriberResult:
    memory = {"at rest": _memory(fleet)}
    ends: list[set[int]] = [set() for _ in range(subscriptions)]
    urls = [member.url for member in fleet.members]
    connections = [RawConnection(urls[number % 2]) for number in range(subscriptions)]
    listening = []
    for connection, end in zip(
        connections, ends, strict=True
    ):  # one after the other, because of the rate limit per caller
        ready = asyncio.Event()
        listening.append(asyncio.create_task(_listen(connection, end, ready)))
        async with asyncio.timeout(_TIMEOUT):
            await ready.wait()
    memory["subscribed"] = _memory(fleet)
    requested: set[int] = set()
    for number in (1, 2):
        started = time.monotonic()
        requested |= await _load(urls, machines, operations)
        took = await _wait_for_ends(ends, requested, started)
        memory[f"after round {number}"] = _memory(fleet)
        print_line(
            f"{subscriptions:,} subscriptions, {operations:,} operations, round {number}: all received in {took:.1f} s"
        )
    for task, connection in zip(listening, connections, strict=True):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        connection.close()
    await asyncio.sleep(1)
    memory["after unsubscribing"] = _memory(fleet)
    return SubscriberResult(sum(len(requested - end) for end in ends), memory)


async def _listen(connection: RawConnection, ends: set[int], ready: asyncio.Event) -> None:
    async for line in connection.stream(_CHANGES):
        ready.set()  # the server sends a comment when the subscription is active
        if (end := _END.search(line)) is not None:
            ends.add(int(end[1]))


async def _load(urls: list[str], machines: list[int], operations: int) -> set[int]:
    """Sends `operations` creates to all gateways. Returns the numbers of the operations."""
    numbers: set[int] = set()
    waiting = iter(range(operations))

    async def work(connection: RawConnection) -> None:
        for number in waiting:
            machine = machines[number % len(machines)]
            arguments = {"machineId": f"vm-{machine}", "name": f"n{number}", "idempotencyKey": uuid4().hex}
            data = await _send_until_accepted(connection, arguments)
            numbers.add(int(data["createSnapshot"]["operation"]["id"].rpartition("-")[2]))

    connections = [RawConnection(url) for url in urls * 4]
    await asyncio.gather(*map(work, connections))
    for connection in connections:
        connection.close()
    return numbers


async def _send_until_accepted(connection: RawConnection, arguments: dict[str, Any]) -> Any:
    """Sends a create, and repeats it while the gateway rejects it because of its load."""
    for _ in attempts(_TIMEOUT):
        answer = await connection.send(request(CREATE, input=arguments))
        if answer.status != 503 and b"SERVICE_UNAVAILABLE" not in answer.body:
            break
        await asyncio.sleep(1.0)
    return answer.data


async def _wait_for_ends(ends: list[set[int]], requested: set[int], started: float) -> float:
    while not all(requested <= end for end in ends) and time.monotonic() - started < _TIMEOUT:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return time.monotonic() - started


def _memory(fleet: Fleet) -> list[float]:
    return [resident_bytes(member.pid) / _MIB for member in fleet.members]
