"""Retries with exponential backoff and jitter, for reads and background work that the database could not serve."""

import asyncio
import random
from typing import TypeVar

from gateway.errors import Unavailable
from gateway.store.database import Database, Work

T = TypeVar("T")


def backoff_delay(failures: int, first: float, maximum: float) -> float:
    """Seconds to wait after `failures` failures in a row, at least 1: `first`, doubled after each further one, up to
    `maximum`. Up to 50% jitter, so that clients do not retry at the same time.
    """
    delay: float = min(maximum, first * 2 ** min(failures - 1, 16))
    return delay * random.uniform(0.5, 1.0)  # noqa: S311


class Backoff:
    """Counts failures, and returns the delays between retries in seconds; see `backoff_delay`."""

    def __init__(self, first: float = 0.25, maximum: float = 5.0) -> None:
        self._first = first
        self._maximum = maximum
        self.failures = 0

    def next(self) -> float:
        """Counts a failure and returns the delay before the next attempt, in seconds."""
        self.failures += 1
        return backoff_delay(self.failures, self._first, self._maximum)

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
