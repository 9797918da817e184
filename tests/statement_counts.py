"""Counts the SQL statements of each request, without those of the worker, the change feed and the inventory."""

from typing import Any

import pytest

from gateway.http.request_id import REQUEST_ID
from tests.serving import Served


def count_statements_by_request(gateway: Served, patch: pytest.MonkeyPatch) -> dict[str, int]:
    """Starts counting, and returns the statements of the last read of each request, by request id.

    Reads that belong to no request have the id `-`.
    """
    database = gateway.gateway.database
    read, counts = database.read, {}

    async def counting_read(work: Any, *, single: bool = False) -> Any:
        async def counted(transaction: Any) -> Any:
            before = transaction.statement_count
            try:
                return await work(transaction)
            finally:  # a read that exceeds its time on the event loop is repeated in a thread, and counts once
                counts[REQUEST_ID.get()] = transaction.statement_count - before

        return await read(counted, single=single)

    patch.setattr(database, "read", counting_read)
    return counts
