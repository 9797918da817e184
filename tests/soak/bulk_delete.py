"""Four clients find many snapshots by a filter and delete them in batches, while two others read."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from tests.crash.world import Home
from tests.forked_gateway import ForkedGateway
from tests.soak.raw_client import RawConnection, percentile, request
from tests.waiting import attempts, until_async

_AT = "'2026-01-01T00:00:00.000000Z'"
_MACHINES = 100
_CLIENTS = 4
_TIMEOUT = 3_600.0  # seconds in which all snapshots must be deleted
_BATCH = 100  # ids in one mutation, at most
_ALONE = 10  # one in 10 snapshots is deleted without concurrent reads, to measure the rate

_FIND = (
    "query ($filter: SnapshotFilter!, $first: Int!) { snapshots(filter: $filter, sort: [{field: ID}], first: $first)"
    " { nodes { id } } }"
)
_DELETE = (
    "mutation ($input: DeleteSnapshotsInput!) { deleteSnapshots(input: $input) {"
    " acceptedCount results { errors { code } } errors { code } } }"
)
_PROVIDERS = "{ providers { observedAt } }"
_READ = request(
    "{ machines(first: 20) { totalCount nodes { id name snapshots(first: 5) { totalCount nodes { id name state } } } }"
    ' snapshots(first: 50, filter: {name: {startsWith: "kept"}}) { nodes { id name state machine { name } } } }'
)


@dataclass(frozen=True, slots=True)
class BulkDeleteResult:
    """Latencies are in milliseconds, rates in deleted snapshots per second."""

    quiet: tuple[float, float]  # p50 and p99 of reads without other load
    busy: tuple[float, float]  # during the deletes
    rate_alone: float  # without concurrent reads
    rate: float
    left: int


def run_bulk_delete(home: Home, snapshots: int, print_line: Callable[[str], None]) -> BulkDeleteResult:
    """Deletes `snapshots` snapshots, a tenth of them without concurrent reads."""
    _insert_snapshots(home, snapshots)
    gateway = ForkedGateway(replace(home.rows.settings, refresh_interval=3_600.0))
    try:
        result = asyncio.run(_delete(home, gateway.url, snapshots))
    finally:
        gateway.kill()
    print_line(f"{home.kind}: {snapshots:,} snapshots deleted by {_CLIENTS} clients in batches of {_BATCH}")
    for name, quiet, busy in zip(("p50", "p99"), result.quiet, result.busy, strict=True):
        print_line(f"  reads, {name}: {quiet:.1f} ms, and {busy:.1f} ms during the deletes")
    print_line(
        f"  deleted per second: {result.rate_alone:.0f} alone, {result.rate:.0f} during reads; left: {result.left}"
    )
    return result


def _insert_snapshots(home: Home, snapshots: int) -> None:
    """Inserts 100 machines, each with its share of the snapshots. Names contain the client that deletes them."""
    last = snapshots // _MACHINES - 1
    numbers = f"WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
    for _ in range(_MACHINES):
        machine = home.machine()
        ref = f"(SELECT provider_ref FROM machine WHERE id = {machine})"
        name = f"'old-' || ({machine} % {_CLIENTS}) || '-' || CASE WHEN i % {_ALONE} = 0 THEN 'some' ELSE 'most' END"
        home.rows.run_all(
            [
                f"UPDATE snapshot SET name = 'kept', name_folded = 'kept' WHERE machine_id = {machine}",
                f"UPDATE simulated_snapshot SET name = 'kept' WHERE machine_ref = {ref}",
                (
                    f"{numbers} INSERT INTO simulated_snapshot (ref, machine_ref, name, memory, created_at)"
                    f" SELECT {ref} || '-' || i, {ref}, {name}, false, {_AT} FROM n"
                ),
                (
                    f"{numbers} INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current,"
                    f" provider_ref, provider_ref_folded, created_at) SELECT 'default', {machine}, {name},"
                    f" {name}, 'READY', false, false, {ref} || '-' || i, {ref} || '-' || i, {_AT} FROM n"
                ),
            ]
        )
    home.rows("ANALYZE")


async def _delete(home: Home, url: str, snapshots: int) -> BulkDeleteResult:
    await _refreshed(url)
    quiet = await _read_during(url, asyncio.sleep(3.0))
    some = snapshots // _ALONE
    started = time.perf_counter()
    await _delete_all(home, url, "some")
    rate_alone = some / (time.perf_counter() - started)
    home.rows("ANALYZE")  # as autovacuum does within a minute: the statistics predate the deletes
    started = time.perf_counter()
    busy = await _read_during(url, _delete_all(home, url, "most"))
    rate = (snapshots - some) / (time.perf_counter() - started)
    ((left,),) = home.rows("SELECT count(*) FROM snapshot WHERE name <> 'kept'")
    return BulkDeleteResult(quiet, busy, rate_alone, rate, left)


async def _refreshed(url: str) -> None:
    """Waits for the first refresh of all providers, so that it is not part of the measurement."""
    connection = RawConnection(url)

    async def refreshed() -> bool:
        return all(provider["observedAt"] for provider in (await connection.query(_PROVIDERS))["providers"])

    await until_async(refreshed, _TIMEOUT, pause=0.1)
    connection.close()


async def _read_during(url: str, work: Coroutine[Any, Any, None]) -> tuple[float, float]:
    """Runs the work, and meanwhile two readers with pauses between reads. Returns their p50 and p99."""
    latencies: list[float] = []
    task = asyncio.create_task(work)

    async def read() -> None:
        connection = RawConnection(url)
        while not task.done():
            started = time.perf_counter()
            answer = await connection.send(_READ)
            latencies.append(time.perf_counter() - started)
            assert answer.data
            await asyncio.sleep(0.02)
        connection.close()

    await asyncio.gather(read(), read())
    await task
    return percentile(latencies, 50), percentile(latencies, 99)


async def _delete_all(home: Home, url: str, part: str) -> None:
    """Deletes all snapshots of one part with four clients, each by its own name; returns when none is left."""
    await asyncio.gather(*(_delete_by_name(url, f"old-{number}-{part}") for number in range(_CLIENTS)))
    left = f"SELECT 1 FROM snapshot WHERE name LIKE 'old-%-{part}' LIMIT 1"
    await until_async(lambda: not home.rows(left), _TIMEOUT, pause=0.1)


async def _delete_by_name(url: str, name: str) -> None:
    connection = RawConnection(url)
    condition = {"name": {"eq": name}, "state": {"eq": "READY"}}
    for _ in attempts(_TIMEOUT):
        found = (await connection.query(_FIND, filter=condition, first=_BATCH))["snapshots"]["nodes"]
        if not found:
            break
        data = await connection.query(_DELETE, input={"ids": [node["id"] for node in found]})
        payload = data["deleteSnapshots"]
        codes = {error["code"] for result in (payload, *payload["results"]) for error in result["errors"]}
        assert codes <= {"LIMIT_EXCEEDED"}, codes
        if codes:
            await asyncio.sleep(0.25)  # the queues are full, which is retryable
    connection.close()
