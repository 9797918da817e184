"""The statements of a connection: compiled once for each shape of its arguments, and cached.

Statements of one shape differ only in their bind variables. `connections` says how many statements a page takes.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from gateway.bounded_cache import CacheSection
from gateway.models import MachineKind
from gateway.reads.conditions import Frame
from gateway.reads.context import AFTER, BEFORE, KEY, PARENT, TEMPLATES, BindVariable, Context, StatementTemplate
from gateway.reads.page_layout import PageLayout
from gateway.reads.page_sql import PageSqlBuilder
from gateway.reads.pages import BoundPage


class SinglePageStatements(NamedTuple):
    """The statements of one page. `metadata_names` says what values they select.

    The aggregates, if there are any, are the metadata values after those. Without `metadata`, the statement for the
    rows selects them too: each of its rows ends with a marker, which is null when the page is empty, and then the
    metadata values, of which there are `metadata_width`.
    """

    rows: StatementTemplate | None
    metadata: StatementTemplate | None
    metadata_names: Sequence[str]
    metadata_width: int


class PagePerParentStatements(NamedTuple):
    """The statements of a page for each of several parents. Their rows end with the id of the parent.

    `metadata` has a statement for each metadata value, by name, which selects the id of the parent and the value.
    `aggregates` selects the id of the parent and the aggregates, for parents that have rows.
    """

    rows: StatementTemplate | None
    metadata: Sequence[tuple[str, StatementTemplate]]
    aggregates: StatementTemplate | None


class PageStatements:
    """The statements of one connection."""

    def __init__(self, layout: PageLayout) -> None:
        self._layout = layout
        self._sql = PageSqlBuilder(layout)
        self._single = CacheSection[Hashable, SinglePageStatements](TEMPLATES)
        self._per_parent = CacheSection[Hashable, PagePerParentStatements](TEMPLATES)
        self._last_single: tuple[BoundPage, Sequence[MachineKind], SinglePageStatements] | None = None

    def single(self, context: Context, bound: BoundPage) -> SinglePageStatements:
        """The statements of the page of one parent, or of all rows."""
        if not bound.reusable:
            return self._compile_single(context, bound)
        last, kinds = self._last_single, context.caller.readable_kinds
        if last is not None and last[0] is bound and last[1] == kinds:
            return last[2]
        shape = (kinds, self.shape(bound))
        statements = self._single.get(shape)
        if statements is None:
            statements = self._compile_single(context, bound)
            self._single.put(shape, statements)
        self._last_single = (bound, kinds, statements)
        return statements

    def per_parent(self, context: Context, bound: BoundPage) -> PagePerParentStatements:
        """The statements of a page for each of several parents."""
        if not bound.reusable:
            return self._compile_per_parent(context, bound)
        shape = (context.caller.readable_kinds, self.shape(bound))
        statements = self._per_parent.get(shape)
        if statements is None:
            statements = self._compile_per_parent(context, bound)
            self._per_parent.put(shape, statements)
        return statements

    def shape(self, bound: BoundPage) -> Hashable:
        """Everything that the text of a statement depends on, besides the caller. Conditions compare by identity."""
        page = bound.page
        return (
            (self._layout.limit(bound), page.from_end, page.offset, bound.order, bound.condition),
            _null_positions(bound.after),
            _null_positions(bound.before),
        )

    def joined_metadata(self, name: str, bound: BoundPage, frame: Frame) -> str:
        """The expression of one metadata value of the parent KEY, as part of another statement."""
        return self._sql.metadata(name, bound, frame.parameters(KEY), frame)

    def joined_page(self, bound: BoundPage, frame: Frame) -> tuple[str, str]:
        """The page of the parent KEY, as part of another statement, and the order of its rows."""
        page = self._sql.page(bound, frame.parameters(KEY), frame)
        select, _, order = page.as_subquery(["t.id", *page.columns])
        return select, order

    def _compile_single(self, context: Context, bound: BoundPage) -> SinglePageStatements:
        names = self._layout.metadata_names(bound)
        width = len(names) + len(self._layout.aggregate_columns(bound))
        frame = context.frame()
        parent = self._parent(frame)
        metadata = self._compile_single_metadata(names, bound, parent, frame) if width else None
        if self._layout.limit(bound) == 0:
            return SinglePageStatements(None, metadata, names, width)
        if metadata is not None and context.dialect.prefers_joins:
            page = self._sql.page(bound, parent, frame)
            select, columns, order = page.as_subquery([*page.columns, "1"])
            sql = (
                f"SELECT {columns}, metadata.* FROM ({metadata.sql}) metadata"
                f" LEFT JOIN ({select}) page ON TRUE ORDER BY {order}"
            )
            return SinglePageStatements(StatementTemplate(sql, frame.parameters.values), None, names, width)
        frame = context.frame()
        page = self._sql.page(bound, self._parent(frame), frame)
        rows = StatementTemplate(page.select(page.columns), frame.parameters.values)
        return SinglePageStatements(rows, metadata, names, width)

    def _compile_single_metadata(
        self, names: Sequence[str], bound: BoundPage, parent: str | None, frame: Frame
    ) -> StatementTemplate:
        columns = [
            f"{self._sql.metadata(name, bound, parent, frame.sibling())} AS f{number}"
            for number, name in enumerate(names)
        ]
        source = ""
        if self._layout.aggregates:
            columns.append("aggregates.*")
            source = f" FROM ({self._sql.aggregates(bound, parent, frame.sibling())}) aggregates"
        return StatementTemplate(f"SELECT {', '.join(columns)}{source}", frame.parameters.values)

    def _parent(self, frame: Frame) -> str | None:
        return frame.parameters(PARENT) if self._layout.has_parents else None

    def _compile_per_parent(self, context: Context, bound: BoundPage) -> PagePerParentStatements:
        rows = self._compile_rows_per_parent(context, bound) if self._layout.limit(bound) > 0 else None
        metadata = [(name, self._compile_metadata(context, bound, name)) for name in self._layout.metadata_names(bound)]
        aggregates = self._compile_aggregates(context, bound) if self._layout.aggregates else None
        return PagePerParentStatements(rows, metadata, aggregates)

    def _compile_rows_per_parent(self, context: Context, bound: BoundPage) -> StatementTemplate:
        frame = context.frame()
        page = self._sql.page(bound, context.dialect.parent_id, frame)
        sql = context.dialect.page_per_parent(page, frame.parameters(PARENT))
        return StatementTemplate(sql, frame.parameters.values)

    def _compile_metadata(self, context: Context, bound: BoundPage, name: str) -> StatementTemplate:
        frame = context.frame()
        expression = self._sql.metadata(name, bound, context.dialect.parent_id, frame)
        sql = context.dialect.value_per_parent(expression, frame.parameters(PARENT))
        return StatementTemplate(sql, frame.parameters.values)

    def _compile_aggregates(self, context: Context, bound: BoundPage) -> StatementTemplate:
        frame = context.frame()
        sql = self._sql.aggregates_per_parent(bound, frame.parameters(PARENT), frame)
        return StatementTemplate(sql, frame.parameters.values)


def cursor_bindings(bound: BoundPage) -> dict[BindVariable, Any]:
    """The values of the bind variables that stand for the sort values of the cursors."""
    bindings: dict[BindVariable, Any] = dict(zip(AFTER, bound.after or (), strict=False))
    bindings.update(zip(BEFORE, bound.before or (), strict=False))
    return bindings


def _null_positions(position: Sequence[Any] | None) -> tuple[bool, ...] | None:
    """Which sort values of a cursor are null. Nulls are compared by different SQL."""
    return None if position is None else tuple(value is None for value in position)
