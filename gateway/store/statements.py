"""SQLAlchemy Core statements, compiled to text once per dialect and run on the bare driver.

A statement is declared at module level, over the SQLModel tables, and so is checked when its module is imported.
Running it costs a dictionary of parameters and a tuple per row; SQLAlchemy is not asked again.
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


class Compiled:
    """One statement in one dialect."""

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
        """`values` in the order, and in the types, that the driver wants them. Folded twins are filled in."""
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
        """A named tuple of Python values from a driver's row."""
        return self._row._make(
            value if convert is None else convert(value) for value, convert in zip(values, self._results, strict=True)
        )


class Statement:
    """A Core statement that `Transaction` runs. Its bind parameters are filled by name."""

    def __init__(self, clause: Any) -> None:
        self._clause = clause
        self._by_dialect: dict[str, Compiled] = {}

    def compiled(self, dialect: str) -> Compiled:
        try:
            return self._by_dialect[dialect]
        except KeyError:
            compiled = self._by_dialect[dialect] = Compiled(self._clause, _DIALECTS[dialect]())
            return compiled


def insert(table: type[SQLModel], *columns: str) -> Statement:
    """Inserts one row of the named columns (and the folded twins that they have); returns its `id` where it has one."""
    target = table.__table__  # type: ignore[attr-defined]
    names = [*columns, *(name + FOLDED for name in columns if name + FOLDED in target.c)]
    clause = sa.insert(target).values({name: sa.bindparam(name, type_=target.c[name].type) for name in names}).inline()
    return Statement(clause.returning(target.c.id) if "id" in target.c else clause)


class InsertMany(sa.Executable, sa.ClauseElement):
    """Inserts a row per member of the parameter `items`, in their order, and returns columns of each.

    Columns of `each` are the items' own; `once` are parameters that all rows share, as are folded twins and defaults.
    """

    inherit_cache = False

    def __init__(
        self, table: type[SQLModel], *, once: Sequence[str], each: Sequence[str], returning: Sequence[str]
    ) -> None:
        columns = table.__table__.c  # type: ignore[attr-defined]
        self.table = table.__tablename__
        self.each = {name: columns[name].type for name in each}
        shared = [*once, *(name + FOLDED for name in once if name + FOLDED in columns)]
        self.shared = {name: sa.bindparam(name, type_=columns[name].type) for name in shared}
        for column in columns:
            if column.default is not None and column.key not in self.each | self.shared:
                self.shared[column.key] = sa.bindparam(column.key, column.default.arg, type_=column.type)
        self.items = sa.bindparam("items", type_=_Items())
        self.exported_columns = [columns[name] for name in returning]

    def sql(self, compiler: Any, source: str, item: str, order: str, **kw: Any) -> str:
        """`source`: the items as rows; `item`: how a column of one is written; `order`: how they are numbered there."""
        shared = [compiler.process(bind, **kw) for bind in self.shared.values()]
        values = ", ".join([*shared, *(item.format(name) for name in self.each)])
        returned = ", ".join(column.name for column in self.exported_columns)
        return (
            f"INSERT INTO {self.table} ({', '.join([*self.shared, *self.each])})"
            f" SELECT {values} FROM {source} ORDER BY {order} RETURNING {returned}"
        )


@compiles(InsertMany, "sqlite")
def _insert_many_sqlite(element: InsertMany, compiler: Any, **kw: Any) -> str:
    source = f"json_each({compiler.process(element.items, **kw)}) AS item"
    return element.sql(compiler, source, "json_extract(item.value, '$.{}')", "item.key", **kw)


@compiles(InsertMany, "postgresql")
def _insert_many_postgresql(element: InsertMany, compiler: Any, **kw: Any) -> str:
    types = ", ".join(f"{name} {type_.compile(dialect=compiler.dialect)}" for name, type_ in element.each.items())
    source = (
        f"ROWS FROM (json_to_recordset({compiler.process(element.items, **kw)}::json) AS ({types}))"
        f" WITH ORDINALITY AS item ({', '.join(element.each)}, place)"
    )
    return element.sql(compiler, source, "item.{}", "item.place", **kw)


class _Items(sa.TypeDecorator[list[Any]]):
    """Rows as a JSON list of objects."""

    impl = sa.types.NullType
    cache_ok = True

    def process_bind_param(self, value: list[Any] | None, dialect: sa.Dialect) -> Any:
        return orjson.dumps(value).decode()


class _List(sa.TypeDecorator[list[Any]]):
    """A list parameter: an array on PostgreSQL, JSON text on SQLite."""

    impl = sa.types.NullType
    cache_ok = True

    def process_bind_param(self, value: list[Any] | None, dialect: sa.Dialect) -> Any:
        return orjson.dumps(value).decode() if dialect.name == "sqlite" else value


class OneOf(sa.ColumnElement[Any]):
    """`column` is among the values of a list parameter, however long that is, or among the rows of a SELECT.

    Those rows are found first, and the column's index is used whatever PostgreSQL believes of how many there are: it
    believes what it counted some time ago, and keeps a plan that it has made when a table was empty.
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


class Beside(sa.ColumnElement[Any]):
    """`column`, where another condition finds the rows: no index is to be chosen for this one."""

    inherit_cache = False

    def __init__(self, column: Any) -> None:
        self.column = coercions.expect(roles.ExpressionElementRole, column)
        self.type = self.column.type


@compiles(Beside, "sqlite")
def _beside_sqlite(element: Beside, compiler: Any, **kw: Any) -> str:
    return f"+{compiler.process(element.column, **kw)}"  # without statistics any equality looks good to it


@compiles(Beside, "postgresql")
def _beside_postgresql(element: Beside, compiler: Any, **kw: Any) -> str:
    text: str = compiler.process(element.column, **kw)
    return text


def _row_type(clause: Any, dialect: sa.Dialect) -> tuple[Any, list[Convert | None]]:
    columns = list(getattr(clause, "exported_columns", ()) or ())
    names = [column.key for column in columns]
    converts = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
    return namedtuple("Row", names), converts
