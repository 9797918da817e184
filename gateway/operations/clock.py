"""The database's own clock in SQL. Leases go by it, so that processes on several hosts need not agree on the time."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from gateway.columns import UtcDateTime


class FromNow(sa.ColumnElement[datetime]):
    """The moment that is as many seconds from now as the parameter says; negative ones are in the past."""

    inherit_cache = False
    type = UtcDateTime()

    def __init__(self, parameter: str) -> None:
        self.seconds = sa.bindparam(parameter, type_=sa.Float())


class DatabaseNow(sa.ColumnElement[datetime]):
    """The present."""

    inherit_cache = False
    type = UtcDateTime()


class ThisOrNow(sa.ColumnElement[datetime]):
    """The parameter, an instant taken just before the statement, or the present if that is later.

    On PostgreSQL something that this statement sees the end of may have ended in between.
    """

    inherit_cache = False
    type = UtcDateTime()

    def __init__(self, parameter: str) -> None:
        self.moment = sa.bindparam(parameter, type_=UtcDateTime())


@compiles(ThisOrNow, "sqlite")
def _this_or_now_sqlite(element: ThisOrNow, compiler: Any, **kw: Any) -> str:
    moment: str = compiler.process(element.moment, **kw)
    return moment


@compiles(ThisOrNow, "postgresql")
def _this_or_now_postgresql(element: ThisOrNow, compiler: Any, **kw: Any) -> str:
    return f"GREATEST({compiler.process(element.moment, **kw)}, clock_timestamp())"


@compiles(FromNow, "sqlite")
def _from_now_sqlite(element: FromNow, compiler: Any, **kw: Any) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', {compiler.process(element.seconds, **kw)} || ' seconds')"


@compiles(FromNow, "postgresql")
def _from_now_postgresql(element: FromNow, compiler: Any, **kw: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.seconds, **kw)}))"


@compiles(DatabaseNow, "sqlite")
def _now_sqlite(element: DatabaseNow, compiler: Any, **kw: Any) -> str:
    return "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"


@compiles(DatabaseNow, "postgresql")
def _now_postgresql(element: DatabaseNow, compiler: Any, **kw: Any) -> str:
    return "clock_timestamp()"
