"""The outbox: the table `event`, in which triggers record each change of a published row, and the order to read it in.

Triggers (`gateway.store.change_triggers`) write a row for each change in the transaction of the change. So an event
exists if and only if its change was committed. There are two kinds of readers: the `ChangeFeed` of each process, which
serves all subscriptions, and durable consumers, whose positions are stored.

Order on PostgreSQL
    Event ids come from a sequence and are assigned before the transactions commit, so transactions commit in another
    order than that of their ids. A reader that continued after the highest id it has seen would miss a lower id that is
    committed later. Therefore each event also stores `xid`, the id of its transaction, and the order is (xid, id):

    * A read returns only events with xid < pg_snapshot_xmin(pg_current_snapshot()), the horizon. All transactions below
      it have ended, so no event can appear there any more.
    * The position of a reader is the (xid, id) of the last event it has delivered. Every later event is above it.

    The order of transactions is that of their first write, which can differ from the order of their commits. An event
    says which row changed, not what it has become; readers read the row. A transaction that has written and stays
    open, in any database of the server, holds the horizon and thus the readers back. Transactions that only read do
    not.

Order on SQLite
    There is one writer at a time, so ids are assigned in the order of the commits and a committed event is never
    followed by a lower one. `xid` is 0 and there is no horizon.

Example with three transactions on PostgreSQL
    time  T1, xid 100        T2, xid 101        T3, xid 102        horizon   a read returns
    1     writes event 1                                           100       -
    2                        writes event 2                        100       -
    3                        COMMIT                                100       - (101 is not below the horizon)
    4                                           writes event 3     100       -
    5     writes event 4
    6     COMMIT                                                   102       (100, 1), (100, 4), (101, 2)
    7                                           COMMIT             103       (102, 3)
    A reader that went by id alone would have read event 2 at time 3, continued with ids over 2, and missed event 1.

Lost history
    Housekeeping deletes old events in their order, and a standby that takes over may lack the last ones. So each read
    begins at the event of the position. If that one is missing, the changes after it are not known: the read raises
    `Lagged`, and the reader must read the data again.

Versions
    A newer version may write nouns and kinds of changes that this one does not know. Readers name the nouns that they
    want, and `change` is None for an unknown kind, which no reader receives.
"""

from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlmodel import col

from gateway.models import Change, Event, MachineKind
from gateway.store.database import Transaction
from gateway.store.statements import Query

BATCH = 1_000  # events per read

Position = tuple[int, int]  # of an event, in the order of the outbox: xid and id

START: Position = (0, 0)


class ChangeEvent(NamedTuple):
    """One row of the outbox: a change of the row `subject_id` of the table `noun`.

    `machine_id` is the machine that the row is about, or the machine itself; None for a row that is not about one.
    """

    xid: int
    id: int
    tenant: str
    noun: str
    change: Change | None  # None: unknown to this version
    machine_id: int | None
    machine_kind: MachineKind | None  # of a machine only
    subject_id: int  # 0 for a row without an id
    subject_name: str | None  # the primary key of such a row: the name of a provider

    @property
    def position(self) -> Position:
        return self.xid, self.id


IsWanted = Callable[[ChangeEvent], bool]


class Lagged(Exception):
    """Changes after the position of the reader are not available any more. The reader must read the data again."""


class _Position(NamedTuple):
    xid: int
    id: int


class _Horizon(sa.ColumnElement[int]):
    """The id of the oldest open transaction, below which no event can appear any more. There is none on SQLite."""

    inherit_cache = False
    type = sa.BigInteger()


@compiles(_Horizon, "sqlite")
def _horizon_sqlite(element: _Horizon, compiler: SQLCompiler, **kw: object) -> str:
    return "9223372036854775807"


@compiles(_Horizon, "postgresql")
def _horizon_postgresql(element: _Horizon, compiler: SQLCompiler, **kw: object) -> str:
    return "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


_LAST = Query(
    sa.select(col(Event.xid), col(Event.id))
    .where(col(Event.xid) < _Horizon())
    .order_by(col(Event.xid).desc(), col(Event.id).desc())
    .limit(sa.literal_column("1")),
    _Position,
)
_FROM_POSITION = Query(
    sa.select(*(col(getattr(Event, name)) for name in ChangeEvent._fields))
    .where(
        sa.tuple_(col(Event.xid), col(Event.id))
        >= sa.tuple_(bindparam("xid", type_=sa.BigInteger()), bindparam("id", type_=sa.BigInteger())),
        col(Event.xid) < _Horizon(),
    )
    .order_by(col(Event.xid), col(Event.id))
    # A literal: for a parameter, a generic plan of PostgreSQL assumes a tenth of the table.
    .limit(sa.literal_column(str(BATCH + 1))),
    ChangeEvent,
)


# Of the newest transaction, which may be open. SQLite has one writer, so the newest event is the last committed one.
_NEWEST = {
    "sqlite": "SELECT 0, coalesce(max(id), 0) FROM event",
    "postgresql": f"SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1, {2**63 - 1}::bigint",
}


async def newest_position(transaction: Transaction) -> Position:
    """A position that is not before any event whose change the transaction sees. Later events may be before it too."""
    ((xid, id_),) = await transaction.rows(_NEWEST[transaction.dialect])
    return xid, id_


async def last_position(transaction: Transaction) -> Position:
    """Position of the last event below the horizon, before which no event can appear any more. START without events."""
    return await transaction.first(_LAST) or START


async def events_after(transaction: Transaction, position: Position) -> list[ChangeEvent]:
    """The next events after `position`, up to 1,000.

    Raises Lagged if the event at `position` is not there any more: it and possibly later ones were deleted by
    housekeeping, or the database is a standby that took over without the last changes, whose ids continue from where
    it was.
    """
    xid, id_ = position
    events = await transaction.all(_FROM_POSITION, xid=xid, id=id_)
    if position == START:
        return events[:BATCH]
    if not events or events[0].position != position:
        raise Lagged
    return events[1:]


async def events_between(
    transaction: Transaction, after: Position, until: Position, is_wanted: IsWanted, limit: int
) -> list[ChangeEvent]:
    """The wanted events after `after`, up to and including `until`.

    Raises Lagged if some are no longer stored, or more than `limit` are wanted.
    """
    if after == START:
        raise Lagged
    events: list[ChangeEvent] = []
    while True:
        batch = await events_after(transaction, after)
        events += [event for event in batch if event.position <= until and is_wanted(event)]
        if len(events) > limit:
            raise Lagged
        if len(batch) < BATCH or batch[-1].position >= until:
            return events
        after = batch[-1].position
