"""Sends twice the requests that a gateway can serve: the excess is rejected quickly, the rest is served in time."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.crash.world import Home
from tests.soak.fleet import Fleet
from tests.soak.raw_client import RawConnection, percentile, raise_open_file_limit, request

_READ = request(
    "{ machines(first: 100) { nodes { id name powerState capabilities { action supported } snapshots(first: 5) {"
    " totalCount nodes { id name state createdAt } } } } }"
)
_CLOSED = 8  # connections of the closed loop that measures the capacity of the gateway
_MAX_CONNECTIONS = 512  # of the open loop; opened before it starts, because the wait for accept() is not measured
_TIMEOUT = 30.0


@dataclass(slots=True)
class LoadResult:
    """Latencies in seconds by status. `lost` counts requests without a response, by reason."""

    seconds: float = 0.0
    by_status: dict[int, list[float]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    without_retry_after: int = 0

    def rate(self, status: int = 200) -> float:
        return len(self.by_status.get(status, [])) / self.seconds

    def describe(self, name: str) -> str:
        parts = [
            f"{status}: {len(latencies) / self.seconds:.0f}/s, p50 {percentile(latencies, 50):.0f} ms,"
            f" p99 {percentile(latencies, 99):.0f} ms"
            for status, latencies in sorted(self.by_status.items())
        ]
        lost = ", ".join(f"{reason} {number}" for reason, number in self.lost.items())
        return f"  {name}: {'; '.join(parts)}" + (f"; lost: {lost}" if lost else "")


@dataclass(frozen=True, slots=True)
class OverloadResult:
    """The load before, during and directly after the overload."""

    alone: LoadResult
    twice: LoadResult
    after: LoadResult
    first_after: float  # seconds that the first request after the overload took


def run_overload(home: Home, seconds: float, print_line: Callable[[str], None]) -> OverloadResult:
    """Measures the capacity, then sends twice that rate for `seconds`."""
    raise_open_file_limit()
    for _ in range(100):
        home.machine()
    fleet = Fleet(home, 1)
    try:
        result = asyncio.run(_overload(fleet.members[0].url, seconds))
    finally:
        fleet.close()
    print_line(f"{home.kind}: {seconds:g} s at twice {result.alone.rate():.0f} requests/s")
    print_line(result.alone.describe("before"))
    print_line(result.twice.describe("during"))
    print_line(result.after.describe("after"))
    print_line(f"  the first request after the overload took {1_000 * result.first_after:.0f} ms")
    return result


async def _overload(url: str, seconds: float) -> OverloadResult:
    await _closed_loop(url, 1.0)  # warm-up
    alone = await _closed_loop(url, 4.0)
    twice = await _open_loop(url, 2 * alone.rate(), seconds)
    started = time.perf_counter()
    connection = RawConnection(url)
    await connection.send(_READ)
    first = time.perf_counter() - started
    connection.close()
    return OverloadResult(alone, twice, await _closed_loop(url, 2.0), first)


async def _closed_loop(url: str, seconds: float) -> LoadResult:
    """Each connection sends the next request when the response to the last one has arrived."""
    load = LoadResult(seconds)
    deadline = time.perf_counter() + seconds

    async def work() -> None:
        connection = RawConnection(url)
        while time.perf_counter() < deadline:
            await _send(connection, load)
        connection.close()

    await asyncio.gather(*(work() for _ in range(_CLOSED)))
    return load


async def _open_loop(url: str, rate: float, seconds: float) -> LoadResult:
    """Sends requests at random times with an average `rate` per second, on any free connection."""
    load, chance = LoadResult(seconds), random.Random(1)
    free = [RawConnection(url) for _ in range(_MAX_CONNECTIONS)]
    for connection in free:
        await connection.open()
    tasks: set[asyncio.Task[None]] = set()

    async def work() -> None:
        connection = free.pop()
        await _send(connection, load)
        free.append(connection)

    started = time.perf_counter()
    due = 0.0
    while due < seconds:
        due += chance.expovariate(rate)
        if (wait := started + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if len(tasks) >= _MAX_CONNECTIONS:
            load.lost["not sent: all connections busy"] += 1
            continue
        task = asyncio.create_task(work())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    load.seconds = time.perf_counter() - started
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return load


async def _send(connection: RawConnection, load: LoadResult) -> None:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_TIMEOUT):
            answer = await connection.send(_READ)
    except (OSError, EOFError, TimeoutError) as error:
        load.lost[type(error).__name__] += 1
        connection.close()
        return
    load.by_status.setdefault(answer.status, []).append(time.perf_counter() - started)
    load.without_retry_after += answer.status != 200 and b"retry-after:" not in answer.head.lower()
