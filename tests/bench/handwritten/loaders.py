"""DataLoaders: batch the reads of one request."""

from collections import defaultdict
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from strawberry.dataloader import DataLoader

from gateway.models import Machine, Snapshot
from tests.bench.handwritten.database import sessions
from tests.bench.handwritten.pages import Page, Rows, conditions, ordering, rows


class Loaders:
    """One set per request."""

    def __init__(self) -> None:
        self.machine: DataLoader[int, Machine | None] = DataLoader(_machines)
        self.snapshots: DataLoader[tuple[int, Page], Rows[Snapshot]] = DataLoader(_snapshots)
        self.snapshot_count: DataLoader[int, int] = DataLoader(_snapshot_counts)


async def _machines(keys: list[int]) -> list[Machine | None]:
    async with sessions() as session:
        found = {row.id: row for row in await session.exec(select(Machine).where(col(Machine.id).in_(keys)))}
    return [found.get(key) for key in keys]


async def _snapshots(keys: list[tuple[int, Page]]) -> list[Rows[Snapshot]]:
    """One statement for each set of arguments: usually one."""
    by_page: defaultdict[Page, list[int]] = defaultdict(list)
    for machine, page in keys:
        by_page[page].append(machine)
    found: dict[tuple[int, Page], list[Snapshot]] = {}
    async with sessions() as session:
        for page, machines in by_page.items():
            statement = _of_one(machines[0], page) if len(machines) == 1 else _of_many(machines, page)
            for snapshot in await session.exec(statement):
                found.setdefault((snapshot.machine_id, page), []).append(snapshot)
    return [rows(found.get(key, []), key[1]) for key in keys]


def _of_one(machine: int, page: Page) -> Any:
    return (
        select(Snapshot)
        .where(col(Snapshot.machine_id) == machine, *conditions(Snapshot, page))
        .order_by(*ordering(Snapshot, page.order))
        .limit(page.first + 1)
    )


def _of_many(machines: list[int], page: Page) -> Any:
    order = ordering(Snapshot, page.order)
    number = func.row_number().over(partition_by=col(Snapshot.machine_id), order_by=order).label("number")
    ranked = (
        select(Snapshot, number).where(col(Snapshot.machine_id).in_(machines), *conditions(Snapshot, page)).subquery()
    )
    snapshot = aliased(Snapshot, ranked)
    return select(snapshot).where(ranked.c.number <= page.first + 1).order_by(ranked.c.machine_id, ranked.c.number)


async def _snapshot_counts(keys: list[int]) -> list[int]:
    statement = (
        select(Snapshot.machine_id, func.count())
        .where(col(Snapshot.machine_id).in_(keys))
        .group_by(col(Snapshot.machine_id))
    )
    async with sessions() as session:
        found = dict((await session.exec(statement)).all())
    return [found.get(key, 0) for key in keys]
