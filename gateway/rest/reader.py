"""Reads of the REST API: compiles plans, caches them by the shape of the response, and runs them.

All statements of a request run in one transaction, so a response shows one state of the database.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.bounded_cache import BoundedCache
from gateway.errors import RequestTooLarge
from gateway.operations.service import Operations
from gateway.reads import conditions as c
from gateway.reads.compiler import Compiler, Plan
from gateway.reads.conditions import Condition, Frame
from gateway.reads.cost import SMALL_COST, total_cost
from gateway.reads.dialects import DIALECTS
from gateway.reads.entities import ENTITIES
from gateway.reads.ids import PREFIXES
from gateway.reads.pages import BoundPage, Page
from gateway.reads.selection import Field
from gateway.reads.sorts import SortOrder, with_id_key
from gateway.rest import selections
from gateway.rest.attributes import RestContext
from gateway.rest.catalog import CATALOG, ROOT
from gateway.rest.classes import SNAPSHOTS, TASKS, ResourceClass
from gateway.rest.errors import not_found
from gateway.rest.filters import Filter
from gateway.rest.query import ACTIONS, LINKS_ONLY, MAX_LIMIT, RowShape, Window
from gateway.rest.regexes import SearchBudget
from gateway.store.database import Database, Transaction

_MAX_PLANS = 256
_ID_AND_NAME = RowShape(expanded=True, attributes=("id", "name"), actions=False)


@dataclass(frozen=True, slots=True)
class Requester:
    """The caller of a request, its origin, and the URL that the links of the response begin with."""

    caller: Caller
    origin: RequestOrigin
    base: str
    collection: str | None = None  # of machines in links, if it is not that of their kind


@dataclass(frozen=True, slots=True)
class ListQuery:
    """A request for a list."""

    shape: RowShape
    window: Window
    order: SortOrder
    filter: Filter | None = None
    hidden: bool = False  # show only the counts
    counted: bool = True  # load the number of matching rows
    bounds: Condition | None = None  # what narrows the list before its filter; its count is that of these rows

    @property
    def condition(self) -> Condition | None:
        """The condition of the bounds and the filter, if there is one."""
        if self.filter is None or self.bounds is None:
            return self.bounds if self.filter is None else self.filter.condition
        return c.all_of([self.bounds, self.filter.condition])

    @property
    def rows(self) -> bool:
        """Whether rows are loaded."""
        return not self.hidden and self.window.limit > 0


@dataclass(frozen=True, slots=True)
class ListResult:
    """A loaded list: its rows, the number of rows that match the filter, and the number of rows without the filter."""

    rows: list[Any]
    matched: int
    count: int
    is_large: bool = False  # whether it must be serialized in slices


class Reader:
    """Reads for every route."""

    def __init__(self, database: Database, operations: Operations, max_cost: int) -> None:
        self._database = database
        self._operations = operations
        self._max_cost = max_cost
        self._dialect = DIALECTS[database.dialect]
        self._compiler = Compiler(CATALOG, database.dialect, typed=False)
        self._plans = BoundedCache[tuple[Any, ...], Plan](_MAX_PLANS)

    # ---- for the routes

    async def collection(self, requester: Requester, class_: ResourceClass, query: ListQuery) -> ListResult:
        """A collection.

        Raises RestError for a regular expression that is too expensive, and RequestTooLarge for too many rows.
        """
        shape = query.shape if query.rows else None
        plan = self._plan(("list", class_, shape), lambda: selections.collection(class_, shape))
        counting = self._plan(("list", class_, None), lambda: selections.collection(class_, None))

        async def work(transaction: Transaction) -> ListResult:
            cost = _ListCost(plan, self._page(query, None), self._max_cost)
            await self._search_regexes(transaction, requester, query, class_, query.bounds or c.match_all)
            page = self._page(query, query.condition)
            found = await plan.load(self._context(transaction, requester, plan, page, cost), {})
            count = found["totalCount"]
            if query.filter is not None:
                everything = self._page(query, query.bounds)
                context = self._context(transaction, requester, counting, everything)
                count = (await counting.load(context, {}))["totalCount"]
            return ListResult(found.get("nodes", []), found["totalCount"], count, cost.total > SMALL_COST)

        found = await self._database.read(work)
        for row in found.rows:
            _finish(row, query.shape)
        return found

    async def resource(self, requester: Requester, class_: ResourceClass, number: int, shape: RowShape) -> Any:
        """A row by its number. Raises RestError if there is none."""
        plan = self._plan(("one", class_, shape), lambda: selections.resource(class_, shape))
        return _finish(await self._load_row(requester, plan, class_, number, _NO_FILTER), shape)

    async def by_number(
        self, requester: Requester, class_: ResourceClass, numbers: Sequence[int], shape: RowShape
    ) -> tuple[dict[int, Any], bool]:
        """The rows of a collection with these numbers, in this order, each once; and whether they are large.

        Rows that do not exist are left out. It costs what a list of as many rows costs. Raises RequestTooLarge.
        """
        wanted = list(dict.fromkeys(numbers))
        plan = self._plan(("many", class_, shape), lambda: selections.collection(class_, shape, counted=False))
        query = _query_by_numbers(wanted, shape, class_)

        async def work(transaction: Transaction) -> tuple[Any, int]:
            page = self._page(query, query.condition)
            cost = _ListCost(plan, page, self._max_cost)
            found = await plan.load(self._context(transaction, requester, plan, page, cost), {})
            return found["nodes"], cost.total

        nodes, cost = await self._database.read(work)
        rows = {int(row["id"]): _finish(row, shape) for row in nodes}
        return {number: rows[number] for number in wanted if number in rows}, cost > SMALL_COST

    async def task_names(self, requester: Requester, numbers: Sequence[int]) -> dict[int, str]:
        """The names of the tasks among `numbers` that the caller may see."""
        rows, _ = await self.by_number(requester, TASKS, numbers, _ID_AND_NAME)
        return {number: row["name"] for number, row in rows.items()}

    async def machine(self, requester: Requester, parent: ResourceClass, number: int) -> Any:
        """A machine's `id`, `name` and `refusals`. Raises RestError if there is none."""
        plan = self._plan(("machine", parent), lambda: selections.machine(parent))
        return await self._load_row(requester, plan, parent, number, _NO_FILTER)

    async def subcollection(
        self, requester: Requester, parent: ResourceClass, number: int, query: ListQuery
    ) -> tuple[Any, ListResult]:
        """A machine as `machine` returns it, and a list of its snapshots. Raises RestError if it does not exist."""
        shape = query.shape if query.rows else None
        counted = query.counted
        plan = self._plan(
            ("sub", parent, shape, counted), lambda: selections.subcollection(parent, shape, counted=counted)
        )
        machine = await self._load_row(requester, plan, parent, number, query)
        found = machine[selections.RESOURCES]
        rows = [_finish(row, query.shape) for row in found.get("nodes", [])]
        return machine, ListResult(rows, found.get("totalCount", len(rows)), machine["snapshot_count"])

    async def snapshot(
        self, requester: Requester, parent: ResourceClass, machine: int, number: int, shape: RowShape
    ) -> Any:
        """A snapshot of this machine. Raises RestError if there is no such machine or snapshot."""
        _, rows = await self.subcollection(requester, parent, machine, _query_by_numbers([number], shape))
        if not rows.rows:
            raise not_found(SNAPSHOTS.name, number)
        return rows.rows[0]

    async def names(
        self, requester: Requester, parent: ResourceClass, machine: int, numbers: list[int]
    ) -> tuple[Any, dict[int, str]]:
        """A machine, and the names of its snapshots among `numbers`. Raises RestError if there is no such machine."""
        found, rows = await self.subcollection(requester, parent, machine, _query_by_numbers(numbers, _ID_AND_NAME))
        return found, {int(row["id"]): row["name"] for row in rows.rows}

    # ---- plans

    def _plan(self, key: tuple[Any, ...], field: Callable[[], Field]) -> Plan:
        plan = self._plans.get(key)
        if plan is None:
            plan = self._compiler.root(ROOT, field())
            self._plans.put(key, plan)
        return plan

    def _page(self, query: ListQuery, condition: Condition | None) -> BoundPage:
        """The page with this condition. One that belongs to the class, or to a cached filter, is reusable."""
        page = Page(size=query.window.limit, offset=query.window.offset)
        own = query.filter.condition if query.filter is not None and query.filter.cached else None
        reusable = condition is None or condition in (query.bounds, own)
        return BoundPage(page, query.order, condition, after=None, before=None, reusable=reusable)

    def _context(
        self,
        transaction: Transaction,
        requester: Requester,
        plan: Plan,
        page: BoundPage,
        cost: "_ListCost | None" = None,
    ) -> RestContext:
        """`page` applies to the list itself. Embedded lists have the largest page; `cost` limits them together."""
        pages = {
            node: page if field.key == selections.RESOURCES else _EMBEDDED_PAGE for field, node, _ in plan.bindings
        }
        return RestContext(
            transaction,
            self._dialect,
            requester.caller,
            self._operations.rules,
            pages,
            on_related_rows=None if cost is None else cost.embed,
            base=requester.base,
            collection=requester.collection,
        )

    async def _load_row(
        self, requester: Requester, plan: Plan, class_: ResourceClass, number: int, query: ListQuery
    ) -> Any:
        variables: Mapping[str, Any] = {"id": f"{PREFIXES[class_.type_name]}-{number}"}

        def below(frame: Frame) -> str:
            return f"t.machine_id = {frame.parameters(number)}"

        async def work(transaction: Transaction) -> Any:
            await self._search_regexes(transaction, requester, query, SNAPSHOTS, below)
            page = self._page(query, query.condition)
            cost = _ListCost(plan, page, self._max_cost)
            return await plan.load(self._context(transaction, requester, plan, page, cost), variables)

        found = await self._database.read(work)
        if found is None:
            raise not_found(class_.name, number)
        return found

    async def _search_regexes(
        self, transaction: Transaction, requester: Requester, query: ListQuery, class_: ResourceClass, bounds: Condition
    ) -> None:
        """Searches the rows of all regular expressions. Those on the list's own rows search only the list."""
        if query.filter is None:
            return
        kind = f"t.kind = '{class_.kind}'" if class_.kind else c.TRUE_SQL
        within = c.all_of([bounds, lambda _frame: kind, query.filter.narrowing])
        budget = SearchBudget()
        for regex in query.filter.regexes:
            bounds_of_regex = within if regex.own_rows else c.match_all
            await regex.search_rows(transaction, self._dialect, requester.caller, bounds_of_regex, budget)


