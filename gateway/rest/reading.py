"""Reads of the REST API: plans of `reads`, kept by the shape of the answer, run on one state of the database."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.operations.service import Operations
from gateway.reads import conditions as c
from gateway.reads.compiler import Compiler, Plan
from gateway.reads.conditions import Condition, Frame
from gateway.reads.dialects import DIALECTS
from gateway.reads.entities import ENTITIES
from gateway.reads.ids import PREFIXES
from gateway.reads.pages import BoundPage, Page
from gateway.reads.selection import Field
from gateway.reads.sorts import Order, complete
from gateway.rest import shapes
from gateway.rest.attributes import RestContext
from gateway.rest.catalog import CATALOG, ROOT
from gateway.rest.classes import SNAPSHOTS, Class
from gateway.rest.errors import not_found
from gateway.rest.filters import Filter
from gateway.rest.query import LARGEST_PAGE, LINKS_ONLY, Shape, Window
from gateway.store.database import Database, Transaction

_KEPT_PLANS = 256
_NAMES = Shape(expanded=True, attributes=("id", "name"), actions=False)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, from where, and where the links of the answer begin."""

    caller: Caller
    origin: RequestOrigin
    base: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a list."""

    shape: Shape
    window: Window
    order: Order
    filter: Filter | None = None
    hidden: bool = False  # only the counts
    counted: bool = True

    @property
    def condition(self) -> Condition | None:
        return None if self.filter is None else self.filter.condition

    @property
    def rows(self) -> bool:
        return not self.hidden and self.window.limit > 0


@dataclass(frozen=True, slots=True)
class Rows:
    """What was found of a list: its rows, how many match, and how many there are without the filter."""

    rows: list[Any]
    matched: int
    count: int


class Reader:
    """Reads for every route."""

    def __init__(self, database: Database, operations: Operations) -> None:
        self._database = database
        self._operations = operations
        self._dialect = DIALECTS[database.dialect]
        self._compiler = Compiler(CATALOG, database.dialect, typed=False)
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()

    # ---- what routes ask for

    async def collection(self, asker: Asker, class_: Class, wanted: Wanted) -> Rows:
        shape = wanted.shape if wanted.rows else None
        plan = self._plan(("list", class_, shape), lambda: shapes.collection(class_, shape))
        counting = self._plan(("list", class_, None), lambda: shapes.collection(class_, None))

        async def work(transaction: Transaction) -> Rows:
            await self._look(transaction, asker, wanted, class_, c.everything)
            page = self._page(wanted, wanted.condition)
            found = await plan.load(self._context(transaction, asker, plan, page), {})
            count = found["totalCount"]
            if wanted.filter is not None:
                everything = self._page(wanted, None)
                count = (await counting.load(self._context(transaction, asker, counting, everything), {}))["totalCount"]
            return Rows(found.get("nodes", []), found["totalCount"], count)

        found = await self._database.read(work)
        for row in found.rows:
            _flatten(row, wanted.shape)
        return found

    async def resource(self, asker: Asker, class_: Class, number: int, shape: Shape) -> Any:
        """Raises RestError when there is none."""
        plan = self._plan(("one", class_, shape), lambda: shapes.resource(class_, shape))
        return _flatten(await self._one(asker, plan, class_, number, _EVERYTHING), shape)

    async def machine(self, asker: Asker, parent: Class, number: int) -> Any:
        """Its `id`, `name` and `refusals`. Raises RestError when there is none."""
        plan = self._plan(("machine", parent), lambda: shapes.machine(parent))
        return await self._one(asker, plan, parent, number, _EVERYTHING)

    async def subcollection(self, asker: Asker, parent: Class, number: int, wanted: Wanted) -> tuple[Any, Rows]:
        """The machine as `machine` gives it, and a list of its snapshots. Raises RestError when there is none."""
        shape = wanted.shape if wanted.rows else None
        counted = wanted.counted
        plan = self._plan(("sub", parent, shape, counted), lambda: shapes.subcollection(parent, shape, counted=counted))
        machine = await self._one(asker, plan, parent, number, wanted)
        found = machine[shapes.RESOURCES]
        rows = found.get("nodes", [])
        return machine, Rows(rows, found.get("totalCount", len(rows)), machine["snapshot_count"])

    async def snapshot(self, asker: Asker, parent: Class, machine: int, number: int, shape: Shape) -> Any:
        """A snapshot of this machine. Raises RestError when it, or the machine, is not there."""
        _, rows = await self.subcollection(asker, parent, machine, _only([number], shape))
        if not rows.rows:
            raise not_found(SNAPSHOTS.name, number)
        return rows.rows[0]

    async def names(self, asker: Asker, parent: Class, machine: int, numbers: list[int]) -> tuple[Any, dict[int, str]]:
        """The machine, and the names of its snapshots among `numbers`. Raises RestError if there is no such machine."""
        found, rows = await self.subcollection(asker, parent, machine, _only(numbers, _NAMES))
        return found, {int(row["id"]): row["name"] for row in rows.rows}

    # ---- plans

    def _plan(self, key: tuple[Any, ...], field: Callable[[], Field]) -> Plan:
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._compiler.root(ROOT, field())
            if len(self._plans) > _KEPT_PLANS:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key)
        return plan

    def _page(self, wanted: Wanted, condition: Condition | None) -> BoundPage:
        page = Page(size=wanted.window.limit, offset=wanted.window.offset)
        if condition is not None and wanted.filter is not None and wanted.filter.matchings:
            # Levels keep statements by condition, and what a regular expression found is for this time only.
            condition = c.all_of([condition, c.everything])
        return BoundPage(page, wanted.order, condition, after=None, before=None)

    def _context(self, transaction: Transaction, asker: Asker, plan: Plan, page: BoundPage) -> RestContext:
        """The page is that of the list itself; embedded lists are whole, as far as a list can be."""
        pages = {level: page if field.key == shapes.RESOURCES else _EMBEDDED_PAGE for field, level in plan.connections}
        return RestContext(transaction, self._dialect, asker.caller, self._operations.matrices, pages, base=asker.base)

    async def _one(self, asker: Asker, plan: Plan, class_: Class, number: int, wanted: Wanted) -> Any:
        variables: Mapping[str, Any] = {"id": f"{PREFIXES[class_.type_name]}-{number}"}

        def below(frame: Frame) -> str:
            return f"t.machine_id = {frame.parameters(number)}"

        async def work(transaction: Transaction) -> Any:
            await self._look(transaction, asker, wanted, SNAPSHOTS, below)
            page = self._page(wanted, wanted.condition)
            return await plan.load(self._context(transaction, asker, plan, page), variables)

        found = await self._database.read(work)
        if found is None:
            raise not_found(class_.name, number)
        return found

    async def _look(
        self, transaction: Transaction, asker: Asker, wanted: Wanted, class_: Class, bounds: Condition
    ) -> None:
        """Has regular expressions find their rows, within the list where they are about its own rows."""
        if wanted.filter is None:
            return
        kind = f"t.kind = '{class_.kind}'" if class_.kind else c.EVERYTHING_SQL
        within = c.all_of([bounds, lambda _frame: kind, wanted.filter.narrowing])
        for matching in wanted.filter.matchings:
            mine = within if matching.own else c.everything
            await matching.look(transaction, self._dialect, asker.caller, mine)


def _flatten(row: Any, shape: Shape) -> Any:
    """An embedded list is a bare one."""
    for name in shape.subcollections:
        row[name] = row[name]["nodes"]
    return row


def _only(numbers: list[int], shape: Shape) -> Wanted:
    """Rows by number."""

    def condition(frame: Frame) -> str:
        return frame.dialect.among(f"{frame.alias}.id", numbers, "bigint", frame.parameters)

    window = Window(limit=LARGEST_PAGE)
    return Wanted(shape, window, _order(SNAPSHOTS), Filter(condition, condition), counted=False)


def _order(class_: Class) -> Order:
    return complete(ENTITIES[class_.noun].default)


_EVERYTHING = Wanted(LINKS_ONLY, Window(), ())
_EMBEDDED_PAGE = BoundPage(Page(size=LARGEST_PAGE), _order(SNAPSHOTS), None, after=None, before=None)
