"""Retries with exponential backoff and jitter, for reads and background work that the database could not serve."""

import asyncio
import random
from typing import TypeVar

from gateway.errors import Unavailable
from gateway.store.database import Database, Work

T = TypeVar("T")


class Backoff:
    """Delays between retries, in seconds: doubled after each failure up to a maximum, with up to 50% jitter."""

    def __init__(self, first: float = 0.25, maximum: float = 5.0) -> None:
        self._first = first
        self._maximum = maximum
        self.failures = 0

    def next(self) -> float:
        """Counts a failure and returns the delay before the next attempt, in seconds."""
        delay: float = min(self._maximum, self._first * 2 ** min(self.failures, 16))
        self.failures += 1
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, so that clients do not retry at the same time

    def reset(self) -> None:
        """Starts at the first delay again, after a success."""
        self.failures = 0


async def read_with_retry(database: Database, work: Work[T], max_delay: float, *, single: bool = False) -> T:
    """Reads, and retries while the database is unavailable. Raises Unavailable once the delays add up to `max_delay`
    seconds.
    """
    backoff, waited = Backoff(), 0.0
    while True:
        try:
            return await database.read(work, single=single)
        except Unavailable:
            if waited >= max_delay:
                raise
            delay = backoff.next()
            waited += delay
            await asyncio.sleep(delay)
