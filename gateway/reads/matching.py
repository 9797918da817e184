"""Checks known rows against a filter, for subscriptions: they know which rows have changed."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gateway.access.caller import Caller
from gateway.models import MachineKind, is_final
from gateway.reads.conditions import TRUE_SQL, Frame
from gateway.reads.dialects import DIALECTS
from gateway.reads.entities import ENTITIES, MACHINE, OPERATION
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
        frame = _frame(transaction, caller)
        found = frame.dialect.in_list("t.id", list(numbers), "bigint", frame.parameters)
        visible = entity.visible(frame, caller.tenant)
        where = condition(frame) if condition else TRUE_SQL
        rows = await transaction.rows(
            f"SELECT t.id FROM {noun} t{frame.joins()} WHERE {found} AND {visible} AND {where}",
            frame.parameters.values,
        )
        return [row[0] for row in rows]

    return match


class FoundMachine(NamedTuple):
    """The kind of a machine, and whether it matches the filter."""

    kind: MachineKind
    matches: bool


class MachineMatcher:
    """A filter of machines, also for those that have stopped matching. All machines match without a filter.

    Raises InvalidInput for an invalid filter.
    """

    def __init__(self, value: Mapping[str, Any] | None) -> None:
        self._condition = filter_condition(MACHINE.filters, value) if value else None
        self.selects = self._condition is not None  # whether there is a filter
        self.reads_snapshots = _has_member(
            value, "someSnapshot"
        )  # whether a change of a snapshot may change the result

    async def find(self, transaction: Transaction, caller: Caller, numbers: Sequence[int]) -> dict[int, FoundMachine]:
        """Those of the machines that exist and are visible to the caller, by number."""
        frame = _frame(transaction, caller)
        matches = self._sql(frame)  # the parameters are in the order of the text
        found = frame.dialect.in_list("t.id", list(numbers), "bigint", frame.parameters)
        visible = MACHINE.visible(frame, caller.tenant)
        sql = (
            f"SELECT t.id, t.kind, CASE WHEN {matches} THEN 1 ELSE 0 END FROM machine t{frame.joins()}"
            f" WHERE {found} AND {visible}"
        )
        rows = await transaction.rows(sql, frame.parameters.values)
        kinds = MachineKind.__members__  # a kind of a newer version has no type to show it with
        return {row[0]: FoundMachine(kinds[row[1]], row[2] == 1) for row in rows if row[1] in kinds}

    async def all(self, transaction: Transaction, caller: Caller, limit: int) -> list[int]:
        """The numbers of the machines that match and are visible to the caller, in order; at most `limit`."""
        frame = _frame(transaction, caller)
        visible = MACHINE.visible(frame, caller.tenant)
        where = self._sql(frame)
        sql = f"SELECT t.id FROM machine t{frame.joins()} WHERE {visible} AND {where} ORDER BY t.id LIMIT {limit}"
        return [row[0] for row in await transaction.rows(sql, frame.parameters.values)]

    def _sql(self, frame: Frame) -> str:
        return self._condition(frame) if self._condition else TRUE_SQL


def _has_member(value: Any, name: str) -> bool:
    """Whether a filter object, or one inside it, has a member with this name."""
    if isinstance(value, Mapping):
        return name in value or any(_has_member(member, name) for member in value.values())
    return isinstance(value, list) and any(_has_member(item, name) for item in value)


def _frame(transaction: Transaction, caller: Caller) -> Frame:
    dialect = DIALECTS[transaction.dialect]
    return Frame(dialect, dialect.parameters(), caller.readable_kinds)


async def ended_operations(transaction: Transaction, caller: Caller, numbers: Sequence[int]) -> dict[int, bool]:
    """Whether each of the operations has ended, by number, for those that exist and are visible to the caller."""
    frame = _frame(transaction, caller)
    found = frame.dialect.in_list("t.id", list(numbers), "bigint", frame.parameters)
    where = f"{found} AND {OPERATION.visible(frame, caller.tenant)}"
    columns = "t.id, t.state, t.finished_at"
    rows = await transaction.rows(
        f"SELECT {columns} FROM operation t{frame.joins()} WHERE {where}", frame.parameters.values
    )
    return {row[0]: is_final(row[1], row[2]) for row in rows}
