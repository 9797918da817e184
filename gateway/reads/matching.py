"""Which of some rows match a filter: for subscriptions, which know the rows and ask only that."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gateway.reads.conditions import EVERYTHING_SQL, Frame
from gateway.reads.dialects import DIALECTS
from gateway.reads.entities import ENTITIES
from gateway.reads.filters import filter_condition
from gateway.store.database import Transaction

Match = Callable[[Transaction, str, Sequence[int]], Awaitable[Sequence[int]]]


def matching(noun: str, value: Mapping[str, Any] | None) -> Match:
    """Finds, of the rows of a tenant with these numbers, those that match. Raises InvalidInput for a wrong filter."""
    condition = filter_condition(ENTITIES[noun].filters, value) if value else None

    async def match(transaction: Transaction, tenant: str, numbers: Sequence[int]) -> Sequence[int]:
        dialect = DIALECTS[transaction.dialect]
        frame = Frame(dialect, dialect.parameters())
        found = dialect.among("t.id", list(numbers), "bigint", frame.parameters)
        where = condition(frame) if condition else EVERYTHING_SQL
        rows = await transaction.rows(
            f"SELECT t.id FROM {noun} t{frame.joins()}"
            f" WHERE {found} AND t.tenant = {frame.parameters(tenant)} AND {where}",
            frame.parameters.values,
        )
        return [row[0] for row in rows]

    return match


async def operation_state(transaction: Transaction, tenant: str, number: int) -> str | None:
    """The state of an operation, None when the tenant has none by that number."""
    dialect = DIALECTS[transaction.dialect]
    p = dialect.parameters()
    rows = await transaction.rows(
        f"SELECT state FROM operation WHERE id = {p(number)} AND tenant = {p(tenant)}", p.values
    )
    return rows[0][0] if rows else None
