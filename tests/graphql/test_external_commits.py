"""Commits of other processes are noticed on SQLite, which does not notify about them."""

import asyncio
import sqlite3
from contextlib import closing

from gateway.app import opened_database
from gateway.config import Settings
from tests.databases import Databases


def test_commit_of_another_process_wakes_listeners(databases: Databases) -> None:
    url = databases.new("sqlite")

    async def scenario() -> None:
        woken = asyncio.Event()
        async with opened_database(Settings(database_url=url)) as database:
            await database.listen(woken.set)
            await woken.wait()  # the first check has taken place
            with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
                for number in range(3):
                    woken.clear()
                    other.execute("INSERT INTO provider (name, tenant, driver) VALUES (?, 't', 'none')", [f"p{number}"])
                    await woken.wait()

    asyncio.run(asyncio.wait_for(scenario(), 30))
