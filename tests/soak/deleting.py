"""Many snapshots found by a filter and deleted in batches by four clients, while others read."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from tests.crash.world import Home
from tests.forked import Forked
from tests.soak.asking import Connection, percentile, request

_AT = "'2026-01-01T00:00:00.000000Z'"
_MACHINES = 100
_CLIENTS = 4
_BATCH = 100  # ids in one mutation, at most
_SOME = 10  # part of the snapshots that is deleted with nobody reading, for the engine's own rate

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
class Deleted:
    """Latencies are milliseconds; rates are snapshots that are gone per second."""

    quiet: tuple[float, float]  # p50 and p99 of reads with nothing else going on
    busy: tuple[float, float]  # during the deletes
    engine_rate: float  # nobody reads
    rate: float
    left: int


def delete(home: Home, snapshots: int, say: Callable[[str], None]) -> Deleted:
    """So many in all, a tenth of them with nobody reading."""
    _furnish(home, snapshots)
    gateway = Forked(replace(home.rows.settings, refresh_interval=3_600.0))
    try:
        found = asyncio.run(_delete(home, gateway.url, snapshots))
    finally:
        gateway.kill()
    say(f"{home.kind}: {snapshots:,} snapshots deleted by {_CLIENTS} clients in batches of {_BATCH}")
    for name, quiet, busy in zip(("p50", "p99"), found.quiet, found.busy, strict=True):
        say(f"  reads, {name}: {quiet:.1f} ms, and {busy:.1f} ms during the deletes")
    say(f"  gone per second: {found.engine_rate:.0f} alone, {found.rate:.0f} beside readers; left: {found.left}")
    return found


def _furnish(home: Home, snapshots: int) -> None:
    """Machines with the tree, and on each its part of the snapshots, named for the client that deletes them."""
    last = snapshots // _MACHINES - 1
    numbers = f"WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
    for _ in range(_MACHINES):
        machine = home.machine()
        ref = f"(SELECT provider_ref FROM machine WHERE id = {machine})"
        name = f"'old-' || ({machine} % {_CLIENTS}) || '-' || CASE WHEN i % {_SOME} = 0 THEN 'some' ELSE 'most' END"
        home.rows.together(
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


async def _delete(home: Home, url: str, snapshots: int) -> Deleted:
    await _refreshed(url)
    quiet = await _read_during(url, asyncio.sleep(3.0))
    some = snapshots // _SOME
    begun = time.perf_counter()
    await _delete_all(home, url, "some")
    engine_rate = some / (time.perf_counter() - begun)
    home.rows("ANALYZE")  # as servers do within a minute: they have not met the work on so many yet
    begun = time.perf_counter()
    busy = await _read_during(url, _delete_all(home, url, "most"))
    rate = (snapshots - some) / (time.perf_counter() - begun)
    ((left,),) = home.rows("SELECT count(*) FROM snapshot WHERE name <> 'kept'")
    return Deleted(quiet, busy, engine_rate, rate, left)


async def _refreshed(url: str) -> None:
    """What a gateway does first takes a while, and is not what is measured."""
    connection = Connection(url)
    while not all(provider["observedAt"] for provider in (await connection.ask(_PROVIDERS))["providers"]):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    connection.close()


async def _read_during(url: str, work: Coroutine[Any, Any, None]) -> tuple[float, float]:
    """p50 and p99 of two readers, who pause between reads, while the work goes on."""
    latencies: list[float] = []
    doing = asyncio.create_task(work)

    async def read() -> None:
        connection = Connection(url)
        while not doing.done():
            begun = time.perf_counter()
            answer = await connection.send(_READ)
            latencies.append(time.perf_counter() - begun)
            assert answer.data
            await asyncio.sleep(0.02)
        connection.close()

    await asyncio.gather(read(), read())
    await doing
    return percentile(latencies, 50), percentile(latencies, 99)


async def _delete_all(home: Home, url: str, part: str) -> None:
    """Four clients, each with names of its own; over when nothing of that part is left."""
    await asyncio.gather(*(_delete_mine(url, f"old-{number}-{part}") for number in range(_CLIENTS)))
    while home.rows(f"SELECT 1 FROM snapshot WHERE name LIKE 'old-%-{part}' LIMIT 1"):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def _delete_mine(url: str, name: str) -> None:
    connection = Connection(url)
    wanted = {"name": {"eq": name}, "state": {"eq": "READY"}}
    while found := (await connection.ask(_FIND, filter=wanted, first=_BATCH))["snapshots"]["nodes"]:
        data = await connection.ask(_DELETE, input={"ids": [node["id"] for node in found]})
        payload = data["deleteSnapshots"]
        codes = {error["code"] for result in (payload, *payload["results"]) for error in result["errors"]}
        assert codes <= {"LIMIT_EXCEEDED"}, codes
        if codes:
            await asyncio.sleep(0.25)  # the queues are full: it is retryable
    connection.close()
