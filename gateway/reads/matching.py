"""Checks known rows against a filter, for subscriptions: they know which rows have changed."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gateway.access.caller import Caller
from gateway.models import is_final
from gateway.reads.conditions import TRUE_SQL, Frame
from gateway.reads.dialects import DIALECTS
from gateway.reads.entities import ENTITIES, OPERATION
from gateway.reads.filters import filter_condition
from gateway.store.database import Transaction

RowMatcher = Callable[[Transaction, Caller, Sequence[int]], Awaitable[Sequence[int]]]


def row_matcher(noun: str, value: Mapping[str, Any] | None) -> RowMatcher:
    """A function that returns which of the given rows of `noun` match the filter `value` and are visible to a caller.

    Raises InvalidInput for an invalid filter.
    """
    entity = ENTITIES[noun]
    condition = filter_condition(entity.filters, value) if value else None

    async def match(transaction: Transaction, caller: Caller, numbers: Sequence[int]) -> Sequence[int]:
        dialect = DIALECTS[transaction.dialect]
        frame = Frame(dialect, dialect.parameters(), caller.readable_kinds)
        found = dialect.in_list("t.id", list(numbers), "bigint", frame.parameters)
        visible = entity.visible(frame, caller.tenant)
        where = condition(frame) if condition else TRUE_SQL
        rows = await transaction.rows(
            f"SELECT t.id FROM {noun} t{frame.joins()} WHERE {found} AND {visible} AND {where}",
            frame.parameters.values,
        )
        return [row[0] for row in rows]

    return match


async def has_ended(transaction: Transaction, caller: Caller, number: int) -> bool | None:
    """Whether an operation has ended. None if it does not exist or the caller may not see it."""
    dialect = DIALECTS[transaction.dialect]
    frame = Frame(dialect, dialect.parameters(), caller.readable_kinds)
    where = f"t.id = {frame.parameters(number)} AND {OPERATION.visible(frame, caller.tenant)}"
    columns = "t.state, t.finished_at"
    rows = await transaction.rows(f"SELECT {columns} FROM operation t WHERE {where}", frame.parameters.values)
    return is_final(*rows[0]) if rows else None
