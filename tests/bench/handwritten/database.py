"""The engine, and a session per unit of work."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

URL = os.environ["DATABASE_URL"]
SQLITE = URL.startswith("sqlite")

engine = create_async_engine(URL, pool_size=10, max_overflow=10)
sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)

# SQLite has one writer. A transaction that has read and then wants to write is refused when another has written, so
# writers take turns.
_turn = asyncio.Lock()


if SQLITE:

    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "case_sensitive_like = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


@asynccontextmanager
async def writing() -> AsyncIterator[AsyncSession]:
    """A session that is committed at the end."""
    if SQLITE:
        async with _turn, sessions() as session, session.begin():
            yield session
    else:
        async with sessions() as session, session.begin():
            yield session