class _ListCost:
    """The cost of one request: of its list, as if the page were full, and of the rows that it embeds.

    Almost every embedded list is far shorter than its page, so the rows are counted when they are known, before they
    are loaded. Raises RequestTooLarge if the cost exceeds the limit.
    """

    def __init__(self, plan: Plan, page: BoundPage, limit: int) -> None:
        self._limit = limit
        self._objects, self._size = _price(plan, page, _NO_EMBEDDED)
        self._row_objects, self._row_size = 0, 0
        lists = [node for field, node, _ in plan.bindings if field.key != selections.RESOURCES]
        if lists:
            one = replace(page, page=replace(page.page, size=1))
            without, embedded = _price(plan, one, _NO_EMBEDDED), _price(plan, one, _ONE_EMBEDDED)
            self._row_objects, self._row_size = embedded[0] - without[0], embedded[1] - without[1]
        self._check()

    def embed(self, rows: int) -> None:
        """Adds the cost of embedded rows. Raises RequestTooLarge if the cost exceeds the limit."""
        self._objects += rows * self._row_objects
        self._size += rows * self._row_size
        self._check()

    @property
    def total(self) -> int:
        """The cost of what is known so far."""
        return total_cost(self._objects, self._size)

    def _check(self) -> None:
        cost = self.total
        if cost > self._limit:
            raise RequestTooLarge(
                f"The request costs {cost} or more, and the limit is {self._limit}. Request smaller pages with `limit`,"
                " fewer `attributes`, or less with `expand`."
            )


