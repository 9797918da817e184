"""Who comes while many are answered at once is not the last."""

import asyncio
import threading
from itertools import groupby
from typing import Any

from tests.databases import Databases
from tests.operations.world import open_world

MANY = 20


def test_writes_of_one_commit_are_answered_a_few_at_a_time(databases: Databases) -> None:
    """The event loop looks for what else has come after every two of them."""

    async def story() -> None:
        gate, seen = threading.Event(), []

        async def held(_: Any) -> None:
            gate.wait()

        async def nothing(_: Any) -> None:
            return None

        async def write() -> None:
            await database.write(nothing)
            seen.append("answered")

        database = open_world(databases.new("sqlite"))
        try:
            first = asyncio.create_task(database.write(held))
            await asyncio.sleep(0)
            group = [asyncio.create_task(write()) for _ in range(MANY)]
            await asyncio.sleep(0)
            gate.set()
            while not all(task.done() for task in group):
                seen.append("looked")
                await asyncio.sleep(0)
            await asyncio.gather(first, *group)
        finally:
            gate.set()
            await database.close()
        assert max(len(list(some)) for what, some in groupby(seen) if what == "answered") == 2

    asyncio.run(story())
