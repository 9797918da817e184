"""The SQL of a connection: the SELECT of a page, and the expressions of its metadata."""

from collections.abc import Callable, Sequence
from typing import Any

from gateway.reads.conditions import TRUE_SQL, Frame
from gateway.reads.context import AFTER, BEFORE, TENANT, BindVariable
from gateway.reads.dialects import PageSql
from gateway.reads.entities import ENTITIES
from gateway.reads.page_layout import PageLayout
from gateway.reads.pages import BoundPage
from gateway.reads.sorts import SortOrder, reverse_order, rows_after

_Where = Callable[[Frame], str]


class PageSqlBuilder:
    """Writes the SQL of one connection.

    `parent` is the placeholder or the expression of the parent's id, and None for the list of all rows.
    """

    def __init__(self, layout: PageLayout) -> None:
        self._layout = layout

    def page(self, bound: BoundPage, parent: str | None, frame: Frame) -> PageSql:
        """The rows of the page."""
        order = reverse_order(bound.order) if bound.page.from_end else bound.order
        columns = [frame.expression(column) for column in self._layout.columns(bound.order)]
        keys = [frame.expression(key.field.column) for key in bound.order]
        where = self._where(bound, parent, _between_cursors(bound))(frame)
        groups = [frame.expression(column) for column in self._layout.group_by]
        return PageSql(
            table=self._layout.entity.noun,
            joins=frame.joins(),
            columns=columns or ["1"],
            where=where,
            order=[(expression, key.order_sql) for expression, key in zip(keys, order, strict=True)],
            limit=self._layout.limit(bound),
            offset=bound.page.offset,
            group_by=groups,
        )

    def metadata(self, name: str, bound: BoundPage, parent: str | None, frame: Frame) -> str:
        """The expression of one metadata value of the page."""
        entity = self._layout.entity
        if name == "total" and bound.condition is None and parent is None and entity.total is not None:
            expression, noun = entity.total
            return f"(SELECT {expression} FROM {noun} t WHERE {ENTITIES[noun].visible(frame, TENANT)})"
        extra: _Where | None = None
        if name == "has_previous" and bound.after is not None:
            extra = _from_position(reverse_order(bound.order), bound.after, AFTER)
        elif name == "has_next" and bound.before is not None:
            extra = _from_position(bound.order, bound.before, BEFORE)
        where = self._where(bound, parent, extra)(frame)
        rows = f"FROM {entity.noun} t{frame.joins()} WHERE {where}"
        return f"(SELECT count(*) {rows})" if name == "total" else f"EXISTS (SELECT 1 {rows})"

    def aggregates(self, bound: BoundPage, parent: str | None, frame: Frame) -> str:
        """The statement of the aggregates of one list: one row."""
        columns = self._aggregate_columns(bound, frame)
        where = self._where(bound, parent, None)(frame)
        return f"SELECT {columns} FROM {self._layout.entity.noun} t{frame.joins()} WHERE {where}"

    def aggregates_per_parent(self, bound: BoundPage, parents: str, frame: Frame) -> str:
        """The statement of the aggregates of several lists: a row that begins with the parent's id, if it has rows.

        `parents` is a placeholder.
        """
        match = frame.expression(self._layout.match or "")
        columns = self._aggregate_columns(bound, frame)
        where = self._where(bound, parents, None, several=True)(frame)
        source = f"{self._layout.entity.noun} t{frame.joins()}"
        return f"SELECT {match}, {columns} FROM {source} WHERE {where} GROUP BY {match}"

    def _aggregate_columns(self, bound: BoundPage, frame: Frame) -> str:
        columns = self._layout.aggregate_columns(bound)
        return ", ".join(f"{frame.expression(column)} AS a{number}" for number, column in enumerate(columns))

    def _where(self, bound: BoundPage, parent: str | None, extra: _Where | None, *, several: bool = False) -> _Where:
        """All conditions on the rows of the list, the caller's visibility first.

        With `several`, on the rows of several lists, and `parent` is a placeholder for a list of ids.
        """

        def sql(frame: Frame) -> str:
            # A parent has far fewer rows than a tenant, so below a parent no index on the tenant may be used.
            parts = [self._layout.entity.visible(frame, TENANT, indexed=parent is None)]
            if self._layout.kind is not None:
                parts.append(f"t.kind = '{self._layout.kind}'")
            if parent is not None and self._layout.match is not None:
                match = frame.expression(self._layout.match)
                parts.append(frame.dialect.in_numbers(match, parent) if several else f"{match} = {parent}")
            if self._layout.where != TRUE_SQL:
                parts.append(f"({frame.expression(self._layout.where.replace('{parent}', parent or ''))})")
            if bound.condition is not None:
                parts.append(bound.condition(frame))
            if extra is not None:
                parts.append(extra(frame))
            return " AND ".join(parts)

        return sql


def _from_position(order: SortOrder, position: Sequence[Any], variables: Sequence[BindVariable]) -> _Where:
    """The row at the position and the rows after it."""
    return lambda frame: rows_after(order, _as_variables(position, variables), frame, inclusive=True)


def _between_cursors(bound: BoundPage) -> _Where | None:
    """The rows after the cursor `after` and before the cursor `before`. None without either."""
    if bound.after is None and bound.before is None:
        return None

    def sql(frame: Frame) -> str:
        parts = []
        if bound.after is not None:
            parts.append(rows_after(bound.order, _as_variables(bound.after, AFTER), frame))
        if bound.before is not None:
            parts.append(rows_after(reverse_order(bound.order), _as_variables(bound.before, BEFORE), frame))
        return " AND ".join(parts)

    return sql


def _as_variables(position: Sequence[Any], variables: Sequence[BindVariable]) -> Sequence[Any]:
    """The sort values of a cursor as bind variables. Nulls stay, because the SQL depends on them."""
    return [None if value is None else variable for value, variable in zip(position, variables, strict=False)]
