"""SQLAlchemy Core statements that are compiled to SQL text once per dialect and run directly on the database driver.

SQLAlchemy's own execution costs more than a small query does. So it is used as a compiler only:

 * A statement is declared once, at module level, over the SQLModel tables. A misspelled column fails at import.

       _BY_NAME = Statement(select(Machine.id, Machine.created_at).where(col(Machine.name) == bindparam("name")))

 * The first time that a transaction runs it, `Statement.compiled` compiles it for the transaction's dialect into a
   `CompiledStatement`: the SQL text, the list of its bind parameters in positional order, each with its default and
   with the function that converts a Python value for the driver, and the converters of the result columns. The
   compiled form is kept with the statement.
 * From then on, `await tx.first(_BY_NAME, name="web-01")` builds a tuple of parameters, calls the driver, and converts
   each row into a named tuple. SQLAlchemy takes no part.

Rules of bind parameters:

 * Parameters are passed by name. One that is not passed has the default of its column or of its bindparam.
 * A parameter named `x_folded` that is not passed is the case folding of the parameter `x` (see gateway.columns).
 * A list is one parameter (`OneOf`, `InsertMany`), so the SQL text does not depend on its length.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.dialects.sqlite.pysqlite import dialect as sqlite_dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import coercions, roles
from sqlmodel import SQLModel

from gateway.columns import FOLDED, folded

Convert = Callable[[Any], Any]

_DIALECTS: dict[str, Callable[[], sa.Dialect]] = {
    "sqlite": lambda: sqlite_dialect(paramstyle="qmark"),
    "postgresql": asyncpg_dialect,
}


class CompiledStatement:
    """A statement compiled for one dialect: SQL text, bind parameters and converters of result rows."""

    def __init__(self, clause: Any, dialect: sa.Dialect) -> None:
        compiled = clause.compile(dialect=dialect)
        self.sql: str = compiled.string
        defaults = {column.key: column.default.arg for column in getattr(compiled, "insert_prefetch", ())}
        self._binds: list[tuple[str, Any, Convert | None]] = []
        for name in compiled.positiontup or ():
            bind = compiled.binds[name]
            processor = bind.type.dialect_impl(dialect).bind_processor(dialect)
            self._binds.append((bind.key, defaults.get(bind.key, bind.value), processor))
        self._row, self._results = _row_type(clause, dialect)

    def parameters(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """`values` in positional order, converted for the driver. Fills in defaults and case-folded columns."""
        bound = []
        for key, default, convert in self._binds:
            if key in values:
                value = values[key]
            elif key.endswith(FOLDED):
                value = folded(values[key.removesuffix(FOLDED)])
            else:
                value = default
            bound.append(value if convert is None else convert(value))
        return tuple(bound)

    def row(self, values: Sequence[Any]) -> Any:
        """Converts a row of the driver into a named tuple of Python values."""
        return self._row._make(
            value if convert is None else convert(value) for value, convert in zip(values, self._results, strict=True)
        )


class Statement:
    """A Core statement that a `Transaction` runs with its bind parameters passed by name."""

    def __init__(self, clause: Any) -> None:
        self._clause = clause
        self._by_dialect: dict[str, CompiledStatement] = {}

    def compiled(self, dialect: str) -> CompiledStatement:
        """The statement compiled for `sqlite` or `postgresql`; compiled on the first call, then cached."""
        try:
            return self._by_dialect[dialect]
        except KeyError:
            compiled = self._by_dialect[dialect] = CompiledStatement(self._clause, _DIALECTS[dialect]())
            return compiled


def insert(table: type[SQLModel], *columns: str) -> Statement:
    """An INSERT of one row with the named columns and their case-folded copies. Returns `id` if the table has it."""
    target = table.__table__  # type: ignore[attr-defined]
    names = [*columns, *(name + FOLDED for name in columns if name + FOLDED in target.c)]
    clause = sa.insert(target).values({name: sa.bindparam(name, type_=target.c[name].type) for name in names}).inline()
    return Statement(clause.returning(target.c.id) if "id" in target.c else clause)


def assignments(table: type[SQLModel], *names: str) -> dict[str, Any]:
    """The argument of `values()` of an UPDATE of the named columns and their case-folded copies, as bind parameters."""
    columns = table.__table__.c  # type: ignore[attr-defined]
    all_names = [*names, *(name + FOLDED for name in names if name + FOLDED in columns)]
    return {name: sa.bindparam(name, type_=columns[name].type) for name in all_names}


class InsertMany(sa.Executable, sa.ClauseElement):
    """Inserts one row per object of the list parameter `items`, in list order, and returns columns of each row.

    `per_item` names the columns whose values are in the objects. `shared` names columns that have the same value, a
    bind parameter, in all rows; their case-folded copies and the columns with a default are shared too.
    """

    inherit_cache = False

    def __init__(
        self, table: type[SQLModel], *, shared: Sequence[str], per_item: Sequence[str], returning: Sequence[str]
    ) -> None:
        columns = table.__table__.c  # type: ignore[attr-defined]
        self.columns = columns
        self.table = table.__tablename__
        self.per_item = {name: columns[name].type for name in per_item}
        names = [*shared, *(name + FOLDED for name in shared if name + FOLDED in columns)]
        self.shared = {name: sa.bindparam(name, type_=columns[name].type) for name in names}
        for column in columns:
            if column.default is not None and column.key not in self.per_item | self.shared:
                self.shared[column.key] = sa.bindparam(column.key, column.default.arg, type_=column.type)
        self.items = sa.bindparam("items", type_=_Items())
        self.exported_columns = [columns[name] for name in returning]

    def sql(self, compiler: Any, source: str, item: str, order: str, **kw: Any) -> str:
        """`source` is the FROM item with one row per object, `item` the format of an expression that reads a column of
        it, and `order` the expression that numbers its rows.
        """
        shared = [compiler.process(bind, **kw) for bind in self.shared.values()]
        values = ", ".join([*shared, *(item.format(name) for name in self.per_item)])
        names = ", ".join(self.columns[key].name for key in [*self.shared, *self.per_item])
        returned = ", ".join(column.name for column in self.exported_columns)
        return f"INSERT INTO {self.table} ({names}) SELECT {values} FROM {source} ORDER BY {order} RETURNING {returned}"


@compiles(InsertMany, "sqlite")
def _insert_many_sqlite(element: InsertMany, compiler: Any, **kw: Any) -> str:
    source = f"json_each({compiler.process(element.items, **kw)}) AS item"
    return element.sql(compiler, source, "json_extract(item.value, '$.{}')", "item.key", **kw)


@compiles(InsertMany, "postgresql")
def _insert_many_postgresql(element: InsertMany, compiler: Any, **kw: Any) -> str:
    types = ", ".join(f"{name} {type_.compile(dialect=compiler.dialect)}" for name, type_ in element.per_item.items())
    source = (
        f"ROWS FROM (json_to_recordset({compiler.process(element.items, **kw)}::json) AS ({types}))"
        f" WITH ORDINALITY AS item ({', '.join(element.per_item)}, place)"
    )
    return element.sql(compiler, source, "item.{}", "item.place", **kw)


class _Items(sa.TypeDecorator[list[Any]]):
    """A list of dicts, bound as JSON text."""

    impl = sa.types.NullType
    cache_ok = True

    def process_bind_param(self, value: list[Any] | None, dialect: sa.Dialect) -> Any:
        return orjson.dumps(value).decode()


class _List(sa.TypeDecorator[list[Any]]):
    """A list parameter, bound as an array on PostgreSQL and as JSON text on SQLite."""

    impl = sa.types.NullType
    cache_ok = True

    def process_bind_param(self, value: list[Any] | None, dialect: sa.Dialect) -> Any:
        return orjson.dumps(value).decode() if dialect.name == "sqlite" else value


class OneOf(sa.ColumnElement[Any]):
    """A condition: `column` is one of the values of a list parameter of any length, or of the rows of a SELECT.

    On PostgreSQL the SELECT becomes an array, `column = ANY(ARRAY(SELECT ...))`, so that it is evaluated first and the
    index of the column is used. With IN, the planner would choose by its row estimates, which may be outdated: it keeps
    using a plan that it cached when the table was empty.
    """

    inherit_cache = False
    type = sa.types.NullType()

    def __init__(self, column: Any, values: str | sa.Select[Any]) -> None:
        self.column = coercions.expect(roles.ExpressionElementRole, column)
        self.rows = None if isinstance(values, str) else values.scalar_subquery()
        self.values = sa.bindparam(values, type_=_List()) if isinstance(values, str) else None


@compiles(OneOf, "sqlite")
def _one_of_sqlite(element: OneOf, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.column, **kw)
    if element.rows is not None:
        return f"{column} IN {compiler.process(element.rows, **kw)}"
    return f"{column} IN (SELECT value FROM json_each({compiler.process(element.values, **kw)}))"


@compiles(OneOf, "postgresql")
def _one_of_postgresql(element: OneOf, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.column, **kw)
    if element.rows is not None:
        return f"{column} = ANY(ARRAY{compiler.process(element.rows, **kw)})"
    return f"{column} = ANY({compiler.process(element.values, **kw)})"


class Unindexed(sa.ColumnElement[Any]):
    """`column` in a condition for which SQLite must not choose an index, because another condition finds the rows."""

    inherit_cache = False

    def __init__(self, column: Any) -> None:
        self.column = coercions.expect(roles.ExpressionElementRole, column)
        self.type = self.column.type


@compiles(Unindexed, "sqlite")
def _unindexed_sqlite(element: Unindexed, compiler: Any, **kw: Any) -> str:
    # A unary plus prevents the use of an index. Without statistics SQLite would assume that any equality is selective.
    return f"+{compiler.process(element.column, **kw)}"


@compiles(Unindexed, "postgresql")
def _unindexed_postgresql(element: Unindexed, compiler: Any, **kw: Any) -> str:
    text: str = compiler.process(element.column, **kw)
    return text


def _row_type(clause: Any, dialect: sa.Dialect) -> tuple[Any, list[Convert | None]]:
    columns = list(getattr(clause, "exported_columns", ()) or ())
    names = [column.key for column in columns]
    converts = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
    return namedtuple("Row", names), converts
