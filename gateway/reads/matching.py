"""Which of some rows match a filter: for subscriptions, which know the rows and ask only that."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gateway.access.caller import Caller
from gateway.reads.conditions import EVERYTHING_SQL, Frame
from gateway.reads.dialects import DIALECTS
from gateway.reads.entities import ENTITIES, OPERATION
from gateway.reads.filters import filter_condition
from gateway.store.database import Transaction

Match = Callable[[Transaction, Caller, Sequence[int]], Awaitable[Sequence[int]]]


def matching(noun: str, value: Mapping[str, Any] | None) -> Match:
    """Finds, of the rows with these numbers that a caller may see, those that match.

    Raises InvalidInput for a wrong filter.
    """
    entity = ENTITIES[noun]
    condition = filter_condition(entity.filters, value) if value else None

    async def match(transaction: Transaction, caller: Caller, numbers: Sequence[int]) -> Sequence[int]:
        dialect = DIALECTS[transaction.dialect]
        frame = Frame(dialect, dialect.parameters(), caller.kinds)
        found = dialect.among("t.id", list(numbers), "bigint", frame.parameters)
        visible = entity.visible(frame, caller.tenant)
        where = condition(frame) if condition else EVERYTHING_SQL
        rows = await transaction.rows(
            f"SELECT t.id FROM {noun} t{frame.joins()} WHERE {found} AND {visible} AND {where}",
            frame.parameters.values,
        )
        return [row[0] for row in rows]

    return match


async def operation_state(transaction: Transaction, caller: Caller, number: int) -> str | None:
    """The state of an operation, None when the caller may see none by that number."""
    dialect = DIALECTS[transaction.dialect]
    frame = Frame(dialect, dialect.parameters(), caller.kinds)
    where = f"t.id = {frame.parameters(number)} AND {OPERATION.visible(frame, caller.tenant)}"
    rows = await transaction.rows(f"SELECT t.state FROM operation t WHERE {where}", frame.parameters.values)
    return rows[0][0] if rows else None
