"""How many statements each request reads with, whatever the worker, the feed and the inventory send meanwhile."""

from typing import Any

import pytest

from gateway.http.request_id import REQUEST_ID
from tests.serving import Served


def counted_by_request(gateway: Served, patch: pytest.MonkeyPatch) -> dict[str, int]:
    """From now on, by request id; under `-` those that are for no request. Of several reads the last one counts."""
    database = gateway.gateway.database
    read, counts = database.read, {}

    async def counting_read(work: Any, *, single: bool = False) -> Any:
        async def counted(transaction: Any) -> Any:
            before = transaction.statements
            try:
                return await work(transaction)
            finally:  # a read that takes long is begun anew
                counts[REQUEST_ID.get()] = transaction.statements - before

        return await read(counted, single=single)

    patch.setattr(database, "read", counting_read)
    return counts
