"""Twice as many requests as a gateway can serve: the rest is refused quickly, what is accepted is served in time."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.crash.world import Home
from tests.soak.asking import Connection, allow_many_connections, percentile, request
from tests.soak.fleet import Fleet

_READ = request(
    "{ machines(first: 100) { nodes { id name powerState capabilities { action supported } snapshots(first: 5) {"
    " totalCount nodes { id name state createdAt } } } } }"
)
_CLOSED = 8  # connections that measure what the gateway can take
_MOST = 512  # connections that the load has, open before it begins: what waits to be accepted is not seen by anybody
_PATIENCE = 30.0


@dataclass(slots=True)
class Load:
    """Latencies in seconds, by status; `lost` says why there was no answer."""

    seconds: float = 0.0
    by_status: dict[int, list[float]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    without_retry_after: int = 0

    def rate(self, status: int = 200) -> float:
        return len(self.by_status.get(status, [])) / self.seconds

    def show(self, name: str) -> str:
        parts = [
            f"{status}: {len(found) / self.seconds:.0f}/s, p50 {percentile(found, 50):.0f} ms,"
            f" p99 {percentile(found, 99):.0f} ms"
            for status, found in sorted(self.by_status.items())
        ]
        lost = ", ".join(f"{why} {number}" for why, number in self.lost.items())
        return f"  {name}: {'; '.join(parts)}" + (f"; lost: {lost}" if lost else "")


@dataclass(frozen=True, slots=True)
class Overload:
    """Before, during, and right after."""

    alone: Load
    twice: Load
    after: Load
    first_after: float  # seconds that the first request after it took


def overload(home: Home, seconds: float, say: Callable[[str], None]) -> Overload:
    """At twice the rate that was measured before, for so long."""
    allow_many_connections()
    for _ in range(100):
        home.machine()
    fleet = Fleet(home, 1)
    try:
        found = asyncio.run(_overload(fleet.members[0].url, seconds))
    finally:
        fleet.close()
    say(f"{home.kind}: {seconds:g} s at twice {found.alone.rate():.0f} requests/s")
    say(found.alone.show("before"))
    say(found.twice.show("during"))
    say(found.after.show("after"))
    say(f"  the first request after it took {1_000 * found.first_after:.0f} ms")
    return found


async def _overload(url: str, seconds: float) -> Overload:
    await _closed(url, 1.0)  # warm
    alone = await _closed(url, 4.0)
    twice = await _open(url, 2 * alone.rate(), seconds)
    begun = time.perf_counter()
    connection = Connection(url)
    await connection.send(_READ)
    first = time.perf_counter() - begun
    connection.close()
    return Overload(alone, twice, await _closed(url, 2.0), first)


async def _closed(url: str, seconds: float) -> Load:
    """As fast as it answers."""
    load = Load(seconds)
    deadline = time.perf_counter() + seconds

    async def work() -> None:
        connection = Connection(url)
        while time.perf_counter() < deadline:
            await _one(connection, load)
        connection.close()

    await asyncio.gather(*(work() for _ in range(_CLOSED)))
    return load


async def _open(url: str, rate: float, seconds: float) -> Load:
    """Whether it answers or not: requests come at random times, on whichever connection is free."""
    load, chance = Load(seconds), random.Random(1)
    free = [Connection(url) for _ in range(_MOST)]
    for connection in free:
        await connection.open()
    tasks: set[asyncio.Task[None]] = set()

    async def work() -> None:
        connection = free.pop()
        await _one(connection, load)
        free.append(connection)

    begun = time.perf_counter()
    due = 0.0
    while due < seconds:
        due += chance.expovariate(rate)
        if (wait := begun + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if len(tasks) >= _MOST:
            load.lost["not sent: too many wait"] += 1
            continue
        task = asyncio.create_task(work())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    load.seconds = time.perf_counter() - begun
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return load


async def _one(connection: Connection, load: Load) -> None:
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(_PATIENCE):
            answer = await connection.send(_READ)
    except (OSError, EOFError, TimeoutError) as error:
        load.lost[type(error).__name__] += 1
        connection.close()
        return
    load.by_status.setdefault(answer.status, []).append(time.perf_counter() - begun)
    load.without_retry_after += answer.status != 200 and b"retry-after:" not in answer.head.lower()
