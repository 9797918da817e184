"""What a query selects of a connection, and what has to be fetched for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.models import MachineKind
from gateway.reads.conditions import TRUE_SQL
from gateway.reads.entities import Entity
from gateway.reads.fetch_nodes import RowLayout
from gateway.reads.pages import BoundPage
from gateway.reads.sorts import SortOrder


@dataclass(slots=True, eq=False)
class PageLayout:
    """The list that a connection's pages are taken from, and what is selected of them. Grows while a plan is compiled.

    `match` is the column that holds the parent's id. Without it, and without a parent in `where`, there is one list, of
    all rows. `aggregates` are expressions over all rows that match (see `sources.Aggregate`).
    """

    row_layout: RowLayout
    match: str | None = None
    where: str = TRUE_SQL  # a further condition on the rows, over `{t}` and `{parent}` (the parent's id)
    group_by: Sequence[str] = ()  # the columns that the "rows", which are groups then, have in common
    kind: MachineKind | None = None  # only machines of this kind
    counted: bool = False  # the parent's row has the number of its rows
    rows: bool = False
    total: bool = False
    has_next: bool = False
    has_previous: bool = False
    cursors: bool = False
    aggregates: list[str] = field(default_factory=list)

    @property
    def entity(self) -> Entity:
        """The entity of the rows."""
        return self.row_layout.entity

    @property
    def has_parents(self) -> bool:
        """Whether there is a list for each parent."""
        return self.match is not None or "{parent}" in self.where

    def aggregate(self, expression: str) -> int:
        """The position of an aggregate. It is computed once, however many fields use it."""
        if expression not in self.aggregates:
            self.aggregates.append(expression)
        return self.aggregates.index(expression)

    def columns(self, order: SortOrder) -> Sequence[str]:
        """The columns of each row: those of its fields, and the sort columns if cursors are selected."""
        columns = self.row_layout.columns
        if not self.cursors:
            return columns
        return [*columns, *(column for key in order if (column := key.field.column) not in columns)]

    def limit(self, bound: BoundPage) -> int:
        """The number of rows to fetch: one more than the page's size if that row decides a selected flag."""
        flag = self.has_previous if bound.page.from_end else self.has_next
        return bound.page.size + (1 if flag else 0) if self.rows else 0

    def metadata_names(self, bound: BoundPage) -> list[str]:
        """The selected metadata that neither the rows, nor the parent's row, nor the aggregates show."""
        names = []
        if self._lacks_total(bound) and not self.aggregates:
            names.append("total")
        if self.has_previous and (bound.page.offset or bound.after is not None):
            names.append("has_previous")
        if self.has_next and bound.before is not None:
            names.append("has_next")
        return names

    def aggregate_columns(self, bound: BoundPage) -> Sequence[str]:
        """The expressions of the aggregates. One more counts the rows if the total is needed and is not known."""
        if not self.aggregates or not self._lacks_total(bound):
            return self.aggregates
        return [*self.aggregates, "count(*)"]

    def has_metadata(self, bound: BoundPage) -> bool:
        """Whether anything is fetched besides the rows."""
        return bool(self.metadata_names(bound) or self.aggregates)

    def _lacks_total(self, bound: BoundPage) -> bool:
        return self.total and not (self.counted and bound.condition is None)
