"""Relations: how the rows of one fetch node lead to another fetch node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.reads.connections import LoadedPage, PageNode
from gateway.reads.context import Bound, Context
from gateway.reads.fetch_nodes import RelationJoin, SingleRowNode
from gateway.reads.page_statements import cursor_bindings
from gateway.reads.rendering import SLICE_ROWS


@dataclass(slots=True)
class ToOneRelation:
    """Leads to the one row whose key a column holds."""

    node: SingleRowNode
    column: int  # position of that column

    async def load(self, context: Context, rows: Sequence[Any]) -> Mapping[Any, Any]:
        """The rendered rows by key."""
        column = self.column
        keys = list(dict.fromkeys(row[column] for row in rows if row[column] is not None))
        return await self.node.load(context, keys)

    def join(self, bound: Bound) -> None:
        """Never: it is loaded by a statement of its own."""
        return


@dataclass(slots=True)
class ToManyRelation:
    """Leads to the connection, or the bounded list, of the rows that belong to each row."""

    node: PageNode
    column: int  # position of the row's id
    counter: int | None  # position of the column that counts the rows that belong to it

    async def load(self, context: Context, rows: Sequence[Any]) -> Mapping[Any, Any]:
        """The rendered connections or lists by the id of the row that they belong to."""
        parents = list(dict.fromkeys(row[self.column] for row in rows))
        counts = None if self.counter is None else {row[self.column]: row[self.counter] for row in rows}
        if counts is not None and context.on_related_rows is not None:
            size = context.bound[self.node].page.size
            context.on_related_rows(sum(min(count, size) for count in counts.values()))
        return await self.node.load(context, parents, counts)

    def join(self, bound: Bound) -> RelationJoin | None:
        """Joins the page if the database prefers that and the page has rows to fetch.

        Not if these rows have relations or if the connection has aggregates, which one expression cannot compute.
        """
        node, layout, statements, page = self.node, self.node.layout, self.node.statements, bound[self.node]
        if not node.dialect.prefers_joins or layout.row_layout.relations or layout.aggregates:
            return None
        if layout.limit(page) == 0:
            return None
        names = layout.metadata_names(page)

        async def finish(context: Context, row: Any, values: Sequence[Any], rows: Sequence[Any]) -> Mapping[Any, Any]:
            loaded = LoadedPage(list(rows), 0 if self.counter is None else row[self.counter])
            loaded.trim(page.page)
            for name, value in zip(names, values, strict=True):
                loaded.set_metadata(name, value)
            cursor = node.cursor_encoder(page.order)
            if len(loaded.rows) > SLICE_ROWS:
                await node.render_lists(loaded, (), context, cursor)
            return {row[self.column]: node.render(loaded, (), context, cursor)}

        return RelationJoin(
            statements.shape(page) if page.reusable else None,
            cursor_bindings(page),
            [partial(statements.joined_metadata, name, page) for name in names],
            partial(statements.joined_page, page),
            finish,
        )
