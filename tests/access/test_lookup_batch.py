"""Credentials are looked up with one statement at a time, however many requests wait."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.access.lookup_batch import MAX_NUMBERS, LookupBatch
from gateway.access.tokens import FIND_TOKENS, StoredToken
from gateway.app import opened_database
from gateway.config import Settings
from gateway.errors import Unavailable
from gateway.store.database import Database, Transaction
from tests.access.clients import create_token, revoke_token
from tests.databases import SLOW_KINDS, Databases

Story = Callable[[Database, LookupBatch[StoredToken]], Awaitable[None]]


def play(url: str, story: Story) -> None:
    async def run() -> None:
        async with opened_database(Settings(database_url=url)) as database:
            await story(database, LookupBatch(database, FIND_TOKENS))

    asyncio.run(run())


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_lookups_that_wait_share_a_statement(databases: Databases, kind: str) -> None:
    url = databases.new(kind)
    for name in ("one", "two", "three"):
        create_token(url, name)
    revoke_token(url, "two")

    async def story(database: Database, tokens: LookupBatch[StoredToken]) -> None:
        await tokens.find(1)
        before = database.statement_count
        wanted = [1, 2, 3, 1, *range(4, 2 * MAX_NUMBERS + 4), 3]
        found = await asyncio.gather(*map(tokens.find, wanted))
        names = {1: "one", 2: "two", 3: "three"}
        assert [row and row.name for row in found] == [names.get(number) for number in wanted]
        assert {row.id: row.revoked_at is None for row in found if row} == {1: True, 2: False, 3: True}
        assert database.statement_count - before == 3

    play(url, story)


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_a_lookup_sees_what_was_committed_before_it(databases: Databases, kind: str) -> None:
    url = databases.new(kind)
    create_token(url)

    async def story(_: Database, tokens: LookupBatch[StoredToken]) -> None:
        async def move(tx: Transaction) -> None:
            await tx.rows("UPDATE api_token SET tenant = tenant || '+'")

        for tenant in ("default+", "default++"):
            async with opened_database(Settings(database_url=url)) as other:
                earlier = asyncio.gather(*(tokens.find(1) for _ in range(10)))
                await other.write(move)
                row = await tokens.find(1)
                assert row is not None
                assert row.tenant == tenant
                await earlier

    play(url, story)


def test_a_failure_is_raised_to_all_that_wait_and_the_next_lookup_succeeds(databases: Databases) -> None:
    url = databases.new("sqlite")
    create_token(url)

    async def story(database: Database, tokens: LookupBatch[StoredToken]) -> None:
        read = database.read

        async def fail(*_: object, **__: object) -> None:
            raise Unavailable("The database cannot be reached.")

        database.read = fail  # type: ignore[method-assign, assignment]
        failed = await asyncio.gather(*(tokens.find(number) for number in (1, 1, 2)), return_exceptions=True)
        assert [type(error) for error in failed] == [Unavailable] * 3
        database.read = read  # type: ignore[method-assign]
        row = await tokens.find(1)
        assert row is not None

    play(url, story)


def test_a_canceled_request_does_not_affect_the_others(databases: Databases) -> None:
    url = databases.new("sqlite")
    create_token(url)

    async def story(_: Database, tokens: LookupBatch[StoredToken]) -> None:
        first, second = asyncio.create_task(tokens.find(1)), asyncio.create_task(tokens.find(1))
        await asyncio.sleep(0)
        first.cancel()
        row = await second
        assert row is not None
        assert row.name == "ci"
        assert first.cancelled()

    play(url, story)
