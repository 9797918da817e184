"""How long to wait before trying again what the database did not do: longer each time, never in step with others."""

import asyncio
import random
from typing import TypeVar

from gateway.errors import Unavailable
from gateway.store.database import Database, Work

T = TypeVar("T")


class Backoff:
    """Waits between tries, in seconds."""

    def __init__(self, first: float = 0.25, most: float = 5.0) -> None:
        self._first = first
        self._most = most
        self.failures = 0

    def next(self) -> float:
        """How long to wait after one failure more."""
        delay: float = min(self._most, self._first * 2 ** min(self.failures, 16))
        self.failures += 1
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - so that not all come back at once

    def reset(self) -> None:
        """It went well."""
        self.failures = 0


async def read_patiently(database: Database, work: Work[T], patience: float, *, single: bool = False) -> T:
    """Reads for somebody who can wait `patience` seconds for the database to come back. Raises Unavailable then."""
    backoff, waited = Backoff(), 0.0
    while True:
        try:
            return await database.read(work, single=single)
        except Unavailable:
            if waited >= patience:
                raise
            delay = backoff.next()
            waited += delay
            await asyncio.sleep(delay)
