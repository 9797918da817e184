"""Sends a mixed load for a long time and checks that the memory of the gateways stops growing.

The load contains everything that a gateway may cache or store per request: documents that are sent once, names,
filters, cursors, idempotency keys, operations, streams that are opened and closed, and connections.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from statistics import median
from typing import Any
from uuid import uuid4

from tests.crash.world import Home
from tests.forked_gateway import ForkedGateway
from tests.graphql.client import CREATE, DELETE
from tests.process_memory import resident_bytes
from tests.soak.raw_client import RawConnection, RawResponse, raise_open_file_limit, request

_MIB = 1 << 20
_SAMPLES = 12
_PAUSE = 0.05  # seconds between requests of a client, because several gateways share the host
_CLIENTS = 6
_LISTENERS = 2
_REQUESTS = 50  # per connection

_PAGE = (
    "query Page($filter: SnapshotFilter, $first: Int!, $after: String) { snapshots(filter: $filter, first: $first,"
    " after: $after) { totalCount nodes { id name machine { name } } pageInfo { endCursor } } }"
)
_MINE = (
    'query ($id: ID!) { vm(id: $id) { snapshots(filter: {name: {startsWith: "n"}, state: {eq: READY}}, first: 100) {'
    " nodes { id } } } }"
)
_CHANGES = request("subscription { operationChanged { id state } }")


class EnduranceRun:
    """One gateway with its clients. `answers` counts responses by kind of request and status."""

    def __init__(self, home: Home) -> None:
        self._machines = [home.machine() for _ in range(10)]
        self._gateway = ForkedGateway(home.rows.settings)
        self._chance = random.Random(1)
        self._number = count()
        self.kind = home.kind
        self.answers: Counter[str] = Counter()
        self.memory: list[float] = []

    def close(self) -> None:
        self._gateway.kill()

    async def run(self, seconds: float) -> None:
        """Runs the clients, and samples the memory of the gateway at equal intervals."""
        self._until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for work in (self._client,) * _CLIENTS + (self._listener,) * _LISTENERS:
                group.create_task(work())
            for _ in range(_SAMPLES):
                await asyncio.sleep(seconds / _SAMPLES)
                self.memory.append(resident_bytes(self._gateway.pid) / _MIB)

    def growth(self) -> float:
        """The growth of the median memory in MiB from the second third, when bounded caches are full, to the last."""
        third = _SAMPLES // 3
        return median(self.memory[-third:]) - median(self.memory[third:-third])

    async def _client(self) -> None:
        while time.monotonic() < self._until:
            connection = RawConnection(self._gateway.url)
            for _ in range(_REQUESTS):
                await self._one(connection)
                await asyncio.sleep(_PAUSE)
            connection.close()

    async def _one(self, connection: RawConnection) -> None:
        kind = self._chance.choices(("read", "once", "invalid", "change"), (6, 6, 2, 1))[0]
        if kind == "change":
            await self._change(connection)
            return
        await self._send(connection, kind, {"read": self._read, "once": self._once, "invalid": self._invalid}[kind]())

    def _read(self) -> bytes:
        some = uuid4().hex[: self._chance.randint(0, 3)]
        return request(_PAGE, filter={"name": {"contains": some}}, first=self._chance.randint(1, 100))

    def _once(self) -> bytes:
        """A document that has not been sent before."""
        number, machine = next(self._number), self._chance.choice(self._machines)
        fields = " ".join(self._chance.sample(("name", "createdAt", "state", "memory", "isCurrent"), 3))
        return request(
            f'query Q{number} {{ a{number}: vm(id: "vm-{machine}") {{ snapshots(first: {number % 90 + 1}, filter:'
            f' {{name: {{ne: "{uuid4()}"}}}}) {{ nodes {{ {fields} }} }} }} }}'
        )

    def _invalid(self) -> bytes:
        """A request that fails to parse, to validate or to bind."""
        random_text = uuid4().hex
        return self._chance.choice((
            request(f"{{ f{random_text} }}"),
            request(f"{{ {random_text}"),
            request(_PAGE, filter={"name": {random_text: 1}}, first=1),
            request(_PAGE, first=1, after=random_text),
            request("{ node(id: $id) { id } }", id=random_text),
        ))  # fmt: skip

    async def _change(self, connection: RawConnection) -> None:
        """Creates a snapshot, and deletes the ones that were created before on the machine."""
        machine = self._chance.choice(self._machines)
        name = f"n{next(self._number)}"
        arguments = {"machineId": f"vm-{machine}", "name": name, "idempotencyKey": uuid4().hex}
        await self._query(connection, "create", CREATE, input=arguments)
        if (data := await self._query(connection, "list", _MINE, id=f"vm-{machine}")) is None:
            return
        if ids := [node["id"] for node in data["vm"]["snapshots"]["nodes"]]:
            await self._query(connection, "delete", DELETE, input={"ids": ids, "idempotencyKey": uuid4().hex})

    async def _query(self, connection: RawConnection, kind: str, query: str, **variables: Any) -> Any:
        """The `data` of the response, or None when the gateway rejected the request because of its load."""
        answer = await self._send(connection, kind, request(query, **variables))
        return answer.data if answer.status == 200 else None

    async def _send(self, connection: RawConnection, kind: str, body: bytes) -> RawResponse:
        answer = await connection.send(body)
        self.answers[f"{kind} {answer.status}"] += 1
        return answer

    async def _listener(self) -> None:
        """Subscribes for up to 20 s, disconnects, and repeats."""
        while (left := self._until - time.monotonic()) > 0:
            connection = RawConnection(self._gateway.url)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._chance.uniform(0.1, 20))):
                    async for line in connection.stream(_CHANGES):
                        self.answers["events"] += line.startswith(b"data: {")
            connection.close()


def run_endurance(homes: list[Home], seconds: float, print_line: Callable[[str], None]) -> dict[str, float]:
    """Runs a gateway on each database, all at the same time. Returns the growth of each in MiB, by kind of database."""
    raise_open_file_limit()
    gateways = [EnduranceRun(home) for home in homes]

    async def run() -> None:
        await asyncio.gather(*(gateway.run(seconds) for gateway in gateways))

    try:
        asyncio.run(run())
    finally:
        for gateway in gateways:
            gateway.close()
    for gateway in gateways:
        answers = ", ".join(f"{what} {number:,}" for what, number in sorted(gateway.answers.items()))
        print_line(f"{gateway.kind}: {seconds:g} s of load: {answers}")
        print_line("  memory, MiB: " + " ".join(f"{size:.0f}" for size in gateway.memory))
    return {gateway.kind: gateway.growth() for gateway in gateways}
