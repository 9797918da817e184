"""SQLAlchemy Core statements that are compiled to SQL text once per dialect and run directly on the database driver.

SQLAlchemy's own execution costs more than a small query does. So it is used as a compiler only:

 * A statement is declared once, at module level, over the SQLModel tables. A misspelled column fails at import.

       class _Found(NamedTuple):
           id: int
           created_at: datetime

       _BY_NAME = Query(select(Machine.id, Machine.created_at).where(col(Machine.name) == bindparam("name")), _Found)

   A `Query` returns rows of the declared type. Its fields are compared with the names, types and nullability of the
   statement's columns at import, so that a column cannot be renamed or retyped without the code that reads it.

 * The first time that a transaction runs it, `Statement.compiled` compiles it for the transaction's dialect into a
   `CompiledStatement`: the SQL text and the list of its bind parameters in positional order, each with its default and
   with the function that converts a Python value for the driver. A `CompiledQuery` also has the functions that convert
   the result columns. The compiled form is kept with the statement.
 * From then on, `await tx.first(_BY_NAME, name="web-01")` builds a tuple of parameters, calls the driver, and converts
   each row into a `_Found`. SQLAlchemy takes no part.

Rules of bind parameters:

 * Parameters are passed by name. One that is not passed has the default of its column or of its bindparam.
 * A parameter named `x_folded` that is not passed is the case folding of the parameter `x` (see gateway.columns).
 * A list is one parameter (`OneOf`, `InsertMany`), so the SQL text does not depend on its length.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar, get_args, get_type_hints, overload

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.dialects.sqlite.pysqlite import dialect as sqlite_dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import coercions, roles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlmodel import SQLModel

from gateway.columns import FOLDED, folded
from gateway.models import UNKNOWN

Convert = Callable[[Any], Any]
Row = TypeVar("Row", bound=tuple[Any, ...])  # a NamedTuple

_DIALECTS: dict[str, Callable[[], sa.Dialect]] = {
    "sqlite": lambda: sqlite_dialect(paramstyle="qmark"),
    "postgresql": asyncpg_dialect,
}


class CompiledStatement:
    """A statement compiled for one dialect: SQL text and bind parameters."""

    def __init__(self, clause: Any, dialect: sa.Dialect) -> None:
        compiled = clause.compile(dialect=dialect)
        self.sql: str = compiled.string
        defaults = {column.key: column.default.arg for column in getattr(compiled, "insert_prefetch", ())}
        self._binds: list[tuple[str, Any, Convert | None]] = []
        for name in compiled.positiontup or ():
            bind = compiled.binds[name]
            processor = bind.type.dialect_impl(dialect).bind_processor(dialect)
            self._binds.append((bind.key, defaults.get(bind.key, bind.value), processor))

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


class CompiledQuery(CompiledStatement, Generic[Row]):
    """A query compiled for one dialect, with the converters of its result columns."""

    def __init__(self, clause: Any, dialect: sa.Dialect, row_type: type[Row]) -> None:
        super().__init__(clause, dialect)
        self._row_type = row_type
        hints = get_type_hints(row_type)
        converts = [_converter(column, hints[column.key], dialect) for column in clause.exported_columns]
        self._converts = [(index, convert) for index, convert in enumerate(converts) if convert is not None]

    def row(self, values: Iterable[Any]) -> Row:
        """Converts a row of the driver into a row of the query's type."""
        converted = list(values)
        for index, convert in self._converts:
            converted[index] = convert(converted[index])
        return tuple.__new__(self._row_type, converted)


def _converter(column: Any, hint: Any, dialect: sa.Dialect) -> Convert | None:
    """The function that converts a value of the driver for a field with this type hint; None if none is needed.

    A newer version may have stored a name that is no member of the column's enum. It becomes the member UNKNOWN if the
    enum has one, or else None in a field `X | None`. In any other field it raises LookupError.
    """
    enum = getattr(column.type, "enum_class", None)
    if enum is not None and (UNKNOWN in enum.__members__ or NoneType in get_args(hint)):
        members: dict[str | None, Any] = {None: None, **enum.__members__}
        otherwise = members.get(UNKNOWN)
        return lambda name: members.get(name, otherwise)
    convert: Convert | None = column.type.dialect_impl(dialect).result_processor(dialect, None)
    return convert


