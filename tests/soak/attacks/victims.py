"""The other callers of a gateway under attack: 50 requests per second, at fixed times (an open loop).

A latency counts from the time at which the request was due, not from when a connection was free for it. So a gateway
that answers nothing for a second gives 50 latencies of up to a second, and not one (coordinated omission).

Most requests are small reads by GraphQL and REST. Two per second create a snapshot, whose end an event stream must
report, and one per second has a token that the gateway has not verified before. Connections are reused 10 times, as
some callers are new ones.
"""

import asyncio
import gc
import re
import time
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

import orjson

from tests.soak.attacks.schedule import Schedule
from tests.soak.attacks.target import VICTIM, Target
from tests.soak.raw_client import RawConnection, RawResponse, request
from tests.waiting import until_async

RATE = 50  # requests per second
_CREATES_EVERY = 25  # requests
_NEW_TOKEN_EVERY = 50
_REST_EVERY = 5
_CONNECTIONS = 32
_REUSES = 10  # of a connection
_TIMEOUT = 10.0  # seconds for a request from the time at which it was sent, and for all after the end of the schedule
_EVENT_TIMEOUT = 5.0  # seconds for the last events
_VMS = range(11, 40)  # of the demo world

_READS = (
    request(
        "{ vms(first: 5) { nodes { id name powerState snapshots(first: 3) { totalCount nodes { name state } } } } }"
    ),
    request('{ vm(id: "vm-11") { name snapshots(first: 5) { nodes { id name createdAt isCurrent } } } }'),
    request("{ viewer { name } operations(first: 3) { nodes { id state } } }"),
)
_REST_READ = "/api/vms/11/snapshots?expand=resources&limit=5"
_CREATE = (
    "mutation ($input: CreateSnapshotInput!) { createSnapshot(input: $input)"
    " { operation { id } errors { code message } } }"
)
_CHANGES = request("subscription { operationChanged { id state } }")
_END = re.compile(rb'"id":"(operation-\d+)","state":"SUCCEEDED"')


class Sample(NamedTuple):
    """A request: when it was due (monotonic), how long it took from then in seconds, and how it failed."""

    due: float
    latency: float
    failure: str | None


def run_victims(schedule: Schedule, target: Target) -> list[Sample]:
    """Sends requests until the schedule ends. Returns them all, and the missing events."""
    gc.disable()  # so that its pauses are not measured
    return asyncio.run(_Victims(schedule, target).run())


class _Victims:
    def __init__(self, schedule: Schedule, target: Target) -> None:
        self._schedule = schedule
        self._target = target
        self._samples: list[Sample] = []
        self._colleagues = iter(target.colleagues)
        self._due_of: dict[str, float] = {}  # accepted operations, and when their creation was due
        self._ended: set[str] = set()
        self._uses = Counter[RawConnection]()
        self._free: asyncio.LifoQueue[RawConnection] = asyncio.LifoQueue()
        for _ in range(_CONNECTIONS):
            self._free.put_nowait(self._connection(target.tokens["victim"]))

    async def run(self) -> list[Sample]:
        listener = asyncio.create_task(self._listen())
        await asyncio.sleep(self._schedule.begins - time.monotonic())
        due_of: dict[asyncio.Task[None], float] = {}
        for number in range(int((self._schedule.ends - self._schedule.begins) * RATE)):
            due = self._schedule.begins + number / RATE
            await asyncio.sleep(due - time.monotonic())
            due_of[asyncio.create_task(self._send(number, due))] = due
        _, pending = await asyncio.wait(due_of, timeout=_TIMEOUT)
        for task in pending:
            task.cancel()
            self._samples.append(Sample(due_of[task], time.monotonic() - due_of[task], "no answer"))
        await asyncio.gather(*pending, return_exceptions=True)
        await self._await_events(listener)
        return self._samples

    async def _send(self, number: int, due: float) -> None:
        if number % _NEW_TOKEN_EVERY == 7 and (token := next(self._colleagues, None)) is not None:
            connection = self._connection(token)
            await self._measure(connection, number, due)
            connection.close()
            return
        connection = await self._free.get()
        await self._measure(connection, number, due)
        self._uses[connection] += 1
        if self._uses[connection] % _REUSES == 0:
            connection.close()
        self._free.put_nowait(connection)

    async def _measure(self, connection: RawConnection, number: int, due: float) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                failure = self._failure(await self._exchange(connection, number), due)
        except TimeoutError:
            failure = "no answer"
        except (OSError, EOFError):
            failure = "connection lost"
        if failure is not None:
            connection.close()
        self._samples.append(Sample(due, time.monotonic() - due, failure))

    async def _exchange(self, connection: RawConnection, number: int) -> RawResponse:
        if number % _CREATES_EVERY == 0:
            machine = _VMS[number // _CREATES_EVERY % len(_VMS)]
            return await connection.send(
                request(_CREATE, input={"machineId": f"vm-{machine}", "name": f"victim-{number}"})
            )
        if number % _REST_EVERY == 3:
            return await connection.get(_REST_READ)
        return await connection.send(_READS[number % len(_READS)])

    def _failure(self, response: RawResponse, due: float) -> str | None:
        """How a request failed, or None. Remembers the operation of an accepted creation."""
        if response.status != 200:
            return str(response.status)
        body = orjson.loads(response.body)
        errors = body.get("errors")
        payload = (body.get("data") or {}).get("createSnapshot")
        if payload is not None and not payload["errors"]:
            self._due_of[payload["operation"]["id"]] = due
        if errors:
            return str(errors[0]["extensions"]["code"])
        return str(payload["errors"][0]["code"]) if payload and payload["errors"] else None

    async def _listen(self) -> None:
        connection = self._connection(self._target.tokens["victim"])
        async for line in connection.stream(_CHANGES):
            self._ended.update(number.decode() for number in _END.findall(line))

    async def _await_events(self, listener: asyncio.Task[None]) -> None:
        """Waits for the ends of all operations. Each that is missing counts as a failure."""
        with suppress(TimeoutError):
            await until_async(lambda: self._due_of.keys() <= self._ended or listener.done(), _EVENT_TIMEOUT, pause=0.05)
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        for operation in self._due_of.keys() - self._ended:
            self._samples.append(Sample(self._due_of[operation], _EVENT_TIMEOUT, "no event"))

    def _connection(self, token: str) -> RawConnection:
        return RawConnection(self._target.url, token=token, source=VICTIM)
