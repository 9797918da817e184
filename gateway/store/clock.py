"""SQL expressions of the database's clock. Leases use it, so that the clocks of the gateway's hosts need not agree."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from gateway.columns import UtcDateTime


class FromNow(sa.ColumnElement[datetime]):
    """Current time plus the parameter, in seconds. A negative parameter gives a time in the past."""

    inherit_cache = False
    type = UtcDateTime()

    def __init__(self, parameter: str) -> None:
        self.seconds = sa.bindparam(parameter, type_=sa.Float())


class DatabaseNow(sa.ColumnElement[datetime]):
    """Current time of the database."""

    inherit_cache = False
    type = UtcDateTime()


class LaterOfNow(sa.ColumnElement[datetime]):
    """Later of the parameter, a time taken just before the statement, and the current time.

    On PostgreSQL the statement may wait for another operation to end, after the parameter was taken. With the current
    time, this operation does not start before that one has finished. SQLite has one writer and uses the parameter.
    """

    inherit_cache = False
    type = UtcDateTime()

    def __init__(self, parameter: str) -> None:
        self.moment = sa.bindparam(parameter, type_=UtcDateTime())


@compiles(LaterOfNow, "sqlite")
def _later_of_now_sqlite(element: LaterOfNow, compiler: SQLCompiler, **kw: object) -> str:
    return compiler.process(element.moment, **kw)


@compiles(LaterOfNow, "postgresql")
def _later_of_now_postgresql(element: LaterOfNow, compiler: SQLCompiler, **kw: object) -> str:
    return f"GREATEST({compiler.process(element.moment, **kw)}, clock_timestamp())"


@compiles(FromNow, "sqlite")
def _from_now_sqlite(element: FromNow, compiler: SQLCompiler, **kw: object) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', {compiler.process(element.seconds, **kw)} || ' seconds')"


@compiles(FromNow, "postgresql")
def _from_now_postgresql(element: FromNow, compiler: SQLCompiler, **kw: object) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.seconds, **kw)}))"


@compiles(DatabaseNow, "sqlite")
def _now_sqlite(element: DatabaseNow, compiler: SQLCompiler, **kw: object) -> str:
    return "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"


@compiles(DatabaseNow, "postgresql")
def _now_postgresql(element: DatabaseNow, compiler: SQLCompiler, **kw: object) -> str:
    return "clock_timestamp()"