class Statement:
    """A Core statement that a `Transaction` runs with its bind parameters passed by name."""

    def __init__(self, clause: Any) -> None:
        self._clause = clause
        self._compiled: dict[str, CompiledStatement] = {}

    def compiled(self, dialect: str) -> CompiledStatement:
        """The statement compiled for `sqlite` or `postgresql`; compiled on the first call, then cached."""
        try:
            return self._compiled[dialect]
        except KeyError:
            return self._compiled.setdefault(dialect, CompiledStatement(self._clause, _DIALECTS[dialect]()))


class Query(Statement, Generic[Row]):
    """A statement that returns rows of a NamedTuple. Raises TypeError, at import, if its fields are not the columns."""

    def __init__(self, clause: Any, row_type: type[Row]) -> None:
        super().__init__(clause)
        _check_row_type(clause.exported_columns, row_type)
        self._row_type = row_type
        self._queries: dict[str, CompiledQuery[Row]] = {}

    def compiled(self, dialect: str) -> CompiledQuery[Row]:
        try:
            return self._queries[dialect]
        except KeyError:
            return self._queries.setdefault(dialect, CompiledQuery(self._clause, _DIALECTS[dialect](), self._row_type))


def _check_row_type(columns: Iterable[Any], row_type: Any) -> None:
    """Compares names in order, Python types, and nullability: a nullable column needs `X | None`.

    `X | None` is also accepted for other columns, which are null without a row of an outer join. Types that SQLAlchemy
    does not know, of raw SQL and of some functions, are not compared.
    """
    columns = list(columns)

    def fail(problem: str) -> NoReturn:
        raise TypeError(f"{row_type.__qualname__}: {problem}")

    if (names := tuple(column.key for column in columns)) != row_type._fields:
        fail(f"the fields are {row_type._fields}, the columns are {names}")
    hints = get_type_hints(row_type)
    for column in columns:
        hint, type_ = hints[column.key], python_type(column)
        if type_ is not None and hint not in (type_, type_ | None):
            fail(f"{column.key} is declared {hint}, the column is {type_}")
        if _is_nullable(column) and NoneType not in get_args(hint):
            fail(f"{column.key} is declared {hint}, the column is nullable")


def python_type(column: Any) -> Any:
    """The Python type of the column's values, or None if SQLAlchemy does not know it."""
    type_ = column.type.impl_instance if isinstance(column.type, sa.TypeDecorator) else column.type
    return None if type_.python_type is object else type_.python_type


def _is_nullable(column: Any) -> bool:
    """Whether it is a nullable column of a table, possibly with a label."""
    return bool(getattr(getattr(column, "element", column), "nullable", False))


class RowId(NamedTuple):
    """A row of which a query returns the id only."""

    id: int


def table_of(model: type[SQLModel]) -> sa.Table:
    """The table of a SQLModel class."""
    table: sa.Table = model.__table__  # type: ignore[attr-defined]
    return table


class _HasId(Protocol):
    id: int


@overload
def insert(model: type[_HasId], *columns: str) -> Query[RowId]: ...


@overload
def insert(model: type[SQLModel], *columns: str) -> Statement: ...


def insert(model: Any, *columns: str) -> Statement:
    """An INSERT of one row with the named columns and their case-folded copies. Returns the id if the table has one."""
    table = table_of(model)
    names = [*columns, *(name + FOLDED for name in columns if name + FOLDED in table.c)]
    clause = sa.insert(table).values({name: sa.bindparam(name, type_=table.c[name].type) for name in names}).inline()
    return Query(clause.returning(table.c.id), RowId) if "id" in table.c else Statement(clause)


def assignments(model: type[SQLModel], *names: str) -> dict[str, sa.BindParameter[Any]]:
    """The argument of `values()` of an UPDATE of the named columns and their case-folded copies, as bind parameters."""
    columns = table_of(model).c
    all_names = [*names, *(name + FOLDED for name in names if name + FOLDED in columns)]
    return {name: sa.bindparam(name, type_=columns[name].type) for name in all_names}


