"""Writes that commit in one group are answered a few per loop iteration, so that new requests are served in between."""

import asyncio
import threading
from itertools import groupby
from typing import Any

from gateway.fair_queue import CLAIM, Claim
from tests.databases import Databases
from tests.operations.world import open_world
from tests.waiting import attempts, until_async

WRITES = 20


def test_writes_of_one_commit_are_answered_two_per_loop_iteration(databases: Databases) -> None:
    """The event loop polls its sockets after every two of them."""

    async def story() -> None:
        gate, events = threading.Event(), []

        async def blocked(_: Any) -> None:
            gate.wait()

        async def nothing(_: Any) -> None:
            return None

        async def write() -> None:
            await database.write(nothing)
            events.append("answered")

        database = open_world(databases.new("sqlite"))
        try:
            first = asyncio.create_task(database.write(blocked))
            await asyncio.sleep(0)
            group = [asyncio.create_task(write()) for _ in range(WRITES)]
            await asyncio.sleep(0)
            gate.set()
            for _ in attempts():
                if all(task.done() for task in group):
                    break
                events.append("iteration")
                await asyncio.sleep(0)
            await asyncio.gather(first, *group)
        finally:
            gate.set()
            await database.close()
        assert max(len(list(some)) for what, some in groupby(events) if what == "answered") == 2

    asyncio.run(story())


def test_callers_share_the_commits(databases: Databases) -> None:
    """One that has queued 200 writes does not delay the two of another, nor those of the gateway."""

    async def story() -> list[str]:
        gate, order = threading.Event(), list[str]()

        async def write(caller: str, work: Any) -> None:
            CLAIM.set(Claim(caller) if caller else None)
            await database.write(work)

        def named(caller: str) -> Any:
            async def work(_: Any) -> None:
                order.append(caller)

            return work

        async def blocked(_: Any) -> None:
            gate.wait()

        database = open_world(databases.new("sqlite"))
        try:
            callers = [*["busy"] * 200, "other", "other", ""]
            tasks = [asyncio.create_task(write("", blocked))]
            await until_async(lambda: database.load["write"] == (1, 0))
            tasks += [asyncio.create_task(write(caller, named(caller))) for caller in callers]
            await until_async(lambda: database.load["write"] == (1, 203))
            gate.set()
            await asyncio.gather(*tasks)
        finally:
            gate.set()
            await database.close()
        return order

    order = asyncio.run(story())
    assert order[:5] == ["", "busy", "other", "busy", "other"]
    assert order[5:] == ["busy"] * 198