def _price(plan: Plan, page: BoundPage, embedded: BoundPage) -> tuple[int, int]:
    """The number of objects, and the size in bytes, if the list has this page and the embedded lists that one."""
    pages = {node: page if field.key == selections.RESOURCES else embedded for field, node, _ in plan.bindings}
    return plan.cost(pages, {}), plan.size(pages, {})


def _finish(row: Any, shape: RowShape) -> Any:
    """Replaces the connections of embedded lists by their rows. As in ManageIQ, empty lists of actions are left out."""
    for name in shape.subcollections:
        row[name] = [_without_empty_actions(inner) for inner in row[name]["nodes"]]
    return _without_empty_actions(row)


def _without_empty_actions(row: Any) -> Any:
    if row.get(ACTIONS) == []:
        del row[ACTIONS]
    return row


def _query_by_numbers(numbers: list[int], shape: RowShape, class_: ResourceClass = SNAPSHOTS) -> ListQuery:
    """A query for the rows with these numbers."""

    def condition(frame: Frame) -> str:
        return frame.dialect.in_list(f"{frame.alias}.id", numbers, "bigint", frame.parameters)

    window = Window(limit=max(len(numbers), 1))
    return ListQuery(shape, window, _order(class_), Filter(condition, condition), counted=False)


def _order(class_: ResourceClass) -> SortOrder:
    return with_id_key(ENTITIES[class_.noun].default_sort)


_NO_FILTER = ListQuery(LINKS_ONLY, Window(), ())
_EMBEDDED_PAGE = BoundPage(Page(size=MAX_LIMIT), _order(SNAPSHOTS), None, after=None, before=None)
_ONE_EMBEDDED = replace(_EMBEDDED_PAGE, page=Page(size=1))
_NO_EMBEDDED = replace(_EMBEDDED_PAGE, page=Page(size=0))
