"""The GraphQL types."""

from datetime import datetime
from enum import Enum
from typing import NewType

import strawberry
from strawberry.types.scalar import ScalarDefinition

from gateway import models
from gateway.models import OperationKind, OperationState, PowerState, SnapshotState
from tests.bench.handwritten.loaders import Loaders
from tests.bench.handwritten.pages import Order, Page, Rows, encode, limited

BigInt = NewType("BigInt", int)
SCALARS: dict[object, ScalarDefinition] = {BigInt: strawberry.scalar(name="BigInt", serialize=str, parse_value=int)}

Info = strawberry.Info[dict[str, Loaders], None]

strawberry.enum(PowerState)
strawberry.enum(SnapshotState)
strawberry.enum(OperationKind)
strawberry.enum(OperationState)


@strawberry.enum
class SortDirection(Enum):
    ASC = "ASC"
    DESC = "DESC"


@strawberry.enum
class SnapshotSortField(Enum):
    CREATED_AT = "created_at"
    NAME = "name"


@strawberry.input
class SnapshotSort:
    field: SnapshotSortField
    direction: SortDirection = SortDirection.ASC
    ignore_case: bool = False


@strawberry.input
class StringFilter:
    starts_with: str


@strawberry.input
class SnapshotFilter:
    name: StringFilter | None = None


@strawberry.type
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None

    @classmethod
    def of(cls, rows: Rows[models.Machine] | Rows[models.Snapshot], order: Order) -> "PageInfo":
        start = encode(order, rows.items[0]) if rows.items else None
        end = encode(order, rows.items[-1]) if rows.items else None
        return cls(has_next_page=rows.has_next, has_previous_page=rows.has_previous, start_cursor=start, end_cursor=end)


@strawberry.type
class Snapshot:
    id: strawberry.ID
    name: str
    description: str | None
    state: SnapshotState
    memory: bool
    is_current: bool
    size_bytes: BigInt | None
    created_at: datetime

    @classmethod
    def of(cls, row: models.Snapshot) -> "Snapshot":
        return cls(
            id=strawberry.ID(f"snapshot-{row.id}"),
            name=row.name,
            description=row.description,
            state=row.state,
            memory=row.memory,
            is_current=row.is_current,
            size_bytes=None if row.size_bytes is None else BigInt(row.size_bytes),
            created_at=row.created_at,
        )


@strawberry.type
class SnapshotConnection:
    nodes: list[Snapshot]
    page_info: PageInfo
    machine_id: strawberry.Private[int]

    @strawberry.field
    async def total_count(self, info: Info) -> int:
        return await info.context["loaders"].snapshot_count.load(self.machine_id)


_NEWEST_FIRST = Order("created_at", descending=True)


@strawberry.type
class Vm:
    id: strawberry.ID
    name: str
    description: str | None
    provider: str
    power_state: PowerState
    number: strawberry.Private[int]

    @classmethod
    def of(cls, row: models.Machine) -> "Vm":
        return cls(
            id=strawberry.ID(f"vm-{row.id}"),
            name=row.name,
            description=row.description,
            provider=row.provider,
            power_state=row.power_state,
            number=row.id,
        )

    @strawberry.field
    async def snapshots(
        self,
        info: Info,
        filter: SnapshotFilter | None = None,
        sort: list[SnapshotSort] | None = None,
        first: int = 50,
        after: str | None = None,
    ) -> SnapshotConnection:
        order = _order(sort[0]) if sort else _NEWEST_FIRST
        prefix = filter.name.starts_with if filter and filter.name else None
        rows = await info.context["loaders"].snapshots.load((self.number, Page(limited(first), after, order, prefix)))
        return SnapshotConnection(
            nodes=[Snapshot.of(row) for row in rows.items],
            page_info=PageInfo.of(rows, order),
            machine_id=self.number,
        )


def _order(sort: SnapshotSort) -> Order:
    column = "name_folded" if sort.ignore_case else sort.field.value
    return Order(column, sort.direction is SortDirection.DESC)


@strawberry.type
class VmConnection:
    nodes: list[Vm]
    page_info: PageInfo


@strawberry.type
class Operation:
    id: strawberry.ID
    kind: OperationKind
    state: OperationState

    @classmethod
    def of(cls, row: models.Operation) -> "Operation":
        return cls(id=strawberry.ID(f"operation-{row.id}"), kind=row.kind, state=row.state)