class InsertMany(sa.Executable, sa.ClauseElement):
    """Inserts one row per object of the list parameter `items`, in list order, and returns columns of each row.

    `per_item` names the columns whose values are in the objects. `shared` names columns that have the same value, a
    bind parameter, in all rows; their case-folded copies and the columns with a default are shared too.
    """

    inherit_cache = False

    def __init__(
        self, model: type[SQLModel], *, shared: Sequence[str], per_item: Sequence[str], returning: Sequence[str]
    ) -> None:
        self.table = table_of(model)
        columns = self.table.c
        self.per_item = {name: columns[name].type for name in per_item}
        names = [*shared, *(name + FOLDED for name in shared if name + FOLDED in columns)]
        self.shared = {name: sa.bindparam(name, type_=columns[name].type) for name in names}
        for column in columns:
            if isinstance(column.default, sa.ColumnDefault) and column.key not in self.per_item | self.shared:
                self.shared[column.key] = sa.bindparam(column.key, column.default.arg, type_=column.type)
        self.items = sa.bindparam("items", type_=_Items())
        self.exported_columns = [columns[name] for name in returning]

    def sql(self, compiler: SQLCompiler, source: str, item: str, order: str, **kw: object) -> str:
        """`source` is the FROM item with one row per object, `item` the format of an expression that reads a column of
        it, and `order` the expression that numbers its rows.
        """
        shared = [compiler.process(bind, **kw) for bind in self.shared.values()]
        values = ", ".join([*shared, *(item.format(name) for name in self.per_item)])
        names = ", ".join(self.table.c[key].name for key in [*self.shared, *self.per_item])
        rows = f"SELECT {values} FROM {source} ORDER BY {order}"
        returned = ", ".join(column.name for column in self.exported_columns)
        return f"INSERT INTO {self.table.name} ({names}) {rows} RETURNING {returned}"


@compiles(InsertMany, "sqlite")
def _insert_many_sqlite(element: InsertMany, compiler: SQLCompiler, **kw: object) -> str:
    source = f"json_each({compiler.process(element.items, **kw)}) AS item"
    return element.sql(compiler, source, "json_extract(item.value, '$.{}')", "item.key", **kw)


@compiles(InsertMany, "postgresql")
def _insert_many_postgresql(element: InsertMany, compiler: SQLCompiler, **kw: object) -> str:
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
        self.values: sa.BindParameter[Any] | sa.ScalarSelect[Any] = (
            sa.bindparam(values, type_=_List()) if isinstance(values, str) else values.scalar_subquery()
        )


@compiles(OneOf, "sqlite")
def _one_of_sqlite(element: OneOf, compiler: SQLCompiler, **kw: object) -> str:
    column = compiler.process(element.column, **kw)
    values = compiler.process(element.values, **kw)
    if isinstance(element.values, sa.ScalarSelect):
        return f"{column} IN {values}"
    return f"{column} IN (SELECT value FROM json_each({values}))"


@compiles(OneOf, "postgresql")
def _one_of_postgresql(element: OneOf, compiler: SQLCompiler, **kw: object) -> str:
    column = compiler.process(element.column, **kw)
    values = compiler.process(element.values, **kw)
    array = f"ARRAY{values}" if isinstance(element.values, sa.ScalarSelect) else values
    return f"{column} = ANY({array})"


class Unindexed(sa.ColumnElement[Any]):
    """`column` in a condition for which SQLite must not choose an index, because another condition finds the rows."""

    inherit_cache = False

    def __init__(self, column: Any) -> None:
        self.column = coercions.expect(roles.ExpressionElementRole, column)
        self.type = self.column.type


@compiles(Unindexed, "sqlite")
def _unindexed_sqlite(element: Unindexed, compiler: SQLCompiler, **kw: object) -> str:
    # A unary plus prevents the use of an index. Without statistics SQLite would assume that any equality is selective.
    return f"+{compiler.process(element.column, **kw)}"


@compiles(Unindexed, "postgresql")
def _unindexed_postgresql(element: Unindexed, compiler: SQLCompiler, **kw: object) -> str:
    return compiler.process(element.column, **kw)
