"""SQLite tells nobody of what other processes commit: the gateway sees it all the same, and at once."""

import asyncio
import sqlite3
from contextlib import closing

from gateway.app import opened_database
from gateway.config import Settings
from tests.databases import Databases


def test_a_commit_of_another_process_wakes_who_listens(databases: Databases) -> None:
    url = databases.new("sqlite")

    async def story() -> None:
        woken = asyncio.Event()
        async with opened_database(Settings(database_url=url)) as database:
            await database.listen(woken.set)
            await woken.wait()  # it begins to look
            with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
                for number in range(3):
                    woken.clear()
                    other.execute("INSERT INTO provider (name, tenant, driver) VALUES (?, 't', 'none')", [f"p{number}"])
                    await woken.wait()

    asyncio.run(asyncio.wait_for(story(), 30))
