"""A query declares the type of its rows. It is compared with the statement's columns when the module is imported."""

from datetime import datetime
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import col

from gateway.models import CallerUse, Operation, OperationState, Snapshot, SnapshotState
from gateway.store.statements import InsertMany, Query, RowId, Statement, insert, table_of

_child = aliased(Snapshot, name="child")
CHILDREN: Any = (
    sa.select(
        col(Snapshot.id),
        col(_child.state),
        col(_child.size_bytes).label("bytes"),
        sa.func.count().label("number"),
        sa.literal_column("1").label("raw"),
    )
    .outerjoin(_child, col(_child.parent_id) == col(Snapshot.id))
    .group_by(col(Snapshot.id), col(_child.state), col(_child.size_bytes))
)


class Children(NamedTuple):
    id: int
    state: SnapshotState | None  # null without a row of the outer join
    bytes: int | None
    number: int
    raw: str  # not compared: the type of raw SQL is not known


class OtherName(NamedTuple):
    id: int
    status: SnapshotState
    bytes: int | None
    number: int
    raw: str


class OtherOrder(NamedTuple):
    state: SnapshotState
    id: int
    bytes: int | None
    number: int
    raw: str


class TooFew(NamedTuple):
    id: int
    state: SnapshotState
    bytes: int | None
    number: int


class OtherType(NamedTuple):
    id: str
    state: SnapshotState
    bytes: int | None
    number: int
    raw: str


class OtherEnum(NamedTuple):
    id: int
    state: OperationState
    bytes: int | None
    number: int
    raw: str


class OtherTypeOfFunction(NamedTuple):
    id: int
    state: SnapshotState
    bytes: int | None
    number: float
    raw: str


class NotNull(NamedTuple):
    id: int
    state: SnapshotState
    bytes: int
    number: int
    raw: str


COLUMNS = "('id', 'state', 'bytes', 'number', 'raw')"


@pytest.mark.parametrize(
    ("row_type", "problem"),
    [
        (OtherName, f"the fields are ('id', 'status', 'bytes', 'number', 'raw'), the columns are {COLUMNS}"),
        (OtherOrder, f"the fields are ('state', 'id', 'bytes', 'number', 'raw'), the columns are {COLUMNS}"),
        (TooFew, f"the fields are ('id', 'state', 'bytes', 'number'), the columns are {COLUMNS}"),
        (OtherType, "id is declared <class 'str'>, the column is <class 'int'>"),
        (OtherEnum, "state is declared <enum 'OperationState'>, the column is <enum 'SnapshotState'>"),
        (OtherTypeOfFunction, "number is declared <class 'float'>, the column is <class 'int'>"),
        (NotNull, "bytes is declared <class 'int'>, the column is nullable"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_row_type_that_differs_from_the_columns_is_rejected(row_type: Any, problem: str) -> None:
    with pytest.raises(TypeError) as rejected:
        Query(CHILDREN, row_type)
    assert str(rejected.value) == f"{row_type.__name__}: {problem}"


class Ended(NamedTuple):
    id: int
    finished_at: datetime | None


class EndedForCertain(NamedTuple):
    id: int
    finished_at: datetime


@pytest.mark.parametrize(
    "clause",
    [
        sa.update(Operation).values(phase=None).returning(col(Operation.id), col(Operation.finished_at)),
        sa.select(table_of(Operation).c.id, table_of(Operation).c.finished_at),
        InsertMany(Operation, shared=(), per_item=("tenant",), returning=("id", "finished_at")),
    ],
    ids=["RETURNING", "table", "InsertMany"],
)
def test_all_kinds_of_statements_are_compared(clause: Any) -> None:
    Query(clause, Ended)
    with pytest.raises(TypeError, match=r"^EndedForCertain: finished_at is declared .*, the column is nullable$"):
        Query(clause, EndedForCertain)


def test_rows_have_the_declared_type() -> None:
    query = Query(CHILDREN, Children)
    row = query.compiled("sqlite").row((1, "READY", None, 0, "x"))
    assert (type(row), type(row.state)) == (Children, SnapshotState)
    assert row == (1, SnapshotState.READY, None, 0, "x")


def test_insert_returns_the_id_of_a_table_that_has_one() -> None:
    assert isinstance(insert(Snapshot, "name").compiled("sqlite").row((7,)), RowId)
    assert type(insert(CallerUse, "caller")) is Statement
