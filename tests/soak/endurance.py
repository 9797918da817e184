"""A day in small, again and again: whatever a gateway keeps of clients, it must stop growing.

Everything comes that could be remembered: documents that are asked for once, names, filters, cursors, keys, operations,
streams that are opened and left, connections.
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
from tests.forked import Forked
from tests.graphql.asking import CREATE, DELETE
from tests.soak.asking import Answer, Connection, allow_many_connections, request, resident_mib

_SAMPLES = 12
_PAUSE = 0.05  # seconds between two requests of a client: several gateways share the machine
_CLIENTS = 6
_LISTENERS = 2
_LASTS = 50  # requests of a connection

_PAGE = (
    "query Page($filter: SnapshotFilter, $first: Int!, $after: String) { snapshots(filter: $filter, first: $first,"
    " after: $after) { totalCount nodes { id name machine { name } } pageInfo { endCursor } } }"
)
_MINE = (
    'query ($id: ID!) { vm(id: $id) { snapshots(filter: {name: {startsWith: "n"}, state: {eq: READY}}, first: 100) {'
    " nodes { id } } } }"
)
_CHANGES = request("subscription { operationChanged { id state } }")


class Endurance:
    """One gateway, its clients and what they were answered."""

    def __init__(self, home: Home) -> None:
        self._machines = [home.machine() for _ in range(10)]
        self._gateway = Forked(home.rows.settings)
        self._chance = random.Random(1)
        self._number = count()
        self.kind = home.kind
        self.answers: Counter[str] = Counter()
        self.memory: list[float] = []

    def close(self) -> None:
        self._gateway.kill()

    async def live(self, seconds: float) -> None:
        """Samples memory at even times."""
        self._until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for work in (self._client,) * _CLIENTS + (self._listener,) * _LISTENERS:
                group.create_task(work())
            for _ in range(_SAMPLES):
                await asyncio.sleep(seconds / _SAMPLES)
                self.memory.append(resident_mib(self._gateway.pid))

    def growth(self) -> float:
        """MiB between the second third, when everything bounded is full, and the last."""
        third = _SAMPLES // 3
        return median(self.memory[-third:]) - median(self.memory[third:-third])

    async def _client(self) -> None:
        while time.monotonic() < self._until:
            connection = Connection(self._gateway.url)
            for _ in range(_LASTS):
                await self._one(connection)
                await asyncio.sleep(_PAUSE)
            connection.close()

    async def _one(self, connection: Connection) -> None:
        kind = self._chance.choices(("read", "once", "wrong", "change"), (6, 6, 2, 1))[0]
        if kind == "change":
            await self._change(connection)
            return
        await self._send(connection, kind, {"read": self._read, "once": self._once, "wrong": self._wrong}[kind]())

    def _read(self) -> bytes:
        some = uuid4().hex[: self._chance.randint(0, 3)]
        return request(_PAGE, filter={"name": {"contains": some}}, first=self._chance.randint(1, 100))

    def _once(self) -> bytes:
        """A document that nobody has sent before."""
        number, machine = next(self._number), self._chance.choice(self._machines)
        fields = " ".join(self._chance.sample(("name", "createdAt", "state", "memory", "isCurrent"), 3))
        return request(
            f'query Q{number} {{ a{number}: vm(id: "vm-{machine}") {{ snapshots(first: {number % 90 + 1}, filter:'
            f' {{name: {{ne: "{uuid4()}"}}}}) {{ nodes {{ {fields} }} }} }} }}'
        )

    def _wrong(self) -> bytes:
        nonsense = uuid4().hex
        return self._chance.choice((
            request(f"{{ f{nonsense} }}"),
            request(f"{{ {nonsense}"),
            request(_PAGE, filter={"name": {nonsense: 1}}, first=1),
            request(_PAGE, first=1, after=nonsense),
            request("{ node(id: $id) { id } }", id=nonsense),
        ))  # fmt: skip

    async def _change(self, connection: Connection) -> None:
        """Takes a snapshot, and clears the machine of those that were taken before."""
        machine = self._chance.choice(self._machines)
        name = f"n{next(self._number)}"
        wish = {"machineId": f"vm-{machine}", "name": name, "idempotencyKey": uuid4().hex}
        await self._ask(connection, "create", CREATE, input=wish)
        if (data := await self._ask(connection, "look", _MINE, id=f"vm-{machine}")) is None:
            return
        if ids := [node["id"] for node in data["vm"]["snapshots"]["nodes"]]:
            await self._ask(connection, "delete", DELETE, input={"ids": ids, "idempotencyKey": uuid4().hex})

    async def _ask(self, connection: Connection, kind: str, query: str, **variables: Any) -> Any:
        """Data, or None when it was too much for the gateway just now."""
        answer = await self._send(connection, kind, request(query, **variables))
        return answer.data if answer.status == 200 else None

    async def _send(self, connection: Connection, kind: str, body: bytes) -> Answer:
        answer = await connection.send(body)
        self.answers[f"{kind} {answer.status}"] += 1
        return answer

    async def _listener(self) -> None:
        """Hears some, leaves, comes again."""
        while (left := self._until - time.monotonic()) > 0:
            connection = Connection(self._gateway.url)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._chance.uniform(0.1, 20))):
                    async for line in connection.stream(_CHANGES):
                        self.answers["heard"] += line.startswith(b"data: {")
            connection.close()


def endure(homes: list[Home], seconds: float, say: Callable[[str], None]) -> dict[str, float]:
    """A gateway on each, all at the same time; how many MiB each grew."""
    allow_many_connections()
    gateways = [Endurance(home) for home in homes]

    async def live() -> None:
        await asyncio.gather(*(gateway.live(seconds) for gateway in gateways))

    try:
        asyncio.run(live())
    finally:
        for gateway in gateways:
            gateway.close()
    for gateway in gateways:
        answers = ", ".join(f"{what} {number:,}" for what, number in sorted(gateway.answers.items()))
        say(f"{gateway.kind}: {seconds:g} s of load: {answers}")
        say("  memory, MiB: " + " ".join(f"{size:.0f}" for size in gateway.memory))
    return {gateway.kind: gateway.growth() for gateway in gateways}
